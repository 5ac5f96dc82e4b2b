//! A live socket that the programs translated.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::model::Protocol;

/// A live socket, joined with the process that holds it and the Service that it dialled.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who holds it; `None` where no process could be found (it belongs to the kernel, or has just ended).
    pub process: Option<Process>,
    /// Inode number of its network namespace; 0 where unknown.
    pub netns: u64,
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Port name; empty for an unnamed port.
    pub port_name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// The socket's own address; `None` where it has none yet.
    pub local: Option<SocketAddr>,
    /// What the application dialled.
    pub frontend: SocketAddr,
    /// Where it was sent.
    pub backend: SocketAddr,
    /// Pod behind the backend; empty where unknown.
    pub pod: Arc<str>,
    /// Node of the backend; empty where unknown.
    pub node: Arc<str>,
    /// Whether the backend is still one of its Service's.
    pub backend_gone: BackendGone,
    /// The kernel's name of the socket's state (`ESTABLISHED`, `SYN-SENT`).
    pub state: &'static str,
    /// Time since connect(), or since the flow's first datagram.
    pub age: Option<Duration>,
    /// Time since data last went either way.
    pub idle: Option<Duration>,
}

/// A process that holds a [`Connection`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id, in the PID namespace of the reader.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`): at most 15 bytes, any bytes.
    pub comm: String,
    /// The pod that it runs in, as far as its cgroup tells; `None` for a process of the host.
    pub pod: Option<String>,
    /// Its cgroup path, below the cgroup2 root.
    pub cgroup: String,
    /// How many other processes hold the same socket.
    pub sharers: u32,
}

/// Whether the backend of a connection may still be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendGone {
    /// It may.
    No,
    /// It was removed from its Service; the connection outlives it.
    Yes,
}
