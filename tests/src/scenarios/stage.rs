//! Where a scenario is played: pods, servers, every arm's way from a Service address to a server.

use std::{
    cell::RefCell,
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
};

use anyhow::{Context as _, Result};

use super::{
    outcome::Arm,
    process::{Served, Server, ServerPlan},
    script::Scenario,
};
use crate::{
    agent::{Agent, AgentOptions},
    bench::rules::{Mode, Service},
    ipvs::{self, Scheduler},
    manifests::{Endpoint, ManifestDir},
    topology::{Cgroup, Pod, Scratch, Topology, service_v4},
};
use balancer_userspace::model::Protocol;

/// The first port that servers listen on; each run has its own.
const FIRST_PORT: u16 = 8_000;

/// One run under way: an arm and a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The arm.
    pub arm: Arm,
    /// The seed.
    pub seed: u64,
    /// Which of all the runs that go on at once.
    pub index: u16,
}

impl Key {
    /// The port that its servers listen on.
    pub const fn port(self) -> u16 {
        FIRST_PORT + self.index
    }

    /// What its clients dial, in all arms but [`Arm::Direct`].
    pub const fn service(self) -> SocketAddrV4 {
        SocketAddrV4::new(service_v4(self.index + 1), 80)
    }

    /// The name of its Service, where there is an object.
    pub fn name(self) -> String {
        format!("run-{}", self.index)
    }
}

/// The pods. Everything is gone once it is dropped.
#[derive(Debug)]
pub struct Stage {
    /// Servers.
    pub pods: Vec<Pod>,
    /// Clients, by node and number; runs share them.
    pub clients: Vec<Vec<Pod>>,
    /// Objects of the arms that are balancer's.
    pub manifests: ManifestDir,
    /// What virtual servers have.
    used: RefCell<Option<Vec<usize>>>,
    parts: Vec<Cgroup>,
    /// Where agents pin.
    pins: Vec<Scratch>,
    topology: Topology,
}

impl Stage {
    /// Makes the pods of a scenario.
    ///
    /// # Errors
    /// What the topology says.
    pub fn new(scenario: &Scenario) -> Result<Self> {
        let topology = Topology::new()?;
        let pods = topology.pods("web", scenario.servers)?;
        let nodes = scenario.nodes();
        let parts =
            (0..nodes).map(|node| topology.part(&format!("part-{node}"))).collect::<Result<Vec<_>>>()?;
        let mut clients = Vec::new();
        for (node, part) in parts.iter().enumerate() {
            let count = scenario.clients.iter().filter(|(on, _)| *on == node).count();
            let pods: Result<Vec<_>> =
                (0..count).map(|number| topology.pod_in(part, &format!("client-{node}-{number}"))).collect();
            let pods = pods?;
            pods.iter().try_for_each(Pod::route_services_to_node)?;
            clients.push(pods);
        }
        let pins = (0..nodes).map(|_| Scratch::pins()).collect();
        Ok(Self {
            pods,
            clients,
            manifests: ManifestDir::new()?,
            used: RefCell::default(),
            parts,
            pins,
            topology,
        })
    }

    /// Starts the servers.
    ///
    /// # Errors
    /// When one does not start.
    pub fn serve(&self, scenario: &Scenario, ports: u16) -> Result<Vec<Option<Server>>> {
        let start = |(index, pod): (usize, &Pod)| {
            let delay_ms = match scenario.slow {
                Some((slow, delay_ms)) if slow == index => delay_ms,
                _ => scenario.delay_ms,
            };
            let plan = ServerPlan {
                name: pod.name().to_owned(),
                first_port: FIRST_PORT,
                ports,
                delay_ms,
                protocol: scenario.protocol,
            };
            Server::start(pod, &plan).map(Some)
        };
        self.pods.iter().enumerate().map(start).collect()
    }

    /// Writes the Services of balancer's runs.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn announce(&self, scenario: &Scenario, runs: &[Key]) -> Result<()> {
        for run in runs {
            let annotations = match run.arm {
                Arm::ConnectOnly => &[][..],
                Arm::Rebalancing => scenario.annotations,
                _ => continue,
            };
            let service = self.manifests.service(&run.name()).cluster_ip(*run.service().ip()).port(80);
            let annotated = annotations.iter().fold(service, |service, (name, value)| {
                service.annotation(&format!("balancer.dev/{name}"), value)
            });
            annotated.write()?;
        }
        Ok(())
    }

    /// Has every arm use these servers from now on. The arm [`Arm::Direct`] is its clients' own business.
    ///
    /// # Errors
    /// What the rules' tools say, or when a file cannot be written.
    pub fn endpoints(&self, runs: &[Key], ready: &[usize], terminating: &[usize]) -> Result<()> {
        for run in runs.iter().filter(|run| matches!(run.arm, Arm::ConnectOnly | Arm::Rebalancing)) {
            let slice = self.manifests.slice(&run.name()).port("", Protocol::Tcp, run.port());
            let ready = ready.iter().map(|index| (index, false));
            let all = ready.chain(terminating.iter().map(|index| (index, true)));
            let endpoint = |(index, terminating): (&usize, bool)| {
                let pod = &self.pods[*index];
                let addr = pod.addresses().v4;
                let endpoint = if terminating { Endpoint::terminating(addr) } else { Endpoint::ready(addr) };
                endpoint.pod(pod.name())
            };
            all.fold(slice, |slice, each| slice.endpoint(endpoint(each))).write()?;
        }
        for (arm, mode) in RULES {
            let services: Vec<Service> = runs
                .iter()
                .filter(|run| run.arm == arm)
                .map(|run| Service { address: run.service(), endpoints: self.addresses(*run, ready) })
                .collect();
            if !services.is_empty() {
                mode.install(self.topology.host().netns(), &services)?;
            }
        }
        self.virtual_servers(runs, ready)
    }

    /// The same for the arms of IPVS. Only what differs from before is changed: clearing them would end connections.
    fn virtual_servers(&self, runs: &[Key], ready: &[usize]) -> Result<()> {
        let netns = self.topology.host().netns();
        let with = |run: &Key| {
            let service = Service { address: run.service(), endpoints: self.addresses(*run, ready) };
            Some((*run, scheduler(run.arm)?, service))
        };
        let services: Vec<(Key, Scheduler, Service)> = runs.iter().filter_map(with).collect();
        if services.is_empty() {
            return Ok(());
        }
        match self.used.replace(Some(ready.to_vec())) {
            None => {
                let services: Vec<_> =
                    services.into_iter().map(|(_, scheduler, service)| (scheduler, service)).collect();
                ipvs::install(netns, &services)
            }
            Some(before) => services.iter().try_for_each(|(run, _, service)| {
                ipvs::change(netns, service, &self.addresses(*run, &before))
            }),
        }
    }

    /// Addresses of servers, for one run.
    pub fn addresses(&self, run: Key, servers: &[usize]) -> Vec<SocketAddrV4> {
        servers.iter().map(|index| SocketAddrV4::new(self.pods[*index].addresses().v4, run.port())).collect()
    }

    /// What the clients of a run connect to.
    pub fn targets(&self, run: Key, servers: &[usize]) -> Vec<SocketAddr> {
        match run.arm {
            Arm::Direct => self.addresses(run, servers).into_iter().map(SocketAddr::V4).collect(),
            _ => vec![run.service().into()],
        }
    }

    /// Starts an agent on each node. Nodes are numbered on from `first`.
    ///
    /// # Errors
    /// When one does not become ready.
    pub fn agents(&self, first: usize) -> Result<Vec<Agent<'_>>> {
        let start = |(node, (part, pins)): (usize, (&Cgroup, &Scratch))| {
            let options = AgentOptions {
                cgroup: Some(part.path().to_owned()),
                node: Some(format!("node-{}", first + node)),
                http: Some(SocketAddr::from(([127, 0, 0, 1], 9_990 + node as u16))),
                pins: Some(PathBuf::from(pins.path())),
                ..AgentOptions::default()
            };
            Agent::with(&self.topology, &self.manifests, options).with_context(|| format!("agent {node}"))
        };
        self.parts.iter().zip(&self.pins).enumerate().map(start).collect()
    }

    /// Why an arm cannot be had here.
    pub fn lacks(&self, arm: Arm) -> Option<String> {
        match RULES.iter().find(|(rules, _)| *rules == arm) {
            Some((_, mode)) => mode.available(self.topology.host().netns()).err(),
            None => {
                scheduler(arm)?;
                let lacks = ipvs::available(self.topology.host().netns()).err()?;
                Some(format!("no IPVS in this kernel, `cargo xtask vm` has some with it ({lacks})"))
            }
        }
    }
}

/// The arms that are rules in the node's namespace.
const RULES: [(Arm, Mode); 2] = [(Arm::Iptables, Mode::IptablesNft), (Arm::Nftables, Mode::Nftables)];

/// How an arm's virtual servers choose.
const fn scheduler(arm: Arm) -> Option<Scheduler> {
    match arm {
        Arm::IpvsRr => Some(Scheduler::RoundRobin),
        Arm::IpvsLc => Some(Scheduler::LeastConnections),
        Arm::IpvsSed => Some(Scheduler::ShortestExpectedDelay),
        Arm::IpvsSh => Some(Scheduler::SourceHash),
        _ => None,
    }
}

/// What each server has for each run: connections, and requests.
pub fn look(servers: &mut [Option<Server>], ended: &[Served]) -> Result<Vec<Served>> {
    let each = servers.iter_mut().zip(ended);
    each.map(|(server, ended)| match server {
        Some(server) => server.stats(),
        None => Ok(Served { open: vec![0; ended.open.len()], requests: ended.requests.clone() }),
    })
    .collect()
}
