//! One implementation of [`Tables`] for all tests: vectors, a clock that stands until it is moved, and
//! random numbers from a seed.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    net::Ipv4Addr,
};

use balancer_common::{
    abi::{
        Algorithm, Backend, BackendState, ClientKey, ClientState, FIRST_SERVICE, FrontendKey, Mode,
        SERVICE_UNIFORM, Service, Slot, SlotRange, TCP,
    },
    addr::PortBe,
    health::Health,
    tables::{Load, Tables},
    translate::{self, Choice, Translation},
};

/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// Random numbers that are the same in every run (SplitMix64).
#[derive(Debug)]
pub struct Rng(Cell<u64>);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let z = self.0.get();
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The tables of one node, and the connections that it holds open.
#[derive(Debug)]
pub struct World {
    pub frontends: HashMap<FrontendKey, u32>,
    pub services: Vec<Service>,
    pub slots: Vec<Slot>,
    pub backends: Vec<Backend>,
    /// Open connections, by backend.
    pub active: Vec<Cell<u64>>,
    /// What is known of each backend's health.
    pub health: Vec<Cell<Health>>,
    pub turns: Vec<Cell<u32>>,
    pub clients: RefCell<HashMap<ClientKey, ClientState>>,
    pub lease_expires_ns: u64,
    pub mode: Mode,
    pub excluded: bool,
    pub now_ns: Cell<u64>,
    pub client: Cell<u64>,
    pub node_offset: u32,
    pub rng: Rng,
    /// Numbers that `random` returns before it asks `rng`.
    pub draws: RefCell<VecDeque<u32>>,
    /// Every slot that was read.
    pub reads: RefCell<Vec<u32>>,
}

impl World {
    /// A node without Services, a lease that never ends, one second after boot.
    pub fn new() -> Self {
        Self {
            frontends: HashMap::new(),
            services: vec![Service::default(); FIRST_SERVICE as usize],
            slots: Vec::new(),
            backends: Vec::new(),
            active: Vec::new(),
            health: Vec::new(),
            turns: vec![Cell::new(0); FIRST_SERVICE as usize],
            clients: RefCell::default(),
            lease_expires_ns: u64::MAX,
            mode: Mode::Balance,
            excluded: false,
            now_ns: Cell::new(SECOND),
            client: Cell::new(1),
            node_offset: 0,
            rng: Rng::new(1),
            draws: RefCell::default(),
            reads: RefCell::default(),
        }
    }

    /// A node with one Service, whose id is [`FIRST_SERVICE`] and whose backends are 0, 1, 2 …
    pub fn with(algorithm: Algorithm, weights: &[u32]) -> Self {
        let mut world = Self::new();
        world.add_service(algorithm, weights);
        world
    }

    /// Adds a Service with a backend for each weight and a slot for each backend; returns its id.
    pub fn add_service(&mut self, algorithm: Algorithm, weights: &[u32]) -> u32 {
        let id = self.services.len() as u32;
        let frontend = frontend(id);
        self.frontends.insert(frontend, id);
        self.services.push(Service { frontend, algorithm: algorithm as u32, ..Service::default() });
        self.turns.push(Cell::new(0));
        let backends: Vec<u32> = weights.iter().map(|&weight| self.add_backend(id, weight)).collect();
        self.schedule(id, &backends);
        id
    }

    /// Adds a ready backend that no slot names yet; returns its id.
    pub fn add_backend(&mut self, service: u32, weight: u32) -> u32 {
        let id = self.backends.len() as u32;
        self.backends.push(Backend {
            addr: Ipv4Addr::from(0x0a01_0000 + id).into(),
            port: PortBe::from_host(8080),
            state: BackendState::Ready as u16,
            service,
            generation: 1,
            weight,
        });
        self.active.push(Cell::new(0));
        self.health.push(Cell::default());
        id
    }

    /// Writes a new run of slots behind all others and switches the Service to it, as the agent does.
    pub fn schedule(&mut self, service: u32, backends: &[u32]) {
        let base = self.slots.len() as u32;
        let weight = |id: u32| self.backends[id as usize].weight;
        let uniform = backends.windows(2).all(|pair| weight(pair[0]) == weight(pair[1]));
        let slots = backends.iter().map(|&backend| Slot { backend, weight: weight(backend) });
        self.slots.extend(slots);
        let entry = &mut self.services[service as usize];
        entry.slots = SlotRange::new(base, backends.len() as u32);
        entry.flags = if uniform { SERVICE_UNIFORM } else { 0 };
        entry.backends = backends.len() as u32;
        entry.revision += 1;
    }

    /// Connects to the first Service.
    pub fn connect(&self) -> Translation {
        self.connect_to(FIRST_SERVICE)
    }

    pub fn connect_to(&self, service: u32) -> Translation {
        translate::connect(self, &frontend(service))
    }

    /// Connects to the first Service, which must lead to a backend, but does not count the connection.
    pub fn choose(&self) -> Choice {
        match self.connect() {
            Translation::Rewrite(choice) => choice,
            other => panic!("no backend was chosen: {other:?}"),
        }
    }

    /// Opens a connection to the first Service and holds it; returns its backend.
    pub fn open(&self) -> u32 {
        let backend = self.choose().backend;
        let active = &self.active[backend as usize];
        active.set(active.get() + 1);
        backend
    }

    pub fn close(&self, backend: u32) {
        let active = &self.active[backend as usize];
        active.set(active.get().checked_sub(1).expect("closed more than was opened"));
    }

    /// Sets the open connections of the first backends.
    pub fn set_active(&self, counts: &[u64]) {
        for (active, &count) in self.active.iter().zip(counts) {
            active.set(count);
        }
    }

    /// Open connections, by backend.
    pub fn loads(&self) -> Vec<u64> {
        self.active.iter().map(Cell::get).collect()
    }

    /// How often each backend is chosen by so many connects, none of which is held.
    pub fn tally(&self, connects: usize) -> Vec<u64> {
        let mut tally = vec![0; self.backends.len()];
        for _ in 0..connects {
            tally[self.choose().backend as usize] += 1;
        }
        tally
    }

    pub fn advance(&self, ns: u64) {
        self.now_ns.set(self.now_ns.get() + ns);
    }

    /// What is dialled for the first Service's slots.
    pub fn slot_range(&self) -> SlotRange {
        self.services[FIRST_SERVICE as usize].slots
    }

    pub fn set_state(&mut self, backend: u32, state: BackendState) {
        self.backends[backend as usize].state = state as u16;
    }
}

/// The address that a Service of the tests is dialled by.
pub fn frontend(service: u32) -> FrontendKey {
    FrontendKey::new(Ipv4Addr::from(service.wrapping_add(0x0a60_0000)).into(), PortBe::from_host(80), TCP)
}

impl Load for World {
    fn slot(&self, index: u32) -> Option<(u32, u32)> {
        self.reads.borrow_mut().push(index);
        self.slots.get(index as usize).map(|slot| (slot.backend, slot.weight))
    }

    fn active(&self, backend: u32) -> u64 {
        self.active.get(backend as usize).map_or(0, Cell::get)
    }

    fn health(&self, backend: u32) -> Health {
        self.health.get(backend as usize).map(Cell::get).unwrap_or_default()
    }

    fn begin_trial(&self, backend: u32, old: Health, new: Health) -> bool {
        self.health(backend) == old && {
            self.health[backend as usize].set(new);
            true
        }
    }

    fn take_turn(&self, service: u32) -> u32 {
        self.turns.get(service as usize).map_or(0, |turn| turn.replace(turn.get().wrapping_add(1)))
    }

    fn skip_turns(&self, service: u32, count: u32) {
        if let Some(turn) = self.turns.get(service as usize) {
            turn.set(turn.get().wrapping_add(count));
        }
    }

    fn node_offset(&self) -> u32 {
        self.node_offset
    }

    fn random(&self) -> u32 {
        self.draws.borrow_mut().pop_front().unwrap_or_else(|| (self.rng.next() >> 32) as u32)
    }
}

impl Tables for World {
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
        self.excluded
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn client(&self) -> u64 {
        self.client.get()
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

/// Largest and smallest of some counts, apart.
pub fn gap(counts: &[u64]) -> u64 {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

pub fn mean(counts: &[u64]) -> f64 {
    counts.iter().sum::<u64>() as f64 / counts.len() as f64
}

/// Standard deviation of some counts.
pub fn deviation(counts: &[u64]) -> f64 {
    let mean = mean(counts);
    let squares: f64 = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum();
    (squares / counts.len() as f64).sqrt()
}

/// Pearson's chi-square of counts against what was expected.
pub fn chi_square(counts: &[u64], expected: &[f64]) -> f64 {
    assert_eq!(counts.len(), expected.len());
    counts.iter().zip(expected).map(|(&count, &expected)| (count as f64 - expected).powi(2) / expected).sum()
}
