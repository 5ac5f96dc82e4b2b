//! How long a change takes from a manifest to the kernel's map, how long the first sync takes, and how
//! much memory the agent needs for it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use balancer_common::{
    abi::{FrontendKey, TCP},
    addr::PortBe,
};
use balancer_userspace::datapath::{Access, Maps, Pins};
use serde::Serialize;

use super::{
    check_interrupt,
    datapath::nobody,
    numbers::{Spread, percentile},
    progress, room_for,
};
use crate::{
    agent::Agent,
    manifests::ManifestDir,
    topology::{Topology, service_v4},
};

/// Endpoints of each Service.
const ENDPOINTS: u32 = 4;

/// How often the map is looked at: what the measurement adds at most.
const LOOK: Duration = Duration::from_micros(20);

/// A change that takes longer is lost.
const LOST: Duration = Duration::from_secs(10);

/// Between two changes, so that each is found by an agent that sleeps.
const PAUSE: Duration = Duration::from_millis(10);

/// What was measured with so many Services.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Services.
    pub services: usize,
    /// Endpoints of all of them.
    pub endpoints: usize,
    /// Changes made, one after the other.
    pub changes: usize,
    /// From before a slice is written to when the kernel's map shows it: half took less, in milliseconds.
    pub median_ms: f64,
    /// The median of each fifth of the changes.
    pub batches_ms: Spread,
    /// 99 in a hundred took less.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// From the start of the process to readiness, in milliseconds.
    pub ready_ms: f64,
    /// The first sync, once all objects were read, in milliseconds: the agent's own word.
    pub first_sync_ms: Option<f64>,
    /// Resident memory of the agent after the changes, in MiB (`VmRSS`).
    pub rss_mib: f64,
    /// Of that, what is not memory of files or of the kernel's maps, which it shares (`RssAnon`).
    pub anonymous_mib: f64,
    /// The most that it ever was (`VmHWM`).
    pub peak_mib: f64,
}

/// Measures at each of these numbers of Services.
///
/// # Errors
/// When the agent does not start, or loses a change.
pub fn measure(sizes: &[usize], changes: usize) -> Result<Vec<Row>> {
    sizes.iter().map(|&services| one(services, changes)).collect()
}

fn one(services: usize, changes: usize) -> Result<Row> {
    progress(&format!("changes in manifests, with {services} Services"));
    let topology = Topology::new()?;
    let manifests = ManifestDir::new()?;
    for index in 0..services {
        manifests.service(&name(index)).cluster_ip(vip(index)).port(80).write()?;
        manifests.addresses(&name(index), 8080, endpoints(index, 0))?;
    }
    let begun = Instant::now();
    let mut agent = Agent::with(&topology, &manifests, room_for(services))?;
    let ready_ms = milliseconds(begun.elapsed());
    let first_sync_ms = first_sync(&agent.log());
    let maps = Maps::open(&Pins::new(agent.pins()), Access::Read)?;
    let mut times = Vec::with_capacity(changes);
    for change in 0..changes {
        // Services far from each other, each with another revision whenever it is its turn.
        let index = change * 7919 % services;
        let wanted = endpoints(index, 1 + change as u32);
        check_interrupt()?;
        thread::sleep(PAUSE);
        let begun = Instant::now();
        manifests.addresses(&name(index), 8080, wanted)?;
        let deadline = begun + LOST;
        while !shows(&maps, index, wanted[0])? {
            if Instant::now() > deadline {
                bail!(
                    "change {change} of {services} Services is not in the kernel after {LOST:?}: {wanted:?}"
                );
            }
            thread::sleep(LOOK);
        }
        times.push(begun.elapsed().as_nanos() as u64);
    }
    let batches_ms = Spread::of(times.chunks(times.len().div_ceil(5).max(1)).map(|batch| {
        let mut batch = batch.to_vec();
        batch.sort_unstable();
        percentile(&batch, 0.5) / 1e6
    }));
    times.sort_unstable();
    let memory = Memory::of(agent.process()?.id())?;
    let at = |share| percentile(&times, share) / 1e6;
    Ok(Row {
        services,
        endpoints: services * ENDPOINTS as usize,
        changes,
        median_ms: at(0.5),
        batches_ms,
        p99_ms: at(0.99),
        max_ms: at(1.0),
        ready_ms,
        first_sync_ms,
        rss_mib: memory.rss,
        anonymous_mib: memory.anonymous,
        peak_mib: memory.peak,
    })
}

fn name(index: usize) -> String {
    format!("bench/service-{index}")
}

fn vip(index: usize) -> Ipv4Addr {
    service_v4(1 + index as u16)
}

/// The endpoints of a Service: the first is another one in each version.
fn endpoints(index: usize, version: u32) -> [IpAddr; ENDPOINTS as usize] {
    std::array::from_fn(|n| {
        let addr = nobody(index as u32 * ENDPOINTS + n as u32);
        let [_, b, c, d] = addr.ip().octets();
        // Versions differ in the first octet of the first endpoint's address.
        let first = if n == 0 { 10 + (version % 100) as u8 } else { 10 };
        IpAddr::V4(Ipv4Addr::new(first, b, c, d))
    })
}

/// Whether the kernel's tables lead a Service to this endpoint among others.
fn shows(maps: &Maps, index: usize, endpoint: IpAddr) -> Result<bool> {
    let address = SocketAddr::V4(SocketAddrV4::new(vip(index), 80));
    let key = FrontendKey::new(address.ip().into(), PortBe::from_host(address.port()), TCP);
    let Some(id) = maps.frontend(&key)? else { return Ok(false) };
    let Some(service) = maps.services.get(id) else { return Ok(false) };
    let backends = (0..service.slots.len())
        .filter_map(|n| maps.slots.get(service.slots.base() + n))
        .filter_map(|slot| maps.backends.get(slot.backend));
    Ok(backends.into_iter().any(|backend| IpAddr::from(backend.addr) == endpoint))
}

/// "in step with the source after 12 ms", out of the agent's log.
fn first_sync(log: &str) -> Option<f64> {
    let (_, rest) = log.split_once("in step with the source after ")?;
    rest.split_once(" ms")?.0.parse().ok()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

/// Of a process, in MiB.
struct Memory {
    rss: f64,
    anonymous: f64,
    peak: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let path = Path::new("/proc").join(pid.to_string()).join("status");
        let status = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let field = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
            let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
            Ok(kib / 1024.0)
        };
        Ok(Self { rss: field("VmRSS")?, anonymous: field("RssAnon")?, peak: field("VmHWM")? })
    }
}
