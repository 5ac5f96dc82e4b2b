//! Services and backends in short, and an agent on tables in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use balancer_common::{
    abi::{Algorithm, FrontendKey},
    addr::PortBe,
};

use super::{
    fake::{Fake, Sizes},
    watch::Allowed,
};
use crate::{
    datapath::DatapathError,
    model::{Condition, DesiredBackend, DesiredPort, Family, Frontend, ObjectName, PortKey, Protocol},
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
pub(super) fn backend(n: u8) -> DesiredBackend {
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
pub(super) fn port(service: &str, n: u8, pods: impl IntoIterator<Item = u8>) -> DesiredPort {
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
        backends: pods.into_iter().map(backend).collect(),
        problem: None,
    }
}

pub(super) fn key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(frontend.addr.into(), PortBe::from_host(frontend.port), frontend.protocol.number())
}

fn places(port: &DesiredPort) -> BTreeSet<SocketAddr> {
    port.backends.iter().map(|backend| SocketAddr::new(backend.addr, backend.port)).collect()
}

/// An agent, what it was last asked for, and the time.
pub(super) struct Agent {
    reconciler: Option<Reconciler<Fake>>,
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
        let result = self.reconciler().apply(&name, ports, now);
        self.fake().allowed = None;
        result
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
        fake.allowed = (!lenient).then(|| fake.frontends.keys().map(served).collect());
        let mut reconciler = Reconciler::recover(fake, self.now).expect("the tables can be read");
        reconciler.kernel_mut().allowed = None;
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
