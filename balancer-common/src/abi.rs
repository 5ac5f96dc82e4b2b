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

use crate::{
    addr::{Ip, PortBe},
    health::Health,
};

/// The version of everything in this file; it is part of the path that maps are pinned under.
pub const LAYOUT_VERSION: u32 = 3;

/// The most backends of a Service that least-connections compares all of; of more it compares [`WINDOW`].
pub const FULL_SCAN: u32 = 64;

/// How many backends least-connections compares where there are more than [`FULL_SCAN`].
pub const WINDOW: u32 = 8;

/// How many Services one unconnected UDP socket is remembered to have talked to.
pub const UDP_FLOWS: usize = 16;

/// How long an unconnected UDP socket keeps its backend after the last datagram, in nanoseconds.
///
/// The kernel's connection tracking, which kube-proxy relies on for this, keeps an answered UDP stream
/// for 120 s.
pub const UDP_FLOW_IDLE_NS: u64 = 120_000_000_000;

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

/// Whether connections of a Service that are open already are moved. The numbers are part of the layout.
#[repr(u16)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rebalance {
    /// They stay where they are.
    #[default]
    Off = 0,
    /// It is said which would be moved, and watched what that would have done.
    DryRun = 1,
    /// Idle ones are.
    Idle = 2,
}

impl Rebalance {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Off, Self::DryRun, Self::Idle];

    /// From the number in a map. One that this version does not know moves nothing.
    #[inline(always)]
    pub const fn from_u16(number: u16) -> Self {
        match number {
            1 => Self::DryRun,
            2 => Self::Idle,
            _ => Self::Off,
        }
    }

    /// The name that annotations, flags and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::DryRun => "dry-run",
            Self::Idle => "idle",
        }
    }
}

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

/// The largest [`Service::budget_percent`].
pub const MAX_BUDGET: u16 = 10_000;

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

/// Buckets of [`BackendStats::handshakes`].
pub const HANDSHAKE_BUCKETS: usize = 20;

/// Upper bound in nanoseconds of handshake bucket `index`: 2^14 (16.4 µs), doubling; the last is unbounded.
pub const fn handshake_bound_ns(index: usize) -> Option<u64> {
    if index + 1 < HANDSHAKE_BUCKETS { Some(1 << (14 + index)) } else { None }
}

/// The bucket of a handshake that took `ns` nanoseconds: the first whose bound is not below it.
#[inline(always)]
pub const fn handshake_bucket(ns: u64) -> usize {
    // A value of exactly 2^k belongs to the bucket bounded by 2^k, hence the -1.
    let bits = 64 - ns.saturating_sub(1).leading_zeros();
    let index = bits.saturating_sub(14) as usize;
    if index < HANDSHAKE_BUCKETS { index } else { HANDSHAKE_BUCKETS - 1 }
}

/// Value of `BACKEND_STATS`, indexed by backend id. Counters only grow, save `active`.
///
/// `opened == closed + active` at every instant at which no hook is running.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendStats {
    /// Sockets that are connected or connecting through us now.
    pub active: u64,
    /// Attempts: sockets (for unconnected UDP: socket and Service pairs) sent to this backend.
    pub opened: u64,
    /// Handshakes completed; for UDP equal to `opened`.
    pub established: u64,
    /// Attempts answered with a reset.
    pub refused: u64,
    /// Attempts that the kernel gave up after its last retransmission.
    pub timed_out: u64,
    /// Attempts ended by an ICMP error, or for want of a route or a free port. The latter are counted when
    /// the socket is used again or closed: the kernel tells nobody of a connect() that sends nothing.
    pub unreachable: u64,
    /// Attempts that the application closed before they were answered (its own timeout, mostly).
    pub aborted: u64,
    /// Sockets that are no longer counted in `active`.
    pub closed: u64,
    /// Payload bytes received, added when a connection closes. TCP only.
    pub bytes_in: u64,
    /// Payload bytes acknowledged by the peer, added when a connection closes. TCP only.
    pub bytes_out: u64,
    /// Segments sent again, added when a connection closes. TCP only.
    pub retransmits: u64,
    /// Sum of all handshake times in nanoseconds.
    pub handshake_ns: u64,
    /// Handshake times, by bucket ([`handshake_bound_ns`]).
    pub handshakes: [u64; HANDSHAKE_BUCKETS],
}

/// Value of `BACKEND_HEALTH`, indexed by backend id: what the outcomes of connects say of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendHealth {
    /// Whether it may be chosen now; 0 for a backend of which nothing is wrong.
    pub state: Health,
    /// Cookie of the network namespace whose connect timed out or was slow last: it takes two to eject.
    pub suspected_by: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// How often a single connect was let through to see whether it is back.
    pub trials: u64,
}

/// Samples of [`BackendHistory`].
pub const HISTORY: usize = 28;
/// How far they are apart, in nanoseconds.
pub const HISTORY_STEP_NS: u64 = 10_000_000_000;

/// Value of `BACKEND_HISTORY`, indexed by backend id: open connections over the last minutes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendHistory {
    /// The number of the last sample, which is its time divided by [`HISTORY_STEP_NS`]; 0 before the first.
    /// Sample `n` is at `n % HISTORY`. No sample is numbered 0.
    pub last: u32,
    /// The number of the first sample of this backend.
    pub first: u32,
    /// Open connections, [`MAX_SAMPLE`] where there were more; [`UNKNOWN_SAMPLE`] where nobody looked.
    pub samples: [u16; HISTORY],
}

/// The most connections that a sample of [`BackendHistory`] stands for: those above count as so many.
pub const MAX_SAMPLE: u16 = UNKNOWN_SAMPLE - 1;
/// What stands in [`BackendHistory::samples`] for a step in which no sample was taken: the agent was dead.
pub const UNKNOWN_SAMPLE: u16 = u16::MAX;

/// Why a connection was not moved. The numbers are indices of [`Lifecycle::refused`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// It was not quiet for long enough.
    Busy = 0,
    /// What was sent last is not answered, or not known to be.
    Unanswered = 1,
    /// It has not gone back and forth often enough for an answer to be told from chatter.
    FewTurns = 2,
    /// It was opened too short a time ago.
    Young = 3,
    /// It was opened while nothing was followed, so that nobody knows what it waits for.
    Untracked = 4,
    /// Data is on its way, in a queue, or being sent again.
    InFlight = 5,
    /// A thread of its process was running.
    Running = 6,
    /// More than one process holds the socket.
    Shared = 7,
    /// Its process could not be found, or reached.
    Unreachable = 8,
    /// It is not the socket that it was, or not open any more.
    Changed = 9,
    /// Servers of this Service speak first.
    ServerSpeaksFirst = 10,
    /// The kernel refused.
    Failed = 11,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Busy,
        Self::Unanswered,
        Self::FewTurns,
        Self::Young,
        Self::Untracked,
        Self::InFlight,
        Self::Running,
        Self::Shared,
        Self::Unreachable,
        Self::Changed,
        Self::ServerSpeaksFirst,
        Self::Failed,
    ];

    /// The label that metrics and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Unanswered => "unanswered",
            Self::FewTurns => "few-turns",
            Self::Young => "young",
            Self::Untracked => "untracked",
            Self::InFlight => "in-flight",
            Self::Running => "running",
            Self::Shared => "shared",
            Self::Unreachable => "unreachable",
            Self::Changed => "changed",
            Self::ServerSpeaksFirst => "server-speaks-first",
            Self::Failed => "failed",
        }
    }
}

/// Why the connections of a Service are not moved any more. The numbers are part of the layout.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stop {
    /// They are.
    #[default]
    None = 0,
    /// Too few of those that were moved came back.
    NoReconnects = 1,
    /// An offer would have cut off an answer.
    Harm = 2,
    /// Its servers speak first.
    ServerSpeaksFirst = 3,
}

impl Stop {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::None, Self::NoReconnects, Self::Harm, Self::ServerSpeaksFirst];

    /// From the number in a map; one that this version does not know stops.
    pub const fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::None,
            1 => Self::NoReconnects,
            3 => Self::ServerSpeaksFirst,
            _ => Self::Harm,
        }
    }

    /// The label that metrics and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoReconnects => "no-reconnects",
            Self::Harm => "harm",
            Self::ServerSpeaksFirst => "server-speaks-first",
        }
    }
}

/// Value of `LIFECYCLE`, indexed by service id: what was done with connections that were open already.
///
/// Written by the agent alone, and kept over its restarts. Counters only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Lifecycle {
    /// When the set of endpoints changed last; 0 if not since the Service was first seen.
    pub endpoints_changed_ns: u64,
    /// [`Self::moved`] at that time.
    pub moved_before: u64,
    /// Connections of which it was noted what would have come of moving them.
    pub offered: u64,
    /// Of these, those on which the client spoke next, or that were closed: no harm.
    pub harmless: u64,
    /// Of these, those on which the server spoke next: a move would have cut that off.
    pub harmful: u64,
    /// Connections that were moved to even out.
    pub moved: u64,
    /// Of these, those whose process had connected anew within ten seconds.
    pub reconnected: u64,
    /// Of these, those whose process had not.
    pub lost: u64,
    /// Connections that were moved away from terminating backends.
    pub drained: u64,
    /// Sockets to backends that are gone that were closed.
    pub destroyed: u64,
    /// Connections that were not moved, by [`Refusal`]; the rest is spare. Each attempt counts.
    pub refused: [u64; 16],
    /// How often a server spoke first after a silence.
    pub pushes: u64,
    /// When moving was stopped; 0 if it was not.
    pub stopped_ns: u64,
    /// A [`Stop`].
    pub stop: u32,
    /// How long a connection must be quiet now, learned silences included, in milliseconds.
    pub quiet_ms: u32,
    /// The longest silence of the last ten minutes that a server broke, in milliseconds.
    pub longest_push_ms: u32,
    /// How many offers in a row did no harm.
    pub clean: u32,
}

/// What came of an [`Offer`]. The numbers are part of the layout.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OfferOutcome {
    /// Nothing yet.
    #[default]
    Pending = 0,
    /// The client spoke next.
    Sent = 1,
    /// The server spoke next: to move the connection would have cut that off.
    Received = 2,
    /// It was closed before anybody spoke.
    Closed = 3,
}

impl OfferOutcome {
    /// From the number in a map; an unknown one is taken for harm.
    pub const fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::Pending,
            1 => Self::Sent,
            3 => Self::Closed,
            _ => Self::Received,
        }
    }
}

/// How many offers can be open at a time: the size of `OFFERS`, whose keys are socket cookies (`u64`).
pub const MAX_OFFERS: u32 = 8192;

/// Value of `OFFERS`: a connection that could have been moved at some instant, and what came next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Offer {
    /// Bytes that it had received (`tcp_info.tcpi_bytes_received`).
    pub received: u64,
    /// When the offer was made.
    pub offered_ns: u64,
    /// When it was resolved; 0 before.
    pub resolved_ns: u64,
    /// Service id.
    pub service: u32,
    /// An [`OfferOutcome`].
    pub outcome: u32,
}

/// Why a backend was picked. The numbers are indices of [`ServiceStats::picks`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickReason {
    /// The algorithm compared or scheduled all backends.
    Algorithm = 0,
    /// [`WINDOW`] backends were compared, because there are more than [`FULL_SCAN`].
    Sampled = 1,
    /// ClientIP affinity: the client was here before.
    Affinity = 2,
    /// ClientIP affinity named a backend that may no longer be used; the algorithm chose another.
    AffinityReplaced = 3,
    /// The algorithm's choice was to be spared (it failed of late, or is new); this one was next.
    Steered = 4,
    /// The algorithm's choice was to be spared, but so were most others: any of them.
    Panic = 5,
}

impl PickReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Algorithm, Self::Sampled, Self::Affinity, Self::AffinityReplaced, Self::Steered, Self::Panic];

    /// The label that metrics and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Algorithm => "algorithm",
            Self::Sampled => "sampled",
            Self::Affinity => "affinity",
            Self::AffinityReplaced => "affinity-replaced",
            Self::Steered => "steered",
            Self::Panic => "panic",
        }
    }
}

/// Why a connect to a Service was left alone. The numbers are indices of [`ServiceStats::passes`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassReason {
    /// The agent has not renewed its lease: its view may be stale.
    LeaseExpired = 0,
    /// The Service has no usable backend.
    NoBackends = 1,
    /// The tables contradict each other (an entry was reused while it was read).
    Inconsistent = 2,
    /// The kernel had no memory for the socket's state.
    NoSocketState = 3,
    /// The process is in a cgroup that is left alone ([`MAX_CGROUP_DEPTH`]).
    Excluded = 4,
    /// The agent only observes ([`Mode::Observe`]): a backend was chosen and counted, and not used.
    Observed = 5,
}

impl PassReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::LeaseExpired,
        Self::NoBackends,
        Self::Inconsistent,
        Self::NoSocketState,
        Self::Excluded,
        Self::Observed,
    ];

    /// The label that metrics and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeaseExpired => "lease-expired",
            Self::NoBackends => "no-backends",
            Self::Inconsistent => "inconsistent",
            Self::NoSocketState => "no-socket-state",
            Self::Excluded => "excluded",
            Self::Observed => "observed",
        }
    }
}

/// Value of `SERVICE_STATS`, indexed by service id. Counters only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceStats {
    /// Turns taken: where the next round or the next tie begins.
    pub turn: u64,
    /// Picks, by [`PickReason`]; the rest is spare.
    pub picks: [u64; 8],
    /// Connects and datagrams that were left alone, by [`PassReason`]; the rest is spare.
    pub passes: [u64; 8],
    /// Unconnected UDP sockets that talked to more than [`UDP_FLOWS`] Services and forgot this one.
    pub flow_evictions: u64,
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
    /// [`Backend::generation`] when it was chosen.
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
/// In [`SocketState::marks`]: it was not sent to its backend, only counted there ([`Mode::Observe`]).
pub const MARK_OBSERVED: u16 = 32;

/// One Service that an unconnected UDP socket talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct UdpFlow {
    /// A [`Phase`].
    pub phase: u32,
    /// Backend id.
    pub backend: u32,
    /// [`Backend::generation`] when it was chosen.
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
    assert!(size_of::<Control>() == 424);
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
    fn a_handshake_falls_in_the_bucket_whose_bound_covers_it() {
        for ns in [0, 1, 16_384, 16_385, 32_768, 1_000_000, 3_000_000_000, u64::MAX] {
            let bucket = handshake_bucket(ns);
            if let Some(bound) = handshake_bound_ns(bucket) {
                assert!(ns <= bound, "{ns} ns in bucket {bucket} up to {bound}");
            }
            if bucket > 0 {
                assert!(
                    ns > handshake_bound_ns(bucket - 1).unwrap(),
                    "{ns} ns is above bucket {}",
                    bucket - 1
                );
            }
        }
    }

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
