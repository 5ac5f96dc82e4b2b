//! What the agent's HTTP server serves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    datapath::{self, Pins},
    http::Status,
    metrics::{self, AgentMetrics},
    view::Lease,
};

/// The agent's loop turns at least once a second; when it has not for so long, it will not any more.
const STUCK: Duration = Duration::from_secs(60);

/// Reads the pinned maps for every scrape, as any other reader does.
pub(super) struct AgentStatus {
    pins: Pins,
    /// Id of the cgroup that the programs were attached to.
    cgroup: u64,
    metrics: Arc<AgentMetrics>,
    max_series: u32,
    synced: AtomicBool,
    epoch: Instant,
    /// When the loop last turned, in milliseconds since `epoch`.
    turned_ms: AtomicU64,
}

impl AgentStatus {
    pub(super) fn new(pins: &Pins, cgroup: u64, metrics: Arc<AgentMetrics>, max_series: u32) -> Self {
        Self {
            pins: pins.clone(),
            cgroup,
            metrics,
            max_series,
            synced: AtomicBool::new(false),
            epoch: Instant::now(),
            turned_ms: AtomicU64::new(0),
        }
    }

    /// The loop has turned.
    pub(super) fn turned(&self) {
        self.turned_ms.store(self.epoch.elapsed().as_millis() as u64, Ordering::Release);
    }

    /// What of the programs was taken away since they were attached.
    pub(super) fn detached(&self) -> Option<String> {
        datapath::detached_since(&self.pins, self.cgroup)
    }

    /// The source has listed everything, and it is in the tables.
    pub(super) fn synced(&self) {
        self.synced.store(true, Ordering::Release);
    }
}

impl Status for AgentStatus {
    fn metrics(&self) -> anyhow::Result<String> {
        let snapshot = datapath::read_snapshot(self.pins.root())?;
        Ok(metrics::render(&self.metrics, snapshot, self.max_series)?)
    }

    fn live(&self) -> Result<(), String> {
        // The source has no say: restarting the agent would not bring an API server back.
        let turned = Duration::from_millis(self.turned_ms.load(Ordering::Acquire));
        let still = self.epoch.elapsed().saturating_sub(turned);
        if still > STUCK {
            return Err(format!("the agent has stood still for {} s", still.as_secs()));
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        if !self.synced.load(Ordering::Acquire) {
            return Err("the source has not listed everything yet".to_owned());
        }
        if let Some(what) = self.detached() {
            return Err(format!("connects are not balanced: {what}"));
        }
        match datapath::read_lease(self.pins.root()).map_err(|error| error.to_string())? {
            Lease::Endless | Lease::Valid(_) => Ok(()),
            Lease::Lapsed(_) | Lease::Never => {
                Err("the lease has lapsed: connects are passed through".to_owned())
            }
        }
    }
}
