//! The layout of every map: keys, values and limits.
//!
//! All types are `repr(C)` with no padding byte unaccounted for; sizes are asserted below, because the
//! maps outlive the agent (they are pinned) and a silent change of layout would corrupt what a running
//! kernel holds. Any change here must raise [`LAYOUT_VERSION`]: an agent refuses pinned maps whose
//! entries have another size, and would misread those that have the same.
//!
//! Who writes what: the agent alone writes [`Service`], [`Slot`], [`Backend`], [`Control`], [`Lifecycle`],
//! [`BackendHistory`] and the metadata; the programs alone write [`BackendStats`], [`BackendHealth`],
//! [`ServiceStats`], [`SocketState`], [`UdpFlows`] and [`ClientState`] (the agent sets statistics and health
//! anew when it hands out an id). An [`Offer`] is written by the agent and resolved, once, by a program.
//! Times are nanoseconds of `CLOCK_BOOTTIME`.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Ip, PortBe};

mod connections;
mod counts;
mod lane;
mod sockets;

pub use connections::{Lifecycle, MAX_BUDGET, MAX_OFFERS, Offer, OfferOutcome, Rebalance, Refusal, Stop};
pub use counts::{
    BackendHealth, BackendHistory, BackendStats, HANDSHAKE_BUCKETS, HISTORY, HISTORY_STEP_NS, MAX_SAMPLE,
    PassReason, PickReason, ServiceStats, UNKNOWN_SAMPLE, handshake_bound_ns, handshake_bucket,
};
pub use lane::LaneState;
pub use sockets::{
    MARK_EXPIRED, MARK_OBSERVED, MARK_PEER_FIN, MARK_SENT, MARK_SUSPECT, MARK_TRACKED, Phase, SocketState,
    UDP_FLOW_IDLE_NS, UDP_FLOWS, UdpFlow, UdpFlows,
};

/// The version of everything in this file; it is part of the path that maps are pinned under.
pub const LAYOUT_VERSION: u32 = 4;

/// The most backends of a Service that least-connections compares all of; of more it compares [`WINDOW`].
pub const FULL_SCAN: u32 = 64;

/// How many backends least-connections compares where there are more than [`FULL_SCAN`].
pub const WINDOW: u32 = 8;

/// The largest weight of a backend. Products of a weight and a count of connections stay within 64 bits.
pub const MAX_WEIGHT: u32 = 65_535;

/// The id of the Service, its backend and its slot that the agent's self-probe uses for UDP; users never
/// see it.
pub const PROBE_UDP: u32 = 0;
/// The same for TCP.
pub const PROBE_TCP: u32 = 1;
/// The first service id for users' Services.
pub const FIRST_SERVICE: u32 = 2;
/// The first backend id for users' backends.
pub const FIRST_BACKEND: u32 = 2;
/// The first slot for users' Services: runs of slots are aligned to powers of two.
pub const FIRST_SLOT: u32 = 2;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;
/// `IPPROTO_MPTCP`: what `bpf_sock_addr.protocol` says of a multipath socket, which dials TCP.
pub const MPTCP: u32 = 262;

/// Key of `FRONTENDS`: what an application dials. The value is a service id (`u32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FrontendKey {
    /// The Service address.
    pub addr: Ip,
    /// The Service port.
    pub port: PortBe,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

impl FrontendKey {
    /// The key of `addr:port/protocol`.
    #[inline(always)]
    pub const fn new(addr: Ip, port: PortBe, protocol: u8) -> Self {
        Self { addr, port, protocol, pad: 0 }
    }

    /// Compares word by word: slices would become a byte loop in eBPF.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.addr.same(&other.addr) && self.port.0 == other.port.0 && self.protocol == other.protocol
    }
}

/// A run of slots, in one word, so that the agent switches a Service to another set of backends with
/// one store: a program sees the old set or the new one, never a mixture.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SlotRange(pub u64);

impl SlotRange {
    /// `len` slots from index `base`.
    #[inline(always)]
    pub const fn new(base: u32, len: u32) -> Self {
        Self(((base as u64) << 32) | len as u64)
    }

    /// Index of the first slot.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Number of slots.
    #[inline(always)]
    pub const fn len(self) -> u32 {
        self.0 as u32
    }

    /// Whether the Service has nothing to offer.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// How a Service chooses among its backends. The numbers are part of the layout.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The backend with the fewest open connections for its weight.
    #[default]
    LeastConnections = 0,
    /// Every backend in turn, per Service.
    RoundRobin = 1,
    /// Every backend in turn, per client (network namespace).
    ClientRoundRobin = 2,
    /// Any backend, with its weight as its chance.
    Random = 3,
    /// The same client (network namespace) always meets the same backend (Maglev).
    SourceHash = 4,
}

impl Algorithm {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::LeastConnections, Self::RoundRobin, Self::ClientRoundRobin, Self::Random, Self::SourceHash];

    /// From the number in a map; `None` for one that this version does not know.
    #[inline(always)]
    pub const fn from_u32(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::LeastConnections),
            1 => Some(Self::RoundRobin),
            2 => Some(Self::ClientRoundRobin),
            3 => Some(Self::Random),
            4 => Some(Self::SourceHash),
            _ => None,
        }
    }

    /// The name that annotations, flags and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastConnections => "least-connections",
            Self::RoundRobin => "round-robin",
            Self::ClientRoundRobin => "client-round-robin",
            Self::Random => "random",
            Self::SourceHash => "source-hash",
        }
    }
}

/// Set in [`Service::flags`] when all its backends weigh the same: an idle backend cannot be beaten.
pub const SERVICE_UNIFORM: u32 = 1;
/// Set in [`Service::flags`] when it is followed what its TCP connections carry ([`MARK_TRACKED`]).
pub const SERVICE_TRACKED: u32 = 2;
/// Set in [`Service::flags`] when sockets to backends that are gone are left alone.
pub const SERVICE_KEEP_REMOVED: u32 = 4;
/// Set in [`Service::flags`] when idle connections to terminating backends are moved.
pub const SERVICE_DRAIN: u32 = 8;
/// Set in [`Service::flags`] when idle connections are moved without a clean record of offers.
pub const SERVICE_TRUSTED: u32 = 16;
/// Set in [`Service::flags`] when they are moved even where servers speak first. Implies the above.
pub const SERVICE_FORCED: u32 = 32;

/// Value of `SERVICES`, indexed by service id: one Service port of one address family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Service {
    /// Where its backends are. For least-connections one slot per backend, sorted by address and
    /// port; for the others a schedule in which a backend appears as often as its weight asks.
    pub slots: SlotRange,
    /// What it is dialled by. A program that finds another key here met a reused entry, and passes through.
    pub frontend: FrontendKey,
    /// An [`Algorithm`].
    pub algorithm: u32,
    /// `sessionAffinity: ClientIP` timeout in seconds; 0 for none.
    pub affinity_seconds: u32,
    /// [`SERVICE_UNIFORM`] and the like.
    pub flags: u32,
    /// Number of distinct backends in the slots.
    pub backends: u32,
    /// Raised each time the set of backends changes.
    pub revision: u32,
    /// How long a new backend takes to get its full share of connects, in milliseconds; 0: it has it at once.
    pub slow_start_ms: u32,
    /// How long a connection must have been quiet before it is moved, in milliseconds, at least.
    pub quiet_ms: u32,
    /// How old it must be, in milliseconds.
    pub min_age_ms: u32,
    /// A [`Rebalance`].
    pub rebalance: u16,
    /// How many connections may be moved in ten seconds, in percent of those that are open; at most
    /// [`MAX_BUDGET`].
    pub budget_percent: u16,
}

/// Value of `SLOTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Slot {
    /// Backend id.
    pub backend: u32,
    /// 1 to [`MAX_WEIGHT`]; read by least-connections alone.
    pub weight: u32,
}

/// Whether new connections may go to a backend. The numbers are part of the layout.
#[repr(u16)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendState {
    /// The id is not in use.
    #[default]
    Free = 0,
    /// In its Service's slots.
    Ready = 1,
    /// In its Service's slots for want of ready ones: terminating, but still serving (KEP-1669).
    Terminating = 2,
    /// Gone from its Service; kept while sockets are still open to it.
    Removed = 3,
    /// Terminating: in no slot, and its connections should go elsewhere while it can still answer.
    Draining = 4,
    /// Still an endpoint of its Service, in no slot: not ready, or meant for other nodes. Its connections stay.
    Unused = 5,
}

impl BackendState {
    /// From the number in a map; an unknown one counts as [`BackendState::Removed`].
    #[inline(always)]
    pub const fn from_u16(number: u16) -> Self {
        match number {
            0 => Self::Free,
            1 => Self::Ready,
            2 => Self::Terminating,
            4 => Self::Draining,
            5 => Self::Unused,
            _ => Self::Removed,
        }
    }

    /// Whether it may be chosen.
    #[inline(always)]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Ready | Self::Terminating)
    }
}

/// Value of `BACKENDS`, indexed by backend id: one endpoint of one [`Service`].
///
/// The same pod behind two Services is two backends, each with its own counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Backend {
    /// Pod address.
    pub addr: Ip,
    /// Target port.
    pub port: PortBe,
    /// A [`BackendState`].
    pub state: u16,
    /// The id of the Service that it belongs to.
    pub service: u32,
    /// Raised each time the id is handed out, so that what remembers an earlier use can tell.
    pub generation: u32,
    /// 1 to [`MAX_WEIGHT`].
    pub weight: u32,
}

/// Key of `CLIENTS`, an LRU map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct ClientKey {
    /// Cookie of the client's network namespace: a pod, or all host-network processes of the node together.
    pub netns_cookie: u64,
    /// Service id.
    pub service: u32,
    /// Always 0.
    pub pad: u32,
}

/// Value of `CLIENTS`: what is remembered of a client of a Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ClientState {
    /// When it last connected.
    pub used_ns: u64,
    /// The backend it was sent to last.
    pub backend: u32,
    /// [`Backend::generation`] at that time.
    pub generation: u32,
    /// Turns taken by this client (client-round-robin).
    pub turn: u32,
    /// Always 0.
    pub pad: u32,
}

/// What becomes of the backends that are chosen. The numbers are part of the layout.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Connects are sent to them.
    #[default]
    Balance = 0,
    /// Connects are counted as if they were sent to them, and left alone.
    Observe = 1,
}

impl Mode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Balance, Self::Observe];

    /// From the number in a map. One that this version does not know leaves connects alone.
    #[inline(always)]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::Balance,
            _ => Self::Observe,
        }
    }

    /// The name that the flag and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::Observe => "observe",
        }
    }
}

/// How deep in the hierarchy a cgroup may lie that is left alone: the programs look at the process's own
/// cgroup and those above it, as far down as this. The root is at level 0.
pub const MAX_CGROUP_DEPTH: i32 = 24;

/// How many cgroups can be left alone: the size of `EXCLUDED`, whose keys are cgroup ids (`u64`).
pub const MAX_EXCLUDED: u32 = 8192;

/// The only value of `CONTROL`: what the agent says of itself. Texts are UTF-8, padded with NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Control {
    /// [`LAYOUT_VERSION`].
    pub layout_version: u32,
    /// Where this node's tie order starts: a hash of the node's name.
    pub node_offset: u32,
    /// A [`Mode`].
    pub mode: u32,
    /// How many cgroups are left alone (`EXCLUDED`); while there are none, none is looked for.
    pub excluded: u32,
    /// Programs pass everything through after this time; `u64::MAX` for never.
    pub lease_expires_ns: u64,
    /// How long each renewal lasts; 0 for a lease that never lapses.
    pub lease_ns: u64,
    /// When the running (or last) agent started.
    pub agent_started_ns: u64,
    /// When that agent's view became complete; 0 while it is not.
    pub synced_ns: u64,
    /// When the source was last known to be in touch with what it watches.
    pub contact_ns: u64,
    /// When the tables were last changed.
    pub changed_ns: u64,
    /// Process id of the agent, in its own PID namespace.
    pub agent_pid: u32,
    /// Objects that the agent had to skip, as of the last change.
    pub skipped: u32,
    /// What became of the express lane, as [`LaneState`]: for IPv4, for IPv6.
    pub lane: [u32; 2],
    /// How many endpoints it holds: of IPv4, of IPv6.
    pub lane_entries: [u32; 2],
    /// Version of the agent.
    pub agent_version: [u8; 32],
    /// Node name.
    pub node: [u8; 64],
    /// Where Services come from, as a person would say it.
    pub source: [u8; 128],
    /// Path of the cgroup that the programs are attached to, as the agent sees it.
    pub cgroup: [u8; 128],
}

/// Value of `SERVICE_META`, keyed by service id: names for people. Read by the agent and the CLI alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceMeta {
    /// Namespace, at most 63 bytes.
    pub namespace: [u8; 64],
    /// Service name, at most 63 bytes.
    pub name: [u8; 64],
    /// Port name, at most 63 bytes; empty for an unnamed port.
    pub port_name: [u8; 64],
    /// Why it is not (fully) served as written, in words; empty when all is well. Cut at 191 bytes.
    pub problem: [u8; 192],
}

/// Value of `BACKEND_META`, keyed by backend id: names for people. Read by the agent and the CLI alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendMeta {
    /// Pod name, node name and zone, each followed by a NUL; together cut at 440 bytes.
    pub text: [u8; 440],
}

const _: () = {
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<SlotRange>() == 8);
    assert!(size_of::<Service>() == 64);
    assert!(size_of::<Slot>() == 8);
    assert!(size_of::<Backend>() == 32);
    assert!(size_of::<BackendStats>() == 256);
    assert!(size_of::<BackendHealth>() == 32);
    assert!(size_of::<BackendHistory>() == 64);
    assert!(size_of::<Lifecycle>() == 240);
    assert!(size_of::<Offer>() == 32);
    assert!(size_of::<ServiceStats>() == 144);
    assert!(size_of::<ClientKey>() == 16);
    assert!(size_of::<ClientState>() == 24);
    assert!(size_of::<SocketState>() == 104);
    assert!(size_of::<UdpFlow>() == 64);
    assert!(size_of::<UdpFlows>() == 1024);
    assert!(size_of::<Control>() == 440);
    assert!(size_of::<ServiceMeta>() == 384);
    assert!(size_of::<BackendMeta>() == 440);
};

#[cfg(feature = "user")]
mod user {
    macro_rules! pod {
        ($($t:ident),+ $(,)?) => {$(
            // SAFETY: the type is `bytemuck::Pod`: repr(C), Copy, no padding, any bit pattern is valid.
            unsafe impl aya::Pod for super::$t {}
        )+};
    }
    pod!(FrontendKey, ServiceMeta, BackendMeta, ClientKey, ClientState, Offer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_range_keeps_both_halves() {
        let range = SlotRange::new(u32::MAX, 7);
        assert_eq!((range.base(), range.len(), range.is_empty()), (u32::MAX, 7, false));
        assert!(SlotRange::new(9, 0).is_empty());
    }

    #[test]
    fn numbers_and_names_agree() {
        for (number, algorithm) in Algorithm::ALL.into_iter().enumerate() {
            assert_eq!(Algorithm::from_u32(number as u32), Some(algorithm));
        }
        assert_eq!(Algorithm::from_u32(5), None);
        for (index, reason) in PickReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, reason) in PassReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
        }
        for (index, stop) in Stop::ALL.into_iter().enumerate() {
            assert_eq!((stop as usize, Stop::from_u32(index as u32)), (index, stop));
        }
        for (index, rebalance) in Rebalance::ALL.into_iter().enumerate() {
            assert_eq!((rebalance as usize, Rebalance::from_u16(index as u16)), (index, rebalance));
        }
    }
}
