//! The live sockets that balancer translated, on the whole node, without a table of its own.
//!
//! Each translated socket carries its state in socket-local storage: a
//! [`SocketState`](balancer_common::abi::SocketState), or [`UdpFlow`](balancer_common::abi::UdpFlow)s while it
//! is unconnected. This module asks the kernel for those sockets, in every network namespace, and joins what
//! the programs recorded with what the kernel measures: TCP through sock_diag alone, which returns the
//! storage together with the socket; UDP, for which it does not, through a walk of the map (`walk.rs`)
//! joined with sock_diag by the socket's cookie.
//!
//! What it needs: CAP_BPF for storage (and CAP_PERFMON for UDP), CAP_SYS_ADMIN to look into other network
//! namespaces, CAP_SYS_PTRACE and the host's PID namespace to find namespaces and processes.
//! Whatever could not be looked at is in [`Listing::incomplete`]; an empty list there means that the answer is
//! complete up to these limits:
//!
//! - A TCP socket in a network namespace that has neither a process nor a name is not visible (nor is one
//!   whose namespace only a single thread has entered). A UDP socket there is visible, without address.
//! - TIME-WAIT and SYN-RECEIVED entries are no full sockets and have no storage. Their count was released
//!   when the socket closed.
//! - A socket that opens, closes or moves to another hash chain during the listing may be missed. Nothing is
//!   listed twice.
//! - Of multipath TCP the subflow is listed that connect() was translated of, with the inode number of the
//!   socket that the application holds. Data on other subflows is not in its measurements.
//! - TCP's times have millisecond grain or coarser (`tcp_info` counts timer ticks).
//!
//! What it costs (Linux 6.18, 2 cores): an optimised build listed 12,000 sockets in 50 to 60 ms. Each further
//! network namespace adds 1 to 2 ms, because the kernel walks the whole node's table of TCP sockets for it,
//! once per family. Processes are looked at only by [`owners`].

mod cgroup;
mod connections;
mod diag;
mod error;
mod listing;
mod netns;
mod parse;
mod process;
mod socket;
mod tcp;
mod walk;

pub(crate) use cgroup::Hierarchy;
pub use cgroup::{PodRef, pod_of_path};
pub use connections::{connections, process};
pub use diag::{Destroyed, Diag, Transport};
pub use error::SocketsError;
pub use listing::{Channels, Listing, active_by_backend, live_sockets};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use listing::{read_answer, read_walk};
pub use netns::{Namespace, NamespaceName, Scope, own_netns_cookie};
pub use parse::{RawSocket, Storage};
pub(crate) use process::socket_inode;
pub use process::{Process, Search, owners};
pub use socket::{LiveSocket, SocketStatus, Translation};
pub use tcp::{TcpInfo, TcpMetrics, TcpState};

/// Name of the map of connected sockets, for messages.
const SOCKETS: &str = "SOCKETS";
