//! The connections of the node, as they are now, by Service and backend.

use std::{cmp::Reverse, collections::HashMap};

use balancer_common::abi::{MARK_OBSERVED, Service, SocketState};

use super::{gate::Evidence, hold, policy::Load, process::Processes};
use crate::{
    datapath::{Maps, boot_ns},
    sockets::{Channels, LiveSocket, Scope, SocketsError, Translation, Transport},
};

/// One look at all connections.
pub struct Census {
    /// Open sockets that were sent to a backend, by Service.
    pub by_service: HashMap<u32, Vec<LiveSocket>>,
    /// The way to the namespaces that they are in.
    pub channels: Channels,
    /// Who holds what, as far as it was asked for.
    pub processes: Processes,
    /// What could not be looked at.
    pub incomplete: Vec<SocketsError>,
}

impl Census {
    /// Lists TCP sockets, and connected UDP sockets if `transports` has them.
    ///
    /// # Errors
    /// When nothing could be listed at all.
    pub fn take(maps: &Maps, transports: &[Transport]) -> Result<Self, SocketsError> {
        let mut incomplete = Vec::new();
        let mut channels = Channels::open(Scope::Node, &mut incomplete)?;
        let listing = channels.connected(maps.sockets(), transports)?;
        incomplete.extend(listing.incomplete);
        let mut by_service: HashMap<u32, Vec<LiveSocket>> = HashMap::new();
        for socket in listing.sockets {
            if socket.is_open() && state(&socket).is_some_and(|state| state.marks & MARK_OBSERVED == 0) {
                by_service.entry(socket.service()).or_default().push(socket);
            }
        }
        Ok(Self { by_service, channels, processes: Processes::default(), incomplete })
    }

    /// The sockets of a Service; they are taken out.
    pub fn take_service(&mut self, service: u32) -> Vec<LiveSocket> {
        self.by_service.remove(&service).unwrap_or_default()
    }
}

/// What the programs recorded with a connected socket.
pub const fn state(socket: &LiveSocket) -> Option<&SocketState> {
    match &socket.translation {
        Translation::Connect(state) => Some(state),
        Translation::Flow(_) => None,
    }
}

/// The TCP connections among `sockets` to `backend`, the longest idle first, with what the listing says of each.
pub fn candidates(sockets: &[LiveSocket], backend: u32) -> Vec<(&LiveSocket, Evidence)> {
    let mut found: Vec<(&LiveSocket, Evidence)> = sockets
        .iter()
        .filter(|socket| socket.backend().0 == backend)
        .filter_map(|socket| Some((socket, hold::listed(socket)?)))
        .collect();
    found.sort_by_key(|(socket, _)| Reverse(socket.idle));
    found
}

/// The backends that a Service's connects go to, without those that fail, and without those that have not their full
/// share of connects yet: what is moved to make room for these would mostly come back to the others.
pub fn loads(maps: &Maps, service: &Service) -> Vec<Load> {
    let slots = service.slots;
    let mut loads: Vec<Load> = (0..slots.len())
        .filter_map(|index| maps.slots.get(slots.base().wrapping_add(index)))
        .map(|slot| Load { backend: slot.backend, active: 0, weight: slot.weight })
        .collect();
    loads.sort_unstable_by_key(|load| load.backend);
    loads.dedup_by_key(|load| load.backend);
    let now_ns = boot_ns();
    loads.retain(|load| {
        let health = maps.backend_health.get(load.backend);
        health.is_none_or(|health| health.state.spared(now_ns, service.slow_start_ms) == 0)
    });
    for load in &mut loads {
        load.active = active(maps, load.backend);
    }
    loads
}

/// Open connections of a backend.
pub fn active(maps: &Maps, backend: u32) -> u64 {
    maps.backend_stats.word(backend, 0).map_or(0, |word| word.load(std::sync::atomic::Ordering::Acquire))
}
