//! What the machine must offer. A test that cannot run here fails and says why; it never passes silently.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{programs::ProgramType, sys::is_program_supported};

/// Where bpffs is expected, and mounted if it is not.
pub const BPFFS: &str = "/sys/fs/bpf";

/// How many times slower than a machine of its own this one is: a limit on what a test waits for is that much longer.
const SLOWNESS: &str = "BALANCER_TEST_SLOWNESS";

/// A time to wait for something that is not measured, on a machine that may be emulated. `cargo xtask vm` says how slow.
///
/// # Panics
///
/// When the variable holds no whole number from 1 on.
pub fn patience(time: Duration) -> Duration {
    let Ok(text) = std::env::var(SLOWNESS) else { return time };
    match text.parse() {
        Ok(factor @ 1..=100) => time * factor,
        _ => panic!("{SLOWNESS} is {text:?}: it must be a whole number from 1 to 100"),
    }
}

/// Root, iproute2, cgroup2, a mounted bpffs and a kernel that runs our kinds of programs.
///
/// # Panics
///
/// When the machine lacks one of them, with what is missing and the remedy.
#[track_caller]
pub fn require_kernel() {
    if let Err(error) = check() {
        panic!("this test needs a real kernel: {error:#}");
    }
}

/// Like [`require_kernel`], for callers that report errors themselves. Mounts bpffs where it is missing.
pub fn check() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "not root: run as root (or under sudo -E)");
    let found = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    ensure!(found, "`ip` does not run: install iproute2");
    cgroup2()?;
    mount_bpffs()?;
    for kind in [ProgramType::CgroupSockAddr, ProgramType::SockOps] {
        let supported =
            is_program_supported(kind).with_context(|| format!("probing for {kind:?} programs"))?;
        ensure!(
            supported,
            "the kernel runs no {kind:?} programs: it needs CONFIG_CGROUP_BPF, and bpf() must be allowed"
        );
    }
    ensure!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "the kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF"
    );
    Ok(())
}

/// Where cgroup2 is mounted.
pub fn cgroup2() -> Result<std::path::PathBuf> {
    mounted("cgroup2")?.context(
        "cgroup2 is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (make the directory first)",
    )
}

/// Mounts bpffs at [`BPFFS`] unless it is there; it stays mounted, other programs may use it by then.
fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
    let there = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    };
    if mounts.lines().any(there) {
        return Ok(());
    }
    let output = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).output().context("mount")?;
    if !output.status.success() {
        bail!("bpffs cannot be mounted at {BPFFS}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The first mount point of a file system type.
fn mounted(kind: &str) -> Result<Option<std::path::PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
    Ok(mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, fstype) = (fields.next()?, fields.next()?);
        (fstype == kind).then(|| at.into())
    }))
}
