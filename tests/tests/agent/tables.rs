//! The pinned tables, read behind the agent's back: whether they contradict themselves, and whether they
//! are what the manifests say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use balancer_common::abi::{BackendState, BackendStats, FIRST_BACKEND, FIRST_SERVICE, FIRST_SLOT, TCP};
use balancer_userspace::datapath::{Access, Maps, Pins, from_text};

/// A Service port that should be in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expected {
    service: String,
    frontend: SocketAddr,
    backends: BTreeSet<SocketAddr>,
}

impl Expected {
    /// `service` is `namespace/name`; TCP.
    pub fn new(service: &str, frontend: SocketAddr, backends: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { service: service.to_owned(), frontend, backends: backends.into_iter().collect() }
    }
}

/// A backend with its id and its counters.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub id: u32,
    pub state: BackendState,
    pub generation: u32,
    pub stats: BackendStats,
}

/// A copy of everything that the agent writes.
#[derive(Debug, Default)]
pub struct Tables {
    /// Service ids that a frontend leads to.
    pub served: BTreeMap<SocketAddr, u32>,
    /// Ids that have a name, with it.
    pub services: BTreeMap<u32, String>,
    /// Backends that are not free, by Service id and address. More than one where a pod's address was
    /// given to another pod.
    pub backends: BTreeMap<(u32, SocketAddr), Vec<Row>>,
    /// What contradicts what.
    pub contradictions: Vec<String>,
    /// Slots in use, rounded up as they are handed out.
    pub slots: u32,
}

impl Tables {
    /// Reads them. Contradictions are noted, not judged: a table may be read while it is written.
    #[track_caller]
    pub fn read(pins: &Path) -> Self {
        let maps = Maps::open(&Pins::new(pins), Access::Read).unwrap_or_else(|error| panic!("{error}"));
        let mut tables = Self::default();
        tables.read_services(&maps);
        tables.read_backends(&maps);
        tables.read_slots(&maps);
        tables
    }

    fn contradiction(&mut self, text: String) {
        self.contradictions.push(text);
    }

    fn read_services(&mut self, maps: &Maps) {
        for (id, meta) in maps.service_metas().unwrap() {
            let name = format!("{}/{}", from_text(&meta.namespace), from_text(&meta.name));
            self.services.insert(id, name);
        }
        for (key, id) in maps.frontends().unwrap() {
            let dialled = SocketAddr::new(IpAddr::from(key.addr), key.port.to_host());
            if id < FIRST_SERVICE {
                continue;
            }
            if maps.services.get(id).map(|service| service.frontend) != Some(key) {
                self.contradiction(format!("{dialled} leads to Service {id}, which has another frontend"));
            }
            if !self.services.contains_key(&id) {
                self.contradiction(format!("{dialled} leads to Service {id}, which has no name"));
            }
            assert_eq!(key.protocol, TCP, "these tests have Services for TCP alone");
            self.served.insert(dialled, id);
        }
    }

    fn read_backends(&mut self, maps: &Maps) {
        for (id, backend) in maps.backends.iter().skip(FIRST_BACKEND as usize) {
            let state = BackendState::from_u16(backend.state);
            let named = maps.backend_meta(id).unwrap().is_some();
            if named != (state != BackendState::Free) {
                self.contradiction(format!("backend {id} is {state:?}, but is it named? {named}"));
            }
            if state == BackendState::Free {
                continue;
            }
            if !self.services.contains_key(&backend.service) {
                self.contradiction(format!("backend {id} is of Service {}, which is none", backend.service));
            }
            let addr = SocketAddr::new(backend.addr.into(), backend.port.to_host());
            let stats = maps.backend_stats.get(id).unwrap();
            let row = Row { id, state, generation: backend.generation, stats };
            self.backends.entry((backend.service, addr)).or_default().push(row);
        }
    }

    fn read_slots(&mut self, maps: &Maps) {
        let mut owners: BTreeMap<u32, u32> = BTreeMap::new();
        for &id in &self.services.keys().copied().collect::<Vec<_>>() {
            let service = maps.services.get(id).unwrap();
            let (base, len) = (service.slots.base(), service.slots.len());
            let room = if len == 0 { 0 } else { len.next_power_of_two() };
            self.slots += room;
            if len > 0
                && (base < FIRST_SLOT || u64::from(base) + u64::from(room) > u64::from(maps.slots.len()))
            {
                self.contradiction(format!("slots {base}+{room} of Service {id} are outside of the map"));
            }
            for slot in base..base + room {
                if let Some(other) = owners.insert(slot, id) {
                    self.contradiction(format!("slot {slot} is of Services {other} and {id}"));
                }
            }
            let chosen: BTreeSet<u32> =
                (base..base + len).filter_map(|slot| Some(maps.slots.get(slot)?.backend)).collect();
            let rows = self.backends.iter().filter(|((service, _), _)| *service == id);
            let usable: BTreeSet<u32> = rows
                .flat_map(|(_, rows)| rows)
                .filter(|row| row.state.is_usable())
                .map(|row| row.id)
                .collect();
            if chosen != usable || service.backends as usize != usable.len() {
                self.contradiction(format!(
                    "Service {id} has slots for {chosen:?}, backends {usable:?} and says it has {}",
                    service.backends
                ));
            }
        }
    }

    /// What is served, as the manifests would say it.
    pub fn serves(&self) -> BTreeSet<Expected> {
        let expected = |(frontend, id): (&SocketAddr, &u32)| {
            let usable = self
                .backends
                .iter()
                .filter(|((service, _), rows)| service == id && rows.iter().any(|row| row.state.is_usable()));
            let name = self.services.get(id).map_or("", String::as_str);
            Expected::new(name, *frontend, usable.map(|((_, addr), _)| *addr))
        };
        self.served.iter().map(expected).collect()
    }

    /// The only backend of what is dialled at `frontend` that has this address and may be chosen.
    #[track_caller]
    pub fn backend(&self, frontend: SocketAddr, addr: SocketAddr) -> Row {
        let rows = self.rows(frontend, addr);
        let mut usable = rows.iter().filter(|row| row.state.is_usable());
        let row = *usable.next().unwrap_or_else(|| panic!("{frontend} has no backend {addr}: {rows:?}"));
        assert!(usable.next().is_none(), "{frontend} has {addr} twice: {rows:?}");
        row
    }

    /// All rows of an address behind a frontend.
    #[track_caller]
    pub fn rows(&self, frontend: SocketAddr, addr: SocketAddr) -> &[Row] {
        let id = self.served.get(&frontend).unwrap_or_else(|| panic!("nothing is served at {frontend}"));
        self.backends.get(&(*id, addr)).map_or(&[], Vec::as_slice)
    }

    /// Ids of Services and of backends that may be chosen, by what they are known by: what must not change
    /// over a restart.
    pub fn ids(&self) -> BTreeMap<(SocketAddr, Option<SocketAddr>), (u32, u32)> {
        let services = self.served.iter().map(|(frontend, id)| ((*frontend, None), (*id, 0)));
        let backends = self.served.iter().flat_map(|(frontend, service)| {
            let rows = self.backends.iter().filter(move |((of, _), _)| of == service);
            let usable = rows.flat_map(|((_, addr), rows)| rows.iter().map(move |row| (addr, row)));
            usable
                .filter(|(_, row)| row.state.is_usable())
                .map(move |(addr, row)| ((*frontend, Some(*addr)), (row.id, row.generation)))
        });
        services.chain(backends).collect()
    }

    /// The sum of a counter over all backends.
    pub fn total(&self, count: impl Fn(&BackendStats) -> u64) -> u64 {
        self.backends.values().flatten().map(|row| count(&row.stats)).sum()
    }

    /// Why this is not what `expected` asks for.
    fn difference(&self, expected: &BTreeSet<Expected>) -> Option<String> {
        if !self.contradictions.is_empty() {
            return Some(format!("the tables contradict themselves: {:#?}", self.contradictions));
        }
        let serves = self.serves();
        (serves != *expected).then(|| format!("served: {serves:#?}, but not: {expected:#?}"))
    }

    /// What is left over from earlier.
    fn leftover(&self) -> Option<String> {
        let left: Vec<_> =
            self.services.iter().filter(|(id, _)| !self.served.values().any(|of| of == *id)).collect();
        if !left.is_empty() {
            return Some(format!("Services that nothing leads to: {left:?}"));
        }
        let removed: Vec<_> =
            self.backends.iter().filter(|(_, rows)| rows.iter().any(|row| !row.state.is_usable())).collect();
        (!removed.is_empty()).then(|| format!("removed backends: {removed:?}"))
    }
}

/// Waits until the tables hold what is expected; of what was before, ids may still be at rest.
#[track_caller]
pub fn reach(pins: &Path, expected: impl IntoIterator<Item = Expected>) -> Tables {
    let expected: BTreeSet<_> = expected.into_iter().collect();
    wait_until(pins, |tables| tables.difference(&expected))
}

/// Waits until the tables hold exactly what is expected, and nothing of what was before.
#[track_caller]
pub fn settle(pins: &Path, expected: impl IntoIterator<Item = Expected>) -> Tables {
    let expected: BTreeSet<_> = expected.into_iter().collect();
    wait_until(pins, |tables| tables.difference(&expected).or_else(|| tables.leftover()))
}

#[track_caller]
fn wait_until(pins: &Path, difference: impl Fn(&Tables) -> Option<String>) -> Tables {
    let deadline = Instant::now() + balancer_tests::kernel::patience(Duration::from_secs(20));
    loop {
        let tables = Tables::read(pins);
        let Some(difference) = difference(&tables) else { return tables };
        assert!(Instant::now() < deadline, "{difference}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
