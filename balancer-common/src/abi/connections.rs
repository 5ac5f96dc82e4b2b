//! What is asked for and done with connections that are open already.

use bytemuck::{Pod, Zeroable};

/// The largest [`Service::budget_percent`](super::Service::budget_percent).
pub const MAX_BUDGET: u16 = 10_000;

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
