//! A translated socket, and what can be said of it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use balancer_common::{
    abi::{Phase, SocketState, UdpFlow},
    addr::{Ip, PortBe},
};

use super::{Namespace, TcpMetrics, TcpState};
use crate::model::Protocol;

/// A live socket that the programs translated. An unconnected UDP socket is listed once per flow.
#[derive(Clone, Debug)]
pub struct LiveSocket {
    /// The network namespace that it is in; `None` for a UDP socket in one that could not be found.
    pub netns: Option<Arc<Namespace>>,
    /// TCP or UDP. A subflow of multipath TCP is TCP, with the inode number of the application's socket.
    pub protocol: Protocol,
    /// Its own address; `None` while it has no port, or where it could not be told. Never v4-mapped.
    pub local: Option<SocketAddr>,
    /// The kernel's idea of its peer; `None` for an unconnected socket. Never v4-mapped.
    pub remote: Option<SocketAddr>,
    /// The kernel's idea of its state.
    pub status: SocketStatus,
    /// Its cookie, which no other socket of this boot has. Of a subflow it is the subflow's own.
    pub cookie: u64,
    /// Its inode number; 0 where unknown, and once no process holds it.
    pub inode: u32,
    /// The cgroup that it was made in, whose program decided.
    pub cgroup_id: Option<u64>,
    /// What the programs recorded.
    pub translation: Translation,
    /// What the kernel measures; `None` for UDP and before the handshake is over.
    pub tcp: Option<TcpMetrics>,
    /// Bytes that wait to be read by the application; 0 for UDP.
    pub receive_queue: u32,
    /// Bytes that are not acknowledged yet; 0 for UDP.
    pub send_queue: u32,
    /// Time since connect(); `None` for an unconnected flow, whose beginning nobody recorded.
    pub age: Option<Duration>,
    /// Time since payload last went either way, as far as known; a connection that never carried any
    /// counts from its handshake. `None` for connected UDP.
    pub idle: Option<Duration>,
}

/// The kernel's idea of a socket's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketStatus {
    /// TCP.
    Tcp(TcpState),
    /// UDP with a peer.
    Connected,
    /// UDP without one.
    Unconnected,
    /// The socket's namespace could not be found.
    Unknown,
}

impl SocketStatus {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp(state) => state.name(),
            Self::Connected => "CONNECTED",
            Self::Unconnected => "UNCONNECTED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// What the programs recorded with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// connect() was translated.
    Connect(SocketState),
    /// Datagrams of an unconnected socket are translated.
    Flow(UdpFlow),
}

impl Translation {
    const fn phase_number(&self) -> u32 {
        match self {
            Self::Connect(state) => state.phase,
            Self::Flow(flow) => flow.phase,
        }
    }
}

/// An address as the programs write it.
fn address(ip: Ip, port: PortBe) -> SocketAddr {
    SocketAddr::new(IpAddr::from(ip), port.to_host())
}

impl LiveSocket {
    /// Whether it is counted in its backend's `active`.
    pub const fn is_open(&self) -> bool {
        let phase = self.translation.phase_number();
        phase == Phase::Connecting as u32 || phase == Phase::Established as u32
    }

    /// Service id.
    pub const fn service(&self) -> u32 {
        match &self.translation {
            Translation::Connect(state) => state.service,
            Translation::Flow(flow) => flow.service,
        }
    }

    /// Backend id and its generation: together they name one backend for good.
    pub const fn backend(&self) -> (u32, u32) {
        match &self.translation {
            Translation::Connect(state) => (state.backend, state.generation),
            Translation::Flow(flow) => (flow.backend, flow.generation),
        }
    }

    /// What the application dialled.
    pub fn frontend(&self) -> SocketAddr {
        let key = match &self.translation {
            Translation::Connect(state) => state.frontend,
            Translation::Flow(flow) => flow.frontend,
        };
        address(key.addr, key.port)
    }

    /// Where it was sent.
    pub fn target(&self) -> SocketAddr {
        match &self.translation {
            Translation::Connect(state) => address(state.target, state.target_port),
            Translation::Flow(flow) => address(flow.target, flow.target_port),
        }
    }

    /// The process that called connect(), in the initial PID namespace; not recorded of flows.
    pub const fn tgid(&self) -> Option<u32> {
        match &self.translation {
            Translation::Connect(state) if state.tgid != 0 => Some(state.tgid),
            Translation::Connect(_) | Translation::Flow(_) => None,
        }
    }
}
