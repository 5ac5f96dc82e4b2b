//! What the agent's HTTP server serves.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    datapath::{self, Pins},
    http::Status,
    metrics::{self, AgentMetrics},
    view::Lease,
};

/// Reads the pinned maps for every scrape, as any other reader does.
pub(super) struct AgentStatus {
    pins: PathBuf,
    metrics: Arc<AgentMetrics>,
    max_series: u32,
    synced: AtomicBool,
}

impl AgentStatus {
    pub(super) fn new(pins: &Pins, metrics: Arc<AgentMetrics>, max_series: u32) -> Self {
        Self { pins: pins.root().into(), metrics, max_series, synced: AtomicBool::new(false) }
    }

    /// The source has listed everything, and it is in the tables.
    pub(super) fn synced(&self) {
        self.synced.store(true, Ordering::Release);
    }
}

impl Status for AgentStatus {
    fn metrics(&self) -> anyhow::Result<String> {
        let snapshot = datapath::read_snapshot(&self.pins)?;
        Ok(metrics::render(&self.metrics, snapshot, self.max_series)?)
    }

    fn live(&self) -> Result<(), String> {
        // Whoever answers this is alive. The source has no say: restarting the agent would not bring an
        // API server back.
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        if !self.synced.load(Ordering::Acquire) {
            return Err("the source has not listed everything yet".to_owned());
        }
        match datapath::read_lease(&self.pins).map_err(|error| error.to_string())? {
            Lease::Endless | Lease::Valid(_) => Ok(()),
            Lease::Lapsed(_) | Lease::Never => {
                Err("the lease has lapsed: connects are passed through".to_owned())
            }
        }
    }
}
