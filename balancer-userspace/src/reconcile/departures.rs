//! Backends that are no longer in the slots of their Service: what they are called, and when that changes.
//!
//! **Invariant:** a backend is `Removed` only if the desired set of a Service port that exists did not hold
//! its endpoint any more. Whatever is less certain is `Unused`, of which nobody closes a connection.

use std::{net::IpAddr, sync::Arc, time::Instant};

use balancer_common::abi::{Backend, BackendState, Rebalance};

use super::{
    apply::{Held, Reconciler},
    kernel::KernelTables,
    lingering::{Gone, Place},
};
use crate::{
    compact::CompactMap,
    model::{DepartingEndpoint, Departure, DesiredBackend, DesiredPort, ObjectName, PortKey, Protocol},
};

/// What the name of a pod ends in whose backend is of another time ([`Reconciler::disband`]).
pub(super) const OF_ANOTHER_TIME: char = ')';

/// The shortest name that may stand for a longer one: where names are kept, the longest may be cut.
const CUT_NAME: usize = 100;

impl<K: KernelTables> Reconciler<K> {
    /// The backends that are in no slots: id, service id, state, and since when it is in that state.
    ///
    /// Those whose Service is not known have a service id that is none.
    pub fn departed(&self) -> impl Iterator<Item = (u32, u32, BackendState, Instant)> {
        self.lingering.iter().map(|(id, gone)| (id, gone.service, gone.state, gone.since))
    }

    /// Ids of the Service ports whose connections may be moved.
    pub fn rebalanced(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .ports
            .values()
            .filter(|port| port.connections.rebalance != Rebalance::Off)
            .map(|port| port.id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The backends of the ports of a Service that connects go to: address, protocol, port.
    pub fn endpoints(&self, service: &ObjectName) -> impl Iterator<Item = (IpAddr, Protocol, u16)> {
        let ports = self.by_service.get(service).into_iter().flat_map(CompactMap::keys);
        ports.filter_map(|key| Some((key.protocol, self.ports.get(key)?))).flat_map(|(protocol, port)| {
            port.members.values().map(move |held| (held.backend.addr, protocol, held.backend.port))
        })
    }

    /// The port that has this id.
    pub fn owner(&self, id: u32) -> Option<&PortKey> {
        self.ports.iter().find(|(_, port)| port.id == id).map(|(key, _)| key)
    }

    /// Takes a backend away from its Service, whose slots must not name it any more. Its id stays until
    /// nothing can refer to it.
    pub(super) fn retire(&mut self, service: u32, held: &Held, state: BackendState, now: Instant) {
        let entry = self.kernel.backend(held.id);
        self.kernel.set_backend(held.id, &Backend { state: state as u16, ..entry });
        let DesiredBackend { addr, port, ref pod, .. } = held.backend;
        let gone = Gone { service, place: (addr, port), pod: pod.clone(), state, since: now };
        self.lingering.insert(held.id, gone);
    }

    /// Says of the lingering backends of a Service port what its desired set says of them. Whether any
    /// changed.
    pub(super) fn restate(&mut self, service: u32, desired: &DesiredPort, now: Instant) -> bool {
        let changed: Vec<(u32, BackendState)> = self
            .lingering
            .of(service)
            .filter_map(|(id, gone)| Some((id, new_state(gone, desired)?)))
            .collect();
        for (id, state) in &changed {
            self.call(*id, *state, now);
        }
        !changed.is_empty()
    }

    /// Says of the lingering backends of a Service port that is gone what is known of them from now on: those
    /// that left before it have left, of the others nobody tells any more.
    pub(super) fn forget_departures(&mut self, service: u32, now: Instant) {
        let draining = self.lingering.of(service).filter(|(_, gone)| gone.state == BackendState::Draining);
        let ids: Vec<u32> = draining.map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.call(id, BackendState::Unused, now));
    }

    /// Whether a lingering backend of a Service port would be said to have left by its desired set.
    pub(super) fn would_leave(&self, service: u32, desired: &DesiredPort) -> bool {
        self.lingering.of(service).any(|(_, gone)| new_state(gone, desired) == Some(BackendState::Removed))
    }

    /// Puts the state of a lingering backend anew.
    pub(super) fn call(&mut self, id: u32, state: BackendState, now: Instant) {
        let entry = self.kernel.backend(id);
        self.kernel.set_backend(id, &Backend { state: state as u16, ..entry });
        self.lingering.restate(id, state, now);
    }
}

/// What a lingering backend is, if it is not what it is said to be.
fn new_state(gone: &Gone, desired: &DesiredPort) -> Option<BackendState> {
    if gone.pod.as_ref().is_some_and(|pod| pod.ends_with(OF_ANOTHER_TIME)) {
        return None;
    }
    Some(state_of(desired, gone.place, gone.pod.as_ref())).filter(|state| *state != gone.state)
}

/// What a backend is that is not in the slots of this port.
///
/// It is still an endpoint if its pod is, by whatever port; where no pod is named, an address and port is one.
pub(super) fn state_of(desired: &DesiredPort, (addr, port): Place, pod: Option<&Arc<str>>) -> BackendState {
    let Some(departing) = &desired.departing else { return BackendState::Unused };
    let is_it = |other_port: Option<u16>, other: Option<&Arc<str>>| match (pod, other) {
        (Some(pod), Some(other)) => is_same_pod(pod, other),
        _ => other_port == Some(port),
    };
    let used = at(&desired.backends, addr, |backend| backend.addr)
        .any(|backend| is_it(Some(backend.port), backend.pod.as_ref()));
    let departures = at(departing, addr, |endpoint| endpoint.addr)
        .filter(|endpoint| is_it(endpoint.port, endpoint.pod.as_ref()))
        .map(|endpoint: &DepartingEndpoint| endpoint.departure);
    match departures.max() {
        _ if used => BackendState::Unused,
        Some(Departure::Unused) => BackendState::Unused,
        Some(Departure::Draining) => BackendState::Draining,
        None => BackendState::Removed,
    }
}

/// Those at an address, of a list that is sorted by it.
fn at<T>(list: &[T], addr: IpAddr, of: impl Fn(&T) -> IpAddr) -> impl Iterator<Item = &T> {
    let first = list.partition_point(|item| of(item) < addr);
    list[first..].iter().take_while(move |item| of(item) == addr)
}

/// `kept` was read from the tables, or is as the slices have it.
fn is_same_pod(kept: &str, named: &str) -> bool {
    kept == named || (kept.len() >= CUT_NAME && named.starts_with(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::tests::objects::{backend, port};

    fn departing(n: u8, port: Option<u16>, pod: Option<&str>, departure: Departure) -> DepartingEndpoint {
        DepartingEndpoint { addr: backend(n).addr, port, pod: pod.map(Into::into), departure }
    }

    #[track_caller]
    fn check(desired: &DesiredPort, n: u8, port: u16, pod: Option<&str>, expect: BackendState) {
        let pod: Option<Arc<str>> = pod.map(Into::into);
        assert_eq!(state_of(desired, (backend(n).addr, port), pod.as_ref()), expect);
    }

    #[test]
    fn a_backend_has_left_if_its_endpoint_has() {
        use BackendState::{Draining, Removed, Unused};
        let mut desired = port("web", 1, [1]);
        desired.departing = Some(vec![
            departing(2, Some(8080), Some("pod-2"), Departure::Draining),
            departing(3, Some(8080), Some("pod-3"), Departure::Unused),
            departing(4, None, Some("pod-4"), Departure::Draining),
            departing(4, Some(8080), Some("pod-5"), Departure::Unused),
            departing(5, Some(8080), None, Departure::Unused),
        ]);
        check(&desired, 2, 8080, Some("pod-2"), Draining);
        check(&desired, 3, 8080, Some("pod-3"), Unused);
        check(&desired, 9, 8080, Some("pod-9"), Removed);
        // The address was given to another pod.
        check(&desired, 1, 8080, Some("pod-0"), Removed);
        check(&desired, 2, 8080, Some("pod-0"), Removed);
        // Nobody knows whether it was.
        check(&desired, 2, 8080, None, Draining);
        check(&desired, 5, 8080, Some("pod-5"), Unused);
        // The pod is an endpoint by another port, which it was given.
        check(&desired, 1, 9090, Some("pod-1"), Unused);
        check(&desired, 2, 9090, Some("pod-2"), Draining);
        check(&desired, 4, 8080, Some("pod-4"), Draining);
        check(&desired, 4, 9090, Some("pod-5"), Unused);
        check(&desired, 5, 9090, None, Removed);
        desired.departing = None;
        check(&desired, 9, 8080, Some("pod-9"), Unused);
    }

    #[test]
    fn a_name_that_was_cut_is_still_the_pod_s() {
        let name = "x".repeat(200);
        assert!(is_same_pod(&name[..126], &name) && is_same_pod(&name, &name));
        assert!(!is_same_pod(&name[..50], &name) && !is_same_pod(&name, &name[..126]));
    }
}
