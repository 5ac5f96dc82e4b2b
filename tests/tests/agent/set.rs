//! What most tests start from: a client, pods that answer, and one Service in front of them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    agent::{Agent, AgentOptions},
    kernel::require_kernel,
    manifests::ManifestDir,
    peer::{
        Server,
        protocol::{Ask, LoopPlan, Until},
    },
    topology::{Pod, Scratch, Topology, service_v4, service_v6},
};

use balancer_userspace::datapath::Pins;

use crate::tables::Expected;

/// Where pods listen.
pub const PORT: u16 = 8080;
/// What is dialled at a Service address.
pub const SERVICE_PORT: u16 = 80;
/// How long a change in a manifest may take to reach the kernel.
pub const SOON: Duration = Duration::from_secs(10);

/// The `n`th Service's IPv4 frontend.
pub fn vip4(n: u16) -> SocketAddr {
    SocketAddr::new(service_v4(n).into(), SERVICE_PORT)
}

/// The `n`th Service's IPv6 frontend.
pub fn vip6(n: u16) -> SocketAddr {
    SocketAddr::new(service_v6(n).into(), SERVICE_PORT)
}

/// A node, a client pod, pods with servers, and manifests.
pub struct Set {
    pub manifests: ManifestDir,
    /// Kept for as long as the pods.
    _servers: Vec<Server>,
    pub client: Pod,
    pub pods: Vec<Pod>,
    pub pins: Scratch,
    pub node: Topology,
}

impl Set {
    /// With `pods` pods, and Service `shop/web` (number 1, both families) in front of all of them.
    pub fn new(pods: usize) -> Self {
        let set = Self::bare(pods);
        set.service("shop/web", 1);
        set.backends("shop/web", 0..pods);
        set
    }

    /// With `pods` pods, and no manifest.
    pub fn bare(pods: usize) -> Self {
        require_kernel();
        let node = Topology::new().unwrap();
        let client = node.pod("client").unwrap();
        let pods = node.pods("web", pods).unwrap();
        let _servers = pods.iter().map(|pod| pod.server(PORT).unwrap()).collect();
        Self { manifests: ManifestDir::new().unwrap(), _servers, client, pods, pins: Scratch::pins(), node }
    }

    /// An agent that is ready; all of one set pin in the same place.
    pub fn agent(&self) -> Agent<'_> {
        self.agent_with(&[])
    }

    /// The same, with more arguments.
    pub fn agent_with(&self, arguments: &[&str]) -> Agent<'_> {
        Agent::with(&self.node, &self.manifests, self.options(arguments)).unwrap()
    }

    /// One that is not started yet.
    pub fn stopped(&self, arguments: &[&str]) -> Agent<'_> {
        Agent::stopped(&self.node, &self.manifests, self.options(arguments)).unwrap()
    }

    fn options(&self, arguments: &[&str]) -> AgentOptions {
        AgentOptions {
            pins: Some(self.pins.path().to_owned()),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            ..AgentOptions::default()
        }
    }

    /// Writes Service number `n`, of both families, with one port.
    pub fn service(&self, name: &str, n: u16) {
        let addresses = [service_v4(n).into(), service_v6(n).into()];
        self.manifests.service(name).cluster_ips(addresses).port(SERVICE_PORT).write().unwrap();
    }

    /// Makes these pods the backends of a Service.
    pub fn backends(&self, name: &str, pods: impl IntoIterator<Item = usize>) {
        self.manifests.backends(name, PORT, pods.into_iter().map(|index| &self.pods[index])).unwrap();
    }

    /// What the kernel should hold of Service number `n` with these pods, both families.
    pub fn expect(&self, name: &str, n: u16, pods: impl IntoIterator<Item = usize> + Clone) -> [Expected; 2] {
        let of = |frontend: SocketAddr, addr: fn(&Pod) -> SocketAddr| {
            Expected::new(name, frontend, pods.clone().into_iter().map(|index| addr(&self.pods[index])))
        };
        [of(vip4(n), |pod| pod.v4(PORT)), of(vip6(n), |pod| pod.v6(PORT))]
    }

    /// The pins.
    pub fn pins(&self) -> &Path {
        self.pins.path()
    }
}

/// Short connections to `to` without end, each asking who answers.
pub fn without_end(to: SocketAddr) -> LoopPlan {
    LoopPlan::tcp(to, Until::Told).ask(Ask::Identity).pause_us(200)
}

/// Where the agent pins something of the present layout: `maps/NAME` or `links/NAME`.
pub fn pinned(pins: &Path, what: &str) -> PathBuf {
    Pins::new(pins).version().join(what)
}

/// Waits until a condition holds.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + balancer_tests::kernel::patience(SOON);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
