//! What a connect takes beside kube-proxy's iptables rules, with the express lane and without: with one Service and with
//! many, to a pod's own address and to a Service's through balancer.

use std::{
    net::SocketAddrV4,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use balancer_userspace::{lane, model::Family};
use serde::Serialize;

use super::{
    check_interrupt,
    child::{Acceptor, Dialler},
    datapath::nobody,
    numbers::{Spread, percentile},
    progress,
    rules::{Mode, Service},
    worker::Pause,
};
use crate::{
    agent::{Agent, AgentOptions},
    manifests::ManifestDir,
    topology::{Pod, Topology, service_v4},
};

/// How many Services there are: few, and many.
const SERVICES: [usize; 2] = [1, 5_000];
/// Endpoints of each Service but for the one that is dialled, which has one.
const ENDPOINTS: usize = 4;
/// Where the server listens.
const PORT: u16 = 8080;
/// Connects of one variant before it is the next one's turn.
const BLOCK: usize = 100;
/// How long the lane may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one way of connecting took.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What wrote the rules.
    pub rules: &'static str,
    /// What is dialled.
    pub dialled: &'static str,
    /// Whether the lane was there.
    pub lane: bool,
    /// Half of the connects took less, in nanoseconds, with one Service.
    pub few_ns: Spread,
    /// The same with many.
    pub many_ns: Spread,
    /// The one over the other, in the same round.
    pub growth: Spread,
    /// Connects that failed or were slow.
    pub failed: usize,
}

/// All results.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Rounds measured.
    pub rounds: usize,
    /// Connects of each variant in each round.
    pub connects: usize,
    /// Services that many are.
    pub services: usize,
    /// By rules, destination, and lane.
    pub rows: Vec<Row>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// A node with rules of so many Services, its agent, a client and a server.
struct Site {
    mode: Mode,
    lane: bool,
    many: bool,
    dialler: Dialler,
    _acceptor: Acceptor,
    _pods: [Pod; 2],
    direct: SocketAddrV4,
    service: SocketAddrV4,
}

const DIALLED: [&str; 2] = ["a pod", "a Service, through balancer"];

/// Measures.
///
/// # Errors
/// When a node cannot be set up, its lane is not there, or most of its connects fail.
pub fn measure(rounds: usize, connects: usize) -> Result<Results> {
    let modes = [Mode::IptablesNft, Mode::IptablesLegacy];
    let mut missing = Vec::new();
    let probe = Topology::new()?;
    let modes: Vec<Mode> = modes
        .into_iter()
        .filter(|mode| match mode.available(probe.host().netns()) {
            Ok(()) => true,
            Err(why) => {
                missing.push(format!("{}: {why}", mode.name()));
                false
            }
        })
        .collect();
    drop(probe);
    let manifests = SERVICES.map(|count| write(count).map(|dir| (count, dir)));
    let manifests = manifests.into_iter().collect::<Result<Vec<_>>>()?;
    let wanted: Vec<(Mode, usize, bool)> = modes
        .iter()
        .flat_map(|mode| (0..SERVICES.len()).flat_map(|size| [(*mode, size, false), (*mode, size, true)]))
        .collect();
    let topologies = wanted.iter().map(|_| Topology::new()).collect::<Result<Vec<_>>>()?;
    let mut sites = Vec::new();
    let mut agents = Vec::new();
    for (topology, (mode, size, lane)) in topologies.iter().zip(wanted) {
        check_interrupt()?;
        let (count, manifests) = &manifests[size];
        progress(&format!(
            "{} with {count} Services, {} lane",
            mode.name(),
            if lane { "with the" } else { "without a" }
        ));
        let (site, agent) = set_up(topology, manifests, mode, *count, lane)?;
        sites.push(site);
        agents.push(agent);
    }
    let mut samples: Vec<Vec<Sample>> = sites.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        progress(&format!("connects beside iptables, round {round} of {rounds}"));
        let mut now: Vec<Sample> = sites.iter().map(|_| Sample::default()).collect();
        for block in 0..connects / BLOCK {
            for turn in 0..sites.len() {
                check_interrupt()?;
                let index = (turn + block + round) % sites.len();
                now[index].add(&mut sites[index])?;
            }
        }
        // The first round fills caches and neighbour tables.
        if round > 0 {
            for (samples, mut sample) in samples.iter_mut().zip(now) {
                sample.took.iter_mut().for_each(|took| took.sort_unstable());
                samples.push(sample);
            }
        }
    }
    let rows = rows(&sites, &samples);
    drop(agents);
    Ok(Results { rounds, connects, services: SERVICES[1], rows, missing })
}

/// The endpoints of a Service; the one in the middle is dialled.
fn endpoints(index: usize, count: usize) -> Option<Vec<SocketAddrV4>> {
    (index != count / 2).then(|| (0..ENDPOINTS).map(|n| nobody((index * ENDPOINTS + n) as u32)).collect())
}

fn address(index: usize) -> SocketAddrV4 {
    SocketAddrV4::new(service_v4(1 + index as u16), 80)
}

/// Services in manifests, all but for the endpoint of the one that is dialled.
fn write(count: usize) -> Result<ManifestDir> {
    let manifests = ManifestDir::new()?;
    for index in 0..count {
        let name = format!("bench/service-{index}");
        manifests.service(&name).cluster_ip(*address(index).ip()).port(80).write()?;
        let endpoints = endpoints(index, count).unwrap_or_else(|| vec![server()]);
        let port = endpoints[0].port();
        manifests.addresses(&name, port, endpoints.iter().map(|endpoint| (*endpoint.ip()).into()))?;
    }
    Ok(manifests)
}

/// The server's address: that of the second pod of every topology.
fn server() -> SocketAddrV4 {
    SocketAddrV4::new([10, 244, 0, 3].into(), PORT)
}

fn set_up<'t>(
    topology: &'t Topology,
    manifests: &ManifestDir,
    mode: Mode,
    count: usize,
    lane: bool,
) -> Result<(Site, Agent<'t>)> {
    let (client, pod) = (topology.pod("client")?, topology.pod("server")?);
    ensure!(pod.addresses().v4 == *server().ip(), "the server is at {:?}", pod.addresses());
    let acceptor = Acceptor::start(&pod, &[PORT])?;
    let services: Vec<Service> = (0..count)
        .map(|index| Service {
            address: address(index),
            endpoints: endpoints(index, count).unwrap_or_else(|| vec![server()]),
        })
        .collect();
    mode.install(topology.host().netns(), &services)?;
    client.route_services_to_node()?;
    let arguments = if lane { vec!["--express-lane".to_owned()] } else { Vec::new() };
    let agent = Agent::with(topology, manifests, AgentOptions { arguments, ..AgentOptions::default() })?;
    let expected = if lane { (count - 1) * ENDPOINTS + 1 } else { 0 };
    await_lane(topology, &agent, expected)?;
    let dialler = Dialler::start(&client)?;
    let site = Site {
        mode,
        lane,
        many: count > 1,
        dialler,
        _acceptor: acceptor,
        _pods: [client, pod],
        direct: server(),
        service: address(count / 2),
    };
    Ok((site, agent))
}

/// Waits until the lane holds so many endpoints; makes sure that there is none where there should be none.
fn await_lane(topology: &Topology, agent: &Agent<'_>, expected: usize) -> Result<()> {
    let pins = agent.pins();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = topology.host().netns().run(|| lane::read(pins, Family::V4))??;
        match &found {
            None if expected == 0 => return Ok(()),
            Some(found) if found.alive && found.endpoints.len() == expected => return Ok(()),
            _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            _ => bail!(
                "the lane holds {:?} endpoints, and should hold {expected}; the agent's log:\n{}",
                found.map(|found| found.endpoints.len()),
                agent.log()
            ),
        }
    }
}

/// A site in a round: to a pod, and to a Service.
#[derive(Default)]
struct Sample {
    took: [Vec<u64>; 2],
    failed: [usize; 2],
}

impl Sample {
    fn add(&mut self, site: &mut Site) -> Result<()> {
        for (index, to) in [site.direct, site.service].into_iter().enumerate() {
            let answer = site.dialler.tcp(&[to], BLOCK, Pause::ServerSleeps)?;
            ensure!(
                answer.failed.len() * 2 < BLOCK,
                "{}: {} of {BLOCK} connects to {to} failed, among them {:?}",
                site.mode.name(),
                answer.failed.len(),
                answer.failed.first()
            );
            self.failed[index] += answer.failed.len() + answer.slow;
            self.took[index].extend(answer.connect_ns);
        }
        Ok(())
    }
}

fn rows(sites: &[Site], samples: &[Vec<Sample>]) -> Vec<Row> {
    let find = |mode: Mode, lane: bool, many: bool| {
        sites.iter().position(|site| (site.mode, site.lane, site.many) == (mode, lane, many))
    };
    let mut rows = Vec::new();
    for site in sites.iter().filter(|site| site.many) {
        let (mode, lane) = (site.mode, site.lane);
        let (Some(few), Some(many)) = (find(mode, lane, false), find(mode, lane, true)) else { continue };
        for (index, dialled) in DIALLED.into_iter().enumerate() {
            let p50 = |site: usize| -> Vec<f64> {
                samples[site].iter().map(|sample| percentile(&sample.took[index], 0.5)).collect()
            };
            let failed = samples[few].iter().chain(&samples[many]).map(|sample| sample.failed[index]).sum();
            rows.push(Row {
                rules: mode.name(),
                dialled,
                lane,
                few_ns: Spread::of(p50(few)),
                many_ns: Spread::of(p50(many)),
                growth: Spread::of_ratios(&p50(many), &p50(few)),
                failed,
            });
        }
    }
    rows
}
