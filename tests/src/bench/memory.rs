//! What the kernel's maps take: of an empty agent, and for each Service port and backend.

use std::{
    fs,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use balancer_userspace::datapath::Pins;
use serde::Serialize;

use super::{check_interrupt, datapath::nobody, progress};
use crate::{
    agent::{Agent, AgentOptions},
    manifests::ManifestDir,
    topology::{Topology, service_v4},
};

/// Endpoints of each Service.
const ENDPOINTS: u32 = 4;

/// Maps with an entry, or room for one, for each Service port.
const BY_SERVICE: [&str; 5] = ["FRONTENDS", "SERVICES", "SERVICE_STATS", "LIFECYCLE", "SERVICE_META"];

/// The same for each backend.
const BY_BACKEND: [&str; 5] =
    ["BACKENDS", "BACKEND_STATS", "BACKEND_HEALTH", "BACKEND_HISTORY", "BACKEND_META"];

/// The same for each slot, of which there are as many as backends with least-connections.
const BY_SLOT: [&str; 1] = ["SLOTS"];

/// A map.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub map: String,
    /// Entries that it has room for.
    pub room: u32,
    /// Bytes of a key and of a value.
    pub entry_bytes: u32,
    /// Bytes that the kernel charges for it (`memlock`) while nothing is in it.
    pub empty_bytes: u64,
    /// The same with Services.
    pub filled_bytes: u64,
}

/// All results.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Services in the tables of `filled_bytes`.
    pub services: u32,
    /// Backends of all of them.
    pub backends: u32,
    /// By map, the largest first.
    pub rows: Vec<Row>,
    /// Bytes of all maps while nothing is in them.
    pub empty_bytes: u64,
    /// Bytes for each Service port: reserved in maps of a fixed size, and taken as it comes.
    pub service_bytes: f64,
    /// The same for each backend, its slot included.
    pub backend_bytes: f64,
}

/// Measures with so many Services of four endpoints.
///
/// # Errors
/// When the agent does not start.
pub fn measure(services: u32) -> Result<Results> {
    progress("memory of the maps");
    check_interrupt()?;
    let empty = with(0)?;
    let filled = with(services)?;
    let mut rows: Vec<Row> = empty
        .into_iter()
        .map(|row| {
            let now = filled.iter().find(|other| other.map == row.map);
            let filled_bytes = now.with_context(|| format!("no map {}", row.map))?.empty_bytes;
            Ok(Row { filled_bytes, ..row })
        })
        .collect::<Result<_>>()?;
    rows.sort_by_key(|row| std::cmp::Reverse(row.empty_bytes));
    let backends = services * ENDPOINTS;
    let of = |names: &[&str], count: u32| -> f64 {
        names
            .iter()
            .map(|name| rows.iter().find(|row| row.map == *name).map_or(0.0, |row| row.bytes_for_one(count)))
            .sum()
    };
    Ok(Results {
        services,
        backends,
        empty_bytes: rows.iter().map(|row| row.empty_bytes).sum(),
        service_bytes: of(&BY_SERVICE, services),
        backend_bytes: of(&BY_BACKEND, backends) + of(&BY_SLOT, backends),
        rows,
    })
}

impl Row {
    /// What `count` entries cost, each: its share of what is reserved, and what it takes beyond.
    fn bytes_for_one(&self, count: u32) -> f64 {
        let reserved = self.empty_bytes as f64 / f64::from(self.room.max(1));
        let taken = self.filled_bytes.saturating_sub(self.empty_bytes) as f64 / f64::from(count.max(1));
        reserved + taken
    }
}

/// All maps of an agent with so many Services; what they take now is in `empty_bytes`.
fn with(services: u32) -> Result<Vec<Row>> {
    let topology = Topology::new()?;
    let manifests = ManifestDir::new()?;
    for index in 0..services {
        let name = format!("bench/service-{index}");
        manifests.service(&name).cluster_ip(service_v4(1 + index as u16)).port(80).write()?;
        let addrs = (0..ENDPOINTS).map(|n| IpAddr::V4(*nobody(index * ENDPOINTS + n).ip()));
        manifests.addresses(&name, 8080, addrs)?;
    }
    let agent = Agent::with(&topology, &manifests, AgentOptions::default())?;
    let maps = Pins::new(agent.pins()).version().join("maps");
    let entries = fs::read_dir(&maps).with_context(|| maps.display().to_string())?;
    entries.map(|entry| row(&entry?.path())).collect()
}

fn row(pin: &Path) -> Result<Row> {
    let what = || pin.display().to_string();
    let map = MapData::from_pin(pin).with_context(what)?;
    let info = map.info().with_context(what)?;
    let fdinfo = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&fdinfo).with_context(what)?;
    let bytes = memlock(&text).with_context(|| format!("no memlock in {fdinfo} of {}", pin.display()))?;
    Ok(Row {
        map: pin.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        room: info.max_entries(),
        entry_bytes: info.key_size() + info.value_size(),
        empty_bytes: bytes,
        filled_bytes: bytes,
    })
}

fn memlock(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_figure_is_found() {
        assert_eq!(memlock("pos:\t0\nmap_type:\t2\nmemlock:\t16777216\nfrozen:\t0\n"), Some(16_777_216));
        assert_eq!(memlock("pos:\t0\n"), None);
    }

    #[test]
    fn an_entry_costs_its_share_of_the_room_and_what_it_adds() {
        let row =
            Row { map: "m".into(), room: 1000, entry_bytes: 64, empty_bytes: 16_000, filled_bytes: 66_000 };
        assert_eq!(row.bytes_for_one(100), 516.0);
    }
}
