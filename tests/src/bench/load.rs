//! An agent at an API server where many slices change all the time: what it loses, how late it is, what it costs.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use balancer_common::{
    abi::{FrontendKey, TCP},
    addr::PortBe,
};
use balancer_userspace::datapath::{Access, Maps, Pins};
use serde::Serialize;

use super::{
    check_interrupt,
    numbers::{Spread, percentile},
    progress, room_for,
};
use crate::{
    agent::{Agent, Usage},
    apiserver::{
        AGENT_ACCOUNT, AGENT_NAMESPACE, ApiServer as _, FakeServer, kubeconfig::Credential, objects,
        rbac_file,
    },
    topology::{Topology, service_v4},
};

/// Endpoints of each Service.
const ENDPOINTS: u16 = 4;

/// Every so many Services one whose changes are timed, and which nobody else changes.
const TIMED_EVERY: u16 = 50;

/// Between two timed changes.
const PAUSE: Duration = Duration::from_millis(40);

/// How often the map is looked at: what the measurement adds at most.
const LOOK: Duration = Duration::from_micros(200);

/// Parts of the time whose figures are compared.
const PARTS: u32 = 5;

/// A change that takes longer is lost.
const LOST: Duration = Duration::from_secs(20);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Services, of four endpoints each.
    pub services: u16,
    /// Changes of a slice per second.
    pub per_second: u32,
    /// For how long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Services.
    pub services: u16,
    /// Endpoints of all of them.
    pub endpoints: u32,
    /// Changes per second that were made.
    pub changes_per_second: f64,
    /// From before a slice is written to when the kernel's map shows it: half took less, in milliseconds.
    pub median_ms: f64,
    /// 99 in a hundred took less.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// Changes that were timed.
    pub timed: usize,
    /// From the start of the process to readiness, in milliseconds.
    pub ready_ms: f64,
    /// Processor time of the agent per second.
    pub cores: f64,
    /// Processor time of the agent for a change, in microseconds: of `PARTS` parts of the time.
    pub cpu_us_per_change: Spread,
    /// Most resident memory of the agent, in MiB.
    pub rss_mib: f64,
    /// From the last change to tables that hold the last objects, in milliseconds.
    pub settled_ms: f64,
}

/// Measures it.
///
/// # Errors
/// When the agent loses a change, or its tables are not those of the last objects in the end.
pub fn measure(load: Load) -> Result<Outcome> {
    progress(&format!("{} changes a second at {} Services", load.per_second, load.services));
    let topology = Topology::new()?;
    let server = FakeServer::start(&topology)?;
    let config = populate(&server, load.services)?;
    let begun = Instant::now();
    let options = room_for(load.services.into());
    let mut agent = Agent::of_cluster(&topology, &config, options)?;
    agent.spawn()?;
    agent.wait_ready()?;
    let ready_ms = milliseconds(begun.elapsed());
    let maps = Maps::open(&Pins::new(agent.pins()), Access::Read)?;
    let pid = agent.process()?.id();
    let before = Usage::of(pid)?;
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let (mut versions, times, timed_versions, (mut rss, cores)) = thread::scope(|scope| -> Result<_> {
        let timed = scope.spawn(|| time(&server, &maps, load.services, &over));
        let memory = scope.spawn(|| watch(pid, load.duration, &over));
        let changed = change(&server, load);
        over.store(true, Ordering::Relaxed);
        let join = "a thread panicked";
        let (times, timed_versions) = timed.join().ok().context(join)??;
        Ok((changed?, times, timed_versions, memory.join().ok().context(join)?))
    })?;
    let lasted = begun.elapsed();
    let after = Usage::of(pid)?;
    let changes: u32 = versions.iter().sum::<u32>() + timed_versions.iter().sum::<u32>();
    for (index, version) in timed_versions.iter().enumerate().filter(|(_, version)| **version > 0) {
        versions[index] = *version;
    }
    let begun = Instant::now();
    let mut wrong = (0..load.services).collect::<Vec<_>>();
    while !wrong.is_empty() {
        wrong.retain(|&index| {
            backends(&maps, index).ok() != Some(endpoints(index, versions[usize::from(index)]))
        });
        ensure!(
            begun.elapsed() < LOST,
            "{} Services are wrong in the end, such as {:?}",
            wrong.len(),
            wrong.first()
        );
    }
    let settled_ms = milliseconds(begun.elapsed());
    rss = rss.max(Usage::of(pid)?.rss);
    let changes_per_second = f64::from(changes) / lasted.as_secs_f64();
    let mut times = times;
    times.sort_unstable();
    let at = |share| percentile(&times, share) / 1e6;
    Ok(Outcome {
        services: load.services,
        endpoints: u32::from(load.services) * u32::from(ENDPOINTS),
        changes_per_second,
        median_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        timed: times.len(),
        ready_ms,
        cores: (after.cpu - before.cpu).as_secs_f64() / lasted.as_secs_f64(),
        cpu_us_per_change: Spread::of(cores.iter().map(|cores| cores / changes_per_second * 1e6)),
        rss_mib: rss as f64 / 1024.0 / 1024.0,
        settled_ms,
    })
}

/// Objects, and a kubeconfig for the agent.
fn populate(server: &FakeServer<'_>, services: u16) -> Result<std::path::PathBuf> {
    let admin = server.admin();
    for name in [AGENT_NAMESPACE, objects::NAMESPACE] {
        admin.create(&objects::namespace(name))?;
    }
    admin.create(&objects::node("node-1", "zone-a"))?;
    admin.create_yaml(&rbac_file())?;
    let token = admin.token(AGENT_NAMESPACE, AGENT_ACCOUNT)?;
    let config = server.dir().join("kubeconfig");
    fs::write(&config, server.kubeconfig(&Credential::Token(&token)).to_string())?;
    for index in 0..services {
        server.put("services", objects::service(&name(index), vip(index).into(), 80));
        write(server, index, 0);
    }
    Ok(config)
}

/// Changes slices at an even pace; how often each was changed.
fn change(server: &FakeServer<'_>, load: Load) -> Result<Vec<u32>> {
    let mut versions = vec![0; usize::from(load.services)];
    let begun = Instant::now();
    let total = (load.duration.as_secs_f64() * f64::from(load.per_second)) as u32;
    for change in 0..total {
        // Services far from each other, each with another revision whenever it is its turn.
        let index = (u64::from(change) * 7919 % u64::from(load.services)) as u16;
        let at = begun + Duration::from_secs(1) / load.per_second * change;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        check_interrupt()?;
        if !index.is_multiple_of(TIMED_EVERY) {
            versions[usize::from(index)] += 1;
            write(server, index, versions[usize::from(index)]);
        }
    }
    Ok(versions)
}

/// Changes slices one after the other and waits for each to show: nanoseconds, and how often each was changed.
fn time(
    server: &FakeServer<'_>,
    maps: &Maps,
    services: u16,
    over: &AtomicBool,
) -> Result<(Vec<u64>, Vec<u32>)> {
    let (mut times, mut versions) = (Vec::new(), vec![0; usize::from(services)]);
    for index in (0..services).step_by(usize::from(TIMED_EVERY)).cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PAUSE);
        let version = &mut versions[usize::from(index)];
        *version += 1;
        let wanted = endpoints(index, *version);
        let begun = Instant::now();
        write(server, index, *version);
        while backends(maps, index)? != wanted {
            if begun.elapsed() > LOST {
                bail!("change {version} of Service {index} is not in the kernel after {LOST:?}");
            }
            thread::sleep(LOOK);
        }
        times.push(begun.elapsed().as_nanos() as u64);
    }
    Ok((times, versions))
}

/// Looks at the agent until it is over: the most memory that it had, and processors that it took, by part of the time.
fn watch(pid: u32, duration: Duration, over: &AtomicBool) -> (u64, Vec<f64>) {
    let (mut most, mut cores) = (0, Vec::new());
    let (mut begun, mut before) = (Instant::now(), Usage::of(pid).ok());
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(100));
        let now = Usage::of(pid).ok();
        most = now.as_ref().map_or(most, |usage| most.max(usage.rss));
        let passed = begun.elapsed();
        if let (Some(then), Some(now)) = (&before, &now)
            && passed >= duration / PARTS
        {
            cores.push((now.cpu.saturating_sub(then.cpu)).as_secs_f64() / passed.as_secs_f64());
            (begun, before) = (Instant::now(), Usage::of(pid).ok());
        }
    }
    (most, cores)
}

fn write(server: &FakeServer<'_>, index: u16, version: u32) {
    let addresses: Vec<IpAddr> = endpoints(index, version).into_iter().collect();
    server.put("endpointslices.discovery.k8s.io", objects::slice(&name(index), "a", 8080, &addresses));
}

fn name(index: u16) -> String {
    format!("service-{index}")
}

fn vip(index: u16) -> Ipv4Addr {
    service_v4(1 + index)
}

/// The endpoints of a Service: the first is another one in each version.
fn endpoints(index: u16, version: u32) -> BTreeSet<IpAddr> {
    let [high, low] = index.to_be_bytes();
    (0..ENDPOINTS)
        .map(|n| {
            let first = if n == 0 { 20 + (version % 100) as u8 } else { 11 + n as u8 };
            IpAddr::V4(Ipv4Addr::new(first, 200, high, low))
        })
        .collect()
}

/// Where the kernel's tables lead a Service.
fn backends(maps: &Maps, index: u16) -> Result<BTreeSet<IpAddr>> {
    let address = SocketAddr::V4(SocketAddrV4::new(vip(index), 80));
    let key = FrontendKey::new(address.ip().into(), PortBe::from_host(address.port()), TCP);
    let id = maps.frontend(&key)?.context("no frontend")?;
    let service = maps.services.get(id).context("no Service")?;
    Ok((0..service.slots.len())
        .filter_map(|n| maps.slots.get(service.slots.base() + n))
        .filter_map(|slot| maps.backends.get(slot.backend))
        .map(|backend| IpAddr::from(backend.addr))
        .collect())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}
