//! What a run of `connect4` costs, by the kernel's own statistics, beside programs that do the least that
//! the same work takes.
//!
//! One link, one client, one set of maps: between measurements the program behind the link is replaced,
//! and nothing else. An empty program is measured with them; what it "costs" is the kernel's reading of
//! the clock, and is taken off all others.

mod results;
mod swap;

use std::{net::SocketAddrV4, ops::Range, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use balancer_common::abi::{TCP, UDP};

pub use self::results::{Growth, Results, Row, Share};
use self::{
    results::Samples,
    swap::{EMPTY, PROGRAMS, REAL, Swap},
};
use super::{
    check_interrupt,
    child::{Acceptor, Dialler},
    datapath::{Datapath, nobody},
    progress,
    worker::Pause,
};
use crate::topology::{Pod, Topology, ip_batch, service_v4};

/// Backends of a small Service, all of which are compared.
const FEW: u32 = 10;

/// Backends of a large Service, of which a window is compared.
const MANY: u32 = 100_000;

/// Ports that the server listens on.
const PORTS: u16 = FEW as u16;

/// Addresses of the server, so that a large Service has backends that are all different and all answer.
const SERVED: &str = "10.244.128.0/17";

/// How many those are.
const SERVED_COUNT: u32 = 1 << 15;

const UDP_ALL: &str = "UDP, 10 backends, all compared";
const UDP_MANY: &str = "UDP, 100,000 backends";
const UDP_COLD_ALL: &str = "UDP, cold caches, 10 backends, all compared";
const UDP_COLD_MANY: &str = "UDP, cold caches, 100,000 backends";
const TCP_ALL: &str = "TCP, 10 backends, all compared";
const TCP_MANY: &str = "TCP, 100,000 backends";

/// What is compared with what: a name, 100,000 backends, 10 backends.
const GROWTH: [(&str, &str, &str); 3] = [
    ("TCP", TCP_MANY, TCP_ALL),
    ("UDP", UDP_MANY, UDP_ALL),
    ("UDP, cold caches", UDP_COLD_MANY, UDP_COLD_ALL),
];

/// The scenarios in which all work of a choice among 10 backends is done.
pub const FULL_SCANS: [&str; 2] = [TCP_ALL, UDP_ALL];

/// A destination and a state of tables and caches.
struct Scenario {
    name: &'static str,
    protocol: u8,
    pause: Pause,
    to: SocketAddrV4,
    /// Backends, and the open connections that they seem to have before the measurement.
    preload: Option<(Range<u32>, u64)>,
}

impl Scenario {
    fn is_cold(&self) -> bool {
        self.pause == Pause::ColdCaches
    }

    /// Cold ones take a millisecond each.
    fn connects(&self, runs: usize) -> usize {
        if self.is_cold() { runs / 10 } else { runs }
    }
}

/// Measures in so many rounds, with so many connects in each for each program and scenario.
///
/// # Errors
/// When a program does not run as often as connects were made: then something else was measured.
pub fn measure(minimal_object: &Path, rounds: usize, runs: usize) -> Result<Results> {
    progress("setting up a Service of 10 and one of 100,000 backends");
    let topology = Topology::new()?;
    let (client, server) = (topology.pod("client")?, topology.pod("server")?);
    serve_many(&topology, &server)?;
    let ports: Vec<u16> = (8080..8080 + PORTS).collect();
    let _acceptor = Acceptor::start(&server, &ports)?;
    let mut dialler = Dialler::start(&client)?;
    let mut datapath = Datapath::attach(client.cgroup().path(), 8, 2 * MANY + 4 * FEW)?;
    let scenarios = scenarios(&mut datapath, &server)?;
    let mut swap = Swap::new(datapath, minimal_object)?;

    let _stats = enable_stats(Stats::RunTime).context("the kernel's statistics of programs")?;
    let mut samples = Samples::new(scenarios.len());
    for round in 0..=rounds {
        progress(&format!("program runs, round {round} of {rounds}"));
        // Where a program lies in memory, and beside what, can make tens of nanoseconds: each round has
        // all of them elsewhere.
        swap.reload()?;
        for turn in 0..PROGRAMS.len() {
            let program = (turn + round) % PROGRAMS.len();
            swap.put(PROGRAMS[program])?;
            for turn in 0..scenarios.len() {
                check_interrupt()?;
                let number = (turn + round) % scenarios.len();
                let scenario = &scenarios[number];
                // By TCP nobody reaches a Service with a program that leaves the address alone.
                if PROGRAMS[program] == EMPTY && scenario.protocol == TCP {
                    continue;
                }
                let before = swap.all_counts()?;
                let mean = run(&mut swap, PROGRAMS[program], scenario, runs, &mut dialler)?;
                // The first round warms caches up.
                if round == 0 {
                    continue;
                }
                samples.add(program, number, mean);
                if PROGRAMS[program] == REAL && scenario.protocol == TCP {
                    samples.add_shares(scenario.name, runs, &before, &swap.all_counts()?);
                }
            }
        }
    }
    Ok(samples.evaluate(&scenarios, rounds, runs))
}

/// Gives the server [`SERVED`], all of it.
fn serve_many(topology: &Topology, server: &Pod) -> Result<()> {
    ip_batch(Some(server.netns()), &[format!("route add local {SERVED} dev lo")])?;
    ip_batch(Some(topology.host().netns()), &[format!("route add {SERVED} via {}", server.addresses().v4)])
}

/// The `n`th of the addresses and ports that answer.
fn served(n: u32) -> SocketAddrV4 {
    let [_, _, high, low] = (SERVED_COUNT + n % SERVED_COUNT).to_be_bytes();
    SocketAddrV4::new([10, 244, high, low].into(), 8080 + (n / SERVED_COUNT) as u16)
}

fn scenarios(datapath: &mut Datapath, server: &Pod) -> Result<[Scenario; 12]> {
    let vip = |n| SocketAddrV4::new(service_v4(n), 80);
    let udp_few = datapath.service(UDP, vip(1), (0..FEW).map(nobody))?;
    let tcp_few = datapath.service(TCP, vip(1), (0..FEW).map(served))?;
    let udp_many = datapath.service(UDP, vip(2), (0..MANY).map(nobody))?;
    let tcp_many = datapath.service(TCP, vip(2), (0..MANY).map(served))?;
    let direct = SocketAddrV4::new(server.addresses().v4, 8080);
    let scenario = |name, protocol, pause, to, preload| Scenario { name, protocol, pause, to, preload };
    let (warm, cold) = (Pause::None, Pause::ColdCaches);
    // With one connection each, no backend ends the search early; with none, the first one does.
    let loaded = |backends: &Range<u32>| Some((backends.clone(), 1));
    let idle = |backends: &Range<u32>| Some((backends.clone(), 0));
    Ok([
        scenario(TCP_ALL, TCP, warm, vip(1), loaded(&tcp_few)),
        scenario("TCP, 10 backends, first one idle", TCP, warm, vip(1), idle(&tcp_few)),
        scenario(TCP_MANY, TCP, warm, vip(2), loaded(&tcp_many)),
        scenario("TCP, not a Service", TCP, warm, direct, None),
        scenario(UDP_ALL, UDP, warm, vip(1), loaded(&udp_few)),
        scenario("UDP, 10 backends, first one idle", UDP, warm, vip(1), idle(&udp_few)),
        scenario(UDP_MANY, UDP, warm, vip(2), loaded(&udp_many)),
        scenario("UDP, not a Service", UDP, warm, nobody(1), None),
        scenario(UDP_COLD_ALL, UDP, cold, vip(1), loaded(&udp_few)),
        scenario("UDP, cold caches, 10 backends, first one idle", UDP, cold, vip(1), idle(&udp_few)),
        scenario(UDP_COLD_MANY, UDP, cold, vip(2), loaded(&udp_many)),
        scenario("UDP, cold caches, not a Service", UDP, cold, nobody(1), None),
    ])
}

/// Nanoseconds for a run of the program that is attached, as the kernel counts them.
fn run(
    swap: &mut Swap<'_>,
    name: &str,
    scenario: &Scenario,
    runs: usize,
    dialler: &mut Dialler,
) -> Result<f64> {
    if let Some((backends, active)) = &scenario.preload {
        swap.datapath.preload(backends.clone(), *active);
    }
    let connects = scenario.connects(runs);
    let (runs_before, time_before) = swap.counts(name)?;
    let answer = match scenario.protocol {
        TCP => dialler.tcp(&[scenario.to], connects, scenario.pause)?,
        _ => dialler.udp(&[scenario.to], connects, scenario.pause)?,
    };
    let (runs_after, time_after) = swap.counts(name)?;
    let counted = runs_after - runs_before;
    ensure!(
        counted == connects as u64,
        "{name} ran {counted} times in {connects} connects: this kernel does not count as expected"
    );
    // Nobody translates: there is no route to a Service.
    let may_fail = name == EMPTY && scenario.preload.is_some();
    ensure!(may_fail || answer.failed.is_empty(), "{name}, {}: {:?}", scenario.name, answer.failed.first());
    Ok((time_after - time_before).as_nanos() as f64 / counted as f64)
}
