//! The backends of a Service port that have their ids.

use std::collections::BTreeMap;

use crate::model::DesiredBackend;

use super::lingering::Place;

/// A backend that has its id.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: u32,
    pub(super) backend: DesiredBackend,
}

impl Held {
    pub(super) const fn place(&self) -> Place {
        (self.backend.addr, self.backend.port)
    }
}

/// Sorted by address and port, one of each. Most ports have a few: a tree would keep room for eleven.
#[derive(Clone, Debug, Default)]
pub(super) struct Members(Vec<Held>);

impl Members {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.0.iter()
    }

    pub(super) fn backends(&self) -> impl Iterator<Item = &DesiredBackend> {
        self.0.iter().map(|held| &held.backend)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives a member another weight, condition or names; its place stays.
    pub(super) fn update(&mut self, backend: DesiredBackend) {
        if let Some(at) = find(&self.0, (backend.addr, backend.port)) {
            self.0[at].backend = backend;
        }
    }

    /// The id of the member at a place.
    pub(super) fn id(&self, place: Place) -> Option<u32> {
        find(&self.0, place).map(|at| self.0[at].id)
    }

    /// Takes `removed`, which is sorted, out, and `added`, whose places are then free, in. Returns those that
    /// were there and are gone.
    pub(super) fn exchange(&mut self, removed: &[DesiredBackend], added: Vec<Held>) -> Vec<Held> {
        let is_removed = |place: Place| {
            removed.binary_search_by(|backend| (backend.addr, backend.port).cmp(&place)).is_ok()
        };
        let gone = self.0.extract_if(.., |held| is_removed(held.place())).collect();
        self.0.reserve_exact(added.len());
        self.0.extend(added);
        // Two sorted runs, or nearly so: that takes one pass.
        self.0.sort_by_key(Held::place);
        if self.0.capacity() / 2 > self.0.len() {
            self.0.shrink_to_fit();
        }
        gone
    }
}

impl From<BTreeMap<Place, Held>> for Members {
    fn from(members: BTreeMap<Place, Held>) -> Self {
        Self(members.into_values().collect())
    }
}

fn find(members: &[Held], place: Place) -> Option<usize> {
    members.binary_search_by(|held| held.place().cmp(&place)).ok()
}
