//! Sequences of operations on the tables: Services that come, change and go by way of the reconciler, connections that
//! are opened, answered, refused and closed, and time that goes by; the selection that the programs run, beside a model
//! that knows its promises alone.
//!
//! - A connect goes to a backend that is wanted, by the rule of its algorithm: least-connections to one of the least loaded
//!   for its weight, round-robin within a bound of its share, source-hash where it went before, affinity where it was.
//! - A backend that fails is left alone until its time is over, unless more than half of them fail.
//! - Counts are exact: an id is neither given to another nor zeroed while a connection is open to it, and in the end
//!   nothing is left of anything.

mod model;
mod tables;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use arbitrary::{Result, Unstructured};
use balancer_common::{
    abi::{Algorithm, BackendState, FULL_SCAN, FrontendKey, Mode, PassReason, PickReason, TCP},
    addr::PortBe,
    health,
    tables::{Load, Tables},
    translate::{Choice, Translation},
};

use self::{
    model::{Alone, Health},
    tables::Memory,
};
use crate::{
    model::{
        Condition, ConnectionSettings, DesiredBackend, DesiredPort, Family, Frontend, ObjectName, PortKey,
        Protocol,
    },
    reconcile::Reconciler,
};

/// How many Services there may be.
const SERVICES: usize = 3;
/// So many operations are followed, at most.
const OPERATIONS: usize = 400;

/// Runs the operations that the bytes stand for.
///
/// # Panics
///
/// If anything is not as it must be.
pub fn select(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let seed = u.arbitrary().unwrap_or_default();
    let mut node = Node::new(seed);
    for _ in 0..OPERATIONS {
        if u.is_empty() || node.step(&mut u).is_err() {
            break;
        }
        node.check();
    }
    node.end();
}

/// What a Service should be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    algorithm: Algorithm,
    affinity: Option<Duration>,
    slow_start_ms: u32,
    /// Weights, by place.
    backends: BTreeMap<SocketAddr, u32>,
}

/// A backend, for as long as its id stands for it.
type Id = (u32, u32);

/// A connection that is open, or being opened.
#[derive(Clone, Copy, Debug)]
struct Held {
    backend: Id,
    client: u64,
    answered: bool,
    /// Chosen and not gone to: its outcome says nothing of the backend.
    observed: bool,
}

/// What round-robin has done since anything changed.
#[derive(Debug, Default)]
struct Round {
    revision: (u64, u32),
    picks: BTreeMap<SocketAddr, u64>,
}

struct Node {
    reconciler: Reconciler<Memory>,
    started: Instant,
    wanted: [Option<Wanted>; SERVICES],
    health: HashMap<Id, Health>,
    held: Vec<Held>,
    /// How many of them each backend has.
    open: HashMap<Id, u64>,
    /// Where a client of a Service (by id) was last, and when.
    clients: HashMap<(u32, u64), (Id, u64)>,
    /// By service id, and by client where each has turns of its own.
    rounds: HashMap<(u32, Option<u64>), Round>,
    /// Where source-hash sent a client, and for which slots.
    hashed: HashMap<(u32, u64), ((u64, u32), Id)>,
}

impl Node {
    fn new(seed: u64) -> Self {
        let started = Instant::now();
        let reconciler =
            Reconciler::recover(Memory::new(seed), started).expect("empty tables are taken over");
        Self {
            reconciler,
            started,
            wanted: [const { None }; SERVICES],
            health: HashMap::new(),
            held: Vec::new(),
            open: HashMap::new(),
            clients: HashMap::new(),
            rounds: HashMap::new(),
            hashed: HashMap::new(),
        }
    }

    fn tables(&self) -> &Memory {
        self.reconciler.kernel()
    }

    fn now_ms(&self) -> u64 {
        self.tables().now_ns / 1_000_000
    }

    fn instant(&self) -> Instant {
        self.started + Duration::from_nanos(self.tables().now_ns)
    }

    /// One operation.
    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=31_u8)? {
            0..=2 => {
                let service = index(u)?;
                let mut wanted = self.wanted[service].clone().unwrap_or_default();
                wanted.backends = backends(u)?;
                self.want(service, Some(wanted));
            }
            3 => {
                let service = index(u)?;
                let mut wanted = self.wanted[service].clone().unwrap_or_default();
                wanted.algorithm = *u.choose(&Algorithm::ALL)?;
                wanted.affinity = u.ratio(1, 4)?.then_some(Duration::from_secs(10));
                wanted.slow_start_ms = *u.choose(&[0, 0, 3_000, 30_000, 600_000])?;
                self.want(service, Some(wanted));
            }
            4 => {
                let service = index(u)?;
                self.want(service, None);
            }
            5 => {
                // One weight alone.
                let service = index(u)?;
                let Some(mut wanted) = self.wanted[service].clone() else { return Ok(()) };
                let Some(place) = wanted.backends.len().checked_sub(1) else { return Ok(()) };
                let place = u.int_in_range(0..=place)?;
                let weight = weight(u)?;
                wanted.backends.values_mut().skip(place).take(1).for_each(|old| *old = weight);
                self.want(service, Some(wanted));
            }
            6..=16 => {
                let (service, client) = (index(u)?, client(u)?);
                for _ in 0..=u.int_in_range(0..=7_u8)? {
                    self.open(service, client);
                }
            }
            17..=19 => {
                if let Some(held) = self.choose(u, |held| !held.answered)? {
                    self.held[held].answered = true;
                    let Held { backend, observed, .. } = self.held[held];
                    if !observed {
                        let slow_start = self.tables().established(backend.0);
                        let now = self.now_ms();
                        self.health.entry(backend).or_default().succeeded(now, slow_start);
                    }
                }
            }
            20..=22 => {
                if let Some(held) = self.choose(u, |held| !held.answered)? {
                    let Held { backend, observed, .. } = self.held[held];
                    if !observed {
                        self.tables().refused(backend.0);
                        self.failed(backend, Alone::No);
                    }
                    self.close(held);
                }
            }
            23 => {
                if let Some(held) = self.choose(u, |held| !held.answered && !held.observed)? {
                    let Held { backend, client, .. } = self.held[held];
                    let alone = if self.tables().slow(backend.0, client) { Alone::Yes } else { Alone::No };
                    self.failed(backend, alone);
                }
            }
            24..=26 => {
                if let Some(held) = self.choose(u, |_| true)? {
                    self.close(held);
                }
            }
            27 | 28 => {
                let ms = *u.choose(&[1, 100, 999, 1_000, 1_001, 5_000, 7_500, 10_000, 61_000])?;
                self.reconciler.kernel_mut().now_ns += ms * 1_000_000;
            }
            29 => self.sweep(),
            30 => {
                // Another agent takes over.
                let now = self.instant();
                let kernel = std::mem::replace(self.reconciler.kernel_mut(), Memory::new(0));
                self.reconciler = Reconciler::recover(kernel, now).expect("what an agent left is taken over");
                for service in 0..SERVICES {
                    self.apply(service);
                }
            }
            _ => {
                let now_ns = self.tables().now_ns;
                let kernel = self.reconciler.kernel_mut();
                match u.int_in_range(0..=3_u8)? {
                    0 => kernel.lease_expires_ns = now_ns + 2_000_000_000,
                    1 => kernel.mode = Mode::Observe,
                    _ => (kernel.lease_expires_ns, kernel.mode) = (u64::MAX, Mode::Balance),
                }
            }
        }
        Ok(())
    }

    /// Any of the connections that are such.
    fn choose(&self, u: &mut Unstructured<'_>, such: impl Fn(&Held) -> bool) -> Result<Option<usize>> {
        let those: Vec<usize> = (0..self.held.len()).filter(|index| such(&self.held[*index])).collect();
        if those.is_empty() { Ok(None) } else { u.choose(&those).copied().map(Some) }
    }

    fn want(&mut self, service: usize, wanted: Option<Wanted>) {
        if wanted.is_none() {
            // Its id, and its turns, may be given to another.
            self.rounds.clear();
            self.hashed.clear();
        }
        self.wanted[service] = wanted;
        self.apply(service);
    }

    fn apply(&mut self, service: usize) {
        let before: Vec<Id> = self.ids(service).into_values().collect();
        let name = ObjectName::new("shop", format!("s{service}"));
        let desired = self.wanted[service].iter().map(|wanted| port(service, wanted)).collect();
        let now = self.instant();
        self.reconciler.apply(&name, desired, now).expect("nothing is refused");
        // Who is new to others that were there begins slowly.
        let slow_start = self.wanted[service].as_ref().map_or(0, |wanted| wanted.slow_start_ms);
        for id in self.ids(service).into_values() {
            let now = self.now_ms();
            self.health.entry(id).or_insert_with(|| {
                if before.is_empty() || slow_start == 0 { Health::default() } else { Health::newcomer(now) }
            });
        }
    }

    /// The backends that connects to a Service may be sent to, as the tables have them.
    fn ids(&self, service: usize) -> BTreeMap<SocketAddr, Id> {
        let Some((id, _)) = self.tables().lookup(&frontend(service)) else { return BTreeMap::new() };
        let usable =
            self.tables().backends_of(id).filter(|(_, b)| BackendState::from_u16(b.state).is_usable());
        let ids =
            usable.map(|(id, b)| (SocketAddr::new(b.addr.into(), b.port.to_host()), (id, b.generation)));
        let all: Vec<_> = ids.collect();
        let by_place: BTreeMap<_, _> = all.iter().copied().collect();
        assert_eq!(by_place.len(), all.len(), "one place has two backends");
        by_place
    }

    fn active(&self, backend: Id) -> u64 {
        self.open.get(&backend).copied().unwrap_or_default()
    }

    fn failed(&mut self, backend: Id, alone: Alone) {
        let (now, tables) = (self.now_ms(), self.tables().state(backend.0).condition());
        self.health.entry(backend).or_default().failed(alone, now, tables);
    }

    fn close(&mut self, held: usize) {
        let Held { backend, .. } = self.held.remove(held);
        *self.open.entry(backend).or_default() -= 1;
        self.reconciler.kernel_mut().closed(backend.0);
    }

    fn sweep(&mut self) {
        let now = self.instant();
        for name in self.reconciler.sweep(now).expect("nothing is refused") {
            let service = (0..SERVICES).find(|service| *name.name == format!("s{service}"));
            self.apply(service.expect("it is one of ours"));
        }
    }

    fn open(&mut self, service: usize, client: u64) {
        self.reconciler.kernel_mut().client = client;
        let key = frontend(service);
        let translation = self.tables().connect(&key);
        let (choice, observed) = match translation {
            Translation::Miss => return assert!(self.wanted[service].is_none(), "{service} is wanted"),
            Translation::PassThrough { reason: PassReason::LeaseExpired, .. } => {
                return assert!(self.tables().now_ns > self.tables().lease_expires_ns);
            }
            Translation::PassThrough { reason, .. } => {
                assert_eq!(reason, PassReason::NoBackends);
                let wanted = self.wanted[service].as_ref().expect("it is wanted");
                return assert!(wanted.backends.is_empty(), "{wanted:?}");
            }
            Translation::Observe(choice) => {
                assert_eq!(self.tables().mode, Mode::Observe);
                assert_eq!((choice.addr, choice.port), (key.addr, key.port), "left where it was going");
                (choice, true)
            }
            Translation::Rewrite(choice) => {
                assert_eq!(self.tables().mode, Mode::Balance);
                (choice, false)
            }
        };
        assert!(self.tables().now_ns <= self.tables().lease_expires_ns);
        let backend = (choice.backend, choice.generation);
        let wanted = self.wanted[service].clone().expect("it is wanted");
        let ids = self.ids(service);
        let place = *ids.iter().find(|(_, id)| **id == backend).expect("it is one of the backends").0;
        assert!(observed || place == SocketAddr::new(choice.addr.into(), choice.port.to_host()));
        self.check_choice(&wanted, &ids, client, place, &choice);
        self.reconciler.kernel_mut().opened(backend.0);
        *self.open.entry(backend).or_default() += 1;
        self.held.push(Held { backend, client, answered: false, observed });
    }

    /// Whether the choice was one that the manuals promise.
    fn check_choice(
        &mut self,
        wanted: &Wanted,
        ids: &BTreeMap<SocketAddr, Id>,
        client: u64,
        place: SocketAddr,
        choice: &Choice,
    ) {
        let (now, slow_start) = (self.now_ms(), u64::from(wanted.slow_start_ms));
        let backend = ids[&place];
        let own = |id: &Id| self.health[id];
        let service = Tables::service(self.tables(), choice.service).expect("it is there");
        let few = service.slots.len() <= FULL_SCAN;
        let failing = ids.values().filter(|id| own(id).is_failing()).count();
        let well = |id: &Id| !own(id).is_failing() && !own(id).is_ramping(now, slow_start);
        // One more connection on each, for its weight.
        let load = |place: &SocketAddr| (self.active(ids[place]) + 1, u64::from(wanted.backends[place]));
        let is_lightest = |among: &dyn Fn(&Id) -> bool| {
            let (ours, weight) = load(&place);
            ids.iter().filter(|(_, id)| among(id)).all(|(other, _)| {
                let (theirs, other) = load(other);
                ours * other <= theirs * weight
            })
        };
        let least = wanted.algorithm == Algorithm::LeastConnections;

        let expected = self.clients.get(&(choice.service, client)).filter(|(id, used)| {
            let seconds = wanted.affinity.map_or(0, |affinity| affinity.as_secs());
            let out = matches!(own(id).state, model::State::Ejected { .. } | model::State::Trial { .. });
            now <= used + seconds * 1_000 && ids.values().any(|other| other == id) && !out
        });
        let mut tried = false;
        match (wanted.affinity, expected, choice.reason) {
            (Some(_), Some((expected, _)), reason) => {
                assert_eq!((reason, backend), (PickReason::Affinity, *expected), "affinity");
            }
            (_, _, PickReason::Affinity) => panic!("{place} is remembered by none"),
            (Some(_), None, PickReason::AffinityReplaced) => {
                // By the algorithm, or by steering: which of them is not said.
                let trial = health::Condition::Trial(now + 5_000);
                tried = own(&backend).is_due(now) && self.tables().state(backend.0).condition() == trial;
            }
            (None, _, PickReason::AffinityReplaced) => panic!("no affinity is asked for"),
            (_, _, reason @ (PickReason::Algorithm | PickReason::Sampled)) => {
                assert_eq!(reason == PickReason::Sampled, least && !few);
                assert!(
                    !least || !few || is_lightest(&|_| true),
                    "{place} is not the least loaded of {ids:?}"
                );
                tried = own(&backend).is_due(now);
                // Nobody goes to what fails as long as there is anything else.
                let hopeless = own(&backend).is_failing() && !tried;
                assert!(
                    !hopeless || !few || failing == ids.len(),
                    "{place} fails, {failing} of {} do",
                    ids.len()
                );
            }
            (_, _, PickReason::Steered) => {
                assert!(!own(&backend).is_failing(), "steered to {place}, which fails");
                if least && few {
                    assert!(failing * 2 <= ids.len(), "{failing} of {} fail", ids.len());
                    let any = ids.values().any(well);
                    assert!(!any || well(&backend), "{place} is ramping, and others are well");
                    assert!(
                        is_lightest(&|id| well(id) == any && !own(id).is_failing()),
                        "{place} is not the lightest"
                    );
                }
            }
            (_, _, PickReason::Panic) => {
                assert!(failing > 0);
                assert!(
                    !least || !few || failing * 2 > ids.len(),
                    "panic, and {failing} of {} fail",
                    ids.len()
                );
            }
        }
        if tried {
            self.health.get_mut(&backend).expect("it is known").tried(now);
        }
        if wanted.affinity.is_some() {
            self.clients.insert((choice.service, client), (backend, now));
        }
        self.check_turn(wanted, ids, client, place, choice);
    }

    /// Whether turns are fair, and hashes stable, while nothing changes.
    fn check_turn(
        &mut self,
        wanted: &Wanted,
        ids: &BTreeMap<SocketAddr, Id>,
        client: u64,
        place: SocketAddr,
        choice: &Choice,
    ) {
        let service = &Tables::service(self.tables(), choice.service).expect("it is there");
        let revision = (service.slots.0, service.revision);
        let by_rule = choice.reason == PickReason::Algorithm;
        match wanted.algorithm {
            Algorithm::SourceHash if by_rule => {
                let key = (choice.service, client);
                if let Some((then, before)) = self.hashed.insert(key, (revision, ids[&place])) {
                    assert!(then != revision || before == ids[&place], "the hash of {client} changed");
                }
            }
            Algorithm::RoundRobin | Algorithm::ClientRoundRobin => {
                let own = (wanted.algorithm == Algorithm::ClientRoundRobin).then_some(client);
                let round = self.rounds.entry((choice.service, own)).or_default();
                if !by_rule || round.revision != revision {
                    *round = Round { revision, ..Round::default() };
                }
                if !by_rule {
                    return;
                }
                *round.picks.entry(place).or_default() += 1;
                let total: u64 = wanted.backends.values().map(|weight| u64::from(*weight)).sum();
                let (picks, count) = (round.picks.values().sum::<u64>(), ids.len() as u64);
                // Slots stand for weights exactly while there are few enough of them.
                if total > count * 32 {
                    return;
                }
                for (place, weight) in &wanted.backends {
                    let weight = u64::from(*weight);
                    let had = round.picks.get(place).copied().unwrap_or_default();
                    // Each stands at even distances: a run of slots has its share, give or take one for each backend.
                    let off = (had * total).abs_diff(picks * weight);
                    assert!(off <= total + count * weight, "{place} had {had} of {picks} turns: {wanted:?}");
                }
            }
            _ => {}
        }
    }

    /// Whether the tables hold what is wanted, and what happened.
    fn check(&self) {
        for service in 0..SERVICES {
            let expect: Vec<_> =
                self.wanted[service].iter().flat_map(|wanted| wanted.backends.keys().copied()).collect();
            assert_eq!(self.ids(service).into_keys().collect::<Vec<_>>(), expect, "backends of {service}");
            for id in self.ids(service).values() {
                self.health[id].check(self.tables().state(id.0));
            }
        }
        for held in &self.held {
            let entry = Tables::backend(self.tables(), held.backend.0);
            assert_eq!(
                entry.map(|entry| entry.generation),
                Some(held.backend.1),
                "an id was given to another"
            );
            assert_eq!(Load::active(self.tables(), held.backend.0), self.active(held.backend));
        }
    }

    /// Everything goes, and nothing stays.
    fn end(mut self) {
        for service in 0..SERVICES {
            self.want(service, None);
        }
        self.check();
        while !self.held.is_empty() {
            self.close(0);
        }
        for _ in 0..3 {
            self.reconciler.kernel_mut().now_ns += 2_000_000_000;
            self.sweep();
        }
        assert_eq!(self.reconciler.used(), (0, 0, 0), "ids or slots are left over");
    }
}

fn index(u: &mut Unstructured<'_>) -> Result<usize> {
    u.int_in_range(0..=SERVICES - 1)
}

fn client(u: &mut Unstructured<'_>) -> Result<u64> {
    u.int_in_range(1..=3)
}

fn weight(u: &mut Unstructured<'_>) -> Result<u32> {
    u.choose(&[1, 1, 1, 1, 2, 3, 10, 65_535]).copied()
}

/// A few of eight; seldom more than are all compared.
fn backends(u: &mut Unstructured<'_>) -> Result<BTreeMap<SocketAddr, u32>> {
    let place = |n: u8| SocketAddr::from(([10, 0, 0, n], 8_080));
    if u.ratio(1, 24)? {
        let count = u.int_in_range(60..=70)?;
        return (1..=count).map(|n| Ok((place(n), 1))).collect();
    }
    let set: u8 = u.arbitrary()?;
    let same: bool = u.arbitrary()?;
    (0..8)
        .filter(|n| set & (1 << n) != 0)
        .map(|n| Ok((place(n + 1), if same { 1 } else { weight(u)? })))
        .collect()
}

fn vip(service: usize) -> IpAddr {
    Ipv4Addr::new(10, 96, 0, service as u8 + 1).into()
}

fn frontend(service: usize) -> FrontendKey {
    FrontendKey::new(vip(service).into(), PortBe::from_host(80), TCP)
}

fn port(service: usize, wanted: &Wanted) -> DesiredPort {
    let protocol = Protocol::Tcp;
    let backends = wanted.backends.iter().map(|(place, weight)| DesiredBackend {
        addr: place.ip(),
        port: place.port(),
        weight: *weight,
        condition: Condition::Ready,
        pod: Some(format!("pod-{}", place.ip()).into()),
        node: None,
        zone: None,
    });
    DesiredPort {
        key: PortKey {
            service: ObjectName::new("shop", format!("s{service}")),
            port_name: "".into(),
            protocol,
            family: Family::V4,
        },
        frontend: Frontend { addr: vip(service), port: 80, protocol },
        algorithm: wanted.algorithm,
        affinity: wanted.affinity,
        connections: ConnectionSettings {
            slow_start_ms: wanted.slow_start_ms,
            ..ConnectionSettings::default()
        },
        backends: backends.collect(),
        departing: Some(Vec::new()),
        problem: None,
    }
}
