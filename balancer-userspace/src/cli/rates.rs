//! Connections per second, between two readings of the counters.

use std::{collections::HashMap, net::SocketAddr, time::Instant};

use crate::view::{BackendView, ServiceView};

/// How many connections each backend had been sent at some instant.
pub struct Opened {
    at: Instant,
    counts: HashMap<(u32, u32), (SocketAddr, u64)>,
}

impl Opened {
    /// As of now.
    pub fn of(services: &[&ServiceView]) -> Self {
        let counts = services
            .iter()
            .flat_map(|service| service.backends.iter().map(|backend| (service.id, backend)))
            .map(|(service, backend)| ((service, backend.id), (backend.addr, backend.stats.opened)))
            .collect();
        Self { at: Instant::now(), counts }
    }
}

/// Connections per second between two instants.
#[derive(Clone, Copy)]
pub struct Rates<'a> {
    /// The first instant; `None` while there is none.
    pub before: Option<&'a Opened>,
    /// The second one.
    pub now: &'a Opened,
}

impl Rates<'_> {
    /// `None` for a backend that is new: its id may have been another's before.
    pub fn of(&self, service: &ServiceView, backend: &BackendView) -> Option<f64> {
        let before = self.before?;
        let (addr, opened) = *before.counts.get(&(service.id, backend.id))?;
        let seconds = (self.now.at - before.at).as_secs_f64();
        let more = backend.stats.opened.checked_sub(opened)?;
        (addr == backend.addr && seconds > 0.0).then(|| more as f64 / seconds)
    }
}
