//! What sockets carry.

use bytemuck::{Pod, Zeroable};

use super::FrontendKey;
use crate::addr::{Ip, PortBe};

/// How many Services one unconnected UDP socket is remembered to have talked to.
pub const UDP_FLOWS: usize = 16;

/// How long an unconnected UDP socket keeps its backend after the last datagram, in nanoseconds.
///
/// The kernel's connection tracking, which kube-proxy relies on for this, keeps an answered UDP stream
/// for 120 s.
pub const UDP_FLOW_IDLE_NS: u64 = 120_000_000_000;

/// The life of a translated socket, in [`SocketState::phase`]. The numbers are part of the layout.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not counted as active (any more).
    Closed = 0,
    /// Counted; the handshake is not over. TCP only.
    Connecting = 1,
    /// Counted; the handshake is over, or the protocol has none.
    Established = 2,
    /// A UDP flow entry that a thread is filling.
    Claimed = 3,
}

/// Value of `SOCKETS` (socket-local storage): the translation that a connected socket carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketState {
    /// A [`Phase`]. Whoever exchanges it from an open one to [`Phase::Closed`] counts the close.
    pub phase: u32,
    /// Backend id.
    pub backend: u32,
    /// [`Backend::generation`](super::Backend::generation) when it was chosen.
    pub generation: u32,
    /// Service id.
    pub service: u32,
    /// When connect() was called.
    pub opened_ns: u64,
    /// When the handshake ended; 0 before.
    pub established_ns: u64,
    /// What the application dialled.
    pub frontend: FrontendKey,
    /// Where it was sent: to the backend or, if it was only observed, to what was dialled.
    pub target: Ip,
    /// The port that goes with it.
    pub target_port: PortBe,
    /// What has happened to the TCP connection: [`MARK_SENT`] and the like.
    pub marks: u16,
    /// Process (thread group) that called connect(), in the initial PID namespace.
    pub tgid: u32,
    /// The sequence number after the peer's FIN, with [`MARK_PEER_FIN`].
    pub peer_end: u32,
    /// With [`MARK_TRACKED`]: bytes that had been sent when payload was sent last, this included. What
    /// `tcp_info.tcpi_bytes_acked` says once all of it is acknowledged.
    pub sent: u64,
    /// With [`MARK_TRACKED`]: bytes that had been received then (`tcpi_bytes_received`). Payload beyond that
    /// came later: what was sent is answered.
    pub received: u64,
    /// With [`MARK_TRACKED`]: how often payload was received between two sends.
    pub turns: u32,
    /// Always 0.
    pub pad: u32,
}

/// In [`SocketState::marks`]: a SYN was sent. Without it connect() failed at once, for want of a route or a
/// free port.
pub const MARK_SENT: u16 = 1;
/// In [`SocketState::marks`]: the kernel gave up retransmitting.
pub const MARK_EXPIRED: u16 = 2;
/// In [`SocketState::marks`]: a FIN arrived after our own; the data before it may still be missing.
pub const MARK_PEER_FIN: u16 = 4;
/// In [`SocketState::marks`]: everything that is sent is seen, so that it is known whether that is answered.
pub const MARK_TRACKED: u16 = 8;
/// In [`SocketState::marks`]: the attempt has counted against its backend already.
pub const MARK_SUSPECT: u16 = 16;
/// In [`SocketState::marks`]: it was not sent to its backend, only counted there
/// ([`Mode::Observe`](super::Mode::Observe)).
pub const MARK_OBSERVED: u16 = 32;

/// One Service that an unconnected UDP socket talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct UdpFlow {
    /// A [`Phase`].
    pub phase: u32,
    /// Backend id.
    pub backend: u32,
    /// [`Backend::generation`](super::Backend::generation) when it was chosen.
    pub generation: u32,
    /// Service id.
    pub service: u32,
    /// When the last datagram was sent.
    pub used_ns: u64,
    /// What the application addressed.
    pub frontend: FrontendKey,
    /// Where it was sent: to the backend or, if it was only observed, to what was addressed.
    pub target: Ip,
    /// The port that goes with it.
    pub target_port: PortBe,
    /// Always 0.
    pub pad: u16,
}

/// Value of `UDP_FLOWS` (socket-local storage): the Services that an unconnected UDP socket talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct UdpFlows {
    /// In no order; [`Phase::Closed`] marks a free entry.
    pub flows: [UdpFlow; UDP_FLOWS],
}
