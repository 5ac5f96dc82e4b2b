//! The tables as the reconciler writes them: pinned maps in the agent, plain memory in tests.

use std::{mem::offset_of, sync::atomic::Ordering};

use balancer_common::abi::{
    Backend, BackendHealth, BackendMeta, FrontendKey, Lifecycle, Service, ServiceMeta, Slot,
};

use crate::datapath::{DatapathError, Maps};

/// What the reconciler needs of the kernel. Each call is one update that a program sees whole.
pub trait KernelTables {
    /// How many Services, backends and slots there is room for.
    fn capacities(&self) -> (u32, u32, u32);
    /// A Service, as it is.
    fn service(&self, id: u32) -> Service;
    /// Writes a Service: its settings first, its run of slots last, by one store.
    fn set_service(&mut self, id: u32, service: &Service);
    /// Zeroes what was counted and done under a service id.
    fn reset_service(&mut self, id: u32);
    /// Notes that the set of endpoints of a Service changed at `now_ns`, and how many connections had been
    /// moved by then.
    fn set_endpoints_changed(&mut self, id: u32, now_ns: u64);
    /// A backend, as it is.
    fn backend(&self, id: u32) -> Backend;
    /// Writes a backend.
    fn set_backend(&mut self, id: u32, backend: &Backend);
    /// Zeroes what was counted and found out under a backend id.
    fn reset_backend(&mut self, id: u32);
    /// Writes what is known of the health of a backend, which must not be in any slots yet.
    fn set_backend_health(&mut self, id: u32, health: &BackendHealth);
    /// Sockets that are open to a backend.
    fn active(&self, backend: u32) -> u64;
    /// A slot, as it is.
    fn slot(&self, index: u32) -> Slot;
    /// Writes slots from `base`.
    fn set_slots(&mut self, base: u32, slots: &[Slot]);
    /// Where a frontend leads.
    fn frontend(&self, key: &FrontendKey) -> Result<Option<u32>, DatapathError>;
    /// All frontends.
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DatapathError>;
    /// Makes a frontend lead to a Service.
    fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), DatapathError>;
    /// Makes a frontend lead nowhere.
    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), DatapathError>;
    /// The names of all Services.
    fn service_metas(&self) -> Result<Vec<(u32, ServiceMeta)>, DatapathError>;
    /// Names a Service.
    fn set_service_meta(&mut self, id: u32, meta: &ServiceMeta) -> Result<(), DatapathError>;
    /// Forgets the names of a Service.
    fn remove_service_meta(&mut self, id: u32) -> Result<(), DatapathError>;
    /// The names of a backend.
    fn backend_meta(&self, id: u32) -> Result<Option<BackendMeta>, DatapathError>;
    /// Names a backend.
    fn set_backend_meta(&mut self, id: u32, meta: &BackendMeta) -> Result<(), DatapathError>;
    /// Forgets the names of a backend.
    fn remove_backend_meta(&mut self, id: u32) -> Result<(), DatapathError>;
}

impl KernelTables for Maps {
    fn capacities(&self) -> (u32, u32, u32) {
        (self.services.len(), self.backends.len(), self.slots.len())
    }

    fn service(&self, id: u32) -> Service {
        self.services.get(id).unwrap_or_default()
    }

    fn set_service(&mut self, id: u32, service: &Service) {
        self.services.set(id, service);
    }

    fn reset_service(&mut self, id: u32) {
        self.service_stats.set(id, &bytemuck::Zeroable::zeroed());
        self.lifecycle.set(id, &bytemuck::Zeroable::zeroed());
    }

    fn set_endpoints_changed(&mut self, id: u32, now_ns: u64) {
        // Word by word: others count in the same entry meanwhile.
        let word = |offset: usize| self.lifecycle.word(id, offset / size_of::<u64>());
        let (Some(moved), Some(before), Some(changed)) = (
            word(offset_of!(Lifecycle, moved)),
            word(offset_of!(Lifecycle, moved_before)),
            word(offset_of!(Lifecycle, endpoints_changed_ns)),
        ) else {
            return;
        };
        before.store(moved.load(Ordering::Relaxed), Ordering::Relaxed);
        changed.store(now_ns, Ordering::Release);
    }

    fn backend(&self, id: u32) -> Backend {
        self.backends.get(id).unwrap_or_default()
    }

    fn set_backend(&mut self, id: u32, backend: &Backend) {
        self.backends.set(id, backend);
    }

    fn reset_backend(&mut self, id: u32) {
        self.backend_stats.set(id, &bytemuck::Zeroable::zeroed());
        self.backend_health.set(id, &bytemuck::Zeroable::zeroed());
        self.backend_history.set(id, &bytemuck::Zeroable::zeroed());
    }

    fn set_backend_health(&mut self, id: u32, health: &BackendHealth) {
        self.backend_health.set(id, health);
    }

    fn active(&self, backend: u32) -> u64 {
        // `active` is the first word.
        self.backend_stats.word(backend, 0).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn slot(&self, index: u32) -> Slot {
        self.slots.get(index).unwrap_or_default()
    }

    fn set_slots(&mut self, base: u32, slots: &[Slot]) {
        for (index, slot) in (base..).zip(slots) {
            self.slots.set(index, slot);
        }
    }

    fn frontend(&self, key: &FrontendKey) -> Result<Option<u32>, DatapathError> {
        Self::frontend(self, key)
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DatapathError> {
        Self::frontends(self)
    }

    fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), DatapathError> {
        Self::insert_frontend(self, key, service)
    }

    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), DatapathError> {
        Self::remove_frontend(self, key)
    }

    fn service_metas(&self) -> Result<Vec<(u32, ServiceMeta)>, DatapathError> {
        Self::service_metas(self)
    }

    fn set_service_meta(&mut self, id: u32, meta: &ServiceMeta) -> Result<(), DatapathError> {
        Self::set_service_meta(self, id, meta)
    }

    fn remove_service_meta(&mut self, id: u32) -> Result<(), DatapathError> {
        Self::remove_service_meta(self, id)
    }

    fn backend_meta(&self, id: u32) -> Result<Option<BackendMeta>, DatapathError> {
        Self::backend_meta(self, id)
    }

    fn set_backend_meta(&mut self, id: u32, meta: &BackendMeta) -> Result<(), DatapathError> {
        Self::set_backend_meta(self, id, meta)
    }

    fn remove_backend_meta(&mut self, id: u32) -> Result<(), DatapathError> {
        Self::remove_backend_meta(self, id)
    }
}
