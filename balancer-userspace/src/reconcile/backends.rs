//! The backends of a Service port: handing out ids, taking them away, and handing the same one out again
//! to a pod that returns while sockets are still open to it.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use balancer_common::{
    abi::{Backend, BackendMeta, BackendState, FULL_SCAN},
    addr::PortBe,
};

use super::{
    apply::{Applied, Outcome, Reconciler},
    diff::{self, BackendChanges},
    kernel::KernelTables,
    layout::ring_place,
    lingering::Gone,
    members::Held,
};
use crate::{
    datapath::{DatapathError, backend_meta},
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
            diff::diff(applied.members.backends(), &desired.backends);
        for backend in updated {
            let Some(id) = applied.members.id((backend.addr, backend.port)) else { continue };
            outcome.changed();
            self.write_backend(applied.id, id, &backend);
            self.kernel.set_backend_meta(id, &names(&backend))?;
            applied.members.update(backend);
        }
        if added.len() as u32 > FULL_SCAN {
            // Ids in the order of the slots: what a window reads then lies together.
            added.sort_by_cached_key(|backend| ring_place(&SocketAddr::new(backend.addr, backend.port)));
        }
        let mut staged = Vec::new();
        let mut missing = 0;
        for backend in added {
            match self.admit(applied.id, &backend, now) {
                Ok(Some(id)) => staged.push(Held { id, backend }),
                Ok(None) => missing += 1,
                Err(error) => {
                    staged.iter().for_each(|held| self.retire(applied.id, held, now));
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
        if !(removed.is_empty() && staged.is_empty()) {
            outcome.changed();
        }
        Ok(applied.members.exchange(&removed, staged))
    }

    /// Gives a backend of Service `service` an id: that which it had, if it was there before and lingers.
    /// `None`: no room.
    fn admit(
        &mut self,
        service: u32,
        backend: &DesiredBackend,
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
                let generation = self.kernel.backend(id).generation.wrapping_add(1).max(1);
                self.kernel.set_backend(id, &entry(service, backend, generation));
                id
            }
        };
        if let Err(error) = self.kernel.set_backend_meta(id, &names(backend)) {
            self.retire(service, &Held { id, backend: backend.clone() }, now);
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

    /// Takes a backend away from its Service, whose slots must not name it any more. Its id stays until
    /// nothing can refer to it.
    pub(super) fn retire(&mut self, service: u32, held: &Held, now: Instant) {
        let entry = self.kernel.backend(held.id);
        self.kernel.set_backend(held.id, &Backend { state: BackendState::Removed as u16, ..entry });
        let DesiredBackend { addr, port, ref pod, .. } = held.backend;
        self.lingering.insert(held.id, Gone { service, place: (addr, port), pod: pod.clone(), since: now });
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
