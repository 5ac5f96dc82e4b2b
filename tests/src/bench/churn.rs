//! Connects while everything changes: none may fail, none may be slow.
//!
//! Behind the balancer there is nothing else: a connect that is not translated finds no route and fails.
//! Every endpoint that any version of a manifest names has a server.

use std::{
    net::{IpAddr, SocketAddrV4},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use balancer_userspace::{
    datapath::{Access, Maps, Pins},
    model::Protocol,
};
use serde::Serialize;

use super::{
    check_interrupt,
    child::{Acceptor, Dialler},
    datapath::nobody,
    progress,
    worker::Pause,
};
use crate::{
    agent::{Agent, AgentOptions},
    manifests::{Endpoint, ManifestDir},
    topology::{Pod, Topology, service_v4},
};

/// Services that are dialled.
const DIALLED: usize = 8;

/// Services that come and go beside them.
const OTHERS: usize = 200;

/// Servers.
const SERVERS: usize = 4;

/// Ports that each server listens on.
const PORTS: u16 = 4;

/// Connects between two looks at whether it is enough.
const BATCH: usize = 1_000;

/// How long closed sockets get to be counted.
const SETTLE: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was going on meanwhile.
    pub disturbance: &'static str,
    /// Connects made.
    pub connects: usize,
    /// Manifests written or removed meanwhile.
    pub changes: usize,
    /// Times that the agent was ended and started again.
    pub restarts: usize,
    /// Connects that failed.
    pub failed: usize,
    /// Connects that took more than 100 ms, or failed only then.
    pub slow: usize,
    /// The slowest that succeeded, in milliseconds.
    pub slowest_ms: f64,
    /// What the kernel said of those that failed, the first few.
    pub errors: Vec<String>,
}

/// All results.
#[derive(Debug, Serialize)]
pub struct Results {
    /// By disturbance.
    pub rows: Vec<Row>,
    /// Once all sockets are closed: what the counters of all backends still hold as active.
    pub active: u64,
    /// Of all backends, what was opened less what was closed.
    pub unclosed: i128,
    /// Of all backends, what was opened.
    pub opened: u64,
}

/// Measures.
///
/// # Errors
/// When the agent does not start. That connects fail is a result and no error.
pub fn measure(connects: usize, restarts: usize) -> Result<Results> {
    let topology = Topology::new()?;
    let client = topology.pod("client")?;
    let servers = topology.pods("server", SERVERS)?;
    let ports: Vec<u16> = (8080..8080 + PORTS).collect();
    let _acceptors =
        servers.iter().map(|server| Acceptor::start(server, &ports)).collect::<Result<Vec<_>>>()?;
    let manifests = ManifestDir::new()?;
    let mut chaos = Chaos { manifests: &manifests, servers: &servers, random: 0x9e37_79b9_7f4a_7c15 };
    for index in 0..DIALLED {
        manifests.service(&dialled(index)).cluster_ip(vip(index)).port(80).write()?;
        chaos.move_service(index)?;
    }
    let mut agent = Agent::with(&topology, &manifests, AgentOptions::default())?;
    let mut dialler = Dialler::start(&client)?;
    let to: Vec<SocketAddrV4> = (0..DIALLED).map(|index| SocketAddrV4::new(vip(index), 80)).collect();

    let changes = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let (first, second) = thread::scope(|scope| -> Result<_> {
        let changing = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                chaos.change()?;
                changes.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let result = (|| -> Result<_> {
            progress(&format!("{connects} connects while Services and endpoints change"));
            let mut first = Row::new("Services and endpoints change");
            while first.connects < connects {
                ensure!(!changing.is_finished(), "the manifests cannot be changed any more");
                first.dial(&mut dialler, &to)?;
            }
            first.changes = changes.swap(0, Ordering::Relaxed);
            progress(&format!("connects while the agent is restarted {restarts} times"));
            let ended = AtomicBool::new(false);
            let mut second = Row::new("the same, and the agent is killed or stopped, and started again");
            second.restarts = restarts;
            thread::scope(|scope| -> Result<()> {
                let restarting = scope.spawn(|| {
                    let result = restart(&mut agent, restarts);
                    ended.store(true, Ordering::Relaxed);
                    result
                });
                let dialled = (|| -> Result<()> {
                    while !ended.load(Ordering::Relaxed) {
                        second.dial(&mut dialler, &to)?;
                    }
                    Ok(())
                })();
                restarting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                dialled
            })?;
            second.changes = changes.swap(0, Ordering::Relaxed);
            Ok((first, second))
        })();
        over.store(true, Ordering::Relaxed);
        changing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        result
    })?;
    let maps = Maps::open(&Pins::new(agent.pins()), Access::Read)?;
    let (active, opened, closed) = settled(&maps);
    let unclosed = i128::from(opened) - i128::from(closed);
    Ok(Results { rows: vec![first, second], active, unclosed, opened })
}

impl Row {
    const fn new(disturbance: &'static str) -> Self {
        Self {
            disturbance,
            connects: 0,
            changes: 0,
            restarts: 0,
            failed: 0,
            slow: 0,
            slowest_ms: 0.0,
            errors: Vec::new(),
        }
    }

    fn dial(&mut self, dialler: &mut Dialler, to: &[SocketAddrV4]) -> Result<()> {
        check_interrupt()?;
        let answer = dialler.tcp(to, BATCH, Pause::None)?;
        self.connects += BATCH;
        self.failed += answer.failed.len();
        self.slow += answer.slow;
        let slowest = answer.connect_ns.iter().copied().max().unwrap_or(0) as f64 / 1e6;
        self.slowest_ms = self.slowest_ms.max(slowest);
        let room = 5_usize.saturating_sub(self.errors.len());
        self.errors.extend(answer.failed.into_iter().take(room));
        Ok(())
    }
}

/// Ends the agent, by SIGKILL and by SIGTERM in turn, and starts it again.
fn restart(agent: &mut Agent<'_>, times: usize) -> Result<()> {
    for turn in 0..times {
        if turn % 2 == 0 {
            agent.kill()?;
        } else {
            agent.terminate()?;
        }
        agent.spawn()?;
        agent.wait_ready().with_context(|| format!("restart {turn}"))?;
    }
    Ok(())
}

/// Sums over all backends once nothing is active, or after [`SETTLE`]: active, opened, closed.
fn settled(maps: &Maps) -> (u64, u64, u64) {
    let deadline = Instant::now() + SETTLE;
    loop {
        let sums = maps.backend_stats.iter().fold((0_u64, 0_u64, 0_u64), |sums, (_, stats)| {
            (
                sums.0.wrapping_add(stats.active),
                sums.1.wrapping_add(stats.opened),
                sums.2.wrapping_add(stats.closed),
            )
        });
        if sums.0 == 0 || Instant::now() > deadline {
            return sums;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn dialled(index: usize) -> String {
    format!("bench/dialled-{index}")
}

fn vip(index: usize) -> std::net::Ipv4Addr {
    service_v4(1 + index as u16)
}

/// Whoever changes manifests.
struct Chaos<'a> {
    manifests: &'a ManifestDir,
    servers: &'a [Pod],
    random: u64,
}

impl Chaos<'_> {
    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % end
    }

    fn change(&mut self) -> Result<()> {
        match self.below(4) {
            0 | 1 => {
                let index = self.below(DIALLED);
                self.move_service(index)
            }
            2 => self.other_comes(),
            _ => self.other_goes(),
        }
    }

    /// Gives a dialled Service another port, and some of the servers: at least one.
    fn move_service(&mut self, index: usize) -> Result<()> {
        let port = 8080 + self.below(usize::from(PORTS)) as u16;
        let some = 1 + self.below((1 << SERVERS) - 1);
        let slice = self.manifests.slice(&dialled(index)).port("", Protocol::Tcp, port);
        let chosen = self.servers.iter().enumerate().filter(|(n, _)| some & (1 << n) != 0);
        let endpoints = chosen.map(|(_, pod)| Endpoint::ready(pod.addresses().v4).pod(pod.name()));
        endpoints.fold(slice, crate::manifests::Slice::endpoint).write()
    }

    fn other_comes(&mut self) -> Result<()> {
        let index = self.below(OTHERS);
        let name = format!("bench/other-{index}");
        let addr = service_v4(1000 + index as u16);
        self.manifests.service(&name).cluster_ip(addr).port(80).write()?;
        let count = 1 + self.below(8) as u32;
        let first = self.below(10_000) as u32;
        let endpoints = (first..first + count).map(|n| IpAddr::V4(*nobody(n).ip()));
        self.manifests.addresses(&name, 8080, endpoints)
    }

    fn other_goes(&mut self) -> Result<()> {
        let name = format!("bench/other-{}", self.below(OTHERS));
        self.manifests.remove_service(&name)?;
        self.manifests.remove_slices(&name)
    }
}
