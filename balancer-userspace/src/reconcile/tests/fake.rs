//! The tables in plain memory: every store of a word that a program could see is one step, after which
//! the invariants are checked; stores can be cut off (the agent died) and refused (the kernel said no).

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Instant,
};

use balancer_common::{
    abi::{
        Backend, BackendHealth, BackendMeta, BackendState, ClientKey, ClientState, FrontendKey, Service,
        ServiceMeta, Slot,
    },
    translate::{Choice, Translation},
};
use bytemuck::Pod;

use super::{
    eyes::Eyes,
    watch::{Allowed, Released, Touched},
};
use crate::{
    datapath::{DatapathError, from_text},
    model::{Family, ObjectName, PortKey, Protocol},
    reconcile::KernelTables,
};

/// How many Services, backends and slots there is room for.
pub(super) type Sizes = (u32, u32, u32);

/// Tables in memory.
#[derive(Debug)]
pub(super) struct Fake {
    sizes: Sizes,
    pub(super) services: Vec<Service>,
    pub(super) backends: Vec<Backend>,
    pub(super) slots: Vec<Slot>,
    pub(super) active: Vec<u64>,
    pub(super) health: Vec<BackendHealth>,
    /// How often the endpoints of each Service were said to have changed, since its id was handed out.
    pub(super) endpoint_changes: Vec<u32>,
    pub(super) turns: Vec<Cell<u32>>,
    pub(super) frontends: BTreeMap<FrontendKey, u32>,
    pub(super) service_metas: BTreeMap<u32, ServiceMeta>,
    pub(super) backend_metas: BTreeMap<u32, BackendMeta>,
    pub(super) clients: RefCell<HashMap<ClientKey, ClientState>>,
    /// Stores so far, of words and of map entries.
    pub(super) writes: u64,
    /// Reads by the agent so far, of values and of map entries.
    pub(super) reads: Cell<u64>,
    /// How many more stores the agent lives to make.
    pub(super) lives_for: Option<u64>,
    /// After how many calls the kernel refuses one that it may refuse, once.
    pub(super) refuses_after: Option<u64>,
    /// The time, which only the checks of quarantines read.
    pub(super) now: Instant,
    /// What connects may meet during the current change; anything where `None`.
    pub(super) allowed: Option<BTreeMap<FrontendKey, Allowed>>,
    /// Whether what stands here contradicts itself, so that there is nothing to check.
    pub(super) lenient: bool,
    pub(super) released: Vec<Released>,
    /// When a backend was last taken away.
    pub(super) removed_at: HashMap<u32, Instant>,
    pub(super) generations: BTreeSet<(u32, u32)>,
}

impl Fake {
    pub(super) fn new(sizes: Sizes) -> Self {
        let (services, backends, slots) = sizes;
        Self {
            sizes,
            services: vec![Service::default(); services as usize],
            backends: vec![Backend::default(); backends as usize],
            slots: vec![Slot::default(); slots as usize],
            active: vec![0; backends as usize],
            health: vec![BackendHealth::default(); backends as usize],
            endpoint_changes: vec![0; services as usize],
            turns: vec![Cell::new(0); services as usize],
            frontends: BTreeMap::new(),
            service_metas: BTreeMap::new(),
            backend_metas: BTreeMap::new(),
            clients: RefCell::default(),
            writes: 0,
            reads: Cell::new(0),
            lives_for: None,
            refuses_after: None,
            now: Instant::now(),
            allowed: None,
            lenient: false,
            released: Vec::new(),
            removed_at: HashMap::new(),
            generations: BTreeSet::new(),
        }
    }

    /// A new agent takes over at `now`, long after every program that ran when the old one died has ended.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.lives_for, self.refuses_after, self.now) = (None, None, now);
        self.released.clear();
        self.removed_at.clear();
    }

    /// What a connect to `key` by `client` meets, without leaving a trace.
    pub(super) fn look(&self, key: &FrontendKey, client: u64, roll: u32) -> Translation {
        balancer_common::translate::connect(&Eyes::looking(self, client, roll), key)
    }

    /// A connect that is carried out: the socket it opened.
    pub(super) fn dial(&mut self, key: &FrontendKey, client: u64, roll: u32) -> Option<Choice> {
        let translation = balancer_common::translate::connect(&Eyes::dialling(self, client, roll), key);
        let Translation::Rewrite(choice) = translation else { return None };
        self.active[choice.backend as usize] += 1;
        Some(choice)
    }

    /// Everywhere a connect to `key` may be sent as things are.
    pub(super) fn targets(&self, key: &FrontendKey) -> BTreeSet<SocketAddr> {
        let Some(&id) = self.frontends.get(key) else { return BTreeSet::new() };
        let service = &self.services[id as usize];
        if service.frontend != *key {
            return BTreeSet::new();
        }
        let range = service.slots.base()..service.slots.base() + service.slots.len();
        range
            .map(|index| self.backends[self.slots[index as usize].backend as usize])
            .map(|backend| SocketAddr::new(backend.addr.into(), backend.port.to_host()))
            .collect()
    }

    /// The Service port that a frontend leads to, by its names.
    pub(super) fn owner(&self, key: &FrontendKey) -> Option<PortKey> {
        let id = self.frontends.get(key)?;
        let meta = self.service_metas.get(id)?;
        let protocol = Protocol::from_number(key.protocol)?;
        Some(PortKey {
            service: ObjectName::new(from_text(&meta.namespace), from_text(&meta.name)),
            port_name: from_text(&meta.port_name).into(),
            protocol,
            family: Family::of(key.addr.into()),
        })
    }

    fn read(&self) {
        self.reads.update(|reads| reads + 1);
    }

    /// Whether the store is made; counts it.
    fn step(&mut self) -> bool {
        match &mut self.lives_for {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        self.writes += 1;
        true
    }

    /// A call that the kernel may refuse: whether it is carried out.
    fn ask(&mut self, map: &'static str) -> Result<(), DatapathError> {
        match &mut self.refuses_after {
            Some(0) => {
                self.refuses_after = None;
                return Err(refusal(map));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if self.step() { Ok(()) } else { Err(refusal(map)) }
    }

    /// Stores the words of a value as the agent does, the first one last. `put` takes what is there so far.
    fn store<T: Pod>(&mut self, old: T, new: &T, put: impl Fn(&mut Self, T), touched: impl Fn() -> Touched) {
        let mut value = old;
        let (words, _) = bytemuck::bytes_of(new).as_chunks::<8>();
        for (index, word) in words.iter().enumerate().rev() {
            if !self.step() {
                return;
            }
            bytemuck::bytes_of_mut(&mut value)[index * 8..][..8].copy_from_slice(word);
            put(self, value);
            self.check(touched());
        }
    }
}

fn refusal(map: &'static str) -> DatapathError {
    let call = aya::sys::SyscallError {
        call: "bpf_map_update_elem",
        io_error: std::io::Error::from_raw_os_error(libc::ENOMEM),
    };
    DatapathError::Map { map, cause: Box::new(aya::maps::MapError::SyscallError(call)) }
}

impl KernelTables for Fake {
    fn capacities(&self) -> Sizes {
        self.sizes
    }

    fn service(&self, id: u32) -> Service {
        self.read();
        self.services.get(id as usize).copied().unwrap_or_default()
    }

    fn set_service(&mut self, id: u32, service: &Service) {
        let old = self.services[id as usize];
        if old.slots != service.slots && !old.slots.is_empty() && self.lives_for != Some(0) {
            self.released.push(Released { at: self.now, service: id, slots: old.slots });
        }
        let put = |fake: &mut Self, value| fake.services[id as usize] = value;
        self.store(old, service, put, || Touched::Service(id));
    }

    fn reset_service(&mut self, id: u32) {
        if self.step() {
            self.turns[id as usize].set(0);
            self.endpoint_changes[id as usize] = 0;
        }
    }

    fn set_endpoints_changed(&mut self, id: u32, now_ns: u64) {
        assert_ne!(now_ns, 0);
        if self.step() {
            self.endpoint_changes[id as usize] += 1;
        }
    }

    fn backend(&self, id: u32) -> Backend {
        self.read();
        self.backends.get(id as usize).copied().unwrap_or_default()
    }

    fn set_backend(&mut self, id: u32, backend: &Backend) {
        let old = self.backends[id as usize];
        if self.lives_for != Some(0) {
            self.check_lease(id, &old, backend);
        }
        let put = |fake: &mut Self, value| fake.backends[id as usize] = value;
        self.store(old, backend, put, || Touched::Backend(id, old.service));
    }

    fn reset_backend(&mut self, id: u32) {
        assert_eq!(self.active[id as usize], 0, "the counts of backend {id} are zeroed under open sockets");
        if self.step() {
            self.health[id as usize] = BackendHealth::default();
        }
    }

    fn set_backend_health(&mut self, id: u32, health: &BackendHealth) {
        assert!(!BackendState::from_u16(self.backends[id as usize].state).is_usable(), "{id} may be dialled");
        if self.step() {
            self.health[id as usize] = *health;
        }
    }

    fn active(&self, backend: u32) -> u64 {
        self.read();
        self.active.get(backend as usize).copied().unwrap_or_default()
    }

    fn slot(&self, index: u32) -> Slot {
        self.read();
        self.slots.get(index as usize).copied().unwrap_or_default()
    }

    fn set_slots(&mut self, base: u32, slots: &[Slot]) {
        for (index, slot) in (base..).zip(slots) {
            if !self.step() {
                return;
            }
            self.slots[index as usize] = *slot;
            self.check(Touched::Slot(index));
        }
    }

    fn frontend(&self, key: &FrontendKey) -> Result<Option<u32>, DatapathError> {
        self.read();
        Ok(self.frontends.get(key).copied())
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DatapathError> {
        Ok(self.frontends.iter().map(|(key, id)| (*key, *id)).collect())
    }

    fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), DatapathError> {
        if self.frontends.len() as u32 >= self.sizes.0 && !self.frontends.contains_key(key) {
            return Err(DatapathError::Full {
                map: "FRONTENDS",
                capacity: self.sizes.0,
                flag: "max-services",
            });
        }
        self.ask("FRONTENDS")?;
        self.frontends.insert(*key, service);
        self.check(Touched::Frontend(*key));
        Ok(())
    }

    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), DatapathError> {
        self.ask("FRONTENDS")?;
        self.frontends.remove(key);
        self.check(Touched::Frontend(*key));
        Ok(())
    }

    fn service_metas(&self) -> Result<Vec<(u32, ServiceMeta)>, DatapathError> {
        Ok(self.service_metas.iter().map(|(id, meta)| (*id, *meta)).collect())
    }

    fn set_service_meta(&mut self, id: u32, meta: &ServiceMeta) -> Result<(), DatapathError> {
        self.ask("SERVICE_META")?;
        self.service_metas.insert(id, *meta);
        Ok(())
    }

    fn remove_service_meta(&mut self, id: u32) -> Result<(), DatapathError> {
        self.ask("SERVICE_META")?;
        self.service_metas.remove(&id);
        Ok(())
    }

    fn backend_meta(&self, id: u32) -> Result<Option<BackendMeta>, DatapathError> {
        self.read();
        Ok(self.backend_metas.get(&id).copied())
    }

    fn set_backend_meta(&mut self, id: u32, meta: &BackendMeta) -> Result<(), DatapathError> {
        self.ask("BACKEND_META")?;
        self.backend_metas.insert(id, *meta);
        Ok(())
    }

    fn remove_backend_meta(&mut self, id: u32) -> Result<(), DatapathError> {
        self.ask("BACKEND_META")?;
        self.backend_metas.remove(&id);
        Ok(())
    }
}
