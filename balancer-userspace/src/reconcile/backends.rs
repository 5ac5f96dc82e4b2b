//! The backends of a Service port: handing out ids, taking them away, and handing the same one out again
//! to a pod that returns while sockets are still open to it.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use balancer_common::{
    abi::{Backend, BackendHealth, BackendMeta, BackendState, FULL_SCAN},
    addr::PortBe,
    health::Health,
};

use super::{
    apply::{Applied, Held, Outcome, Reconciler},
    diff::{self, BackendChanges},
    kernel::KernelTables,
    layout::ring_place,
};
use crate::{
    datapath::{DatapathError, backend_meta, boot_ns},
    model::{Condition, DesiredBackend, DesiredPort},
};

impl<K: KernelTables> Reconciler<K> {
    /// Writes new and changed backends and makes them members. Returns those that are gone, which are
    /// still in the slots, and notes how many found no room.
    ///
    /// # Errors
    /// What the kernel refuses. What is a member then is so in the kernel as well, and nothing is gone.
    pub(super) fn write_backends(
        &mut self,
        applied: &mut Applied,
        desired: &DesiredPort,
        now: Instant,
        outcome: &mut Outcome,
    ) -> Result<Vec<Held>, DatapathError> {
        let BackendChanges { mut added, removed, updated } =
            diff::diff(applied.members.values().map(|held| &held.backend), &desired.backends);
        for backend in updated {
            let Some(held) = applied.members.get_mut(&(backend.addr, backend.port)) else { continue };
            outcome.changed();
            self.write_backend(applied.id, held.id, &backend);
            self.kernel.set_backend_meta(held.id, &names(&backend))?;
            held.backend = backend;
        }
        if added.len() as u32 > FULL_SCAN {
            // Ids in the order of the slots: what a window reads then lies together.
            added.sort_by_cached_key(|backend| ring_place(&SocketAddr::new(backend.addr, backend.port)));
        }
        let newcomers = match (applied.members.len(), desired.connections.slow_start_ms) {
            (0, _) | (_, 0) => Start::AtOnce,
            _ => Start::Slowly,
        };
        let mut staged = Vec::new();
        let mut missing = 0;
        for backend in added {
            match self.admit(applied.id, &backend, newcomers, now) {
                Ok(Some(id)) => staged.push(Held { id, backend }),
                Ok(None) => missing += 1,
                Err(error) => {
                    staged.iter().for_each(|held| self.retire(applied.id, held, BackendState::Unused, now));
                    return Err(error);
                }
            }
        }
        if missing > 0 {
            let full = DatapathError::Full {
                map: "BACKENDS",
                capacity: self.kernel.capacities().1,
                flag: "max-backends",
            };
            outcome.lacks(format!("{missing} endpoints left out: {full}"));
        }
        let gone: Vec<Held> = removed
            .iter()
            .filter_map(|backend| applied.members.remove(&(backend.addr, backend.port)))
            .collect();
        if !(gone.is_empty() && staged.is_empty()) {
            // Before the slots: if the agent is interrupted, the next one does the same again.
            self.kernel.set_endpoints_changed(applied.id, boot_ns());
            outcome.changed();
        }
        applied.members.extend(staged.into_iter().map(|held| ((held.backend.addr, held.backend.port), held)));
        Ok(gone)
    }

    /// Gives a backend of Service `service` an id: that which it had, if it was there before and lingers.
    /// `None`: no room.
    ///
    /// One that returns is no newcomer: it has its full share at once.
    fn admit(
        &mut self,
        service: u32,
        backend: &DesiredBackend,
        start: Start,
        now: Instant,
    ) -> Result<Option<u32>, DatapathError> {
        let place = (backend.addr, backend.port);
        let id = match self.lingering.find(service, place, backend.pod.as_ref()) {
            Some(id) => {
                self.write_backend(service, id, backend);
                id
            }
            None => {
                let Some(id) = self.backends.take(now) else { return Ok(None) };
                self.kernel.reset_backend(id);
                if start == Start::Slowly {
                    let state = Health::ramp(boot_ns());
                    self.kernel.set_backend_health(id, &BackendHealth { state, ..BackendHealth::default() });
                }
                let generation = self.kernel.backend(id).generation.wrapping_add(1).max(1);
                self.kernel.set_backend(id, &entry(service, backend, generation));
                id
            }
        };
        if let Err(error) = self.kernel.set_backend_meta(id, &names(backend)) {
            self.retire(service, &Held { id, backend: backend.clone() }, BackendState::Unused, now);
            return Err(error);
        }
        self.lingering.remove(id);
        Ok(Some(id))
    }

    /// Writes a backend that keeps its id.
    fn write_backend(&mut self, service: u32, id: u32, backend: &DesiredBackend) {
        let old = self.kernel.backend(id);
        let new = entry(service, backend, old.generation);
        if new != old {
            self.kernel.set_backend(id, &new);
        }
    }

    /// Frees the id of a backend that lingered.
    pub(super) fn free_backend(&mut self, id: u32, now: Instant) -> Result<(), DatapathError> {
        self.kernel.remove_backend_meta(id)?;
        let entry = self.kernel.backend(id);
        self.kernel.set_backend(id, &Backend { state: BackendState::Free as u16, ..entry });
        self.lingering.remove(id);
        self.backends.give_back(id, now);
        Ok(())
    }
}

/// How newcomers get their share of connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// The full share, as all others of their Service.
    AtOnce,
    /// Little by little, beside those that were there before.
    Slowly,
}

fn entry(service: u32, backend: &DesiredBackend, generation: u32) -> Backend {
    let state = match backend.condition {
        Condition::Ready => BackendState::Ready,
        Condition::Terminating => BackendState::Terminating,
    };
    Backend {
        addr: backend.addr.into(),
        port: PortBe::from_host(backend.port),
        state: state as u16,
        service,
        generation,
        weight: backend.weight,
    }
}

fn names(backend: &DesiredBackend) -> BackendMeta {
    let text = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
    backend_meta(&text(&backend.pod), &text(&backend.node), &text(&backend.zone))
}
