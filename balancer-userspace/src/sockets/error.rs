//! What can go wrong while live sockets are listed.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why sockets could not be listed, or not all of them.
#[derive(Debug, Error)]
pub enum SocketsError {
    /// `/proc` could not be listed.
    #[error("cannot list {}: {source}; is /proc mounted?", path.display())]
    Proc {
        /// What could not be read.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Processes whose network namespace may not be looked at.
    #[error(
        "cannot see which network namespace process {example} is in ({count} such processes); sockets of a \
         namespace that only they are in are missing; this needs CAP_SYS_PTRACE over them"
    )]
    HiddenProcesses {
        /// How many.
        count: usize,
        /// The id of one of them.
        example: u32,
    },
    /// More network namespaces than are looked into.
    #[error(
        "there are more than {most} network namespaces, and sockets of some are not looked at: those with a name come \
         first, then those of the processes that began first"
    )]
    TooManyNamespaces {
        /// How many are looked into.
        most: usize,
    },
    /// Network namespaces other than this process's own could not be entered.
    #[error("cannot enter {count} other network namespaces; this needs CAP_SYS_ADMIN")]
    NeedsSysAdmin {
        /// How many.
        count: usize,
    },
    /// One network namespace could not be entered, though the capability is there.
    #[error("cannot enter the network namespace of {name}: {source}")]
    EnterNamespace {
        /// What the namespace is known by.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread that visits the namespaces could not be started.
    #[error("cannot start the thread that visits network namespaces: {source}")]
    Thread {
        /// The kernel's answer.
        source: io::Error,
    },
    /// No socket-diagnosis channel to the kernel.
    #[error("cannot open a sock_diag netlink socket: {source}")]
    Netlink {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel does not hand out socket storage to this process.
    #[error("the kernel shows socket storage only to a process with CAP_BPF (or CAP_SYS_ADMIN)")]
    NeedsBpf,
    /// The kernel does not close a socket.
    #[error(
        "the kernel does not close a {protocol} socket: {source}; this needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY"
    )]
    Destroy {
        /// TCP or UDP.
        protocol: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel has no socket diagnosis for this protocol.
    #[error("this kernel cannot list {protocol} sockets; load the module {module}")]
    NoDiagnosis {
        /// The protocol.
        protocol: &'static str,
        /// The module that is missing.
        module: &'static str,
    },
    /// A descriptor that is not an sk_storage map.
    #[error("the kernel does not take the {map} map for socket storage; is {map} pinned by another program?")]
    NotSocketStorage {
        /// Name of the map.
        map: &'static str,
    },
    /// A dump ended with an error.
    #[error("listing {protocol} sockets failed: {source}")]
    Dump {
        /// The protocol.
        protocol: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket table kept changing, or overflowed the buffer, in every attempt.
    #[error("listing {protocol} sockets was interrupted {attempts} times; try again when the node is calmer")]
    Unstable {
        /// The protocol.
        protocol: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel's answer does not have the documented shape.
    #[error("the kernel's list of sockets is malformed: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// The value of a map does not have this version's layout.
    #[error("a value of the {map} map has {found} bytes instead of {expected}; it is of another version")]
    Layout {
        /// Name of the map.
        map: &'static str,
        /// Size of this version's value.
        expected: usize,
        /// Size found.
        found: usize,
    },
    /// The kernel has no type information, or not of what is needed.
    #[error(
        "cannot list UDP sockets: the kernel's type information ({}) {problem}; \
         it needs CONFIG_DEBUG_INFO_BTF", path.display()
    )]
    KernelTypes {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Walking an sk_storage map failed.
    #[error("cannot list UDP sockets: {step}: {source}; this needs CAP_BPF and CAP_PERFMON, or root")]
    Iterator {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}
