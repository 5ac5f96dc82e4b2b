//! The data plane: the real agent and its programs, real sockets, and counts that are exact.
//!
//! Every test has a node, a cgroup and pins of its own. What is asserted comes from `balancer stats -o json`, which reads the
//! pinned maps, and from what applications themselves see.

mod affinity;
mod algorithms;
mod applications;
mod beside;
mod bytes;
mod failures;
mod foreign;
mod left_alone;
mod lifetimes;
mod passing;
mod storms;
mod tcp;
mod udp;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use balancer_tests::{
    agent::{Agent, AgentOptions, BackendStats, Dialled, ServiceStats},
    kernel::require_kernel,
    manifests::{Endpoint, ManifestDir, Service},
    peer::{Client, Server},
    topology::{Pod, Topology, service_v4, service_v6},
};
use balancer_userspace::model::Protocol;

/// Where backends listen.
const PORT: u16 = 8080;

/// How long counts may take to become what they should: the kernel closes a TCP connection in its own time.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node, a client pod, backends that listen for TCP and UDP on [`PORT`], and manifests.
struct World {
    servers: Vec<Server>,
    pods: Vec<Pod>,
    pod: Pod,
    manifests: ManifestDir,
    node: Topology,
}

/// The addresses of a Service.
#[derive(Clone, Copy, Debug)]
struct Vip {
    v4: SocketAddr,
    v6: SocketAddr,
}

/// The `n`th Service, port 80.
fn vip(n: u16) -> Vip {
    Vip { v4: SocketAddr::new(service_v4(n).into(), 80), v6: SocketAddr::new(service_v6(n).into(), 80) }
}

impl World {
    /// With so many backends.
    fn new(backends: usize) -> Self {
        require_kernel();
        let node = Topology::new().unwrap();
        let pods = node.pods("web", backends).unwrap();
        let servers = pods.iter().map(|pod| pod.server(PORT).unwrap()).collect();
        Self { servers, pods, pod: node.pod("client").unwrap(), manifests: ManifestDir::new().unwrap(), node }
    }

    /// With so many backends, of the Service `web`, number 1.
    fn web(backends: usize) -> Self {
        let world = Self::new(backends);
        world.publish("web", 1, |service| service);
        world
    }

    /// A Service of both families, TCP and UDP, that has all pods as its backends.
    fn publish(&self, name: &str, number: u16, with: impl FnOnce(Service<'_>) -> Service<'_>) {
        let vip = vip(number);
        let service = self.manifests.service(name).cluster_ips([vip.v4.ip(), vip.v6.ip()]);
        let service = service.named_port("tcp", Protocol::Tcp, 80).named_port("udp", Protocol::Udp, 80);
        self.endpoints(name, &self.pods);
        with(service).write().unwrap();
    }

    /// Writes the slices of a Service: these pods are its backends.
    fn endpoints<'p>(&self, name: &str, pods: impl IntoIterator<Item = &'p Pod>) {
        let slice = self.manifests.slice(name);
        let slice = slice.port("tcp", Protocol::Tcp, PORT).port("udp", Protocol::Udp, PORT);
        pods.into_iter().fold(slice, |slice, pod| slice.pod(pod)).write().unwrap();
    }

    /// Writes the slices of a Service whose only backends are these addresses.
    fn bare_endpoints(&self, name: &str, addresses: impl IntoIterator<Item = std::net::IpAddr>) {
        let slice = self.manifests.slice(name);
        let slice = slice.port("tcp", Protocol::Tcp, PORT).port("udp", Protocol::Udp, PORT);
        let endpoints = addresses.into_iter().map(Endpoint::ready);
        endpoints.fold(slice, |slice, endpoint| slice.endpoint(endpoint)).write().unwrap();
    }

    fn agent(&self) -> Agent<'_> {
        self.agent_with(AgentOptions::default())
    }

    fn agent_with(&self, options: AgentOptions) -> Agent<'_> {
        Agent::with(&self.node, &self.manifests, options).unwrap()
    }

    fn client(&self) -> Client {
        self.pod.client().unwrap()
    }
}

/// The counts of a Service port, or of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    active: u64,
    opened: u64,
    established: u64,
    closed: u64,
    refused: u64,
    timed_out: u64,
    unreachable: u64,
    aborted: u64,
}

impl Counts {
    /// So many were opened, established and closed again, and nothing else happened.
    const fn done(count: u64) -> Self {
        Self { active: 0, closed: count, ..Self::open(count) }
    }

    /// So many are open, and nothing else happened.
    const fn open(count: u64) -> Self {
        Self {
            active: count,
            opened: count,
            established: count,
            closed: 0,
            refused: 0,
            timed_out: 0,
            unreachable: 0,
            aborted: 0,
        }
    }

    fn of(service: &ServiceStats) -> Self {
        assert_eq!(service.active, service.total(|backend| backend.active), "{service:#?}");
        let sum = |count: fn(&BackendStats) -> u64| service.total(count);
        Self {
            active: service.active,
            opened: sum(|backend| backend.opened),
            established: sum(|backend| backend.established),
            closed: sum(|backend| backend.closed),
            refused: sum(|backend| backend.failed.refused),
            timed_out: sum(|backend| backend.failed.timed_out),
            unreachable: sum(|backend| backend.failed.unreachable),
            aborted: sum(|backend| backend.failed.aborted),
        }
    }
}

/// Waits until the counts of a Service port are exactly these, and returns them all.
#[track_caller]
fn expect(agent: &Agent<'_>, dialled: impl Into<Dialled>, counts: Counts) -> ServiceStats {
    let dialled = dialled.into();
    match agent.wait_for(dialled, PATIENCE, |service| Counts::of(service) == counts) {
        Ok(service) => service,
        Err(error) => {
            let found = Counts::of(&agent.stats_of(dialled).unwrap());
            panic!("{dialled:?}: expected {counts:?}, found {found:?}: {error:#}");
        }
    }
}

/// Waits until something is true.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + balancer_tests::kernel::patience(PATIENCE);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What an AF_INET6 socket calls an address.
fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => addr,
    }
}
