//! Random Services and slices: for each Service address the agent may send connects to exactly the endpoints that kube-proxy would send them
//! to, and where kube-proxy answers otherwise, or not at all, it leaves them alone.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use balancer_tests::{
    agent::AgentOptions,
    apiserver::{Admin, objects},
    kubeproxy::{self, Mode, Rules, Verdict},
    topology::{Topology, service_v4},
};
use balancer_userspace::model::{Frontend, Protocol};
use serde_json::json;

use crate::{
    cluster::Cluster,
    random::{Labels, World},
    tables::Tables,
};

/// How long both get to take a round in.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many rounds: `BALANCER_TEST_ROUNDS`, or this.
const ROUNDS: u16 = 30;

#[test]
fn nftables() -> Result<()> {
    differential(Mode::Nftables)
}

#[test]
fn iptables() -> Result<()> {
    differential(Mode::Iptables)
}

/// Which labels make kube-proxy overlook an object: those of a Service, and those of a slice.
#[test]
fn labels() -> Result<()> {
    let topology = Topology::new()?;
    let cluster = Cluster::start(&topology, Mode::Nftables, AgentOptions::default())?;
    let tables = Tables::open(cluster.agent.pins())?;
    let by_kind = Labels::of_kube_proxy()? == Labels::ByKind;
    let label = |object: &mut serde_json::Value, name: &str| object["metadata"]["labels"][name] = json!("x");
    for (n, name) in (0..).zip(["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"])
    {
        for (kind, offset) in [("service", 100), ("slice", 110)] {
            // It counts with the agent, or does not with an earlier kube-proxy either.
            let counts = (kind == "service") == name.ends_with("service-proxy-name");
            if !counts && !by_kind {
                continue;
            }
            let address = std::net::IpAddr::from(service_v4(offset + n));
            let mut service = objects::service(&format!("{kind}-{n}"), address, 80);
            let mut slice = objects::slice(&format!("{kind}-{n}"), "a", 8080, &["10.244.9.8".parse()?]);
            label(if kind == "service" { &mut service } else { &mut slice }, name);
            cluster.admin().create(&service)?;
            cluster.admin().create(&slice)?;
        }
    }
    let marker = mark(cluster.admin(), 0)?;
    let mut seen = Seen::default();
    settle(&cluster, &tables, marker, &mut seen)?;
    // A slice's label for headless Services counts, a Service's does not; it is the other way round for other proxies'.
    ensure!(seen.endpoints == if by_kind { 3 } else { 1 }, "{seen:?}: {:?}", cluster.proxy.rules()?);
    Ok(())
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[expect(
    clippy::print_stderr,
    reason = "the seed belongs to the output of a failed test, the figures to that of any"
)]
fn differential(mode: Mode) -> Result<()> {
    let seed = from_environment("BALANCER_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = from_environment("BALANCER_TEST_ROUNDS").unwrap_or(ROUNDS);
    eprintln!("to have it again: BALANCER_TEST_SEED={seed}");
    let topology = Topology::new()?;
    let cluster = Cluster::start(&topology, mode, AgentOptions::default())?;
    let tables = Tables::open(cluster.agent.pins())?;
    let mut world = World::new(seed, Labels::of_kube_proxy()?);
    let mut rng = fastrand::Rng::with_seed(seed ^ 1);
    let begun = Instant::now();
    let mut seen = Seen::default();
    for round in 0..rounds {
        if rng.u8(..5) == 0 {
            let zone = ["zone-a", "zone-b", ""][rng.usize(..3)];
            let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
            cluster.admin().patch(&kubeproxy::node(zone), &labels)?;
        }
        world.round(cluster.admin())?;
        let marker = mark(cluster.admin(), round)?;
        if let Err(error) = settle(&cluster, &tables, marker, &mut seen) {
            let named = |object: &serde_json::Value| {
                let text = format!("{error:#}");
                let addresses = object["spec"]["clusterIPs"].as_array().into_iter().flatten();
                addresses.filter_map(serde_json::Value::as_str).any(|address| text.contains(address))
            };
            let node = cluster.admin().request("GET", "/api/v1/nodes/node-1", None)?;
            bail!(
                "seed {seed}, round {round}, the node has {}: {error:#}\n{}\n{}",
                node["metadata"]["labels"],
                world.yaml(named),
                cluster.proxy.log_end(),
            );
        }
    }
    eprintln!(
        "{rounds} rounds in {:?}: {} requests ({} refused), {seen:?}",
        begun.elapsed(),
        world.accepted,
        world.refused.len()
    );
    ensure!(world.refused.len() * 20 < world.accepted, "too much was refused: {:#?}", world.refused);
    ensure!(seen.endpoints > 100 && seen.rejected > 100 && seen.sticky > 0, "{seen:?}");
    Ok(())
}

/// What was compared.
#[derive(Debug, Default)]
struct Seen {
    endpoints: usize,
    rejected: usize,
    dropped: usize,
    sticky: usize,
}

/// The last change of a round: a Service whose only port has a new number, and then its slice. Whoever has it has all that was
/// written before. Returns what it leads to.
fn mark(admin: &Admin, round: u16) -> Result<(Frontend, Verdict)> {
    let (addr, number) = (service_v4(90).into(), 10_000 + round);
    let mut service = objects::service("marker", addr, number);
    if round > 0 {
        // Written whole, not merged: the old port goes.
        admin.replace(&service)?;
    } else {
        admin.create(&service)?;
    }
    service = objects::slice("marker", "a", number, &["10.244.9.9".parse()?]);
    admin.apply(&service)?;
    let endpoints = BTreeSet::from([std::net::SocketAddr::new("10.244.9.9".parse()?, number)]);
    let frontend = Frontend { addr, port: number, protocol: Protocol::Tcp };
    Ok((frontend, Verdict::Endpoints { endpoints, affinity: None }))
}

/// Waits until kube-proxy has the marker and both agree.
fn settle(
    cluster: &Cluster<'_>,
    tables: &Tables,
    (marker, verdict): (Frontend, Verdict),
    seen: &mut Seen,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (theirs, ours) = (cluster.proxy.rules()?, tables.rules()?);
        let differences = match theirs.get(&marker) {
            Some(reached) if *reached == verdict => differences(&theirs, &ours),
            other => format!("kube-proxy has not come to the last change, {marker}: {other:?}\n"),
        };
        if differences.is_empty() {
            for verdict in theirs.values() {
                match verdict {
                    Verdict::Endpoints { affinity: Some(_), .. } => seen.sticky += 1,
                    Verdict::Endpoints { .. } => seen.endpoints += 1,
                    Verdict::Reject => seen.rejected += 1,
                    Verdict::Drop => seen.dropped += 1,
                }
            }
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("after {PATIENCE:?} they disagree:\n{differences}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn differences(theirs: &Rules, ours: &Rules) -> String {
    let mut text = String::new();
    for frontend in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
        // The API server's own Service is never balanced, and other addresses than clusters' are not either.
        let balanced = is_cluster_address(frontend) && frontend.addr != std::net::IpAddr::from(service_v4(1));
        let wanted =
            theirs.get(frontend).filter(|verdict| balanced && matches!(verdict, Verdict::Endpoints { .. }));
        let found = ours.get(frontend);
        if wanted != found {
            // Writing to a String cannot fail.
            _ = writeln!(text, "{frontend}: kube-proxy {:?}, the agent {found:?}", theirs.get(frontend));
        }
    }
    text
}

fn is_cluster_address(frontend: &Frontend) -> bool {
    match frontend.addr {
        std::net::IpAddr::V4(addr) => addr.octets()[..2] == [10, 96],
        std::net::IpAddr::V6(addr) => addr.segments()[..3] == [0xfd00, 0x10, 0x96],
    }
}
