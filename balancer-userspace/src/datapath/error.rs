//! What can go wrong between us and the kernel, each with its remedy.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::Product;

/// An error of the data path. Its text is whole: causes are in it, not behind it.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// Nothing is pinned.
    #[error(
        "balancer is not installed on this node: {} does not exist; start `balancer agent`, or name its \
         --pins directory", .0.display()
    )]
    NotInstalled(PathBuf),
    /// The pins need privileges.
    #[error(
        "{what} {}: {cause}: that takes root, or CAP_BPF (for an agent CAP_NET_ADMIN too) and access to the \
         bpf file system", path.display()
    )]
    Permission {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
    /// Nothing can be pinned.
    #[error(
        "{} is on a read-only file system: remount it (mount -o remount,rw,bind /sys/fs/bpf), or name a directory \
         of another bpf file system with --pins", .0.display()
    )]
    ReadOnly(PathBuf),
    /// No bpffs.
    #[error("no bpf file system is mounted at or above {}: mount -t bpf -o mode=0700 bpf /sys/fs/bpf ({reason})", path.display())]
    NoBpffs {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it could not be mounted.
        reason: String,
    },
    /// Somebody else has a hand in the directory of the pins.
    #[error(
        "{} {problem}: whoever owns it, or may write to it, could take the programs off or put other maps in their \
         place; make it root's alone (chown root, chmod go-w), or name another directory with --pins", path.display()
    )]
    ForeignPins {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No cgroup2 hierarchy.
    #[error(
        "no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified, or name a \
         directory of one with --cgroup"
    )]
    NoCgroup2,
    /// A container that sees no cgroup but its own.
    #[error(
        "of the host's cgroups this container sees only its own, at {}: nothing but the agent itself would be \
         balanced; mount the host's /sys/fs/cgroup into it (a hostPath volume, at any path, read-only will do), \
         or give it the host's PID namespace and CAP_SYS_PTRACE, or name a cgroup with --cgroup", .0.display()
    )]
    OwnCgroupOnly(PathBuf),
    /// The path that was named as a cgroup is not one.
    #[error("{} is not a directory of a cgroup2 file system; cgroup2 is mounted at: {mounts}", path.display())]
    NotCgroup2 {
        /// The path.
        path: PathBuf,
        /// Where cgroup2 is mounted.
        mounts: String,
    },
    /// The kernel lacks a feature.
    #[error("this kernel ({release}) lacks {feature}: balancer needs Linux 5.15 or newer with {option}")]
    Kernel {
        /// `uname -r`.
        release: String,
        /// What is missing.
        feature: &'static str,
        /// The kernel option that brings it.
        option: &'static str,
    },
    /// A capability is missing.
    #[error(
        "missing {missing}: run the agent as root, or give it CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON ({during})"
    )]
    Capability {
        /// The capabilities.
        missing: String,
        /// What was tried.
        during: String,
    },
    /// Refused although no capability is missing.
    #[error("the kernel refuses bpf(2) to this process, although it has the capabilities: {why} ({during})")]
    Refused {
        /// What refuses, and the remedy.
        why: &'static str,
        /// What was tried.
        during: String,
    },
    /// Somebody else's program stands alone where ours would stand beside it.
    #[error(
        "the cgroup, or one above it, has a program of somebody else for {hook} that was attached to be the only \
         one, so that the kernel allows no other: see `bpftool cgroup tree`, and have it attached by a link or \
         with BPF_F_ALLOW_MULTI"
    )]
    Exclusive {
        /// Which of our programs had no place.
        hook: &'static str,
    },
    /// Somebody else's program would not run any more.
    #[error(
        "a program of somebody else for {hook} (id {program}), attached to a cgroup further up with \
         BPF_F_ALLOW_OVERRIDE, would not run any more for processes of this one: attach to the cgroup that it is \
         attached to or to one above (--cgroup), or have it attached by a link or with BPF_F_ALLOW_MULTI"
    )]
    Overrides {
        /// Which of our programs would override it.
        hook: &'static str,
        /// Its id.
        program: u32,
    },
    /// Another socket load balancer is at work.
    #[error(
        "{} is at work on this node, and would rewrite connects that balancer should: {program} runs for \
         processes of {}; {}; or start with --beside-socket-lb, if it leaves the connects alone that balancer \
         is to balance", product.name(), cgroup.display(), product.remedy()
    )]
    SocketLoadBalancer {
        /// Whose it is.
        product: Product,
        /// One of its programs.
        program: String,
        /// What we attach to.
        cgroup: PathBuf,
    },
    /// Another agent runs.
    #[error("another agent runs on this node: {0}; stop it first (its pins are locked)")]
    SecondAgent(String),
    /// The pins went from under a running agent.
    #[error(
        "what this agent had pinned under {} was removed (`balancer detach --force`?), and with it what it \
         had attached: start it again to balance again", .0.display()
    )]
    Removed(PathBuf),
    /// The pins are of another layout.
    #[error(
        "the pinned map {} does not fit this version ({reason}); remove what is pinned with \
         `balancer detach` and start again", path.display()
    )]
    Incompatible {
        /// The pin.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// A map is full.
    #[error("map {map} is full ({capacity} entries); raise --{flag}")]
    Full {
        /// Map name.
        map: &'static str,
        /// How many entries it holds.
        capacity: u32,
        /// The flag of `balancer agent`.
        flag: &'static str,
    },
    /// More cgroups than can be left alone.
    #[error(
        "more than {0} cgroups are to be left alone; leave out one that lies above several of them instead"
    )]
    TooManyExcluded(u32),
    /// A program was refused.
    #[error("the kernel refused program {program}: {cause}")]
    Program {
        /// Program name.
        program: String,
        /// What aya says; the verifier's log is in it.
        cause: Box<aya::programs::ProgramError>,
    },
    /// The object could not be loaded.
    #[error("the eBPF object could not be loaded: {0}")]
    Object(#[from] Box<aya::EbpfError>),
    /// A map operation failed.
    #[error("map {map}: {cause}")]
    Map {
        /// Map name.
        map: &'static str,
        /// What aya says.
        cause: Box<aya::maps::MapError>,
    },
    /// A file or a system call failed.
    #[error("{what} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
}

impl DatapathError {
    /// Names what was tried, and on what; a refusal for want of rights is a [`DatapathError::Permission`], one for a read-only
    /// file system a [`DatapathError::ReadOnly`].
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { what, path, cause },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(path),
            _ => Self::Io { what, path, cause },
        }
    }
}
