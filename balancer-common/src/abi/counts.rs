//! What is counted and found out, by backend and by Service.

use bytemuck::{Pod, Zeroable};

use crate::health::Health;

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

/// Why a backend was picked. The numbers are indices of [`ServiceStats::picks`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickReason {
    /// The algorithm compared or scheduled all backends.
    Algorithm = 0,
    /// [`WINDOW`](super::WINDOW) backends were compared, because there are more than [`FULL_SCAN`](super::FULL_SCAN).
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
    /// The process is in a cgroup that is left alone ([`MAX_CGROUP_DEPTH`](super::MAX_CGROUP_DEPTH)).
    Excluded = 4,
    /// The agent only observes ([`Mode::Observe`](super::Mode::Observe)): a backend was chosen and counted, and
    /// not used.
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
    /// Unconnected UDP sockets that talked to more than [`UDP_FLOWS`](super::UDP_FLOWS) Services and forgot this one.
    pub flow_evictions: u64,
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
}
