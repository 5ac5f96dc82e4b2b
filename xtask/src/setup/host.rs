//! What this machine and this user lack for running programs in the kernel. Nothing here is changed.

use std::{fmt, fs};

use crate::ui;

/// The oldest kernel that balancer supports.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// Capabilities that loading and attaching the programs takes, and their bits in `CapEff`.
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];

/// Something that is missing, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Not root.
    Root,
    /// Root, but in a container that was given less.
    Capability(&'static str),
    /// The kernel is too old.
    Kernel(String),
    /// No cgroup2 file system is mounted.
    Cgroup2,
    /// The kernel refuses even the smallest program.
    Bpf,
    /// The person asked for no more.
    NotAskedFor,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str(
                "this is not root: run it as root, or as `sudo -E env \"PATH=$PATH\" cargo xtask …`",
            ),
            Self::Capability(name) => {
                write!(f, "{name} is missing: run it outside the container, or in one that is privileged")
            }
            Self::Kernel(release) => {
                let (major, minor) = OLDEST_KERNEL;
                write!(f, "kernel {release} is older than {major}.{minor}")
            }
            Self::Cgroup2 => f.write_str(
                "no cgroup2 is mounted: `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 \
                 /sys/fs/cgroup/unified`",
            ),
            Self::Bpf => f.write_str("the kernel lets this process load no eBPF program"),
            Self::NotAskedFor => f.write_str("--unprivileged was given"),
        }
    }
}

/// What is missing for the integration tests, the demo and the benchmark. Empty: nothing that shows
/// without loading a program.
pub fn lacks() -> Vec<Lack> {
    let mut lacks = Vec::new();
    if is_root() {
        let status = read("/proc/self/status");
        lacks.extend(missing_capabilities(&status).map(Lack::Capability));
    } else {
        lacks.push(Lack::Root);
    }
    let release = read("/proc/sys/kernel/osrelease");
    if kernel(&release).is_some_and(|version| version < OLDEST_KERNEL) {
        lacks.push(Lack::Kernel(release.trim().to_owned()));
    }
    if mounted("cgroup2").is_none() {
        lacks.push(Lack::Cgroup2);
    }
    lacks
}

/// Tells what the machine offers.
pub fn report() {
    ui::say(format_args!("kernel {}", read("/proc/sys/kernel/osrelease").trim()));
    if let Some(path) = mounted("cgroup2") {
        ui::say(format_args!("cgroup2 is mounted at {path}"));
    }
    match mounted("bpf") {
        Some(path) => ui::say(format_args!("the BPF file system is mounted at {path}")),
        None => ui::say(
            "the BPF file system is not mounted; the agent, the demo and the tests mount it at /sys/fs/bpf",
        ),
    }
    for lack in lacks() {
        ui::warn(lack);
    }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    effective_user(&read("/proc/self/status")) == Some(0)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Where a file system of this type is mounted.
fn mounted(kind: &str) -> Option<String> {
    mount_of(&read("/proc/mounts"), kind)
}

fn mount_of(mounts: &str, kind: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == kind).then(|| path.to_owned())
    })
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn effective_user(status: &str) -> Option<u32> {
    field(status, "Uid")?.split_whitespace().nth(1)?.parse().ok()
}

fn missing_capabilities(status: &str) -> impl Iterator<Item = &'static str> {
    let held = field(status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    CAPABILITIES.into_iter().filter(move |(_, bit)| held >> bit & 1 == 0).map(|(name, _)| name)
}

fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_effective_user_not_the_real_one() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_user("Uid:\t0\t1000\t0\t0\n"), Some(1000));
    }

    #[test]
    fn names_every_capability_that_is_missing() {
        let missing = |hex| missing_capabilities(&format!("CapEff:\t{hex}\n")).collect::<Vec<_>>();
        assert_eq!(missing("000001ffffffffff"), [""; 0]);
        assert_eq!(missing("00000000a80425fb"), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert_eq!(missing("0000000000201000"), ["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn finds_a_mount_by_type_not_by_name() {
        let mounts =
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_of(mounts, "cgroup2").as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_of(mounts, "bpf"), None);
    }

    #[test]
    fn kernels_compare_as_numbers() {
        assert_eq!(kernel("6.18.44-fc\n"), Some((6, 18)));
        assert!(kernel("5.4.0-26-generic") < Some(OLDEST_KERNEL));
        assert!(kernel("5.15+").unwrap() >= OLDEST_KERNEL);
    }
}
