//! Backends that are in the slots of their Service no more while sockets may still be open to them.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use balancer_common::abi::BackendState;

/// Where a backend is: pod address and port.
pub(super) type Place = (IpAddr, u16);

/// A backend that is gone from the slots.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    /// The Service that it belonged to.
    pub(super) service: u32,
    pub(super) place: Place,
    pub(super) pod: Option<Arc<str>>,
    /// As in its entry: `Removed`, `Draining` or `Unused`.
    pub(super) state: BackendState,
    /// Since when it is in this state.
    pub(super) since: Instant,
}

/// All of them, by id and by where they were.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    gone: HashMap<u32, Gone>,
    places: BTreeSet<(u32, Place, u32)>,
}

impl Lingering {
    /// Adds a backend, or puts the time of one that is there already anew.
    pub(super) fn insert(&mut self, id: u32, gone: Gone) {
        self.remove(id);
        self.places.insert((gone.service, gone.place, id));
        self.gone.insert(id, gone);
    }

    /// Takes a backend out, if it is there.
    pub(super) fn remove(&mut self, id: u32) {
        if let Some(gone) = self.gone.remove(&id) {
            self.places.remove(&(gone.service, gone.place, id));
        }
    }

    /// The id under which this pod was a backend of this Service before.
    pub(super) fn find(&self, service: u32, place: Place, pod: Option<&Arc<str>>) -> Option<u32> {
        self.places
            .range((service, place, 0)..=(service, place, u32::MAX))
            .map(|(_, _, id)| *id)
            .find(|id| self.gone.get(id).is_some_and(|gone| gone.pod.as_ref() == pod))
    }

    /// Those of a Service.
    pub(super) fn of(&self, service: u32) -> impl Iterator<Item = (u32, &Gone)> {
        const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        self.places
            .range((service, (FIRST, 0), 0)..)
            .take_while(move |(other, _, _)| *other == service)
            .filter_map(|(_, _, id)| Some((*id, self.gone.get(id)?)))
    }

    /// Whether any backend of a Service is here.
    pub(super) fn has_any_of(&self, service: u32) -> bool {
        self.of(service).next().is_some()
    }

    /// Puts the state of a backend anew, if it is here.
    pub(super) fn restate(&mut self, id: u32, state: BackendState, now: Instant) {
        if let Some(gone) = self.gone.get_mut(&id) {
            (gone.state, gone.since) = (state, now);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Gone)> {
        self.gone.iter().map(|(id, gone)| (*id, gone))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_backend_is_found_by_service_place_and_pod() {
        let mut lingering = Lingering::default();
        let (state, since) = (BackendState::Removed, Instant::now());
        let (v4, v6) = ((Ipv4Addr::UNSPECIFIED.into(), 0), (Ipv6Addr::UNSPECIFIED.into(), u16::MAX));
        let gone = |service, place, pod: Option<&str>| Gone {
            service,
            place,
            pod: pod.map(Into::into),
            state,
            since,
        };
        for (id, service, place, pod) in [
            (2, 5, v4, Some("a")),
            (3, 5, v4, Some("b")),
            (4, 5, v4, None),
            (5, 7, v6, Some("a")),
            (6, u32::MAX, v6, None),
        ] {
            lingering.insert(id, gone(service, place, pod));
        }
        let find = |lingering: &Lingering, service, place, pod: Option<&str>| {
            lingering.find(service, place, pod.map(Into::into).as_ref())
        };
        assert_eq!(find(&lingering, 5, v4, Some("b")), Some(3));
        assert_eq!(find(&lingering, 5, v4, None), Some(4));
        assert_eq!(find(&lingering, 5, v4, Some("c")), None);
        assert_eq!(find(&lingering, 5, v6, Some("a")), None);
        assert_eq!(find(&lingering, 7, v6, Some("a")), Some(5));
        let of = |lingering: &Lingering| [4, 5, 6, 7, 8, u32::MAX].map(|id| lingering.has_any_of(id));
        assert_eq!(of(&lingering), [false, true, false, true, false, true]);

        // The same id of another Service is no longer one of the first.
        lingering.insert(5, gone(8, v4, None));
        (2..5).for_each(|id| lingering.remove(id));
        lingering.remove(99);
        assert_eq!(of(&lingering), [false, false, false, false, true, true]);
        assert_eq!(lingering.iter().count(), 2);
    }
}
