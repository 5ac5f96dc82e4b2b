//! One guest: what it boots, what it runs, and what its console says.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Programs, Row, directory};
use crate::{
    cmd::{Cmd, Stream},
    summary::{self, Summary},
    toolchain,
    workspace::{self, shown},
};

/// Brings a package and makes the initial file system.
const PACK: &str = include_str!("pack.sh");
/// The guest's first process.
const INIT: &str = include_str!("init.sh");

/// What every guest runs.
pub struct Plan {
    /// The programs to verify.
    pub objects: Vec<PathBuf>,
    /// The binary that tests start.
    pub balancer: PathBuf,
    /// The tests, unless only the verifier was asked for.
    pub tests: Option<Tests>,
    /// Arguments for nextest.
    pub nextest: Vec<String>,
    /// How long a guest may live.
    pub minutes: u64,
}

/// What nextest needs to know where there is no cargo.
pub struct Tests {
    /// Its list of test binaries.
    pub binaries: PathBuf,
    /// `cargo metadata`.
    pub metadata: PathBuf,
}

/// Boots the kernel of a package and reads the guest's console to its end.
///
/// # Errors
/// When the package cannot be had or the emulator cannot be started. What goes wrong in the guest is in
/// the answer.
pub fn run(package: &str, plan: &Plan) -> Result<Row> {
    let dir = directory().join(package);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", shown(&dir)))?;
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", shown(&path))).map(|()| path)
    };
    let (pack, init) = (write("pack.sh", PACK)?, write("init.sh", INIT)?);
    let tests = write("tests.sh", &script(plan)?)?;
    Cmd::new("sh").arg(pack).arg(package).arg(&dir).arg(init).run()?;
    let mut console = Console::default();
    emulator(&dir, &tests, plan.minutes).tee(Stream::Stdout, |line| console.see(line))?;
    Ok(Row {
        kernel: package.trim_start_matches("linux-image-").to_owned(),
        programs: console.programs(plan.objects.len()),
        tests: match (&plan.tests, console.tests) {
            (None, _) => super::Tests::LeftOut,
            (Some(_), Some(summary)) => super::Tests::Counted(summary),
            (Some(_), None) => super::Tests::BrokenOff,
        },
    })
}

/// The emulator. The guest has no network device, and cannot write to this machine.
fn emulator(dir: &Path, tests: &Path, minutes: u64) -> Cmd {
    let host = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap";
    Cmd::new("timeout")
        .args(["--kill-after=10", &format!("{minutes}m"), "qemu-system-x86_64"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-device", "virtio-rng-pci", "-virtfs", host])
        .arg("-kernel")
        .arg(dir.join("vmlinuz"))
        .arg("-initrd")
        .arg(dir.join("initrd"))
        .arg("-append")
        .arg(format!("console=ttyS0 panic=-1 quiet balancer.tests={}", tests.display()))
}

/// What the guest runs once it sees this machine's files.
fn script(plan: &Plan) -> Result<String> {
    let quoted = |path: &Path| format!("'{}'", path.display());
    let root = quoted(workspace::root());
    let search = toolchain::path()?;
    let mut lines = vec![
        "#!/bin/sh".into(),
        format!("export HOME=/root TERM=dumb PATH={}:/usr/sbin:/sbin", quoted(Path::new(&search))),
        "uname -r".into(),
        // Files below a directory that is covered would be gone.
        format!("case {root} in /tmp/*) ;; *) mount -t tmpfs tmp /tmp ;; esac"),
        "for module in inet_diag tcp_diag udp_diag veth; do /run/modprobe $module; done".into(),
        "ulimit -Hn 1048576; ulimit -Sn 65536; ip link set lo up; hostname guest".into(),
        format!("cd {root} || exit"),
    ];
    let verify = plan.balancer.with_file_name("verify-object");
    for object in &plan.objects {
        lines.push(format!("{} {} && echo '{ACCEPTED}'", quoted(&verify), quoted(object)));
    }
    if let Some(tests) = &plan.tests {
        lines.push(format!("export BALANCER_BIN={}", quoted(&plan.balancer)));
        lines.push(format!("export BALANCER_EBPF_OBJECT={}", quoted(&workspace::object())));
        // Through a pipe: to a terminal, even a serial one, nextest draws instead of writing lines.
        let arguments: Vec<_> = plan.nextest.iter().map(|word| quoted(Path::new(word))).collect();
        lines.push(format!(
            "cargo-nextest nextest run --binaries-metadata {} --cargo-metadata {} --profile emulated \
             --no-fail-fast --no-tests=pass {} 2>&1 </dev/null | cat",
            quoted(&tests.binaries),
            quoted(&tests.metadata),
            arguments.join(" ")
        ));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// What the guest says after an object whose programs were all accepted.
const ACCEPTED: &str = "guest: the object was accepted";

/// What was read from a guest's console.
#[derive(Default)]
struct Console {
    programs: usize,
    accepted: usize,
    tests: Option<Summary>,
}

impl Console {
    fn see(&mut self, line: &str) {
        if line.contains(" instructions verified, ") {
            self.programs += 1;
        } else if line.contains(ACCEPTED) {
            self.accepted += 1;
        }
        self.tests = summary::of_nextest(line).or(self.tests);
    }

    /// What the verifier made of so many objects.
    const fn programs(&self, objects: usize) -> Programs {
        if self.accepted == objects { Programs::Verified(self.programs) } else { Programs::Refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIED: &str = "tcp 482 instructions verified,  328 in the program,   1494 bytes of machine code";

    #[test]
    fn an_object_counts_only_when_all_of_it_was_accepted() {
        let mut console = Console::default();
        console.see(VERIFIED);
        console.see("error: the kernel refused 1 of 2 programs: connect4");
        assert_eq!(console.programs(1), Programs::Refused);
        console.see(VERIFIED);
        console.see(ACCEPTED);
        assert_eq!(console.programs(1), Programs::Verified(2));
        assert_eq!(console.programs(2), Programs::Refused);
    }

    #[test]
    fn the_last_summary_counts_and_none_is_none() {
        let mut console = Console::default();
        console.see("        PASS [   1.9s] (1/2) tests one");
        assert_eq!(console.tests, None);
        console.see("     Summary [   3.0s] 2 tests run: 1 passed, 1 failed, 0 skipped");
        assert_eq!(console.tests, Some(Summary { passed: 1, failed: 1, skipped: 0 }));
    }
}
