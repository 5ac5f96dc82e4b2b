//! Hardware support for guests, where there is some that works.
//!
//! That `/dev/kvm` is there says little: hosts that are guests themselves offer a KVM that cannot run an ordinary kernel, or
//! run it so slowly that emulation is quicker. So a kernel is booted to its first process, once per boot of this machine.

use std::{fmt, fs};

use anyhow::{Context, Result};

use super::{guest, packed::Packed};
use crate::{ui, workspace};

/// How long a kernel may take to its first process under KVM. It takes two seconds where KVM works, and ten in emulation.
const PATIENCE_SECONDS: u64 = 10;

/// Models of the processor that are tried, in this order. Some hosts refuse to set what `host` asks for.
const MODELS: [&str; 2] = ["host", "max,-arch-capabilities"];

/// How guests run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// With KVM, and this model of the processor.
    Kvm(String),
    /// In software, because of this.
    Emulation(String),
}

impl Accelerator {
    /// What works here.
    ///
    /// # Errors
    /// When the emulator cannot be started at all.
    pub fn find(kernel: &Packed) -> Result<Self> {
        if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Emulation("/dev/kvm cannot be opened".into()));
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let kept = workspace::target().join("vm/accelerator");
        if let Some(found) = fs::read_to_string(&kept).ok().and_then(|text| Self::recall(&text, boot.trim()))
        {
            return Ok(found);
        }
        let found = Self::probe(kernel)?;
        fs::write(&kept, found.note(boot.trim()))
            .with_context(|| format!("cannot write {}", kept.display()))?;
        Ok(found)
    }

    fn probe(kernel: &Packed) -> Result<Self> {
        let mut why = String::new();
        for model in MODELS {
            let candidate = Self::Kvm(model.into());
            ui::say(format_args!("trying KVM with -cpu {model}, for {PATIENCE_SECONDS} s at most"));
            match guest::probe(kernel, &candidate, PATIENCE_SECONDS)? {
                None => return Ok(candidate),
                Some(reason) => why = format!("KVM with -cpu {model}: {reason}"),
            }
        }
        Ok(Self::Emulation(why))
    }

    /// What the emulator is told.
    pub fn arguments(&self) -> [&str; 4] {
        match self {
            Self::Kvm(model) => ["-accel", "kvm", "-cpu", model],
            Self::Emulation(_) => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// What the guest is told of it, on the kernel's command line: `tests/src/kernel.rs` has the variable that it becomes.
    pub const fn slowness(&self) -> &'static str {
        match self {
            Self::Kvm(_) => "balancer.slowness=1",
            Self::Emulation(_) => "balancer.slowness=8",
        }
    }

    /// In one word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kvm(_) => "kvm",
            Self::Emulation(_) => "emulation",
        }
    }

    fn note(&self, boot: &str) -> String {
        let (Self::Kvm(detail) | Self::Emulation(detail)) = self;
        format!("{boot}\n{}\n{detail}\n", self.name())
    }

    fn recall(note: &str, boot: &str) -> Option<Self> {
        let mut lines = note.lines();
        let same = lines.next()? == boot && !boot.is_empty();
        match (lines.next()?, lines.next()?.to_owned()) {
            ("kvm", model) if same => Some(Self::Kvm(model)),
            ("emulation", why) if same => Some(Self::Emulation(why)),
            _ => None,
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm(model) => write!(f, "KVM, -cpu {model}"),
            Self::Emulation(why) => write!(f, "software emulation ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_remembered_until_the_machine_boots_again() {
        for found in [Accelerator::Kvm("host".into()), Accelerator::Emulation("it hangs".into())] {
            assert_eq!(Accelerator::recall(&found.note("boot 1"), "boot 1"), Some(found.clone()));
            assert_eq!(Accelerator::recall(&found.note("boot 1"), "boot 2"), None);
            assert_eq!(Accelerator::recall(&found.note(""), ""), None);
        }
        assert_eq!(Accelerator::recall("boot 1\nmagic\nx\n", "boot 1"), None);
    }
}
