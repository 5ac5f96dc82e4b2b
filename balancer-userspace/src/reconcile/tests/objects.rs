//! Services and backends in short, and an agent on tables in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use balancer_common::{
    abi::{Algorithm, Backend, BackendState, FrontendKey},
    addr::PortBe,
};

use super::{
    fake::{Fake, Sizes},
    watch::Allowed,
};
use crate::{
    datapath::{DatapathError, backend_names},
    model::{
        Condition, ConnectionSettings, Departure, DesiredBackend, DesiredPort, Family, Frontend, ObjectName,
        PortKey, Protocol,
    },
    reconcile::Reconciler,
};

/// Room for everything that a test does not want to be scarce.
pub(super) const ROOMY: Sizes = (32, 256, 8192);

pub(super) fn name(service: &str) -> ObjectName {
    ObjectName::new("shop", service)
}

/// A Service address: `10.96.0.n`, or its like in IPv6.
pub(super) fn vip(n: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, n).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into(),
    }
}

/// Pod `10.0.0.n`, port 8080, weight 1.
pub(in crate::reconcile) fn backend(n: u8) -> DesiredBackend {
    DesiredBackend {
        addr: Ipv4Addr::new(10, 0, 0, n).into(),
        port: 8080,
        weight: 1,
        condition: Condition::Ready,
        pod: Some(format!("pod-{n}").into()),
        node: None,
        zone: None,
    }
}

/// The only port of a Service, TCP port 80 of `10.96.0.n`, with pods `10.0.0.m`.
pub(in crate::reconcile) fn port(service: &str, n: u8, pods: impl IntoIterator<Item = u8>) -> DesiredPort {
    DesiredPort {
        key: PortKey {
            service: name(service),
            port_name: "".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        },
        frontend: Frontend { addr: vip(n, Family::V4), port: 80, protocol: Protocol::Tcp },
        algorithm: Algorithm::LeastConnections,
        affinity: None,
        connections: ConnectionSettings::default(),
        backends: pods.into_iter().map(backend).collect(),
        departing: Some(Vec::new()),
        problem: None,
    }
}

pub(super) fn key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(frontend.addr.into(), PortBe::from_host(frontend.port), frontend.protocol.number())
}

fn places(port: &DesiredPort) -> BTreeSet<SocketAddr> {
    port.backends.iter().map(|backend| SocketAddr::new(backend.addr, backend.port)).collect()
}

/// What a port says of the endpoint at a place that is this pod, which has no name if that is empty: the
/// state of a backend that stands for it in no slots. `None`: it is in no slice.
pub(super) fn endpoint(port: &DesiredPort, place: SocketAddr, pod: &str) -> Option<BackendState> {
    let is_it = |addr, port, other: Option<&str>| {
        SocketAddr::new(addr, port) == place && other.is_none_or(|other| other == pod || pod.is_empty())
    };
    let used = port.backends.iter().any(|backend| is_it(backend.addr, backend.port, backend.pod.as_deref()));
    let departing = port.departing.as_ref().expect("there are not too many");
    let departure = departing
        .iter()
        .find(|other| is_it(other.addr, other.port.expect("all have one"), other.pod.as_deref()))
        .map(|endpoint| endpoint.departure);
    match departure {
        _ if used => Some(BackendState::Unused),
        Some(Departure::Draining) => Some(BackendState::Draining),
        Some(Departure::Unused) => Some(BackendState::Unused),
        None => None,
    }
}

/// An agent, what it was last asked for, and the time.
pub(super) struct Agent {
    pub(super) reconciler: Option<Reconciler<Fake>>,
    pub(super) desired: BTreeMap<ObjectName, Vec<DesiredPort>>,
    pub(super) now: Instant,
    /// Whether the maps are so small that a Service may go without.
    pub(super) scarce: bool,
}

impl Agent {
    pub(super) fn new(sizes: Sizes) -> Self {
        Self::on(Fake::new(sizes))
    }

    /// Takes over tables as they are.
    pub(super) fn on(fake: Fake) -> Self {
        let now = fake.now;
        let reconciler = Reconciler::recover(fake, now).expect("the tables can be read");
        Self { reconciler: Some(reconciler), desired: BTreeMap::new(), now, scarce: false }
    }

    pub(super) const fn reconciler(&mut self) -> &mut Reconciler<Fake> {
        self.reconciler.as_mut().expect("an agent always has its tables")
    }

    pub(super) fn fake(&mut self) -> &mut Fake {
        self.reconciler().kernel_mut()
    }

    pub(super) fn tables(&self) -> &Fake {
        self.reconciler.as_ref().expect("an agent always has its tables").kernel()
    }

    pub(super) fn used(&self) -> (u32, u32, u64) {
        self.reconciler.as_ref().expect("an agent always has its tables").used()
    }

    pub(super) fn pass_time(&mut self, time: Duration) {
        self.now += time;
        self.fake().now = self.now;
    }

    /// Applies all ports of one Service, with every step checked. How many ports changed.
    pub(super) fn apply(&mut self, service: &str, ports: Vec<DesiredPort>) -> Result<usize, DatapathError> {
        let name = name(service);
        let allowed = (!self.tables().lenient).then(|| self.allowed(&name, &ports));
        self.fake().allowed = allowed;
        self.desired.insert(name.clone(), ports.clone());
        let now = self.now;
        let before = self.tables().backends.clone();
        let result = self.reconciler().apply(&name, ports.clone(), now);
        self.fake().allowed = None;
        self.check_removed(&before, &ports);
        result
    }

    /// Nothing was said to have left that has not: an endpoint of a port that exists, in no slice.
    fn check_removed(&self, before: &[Backend], ports: &[DesiredPort]) {
        let fake = self.tables();
        if fake.lenient {
            return;
        }
        for (id, (old, new)) in (0_u32..).zip(before.iter().zip(&fake.backends)) {
            let removed = BackendState::Removed as u16;
            if new.state != removed || old.state == removed {
                continue;
            }
            let reconciler = self.reconciler.as_ref().expect("an agent always has its tables");
            let own = |port: &&DesiredPort| {
                reconciler.port(&port.key).is_some_and(|applied| applied.id == new.service)
            };
            let port = ports.iter().find(own).expect("a backend of no port that exists has left");
            let Some(meta) = fake.backend_metas.get(&id) else {
                assert_eq!(fake.active[id as usize], 0, "an agent died while it wrote this one");
                continue;
            };
            let [pod, ..] = backend_names(meta);
            let place = SocketAddr::new(new.addr.into(), new.port.to_host());
            assert_eq!(endpoint(port, place, &pod), None, "backend {id} has not left");
        }
    }

    /// Applies something that must succeed.
    pub(super) fn set(&mut self, port: DesiredPort) -> usize {
        let service = port.key.service.name.to_string();
        self.apply(&service, vec![port]).expect("the kernel refuses nothing")
    }

    /// Sweeps, and applies the Services that wait for it. How many those were.
    pub(super) fn sweep(&mut self) -> Result<usize, DatapathError> {
        let now = self.now;
        let waiting = self.reconciler().sweep(now)?;
        for name in &waiting {
            let ports = self.desired.get(name).cloned().unwrap_or_default();
            self.apply(&name.name, ports)?;
        }
        Ok(waiting.len())
    }

    /// The agent dies; another one starts.
    pub(super) fn restart(&mut self) {
        self.now += crate::reconcile::ids::QUARANTINE;
        let mut fake = self.reconciler.take().expect("an agent always has its tables").kernel;
        fake.restart(self.now);
        // Taking over disturbs nothing that is served.
        let served = |frontend: &FrontendKey| {
            let targets = fake.targets(frontend);
            (*frontend, Allowed { must_be_sent: !targets.is_empty(), targets })
        };
        let lenient = fake.lenient;
        let left = |fake: &Fake| -> Vec<bool> {
            fake.backends.iter().map(|backend| backend.state == BackendState::Removed as u16).collect()
        };
        let left_before = left(&fake);
        fake.allowed = (!lenient).then(|| fake.frontends.keys().map(served).collect());
        let mut reconciler = Reconciler::recover(fake, self.now).expect("the tables can be read");
        reconciler.kernel_mut().allowed = None;
        let invented =
            left(reconciler.kernel()).into_iter().zip(left_before).any(|(now, before)| now && !before);
        assert!(lenient || !invented, "a backend has left while nobody watched");
        self.reconciler = Some(reconciler);
    }

    /// What connects may meet while Service `name` becomes `ports`.
    fn allowed(&self, name: &ObjectName, ports: &[DesiredPort]) -> BTreeMap<FrontendKey, Allowed> {
        let fake = self.tables();
        let mut allowed: BTreeMap<FrontendKey, Allowed> = BTreeMap::new();
        for frontend in fake.frontends.keys() {
            let targets = fake.targets(frontend);
            let owner = fake.owner(frontend).expect("what is dialled has a name");
            let must_be_sent = !self.scarce && !targets.is_empty() && stays(&owner, name, frontend, ports);
            allowed.insert(*frontend, Allowed { targets, must_be_sent });
        }
        for port in ports {
            allowed.entry(key(&port.frontend)).or_default().targets.extend(places(port));
        }
        allowed
    }
}

/// Whether `frontend`, which belongs to port `owner`, is to be served without a gap while Service `name`
/// becomes `ports`: by that port, by another one of its Service that takes its place, or by one of the
/// Service that takes it over.
fn stays(owner: &PortKey, name: &ObjectName, frontend: &FrontendKey, ports: &[DesiredPort]) -> bool {
    let renamed = ports.iter().all(|port| port.key != *owner);
    match ports.iter().find(|port| key(&port.frontend) == *frontend) {
        None => owner.service != *name,
        Some(port) => !port.backends.is_empty() && (owner.service != *name || port.key == *owner || renamed),
    }
}
