//! What `/metrics` serves: OpenMetrics text, names in Prometheus base units.
//!
//! Two sources: a [`Snapshot`] of the maps, turned into series afresh for each scrape, so that nothing is kept of a
//! backend that is gone; and [`AgentMetrics`], the instruments of the running agent.

mod agent;
mod encoder;
mod lifecycle;
mod series;
mod snapshot;
#[cfg(test)]
mod tests;

pub use agent::{AgentMetrics, EventKind, Outcome};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    registry::Registry,
};

use self::snapshot::SnapshotCollector;
use crate::view::Snapshot;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text. Of Services and backends at most `max_series` series are rendered; how many were left out is a
/// metric too.
///
/// Fails only where a label cannot be encoded, which the encoder does not do to any text.
pub fn render(agent: &AgentMetrics, snapshot: Snapshot, max_series: u32) -> Result<String, std::fmt::Error> {
    let mut maps = Registry::default();
    maps.register_collector(Box::new(SnapshotCollector::new(snapshot, max_series)));
    let mut text = String::new();
    encode_registry(&mut text, agent.registry())?;
    encode_registry(&mut text, &maps)?;
    encode_eof(&mut text)?;
    Ok(text)
}
