//! Backends that are gone from their Service while sockets may still be open to them.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

/// Where a backend is: pod address and port.
pub(super) type Place = (IpAddr, u16);

/// A backend that is gone.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    /// The Service that it belonged to.
    pub(super) service: u32,
    pub(super) place: Place,
    pub(super) pod: Option<Arc<str>>,
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

    /// Whether any backend of a Service is here.
    pub(super) fn has_any_of(&self, service: u32) -> bool {
        const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        self.places.range((service, (FIRST, 0), 0)..).next().is_some_and(|(other, _, _)| *other == service)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Gone)> {
        self.gone.iter().map(|(id, gone)| (*id, gone))
    }
}
