//! The tables in memory: as the reconciler writes them, as the selection reads them, and as the programs count in them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
};

use balancer_common::{
    abi::{
        Backend, BackendHealth, BackendMeta, ClientKey, ClientState, FrontendKey, Mode, Service, ServiceMeta,
        Slot,
    },
    health::{Condition, Failure, Health, Suspicion},
    tables::{Load, Tables},
    translate::{self, Translation},
};

use crate::{datapath::DatapathError, reconcile::KernelTables};

const SERVICES: u32 = 16;
const BACKENDS: u32 = 256;
const SLOTS: u32 = 16_384;

/// One node's tables, its clock, and one client at a time.
pub(super) struct Memory {
    services: Vec<Service>,
    backends: Vec<Backend>,
    slots: Vec<Slot>,
    active: Vec<u64>,
    health: Vec<Cell<BackendHealth>>,
    turns: Vec<Cell<u32>>,
    frontends: BTreeMap<FrontendKey, u32>,
    service_metas: BTreeMap<u32, ServiceMeta>,
    backend_metas: BTreeMap<u32, BackendMeta>,
    clients: RefCell<HashMap<ClientKey, ClientState>>,
    random: Cell<u64>,
    /// The network namespace that connects.
    pub(super) client: u64,
    pub(super) node_offset: u32,
    pub(super) mode: Mode,
    pub(super) lease_expires_ns: u64,
    pub(super) now_ns: u64,
}

impl Memory {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            services: vec![Service::default(); SERVICES as usize],
            backends: vec![Backend::default(); BACKENDS as usize],
            slots: vec![Slot::default(); SLOTS as usize],
            active: vec![0; BACKENDS as usize],
            health: vec![Cell::default(); BACKENDS as usize],
            turns: vec![Cell::new(0); SERVICES as usize],
            frontends: BTreeMap::new(),
            service_metas: BTreeMap::new(),
            backend_metas: BTreeMap::new(),
            clients: RefCell::default(),
            random: Cell::new(seed),
            client: 1,
            node_offset: seed as u32,
            mode: Mode::Balance,
            lease_expires_ns: u64::MAX,
            now_ns: 1_000_000_000,
        }
    }

    /// A connect, of which the tables are told nothing but what a decision itself writes.
    pub(super) fn connect(&self, frontend: &FrontendKey) -> Translation {
        translate::connect(self, frontend)
    }

    /// What the programs do when a backend was given a connection.
    pub(super) fn opened(&mut self, backend: u32) {
        self.active[backend as usize] += 1;
    }

    /// What they do when one ends.
    pub(super) fn closed(&mut self, backend: u32) {
        let active = &mut self.active[backend as usize];
        *active = active.checked_sub(1).expect("more was closed than was opened");
    }

    /// What they do when a handshake is over. The slow start of the Service that the backend is of.
    pub(super) fn established(&self, backend: u32) -> u64 {
        let entry = &self.health[backend as usize];
        let old = entry.get();
        let service = self.services.get(self.backends[backend as usize].service as usize);
        let slow_start_ms = service.map_or(0, |service| service.slow_start_ms);
        if !old.state.is_clear() {
            let state = old.state.succeeded(self.now_ns, slow_start_ms);
            entry.set(BackendHealth { state, suspected_by: 0, ..old });
        }
        slow_start_ms.into()
    }

    /// What they do when an attempt is refused.
    pub(super) fn refused(&self, backend: u32) {
        self.fail(backend, Failure::Refused);
    }

    /// What they do when an attempt of this client is not answered in time. Whether it is the only client to say so.
    pub(super) fn slow(&self, backend: u32, client: u64) -> bool {
        let entry = &self.health[backend as usize];
        let before = entry.get().suspected_by;
        entry.set(BackendHealth { suspected_by: client, ..entry.get() });
        let alone = before == 0 || before == client;
        let suspicion = if alone { Suspicion::OneClient } else { Suspicion::SeveralClients };
        self.fail(backend, Failure::Slow(suspicion));
        alone
    }

    fn fail(&self, backend: u32, failure: Failure) {
        let entry = &self.health[backend as usize];
        let old = entry.get();
        let state = old.state.failed(failure, self.now_ns, self.random());
        entry.set(BackendHealth { state, ..old });
    }

    pub(super) fn state(&self, backend: u32) -> Health {
        self.health[backend as usize].get().state
    }

    /// The ids that backends of a Service have, usable or not.
    pub(super) fn backends_of(&self, service: u32) -> impl Iterator<Item = (u32, &Backend)> {
        (0..).zip(&self.backends).filter(move |(_, backend)| backend.service == service && backend.state != 0)
    }

    pub(super) fn lookup(&self, frontend: &FrontendKey) -> Option<(u32, Service)> {
        let id = *self.frontends.get(frontend)?;
        Some((id, self.services[id as usize]))
    }
}

impl Load for Memory {
    fn slot(&self, index: u32) -> Option<(u32, u32)> {
        self.slots.get(index as usize).map(|slot| (slot.backend, slot.weight))
    }

    fn active(&self, backend: u32) -> u64 {
        self.active.get(backend as usize).copied().unwrap_or_default()
    }

    fn health(&self, backend: u32) -> Health {
        self.health.get(backend as usize).map_or(Health::CLEAR, |health| health.get().state)
    }

    fn begin_trial(&self, backend: u32, old: Health, new: Health) -> bool {
        let entry = &self.health[backend as usize];
        assert_eq!(entry.get().state, old);
        entry.set(BackendHealth { state: new, ..entry.get() });
        true
    }

    fn take_turn(&self, service: u32) -> u32 {
        let turn = &self.turns[service as usize];
        turn.replace(turn.get().wrapping_add(1))
    }

    fn skip_turns(&self, service: u32, count: u32) {
        let turn = &self.turns[service as usize];
        turn.set(turn.get().wrapping_add(count));
    }

    fn node_offset(&self) -> u32 {
        self.node_offset
    }

    /// SplitMix64.
    fn random(&self) -> u32 {
        self.random.set(self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let z = self.random.get();
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

impl Tables for Memory {
    fn service_id(&self, frontend: &FrontendKey) -> Option<u32> {
        self.frontends.get(frontend).copied()
    }

    fn service(&self, id: u32) -> Option<&Service> {
        self.services.get(id as usize)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(id as usize)
    }

    fn lease_expires_ns(&self) -> u64 {
        self.lease_expires_ns
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn is_excluded(&self) -> bool {
        false
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn client(&self) -> u64 {
        self.client
    }

    fn client_state(&self, key: &ClientKey) -> Option<ClientState> {
        self.clients.borrow().get(key).copied()
    }

    fn take_client_turn(&self, key: &ClientKey) -> u32 {
        let mut clients = self.clients.borrow_mut();
        let turn = &mut clients.entry(*key).or_default().turn;
        std::mem::replace(turn, turn.wrapping_add(1))
    }

    fn remember_client(&self, key: &ClientKey, state: &ClientState) {
        self.clients.borrow_mut().insert(*key, *state);
    }
}

impl KernelTables for Memory {
    fn capacities(&self) -> (u32, u32, u32) {
        (SERVICES, BACKENDS, SLOTS)
    }

    fn service(&self, id: u32) -> Service {
        self.services.get(id as usize).copied().unwrap_or_default()
    }

    fn set_service(&mut self, id: u32, service: &Service) {
        self.services[id as usize] = *service;
    }

    fn reset_service(&mut self, id: u32) {
        self.turns[id as usize].set(0);
    }

    fn set_endpoints_changed(&mut self, _: u32, _: u64) {}

    fn backend(&self, id: u32) -> Backend {
        self.backends.get(id as usize).copied().unwrap_or_default()
    }

    fn set_backend(&mut self, id: u32, backend: &Backend) {
        self.backends[id as usize] = *backend;
    }

    fn reset_backend(&mut self, id: u32) {
        assert_eq!(
            self.active[id as usize], 0,
            "the counts of backend {id} are zeroed under open connections"
        );
        self.health[id as usize].set(BackendHealth::default());
    }

    fn set_backend_health(&mut self, id: u32, health: &BackendHealth) {
        // By the clock of these tables, not by the machine's.
        let state = match health.state.condition() {
            Condition::Ramp(_) => Health::ramp(self.now_ns),
            _ => health.state,
        };
        self.health[id as usize].set(BackendHealth { state, ..*health });
    }

    fn active(&self, backend: u32) -> u64 {
        Load::active(self, backend)
    }

    fn slot(&self, index: u32) -> Slot {
        self.slots.get(index as usize).copied().unwrap_or_default()
    }

    fn set_slots(&mut self, base: u32, slots: &[Slot]) {
        self.slots[base as usize..][..slots.len()].copy_from_slice(slots);
    }

    fn frontend(&self, key: &FrontendKey) -> Result<Option<u32>, DatapathError> {
        Ok(self.frontends.get(key).copied())
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DatapathError> {
        Ok(self.frontends.iter().map(|(key, id)| (*key, *id)).collect())
    }

    fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), DatapathError> {
        self.frontends.insert(*key, service);
        Ok(())
    }

    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), DatapathError> {
        self.frontends.remove(key);
        Ok(())
    }

    fn service_metas(&self) -> Result<Vec<(u32, ServiceMeta)>, DatapathError> {
        Ok(self.service_metas.iter().map(|(id, meta)| (*id, *meta)).collect())
    }

    fn set_service_meta(&mut self, id: u32, meta: &ServiceMeta) -> Result<(), DatapathError> {
        self.service_metas.insert(id, *meta);
        Ok(())
    }

    fn remove_service_meta(&mut self, id: u32) -> Result<(), DatapathError> {
        self.service_metas.remove(&id);
        Ok(())
    }

    fn backend_meta(&self, id: u32) -> Result<Option<BackendMeta>, DatapathError> {
        Ok(self.backend_metas.get(&id).copied())
    }

    fn set_backend_meta(&mut self, id: u32, meta: &BackendMeta) -> Result<(), DatapathError> {
        self.backend_metas.insert(id, *meta);
        Ok(())
    }

    fn remove_backend_meta(&mut self, id: u32) -> Result<(), DatapathError> {
        self.backend_metas.remove(&id);
        Ok(())
    }
}
