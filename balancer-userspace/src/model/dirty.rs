//! Which Services must be recomputed, and since when somebody waits for it.

use std::{collections::BTreeMap, sync::Arc};

use super::ObjectName;

/// The most trigger times that are kept per Service between two takes.
const MAX_TRIGGERS: usize = 64;

/// A Service to resolve again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirty {
    /// Its name; it may be gone.
    pub service: ObjectName,
    /// When the changes of its slices happened that came since the last take, in milliseconds since 1970,
    /// oldest first, at most 64. The time from each of them to the end of the map write is the programming
    /// latency as kube-proxy defines it: changes before the agent started and deletions are not among them.
    pub triggers: Vec<i64>,
}

/// Trigger times by the slice that they came from.
type Triggers = Vec<(Arc<str>, i64)>;

/// The set of dirty Services.
#[derive(Debug, Default)]
pub(super) struct DirtySet(BTreeMap<ObjectName, Triggers>);

impl DirtySet {
    pub(super) fn mark(&mut self, service: &ObjectName) {
        if !self.0.contains_key(service) {
            self.0.insert(service.clone(), Vec::new());
        }
    }

    /// Marks `service` because of a slice that changed at `triggered`.
    pub(super) fn mark_triggered(&mut self, service: &ObjectName, slice: &Arc<str>, triggered: i64) {
        let triggers = self.0.entry(service.clone()).or_default();
        let known = triggers.iter().any(|(other, time)| other == slice && *time == triggered);
        if !known && triggers.len() < MAX_TRIGGERS {
            triggers.push((Arc::clone(slice), triggered));
        }
    }

    /// Forgets when a slice changed: it is gone, and its last state is not going to be written.
    pub(super) fn forget_triggers(&mut self, service: &ObjectName, slice: &Arc<str>) {
        if let Some(triggers) = self.0.get_mut(service) {
            triggers.retain(|(other, _)| other != slice);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order of their names; none is dirty then.
    pub(super) fn take(&mut self) -> Vec<Dirty> {
        std::mem::take(&mut self.0)
            .into_iter()
            .map(|(service, triggers)| {
                let mut triggers: Vec<i64> = triggers.into_iter().map(|(_, time)| time).collect();
                triggers.sort_unstable();
                Dirty { service, triggers }
            })
            .collect()
    }
}
