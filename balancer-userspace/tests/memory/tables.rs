//! Tables that are allocated once and never freed: what the kernel holds is not the agent's heap.

use balancer_common::abi::{Backend, BackendHealth, BackendMeta, FrontendKey, Service, ServiceMeta, Slot};
use balancer_userspace::{datapath::DatapathError, reconcile::KernelTables};

const SERVICES: usize = 1 << 13;
const BACKENDS: usize = 1 << 15;
const SLOTS: usize = 1 << 15;

/// Tables of a size of their own, that refuse nothing and keep no names.
#[derive(Debug)]
pub struct Tables {
    services: &'static mut [Service],
    backends: &'static mut [Backend],
    slots: &'static mut [Slot],
}

impl Tables {
    /// Empty ones.
    pub fn new() -> Self {
        Self {
            services: vec![Service::default(); SERVICES].leak(),
            backends: vec![Backend::default(); BACKENDS].leak(),
            slots: vec![Slot::default(); SLOTS].leak(),
        }
    }
}

impl KernelTables for Tables {
    fn capacities(&self) -> (u32, u32, u32) {
        (SERVICES as u32, BACKENDS as u32, SLOTS as u32)
    }
    fn service(&self, id: u32) -> Service {
        self.services[id as usize]
    }
    fn set_service(&mut self, id: u32, service: &Service) {
        self.services[id as usize] = *service;
    }
    fn reset_service(&mut self, _: u32) {}
    fn set_endpoints_changed(&mut self, _: u32, _: u64) {}
    fn backend(&self, id: u32) -> Backend {
        self.backends[id as usize]
    }
    fn set_backend(&mut self, id: u32, backend: &Backend) {
        self.backends[id as usize] = *backend;
    }
    fn reset_backend(&mut self, _: u32) {}
    fn set_backend_health(&mut self, _: u32, _: &BackendHealth) {}
    fn active(&self, _: u32) -> u64 {
        0
    }
    fn slot(&self, index: u32) -> Slot {
        self.slots[index as usize]
    }
    fn set_slots(&mut self, base: u32, slots: &[Slot]) {
        self.slots[base as usize..][..slots.len()].copy_from_slice(slots);
    }
    fn frontend(&self, _: &FrontendKey) -> Result<Option<u32>, DatapathError> {
        Ok(None)
    }
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DatapathError> {
        Ok(Vec::new())
    }
    fn insert_frontend(&mut self, _: &FrontendKey, _: u32) -> Result<(), DatapathError> {
        Ok(())
    }
    fn remove_frontend(&mut self, _: &FrontendKey) -> Result<(), DatapathError> {
        Ok(())
    }
    fn service_metas(&self) -> Result<Vec<(u32, ServiceMeta)>, DatapathError> {
        Ok(Vec::new())
    }
    fn set_service_meta(&mut self, _: u32, _: &ServiceMeta) -> Result<(), DatapathError> {
        Ok(())
    }
    fn remove_service_meta(&mut self, _: u32) -> Result<(), DatapathError> {
        Ok(())
    }
    fn backend_meta(&self, _: u32) -> Result<Option<BackendMeta>, DatapathError> {
        Ok(None)
    }
    fn set_backend_meta(&mut self, _: u32, _: &BackendMeta) -> Result<(), DatapathError> {
        Ok(())
    }
    fn remove_backend_meta(&mut self, _: u32) -> Result<(), DatapathError> {
        Ok(())
    }
}
