//! One guest: what it boots, and how it ends.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};

use super::{accelerator::Accelerator, console::Console, packed::Packed, tree::Tree};
use crate::{
    cmd::{Cmd, Stream},
    interrupt,
    workspace::{self, shown},
};

/// The first process.
const INIT: &str = include_str!("init.sh");

/// How large what a guest leaves behind may be. The file takes no more room than what is written to it.
const DISK_BYTES: u64 = 4 << 30;

/// A directory for what belongs to this run, gone when it ends. One whose process died is removed by the next.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it; one process may have several, of different names.
    ///
    /// # Errors
    /// When that fails.
    pub fn new(name: &str) -> Result<Self> {
        let all = workspace::target().join("vm/scratch");
        for entry in fs::read_dir(&all).into_iter().flatten().filter_map(Result::ok) {
            let owner = entry.file_name().to_string_lossy().split('.').next().map(str::to_owned);
            if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
                remove(&entry.path())?;
            }
        }
        let dir = all.join(format!("{}.{name}", process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", shown(&dir)))?;
        Ok(Self(dir))
    }

    /// A path below it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", shown(dir)))
}

/// What a guest's scripts may reach of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its initial file system.
    Nothing,
    /// All files, to read them.
    Host,
}

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a Packed,
    /// How.
    pub accelerator: &'a Accelerator,
    /// An archive of a [`first`] file system.
    pub archive: &'a Path,
    /// What it may reach.
    pub reach: Reach,
    /// How long it may live.
    pub minutes: u64,
    /// Where what it leaves behind goes, and what it said; emptied first.
    pub out: &'a Path,
}

/// What every initial file system has: busybox and the first process.
///
/// # Errors
/// When it cannot be made.
pub fn first(dir: PathBuf) -> Result<Tree> {
    let tree = Tree::new(dir)?;
    tree.program("busybox", "".as_ref())?;
    tree.write("/init", INIT)?;
    tree.executable("/init")?;
    // Programs look users and protocols up, and root's are all that there are.
    tree.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
    tree.write("/etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    tree.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
    for known in ["/etc/protocols", "/etc/services"].map(Path::new) {
        if known.is_file() {
            tree.file(known)?;
        }
    }
    Ok(tree)
}

/// Boots, reads the console to its end, and fetches what the guest left behind. Why that is not all there could be is
/// returned beside it.
///
/// # Errors
/// When the emulator cannot be started, or files cannot be written.
pub fn boot(boot: &Boot<'_>) -> Result<(Console, Option<String>)> {
    let scratch = Scratch::new("boot")?;
    let (initrd, disk) = (scratch.join("initrd"), scratch.join("disk"));
    join(&[boot.archive, &boot.kernel.modules], &initrd)?;
    let file = File::create(&disk).with_context(|| format!("cannot make {}", shown(&disk)))?;
    file.set_len(DISK_BYTES).with_context(|| format!("cannot make {}", shown(&disk)))?;
    let mut cmd =
        emulator(boot.kernel, boot.accelerator, &initrd, boot.minutes * 60, boot.accelerator.slowness())
            .arg("-drive")
            .arg(format!("if=none,id=out,format=raw,file={}", disk.display()))
            .args(["-device", "virtio-blk-pci,drive=out"]);
    if boot.reach == Reach::Host {
        let host = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap";
        cmd = cmd.args(["-virtfs", host]);
    }
    let mut console = Console::default();
    let mut said = String::new();
    let status = cmd.tee(Stream::Stdout, |line| {
        console.see(line);
        said.push_str(line);
        said.push('\n');
    })?;
    if boot.out.exists() {
        remove(boot.out)?;
    }
    fs::create_dir_all(boot.out).with_context(|| format!("cannot make {}", shown(boot.out)))?;
    let log = boot.out.join("console.log");
    fs::write(&log, said).with_context(|| format!("cannot write {}", shown(&log)))?;
    let why = if console.done {
        Cmd::new("tar")
            .args(["--extract", "--no-same-owner", "--no-same-permissions", "--file"])
            .arg(&disk)
            .arg("--directory")
            .arg(boot.out)
            .run()?;
        None
    } else if interrupt::came() {
        Some("it was interrupted".into())
    } else if let Some(why) = &console.gave_up {
        Some(why.clone())
    } else if matches!(status.code(), Some(124 | 137)) {
        Some(format!("the guest was ended after {} minutes", boot.minutes))
    } else {
        Some(format!("the guest died ({status})"))
    };
    Ok((console, why))
}

/// Whether a kernel gets to its first process; if not, why.
///
/// # Errors
/// When the emulator cannot be started.
pub fn probe(kernel: &Packed, accelerator: &Accelerator, seconds: u64) -> Result<Option<String>> {
    let scratch = Scratch::new("probe")?;
    let archive = scratch.join("initrd");
    first(scratch.join("tree"))?.pack(&archive)?;
    let output = emulator(kernel, accelerator, &archive, seconds, "balancer.probe").capture()?;
    let mut console = Console::default();
    String::from_utf8_lossy(&output.stdout).lines().for_each(|line| console.see(line));
    if console.release.is_some() {
        return Ok(None);
    }
    Ok(Some(failure(&String::from_utf8_lossy(&output.stderr), output.status.code(), seconds)))
}

/// What an emulator that got nowhere said of it.
fn failure(said: &str, code: Option<i32>, seconds: u64) -> String {
    let late = matches!(code, Some(124 | 137));
    let error = said.lines().find(|line| line.contains("error"));
    match error.or_else(|| said.lines().rfind(|line| !line.trim().is_empty() && !late)) {
        Some(line) => line.trim().to_owned(),
        None if late => format!("no sign of life in {seconds} s"),
        None => "the emulator ended without a word".into(),
    }
}

/// The emulator, which ends with its time, with Ctrl-C, and with this process. The guest has no network device, and can write
/// nowhere but to its disk.
fn emulator(kernel: &Packed, accelerator: &Accelerator, initrd: &Path, seconds: u64, append: &str) -> Cmd {
    Cmd::new("setpriv")
        .args(["--pdeathsig", "TERM", "timeout", "--foreground", "--kill-after=10", &format!("{seconds}s")])
        .arg("qemu-system-x86_64")
        .args(accelerator.arguments())
        .args(["-smp", "2", "-m", "3G", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-device", "virtio-rng-pci"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", format!("console=ttyS0 panic=-1 quiet {append}").trim_end()])
        .no_stdin()
}

/// Writes files one behind the other: the kernel reads any number of archives.
fn join(parts: &[&Path], whole: &Path) -> Result<()> {
    let mut file = File::create(whole).with_context(|| format!("cannot make {}", shown(whole)))?;
    for part in parts {
        let mut part_file = File::open(part).with_context(|| format!("cannot read {}", shown(part)))?;
        io::copy(&mut part_file, &mut file).with_context(|| format!("cannot write {}", shown(whole)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_emulator_says_of_a_failure_is_passed_on() {
        let suberror = "warning: x\nKVM internal error. Suberror: 1\nRAX=0\nterminating on signal 15\n";
        assert_eq!(failure(suberror, Some(124), 10), "KVM internal error. Suberror: 1");
        assert_eq!(failure("terminating on signal 15\n", Some(124), 10), "no sign of life in 10 s");
        assert_eq!(
            failure("failed to initialize kvm: Operation not permitted\n\n", Some(1), 10),
            "failed to initialize kvm: Operation not permitted"
        );
        assert_eq!(failure("", None, 10), "the emulator ended without a word");
    }
}
