//! What the agent takes for connections that are open: while they are watched, and while they are evened out.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{check_interrupt, progress};
use crate::{
    agent::{Agent, AgentOptions, Usage},
    manifests::ManifestDir,
    peer::{Client, Server},
    topology::{Topology, service_v4},
};

/// Backends at first, and after more have come.
const BEFORE: usize = 4;
const AFTER: usize = 8;
/// Processes that hold the connections.
const CLIENTS: usize = 5;
/// Requests on each connection, so that it may be moved.
const REQUESTS: usize = 5;
/// From the change of endpoints to the first move.
const STABLE: Duration = Duration::from_secs(11);

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Connections that are held.
    pub connections: u64,
    /// How long each state was looked at, in seconds.
    pub seconds: f64,
    /// Processors that the agent took while connections were only watched (`rebalance: dry-run`).
    pub watching_cores: f64,
    /// The same while they were moved (`rebalance: idle`, 5% in ten seconds).
    pub moving_cores: f64,
    /// Connections that were moved meanwhile.
    pub moved: u64,
    /// Resident memory of the agent at the end, in MiB.
    pub rss_mib: f64,
}

/// Measures with so many connections, each state for so long.
///
/// # Errors
/// When connections cannot be held, or the agent fails.
pub fn measure(connections: u64, time: Duration) -> Result<Outcome> {
    progress(&format!("{connections} open connections"));
    let topology = Topology::new()?;
    let manifests = ManifestDir::new()?;
    let pods = topology.pods("web", AFTER)?;
    let _servers: Vec<Server> = pods.iter().map(|pod| pod.server(8080)).collect::<Result<_>>()?;
    let service = |mode: &str| {
        manifests
            .service("bench/web")
            .cluster_ip(service_v4(1))
            .port(80)
            .annotation("balancer.dev/rebalance", mode)
            .annotation("balancer.dev/rebalance-trust", "immediate")
            .annotation("balancer.dev/rebalance-min-age", "0s")
            .write()
    };
    let backends = |count: usize| manifests.backends("bench/web", 8080, &pods[..count]);
    service("dry-run")?;
    backends(BEFORE)?;
    let mut agent = Agent::with(&topology, &manifests, AgentOptions::default())?;
    let vip = (service_v4(1), 80).into();
    let clients: Vec<_> = topology.pods("client", CLIENTS)?;
    let clients: Vec<Client> = clients.iter().map(|pod| pod.client()).collect::<Result<_>>()?;
    for client in &clients {
        let held = client.hold(connections / CLIENTS as u64, vip)?;
        ensure!(held.failures.is_empty(), "{held:?}");
        for _ in 0..REQUESTS {
            check_interrupt()?;
            client.ask_held()?;
        }
    }
    let pid = agent.process()?.id();
    let cores = |time: Duration| -> Result<f64> {
        let (begun, before) = (Instant::now(), Usage::of(pid)?);
        thread::sleep(time);
        check_interrupt()?;
        Ok((Usage::of(pid)?.cpu - before.cpu).as_secs_f64() / begun.elapsed().as_secs_f64())
    };
    let watching_cores = cores(time)?;
    service("idle")?;
    backends(AFTER)?;
    thread::sleep(STABLE);
    let moving_cores = cores(time)?;
    let status = agent.json(["rebalance", "status", "-n", "bench"])?;
    let moved = status["items"][0]["lifecycle"]["moved"].as_u64().unwrap_or_default();
    Ok(Outcome {
        connections,
        seconds: time.as_secs_f64(),
        watching_cores,
        moving_cores,
        moved,
        rss_mib: Usage::of(pid)?.rss as f64 / f64::from(1 << 20),
    })
}
