//! Which series are served: the bound on their number, and the labels of each.

use std::net::SocketAddr;

use balancer_common::abi::{BackendStats, HANDSHAKE_BUCKETS, PassReason, PickReason, Rebalance, Refusal};

use crate::{
    model::Protocol,
    view::{BackendView, Drain, HealthView, LifecycleView, ServiceView, Snapshot},
};

/// Labels in the order in which they are written.
pub type Labels = Vec<(&'static str, String)>;

/// Why an attempt failed, in the order of [`failures`].
pub const FAILURES: [&str; 4] = ["refused", "timed-out", "unreachable", "aborted"];

/// Attempts that failed, in the order of [`FAILURES`].
pub const fn failures(stats: &BackendStats) -> [u64; 4] {
    [stats.refused, stats.timed_out, stats.unreachable, stats.aborted]
}

/// Series of a backend of any protocol: connections, usable, opened, established, closed and the failures.
const ANY_BACKEND: usize = 5 + FAILURES.len();
/// Further series of a TCP backend: bytes each way, retransmits and the histogram with its sum and count.
const TCP_BACKEND: usize = 3 + HANDSHAKE_BUCKETS + 2;
/// Series of a Service port: info, usable backends and the reasons.
const ANY_SERVICE: usize = 2 + PickReason::ALL.len() + PassReason::ALL.len();
/// Further series of a UDP Service port: flow evictions.
const UDP_SERVICE: usize = 1;
/// Further series of a Service port whose connections are moved, or watched: what was offered and what came of
/// it, what was moved and what came of that, whether it was stopped, the quiet time and the reasons.
const REBALANCED_SERVICE: usize = 3 + 3 + 2 + Refusal::ALL.len();
/// Further series of a Service port with backends that went: drained and closed.
const LEFT_SERVICE: usize = 2;
/// Further series of a backend of which something is noted: ejections, trials and whether it is ejected.
const NOTED_BACKEND: usize = 3;

/// A Service port that is served.
#[derive(Debug)]
pub struct ServiceSeries {
    /// Index in [`Snapshot::services`].
    pub index: usize,
    /// Namespace, Service, port, port name, protocol and family.
    pub labels: Labels,
    /// UDP has flow evictions.
    pub protocol: Protocol,
    /// Backends that may be chosen.
    pub usable: u64,
    /// The load of the fullest of these over the mean; `None` where there is nothing to spread.
    pub max_over_mean: Option<f64>,
    /// Its backends, as far as they are served.
    pub backends: Vec<BackendSeries>,
}

/// A backend that is served.
#[derive(Debug)]
pub struct BackendSeries {
    /// Labels of the Service port, then backend, pod, node and zone.
    pub labels: Labels,
    /// TCP has handshakes, bytes and retransmits.
    pub protocol: Protocol,
    /// Whether it may be chosen.
    pub usable: bool,
    /// Its counters.
    pub stats: BackendStats,
    /// Its health; `None` where nothing was ever noted.
    pub health: Option<HealthView>,
}

/// How many series a bound left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Of Services that this node has dialled.
    pub dialled: u64,
    /// Of Services that it has not: all zero.
    pub undialled: u64,
}

/// What is served, in the order of the snapshot.
#[derive(Debug, Default)]
pub struct Selection {
    /// Service ports.
    pub services: Vec<ServiceSeries>,
    /// What the bound left out.
    pub left_out: LeftOut,
}

impl Selection {
    /// Takes whole Service ports and whole backends until `limit` series are taken. Services that this node has dialled
    /// come first: in a large cluster most Services have no client on a given node, and all their series are 0.
    pub fn of(snapshot: &Snapshot, limit: usize) -> Self {
        let mut selection = Self::default();
        let mut room = limit;
        for dialled in [true, false] {
            let mut full = false;
            for (index, service) in snapshot.services.iter().enumerate() {
                if is_dialled(service) != dialled {
                    continue;
                }
                let mut left_out = 0;
                // Once something did not fit, nothing after it is taken: what is served does not depend on sizes.
                let own = own_count(service);
                full |= own > room;
                if full {
                    left_out += own + backend_counts(service);
                } else {
                    let mut series = ServiceSeries::of(index, service);
                    room -= own;
                    let mut fitting = 0;
                    for backend in &series.backends {
                        let Some(rest) = room.checked_sub(backend.count()) else { break };
                        room = rest;
                        fitting += 1;
                    }
                    full = fitting < series.backends.len();
                    left_out +=
                        series.backends.drain(fitting..).map(|backend| backend.count()).sum::<usize>();
                    selection.services.push(series);
                }
                let total =
                    if dialled { &mut selection.left_out.dialled } else { &mut selection.left_out.undialled };
                *total += left_out as u64;
            }
        }
        selection.services.sort_by_key(|service| service.index);
        selection
    }
}

fn is_dialled(service: &ServiceView) -> bool {
    service.picks.iter().chain(&service.passes).any(|count| *count > 0)
        || service.backends.iter().any(|backend| backend.stats.opened > 0)
}

/// Series of a Service port without its backends.
fn own_count(service: &ServiceView) -> usize {
    let of_protocol = match service.protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => UDP_SERVICE,
    };
    let rebalanced = if is_rebalanced(&service.lifecycle) { REBALANCED_SERVICE } else { 0 };
    let left = if is_left(&service.lifecycle) { LEFT_SERVICE } else { 0 };
    let spread = usize::from(service.max_over_mean().is_some());
    ANY_SERVICE + of_protocol + rebalanced + left + spread
}

/// Whether connections are moved to even out, or were, or that is watched.
pub fn is_rebalanced(lifecycle: &LifecycleView) -> bool {
    lifecycle.mode != Rebalance::Off || lifecycle.offered + lifecycle.moved > 0
}

/// Whether connections are moved away from backends that go, or something was done about such.
pub fn is_left(lifecycle: &LifecycleView) -> bool {
    lifecycle.drain == Drain::On || lifecycle.drained + lifecycle.destroyed > 0
}

/// Series of a backend of which something is noted, or nothing.
const fn backend_count(protocol: Protocol, is_noted: bool) -> usize {
    let noted = if is_noted { NOTED_BACKEND } else { 0 };
    match protocol {
        Protocol::Tcp => ANY_BACKEND + TCP_BACKEND + noted,
        Protocol::Udp => ANY_BACKEND + noted,
    }
}

/// How many series the backends of a Service port have, without making them: there may be 100,000.
fn backend_counts(service: &ServiceView) -> usize {
    let is_twin = |a: &BackendView, b: &BackendView| a.pod == b.pod && a.node == b.node && a.zone == b.zone;
    let mut count = 0;
    for same_address in service.backends.chunk_by(|a, b| a.addr == b.addr) {
        for (index, backend) in same_address.iter().enumerate() {
            if !same_address[..index].iter().any(|other| is_twin(other, backend)) {
                let mut twins = same_address[index..].iter().filter(|other| is_twin(other, backend));
                count += backend_count(service.protocol, twins.any(|twin| twin.health.is_noted()));
            }
        }
    }
    count
}

impl ServiceSeries {
    fn of(index: usize, service: &ServiceView) -> Self {
        let labels = vec![
            ("namespace", service.namespace.to_string()),
            ("service", service.name.to_string()),
            ("port", service.frontend.port().to_string()),
            ("port_name", service.port_name.to_string()),
            ("protocol", service.protocol.to_string()),
            ("family", service.family.to_string()),
        ];
        let mut backends: Vec<BackendSeries> = Vec::new();
        let mut first_of_address: (Option<SocketAddr>, usize) = (None, 0);
        for backend in &service.backends {
            if first_of_address.0 != Some(backend.addr) {
                first_of_address = (Some(backend.addr), backends.len());
            }
            let series = BackendSeries::of(&labels, service.protocol, backend);
            // A backend that was removed and came back may stand here twice for as long as sockets are open to the
            // earlier one. Two samples with the same labels would make the whole scrape invalid.
            match backends[first_of_address.1..].iter_mut().find(|other| other.labels == series.labels) {
                Some(twin) => twin.merge(&series),
                None => backends.push(series),
            }
        }
        let usable = service.backends.iter().filter(|backend| backend.state.is_usable()).count() as u64;
        let max_over_mean = service.max_over_mean();
        Self { index, labels, protocol: service.protocol, usable, max_over_mean, backends }
    }
}

impl BackendSeries {
    fn of(service: &Labels, protocol: Protocol, backend: &BackendView) -> Self {
        let mut labels = service.clone();
        labels.extend([
            ("backend", backend.addr.to_string()),
            ("pod", backend.pod.to_string()),
            ("node", backend.node.to_string()),
            ("zone", backend.zone.to_string()),
        ]);
        let health = backend.health.is_noted().then_some(backend.health);
        Self { labels, protocol, usable: backend.state.is_usable(), stats: backend.stats, health }
    }

    /// How many series it has.
    const fn count(&self) -> usize {
        backend_count(self.protocol, self.health.is_some())
    }

    fn merge(&mut self, twin: &Self) {
        self.health = match (self.health, twin.health) {
            (Some(mine), Some(other)) => Some(HealthView {
                // Of the one that is in use.
                condition: if twin.usable { other.condition } else { mine.condition },
                ejections: mine.ejections + other.ejections,
                trials: mine.trials + other.trials,
            }),
            (mine, other) => mine.or(other),
        };
        self.usable |= twin.usable;
        let (ours, theirs) = (&mut self.stats, &twin.stats);
        ours.active += theirs.active;
        ours.opened += theirs.opened;
        ours.established += theirs.established;
        ours.refused += theirs.refused;
        ours.timed_out += theirs.timed_out;
        ours.unreachable += theirs.unreachable;
        ours.aborted += theirs.aborted;
        ours.closed += theirs.closed;
        ours.bytes_in += theirs.bytes_in;
        ours.bytes_out += theirs.bytes_out;
        ours.retransmits += theirs.retransmits;
        ours.handshake_ns += theirs.handshake_ns;
        for (mine, other) in ours.handshakes.iter_mut().zip(theirs.handshakes) {
            *mine += other;
        }
    }
}
