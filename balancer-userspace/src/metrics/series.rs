//! Which series are served: the bound on their number, and the labels of each.

use std::net::SocketAddr;

use balancer_common::abi::{BackendStats, HANDSHAKE_BUCKETS, PassReason, PickReason};

use crate::{
    model::Protocol,
    view::{BackendView, ServiceView, Snapshot},
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
                full |= own_count(service.protocol) > room;
                if full {
                    left_out += own_count(service.protocol);
                    left_out += distinct_backends(service) * backend_count(service.protocol);
                } else {
                    let mut series = ServiceSeries::of(index, service);
                    room -= own_count(service.protocol);
                    let each = backend_count(service.protocol);
                    let fitting = series.backends.len().min(room / each);
                    room -= fitting * each;
                    full = fitting < series.backends.len();
                    left_out += series.backends.drain(fitting..).count() * each;
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
const fn own_count(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => ANY_SERVICE,
        Protocol::Udp => ANY_SERVICE + UDP_SERVICE,
    }
}

/// Series of a backend.
const fn backend_count(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => ANY_BACKEND + TCP_BACKEND,
        Protocol::Udp => ANY_BACKEND,
    }
}

/// How many [`BackendSeries`] a Service port has, without making them: there may be 100,000.
fn distinct_backends(service: &ServiceView) -> usize {
    let is_twin = |index: usize, backend: &BackendView| {
        let same_address =
            service.backends[..index].iter().rev().take_while(|other| other.addr == backend.addr);
        same_address
            .into_iter()
            .any(|other| other.pod == backend.pod && other.node == backend.node && other.zone == backend.zone)
    };
    service.backends.iter().enumerate().filter(|(index, backend)| !is_twin(*index, backend)).count()
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
        Self { index, labels, protocol: service.protocol, usable, backends }
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
        Self { labels, protocol, usable: backend.state.is_usable(), stats: backend.stats }
    }

    fn merge(&mut self, twin: &Self) {
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
