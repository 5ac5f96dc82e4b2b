//! A backend in a document.

use balancer_common::abi::{BackendState, BackendStats, handshake_bound_ns};
use serde::Serialize;

use super::agent::seconds;
use crate::{
    handshake::{Quantile, quantile},
    history::STEP_SECONDS,
    view::BackendView,
};

/// [`BackendView`] in a document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendDoc {
    address: String,
    port: u16,
    pod: Option<String>,
    node: Option<String>,
    zone: Option<String>,
    state: &'static str,
    weight: u32,
    active: u64,
    opened: u64,
    established: u64,
    failed: FailedDoc,
    closed: u64,
    bytes_in: u64,
    bytes_out: u64,
    retransmits: u64,
    handshake: HandshakeDoc,
    health: HealthDoc,
    history: HistoryDoc,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthDoc {
    state: &'static str,
    /// For how long still; `null` where nothing is wrong.
    until_seconds: Option<f64>,
    ejections: u64,
    trials: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryDoc {
    step_seconds: u64,
    /// Open connections, oldest first; `null` where nobody looked.
    connections: Vec<Option<u16>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FailedDoc {
    refused: u64,
    timed_out: u64,
    unreachable: u64,
    aborted: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HandshakeDoc {
    count: u64,
    sum_seconds: f64,
    /// At least half of the handshakes took no longer than this; `null` where there were none, or it is unbounded.
    p50_at_most_seconds: Option<f64>,
    p99_at_most_seconds: Option<f64>,
    /// Buckets that are not empty, each counted by itself.
    buckets: Vec<BucketDoc>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BucketDoc {
    /// `null` for the last bucket, which is unbounded.
    at_most_seconds: Option<f64>,
    count: u64,
}

impl From<&BackendView> for BackendDoc {
    fn from(backend: &BackendView) -> Self {
        let stats = &backend.stats;
        Self {
            address: backend.addr.ip().to_string(),
            port: backend.addr.port(),
            pod: known(&backend.pod),
            node: known(&backend.node),
            zone: known(&backend.zone),
            state: state_name(backend.state),
            weight: backend.weight,
            active: stats.active,
            opened: stats.opened,
            established: stats.established,
            failed: FailedDoc {
                refused: stats.refused,
                timed_out: stats.timed_out,
                unreachable: stats.unreachable,
                aborted: stats.aborted,
            },
            closed: stats.closed,
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            retransmits: stats.retransmits,
            handshake: HandshakeDoc::from(stats),
            health: HealthDoc {
                state: backend.health.condition.name(),
                until_seconds: backend.health.condition.left().map(seconds),
                ejections: backend.health.ejections,
                trials: backend.health.trials,
            },
            history: HistoryDoc { step_seconds: STEP_SECONDS, connections: backend.history.samples() },
        }
    }
}

impl From<&BackendStats> for HandshakeDoc {
    fn from(stats: &BackendStats) -> Self {
        let at_most = |q| match quantile(&stats.handshakes, q) {
            Some(Quantile::AtMost(ns)) => Some(ns as f64 / 1e9),
            Some(Quantile::Above(_)) | None => None,
        };
        let buckets = stats.handshakes.iter().enumerate().filter(|(_, count)| **count > 0);
        Self {
            count: stats.handshakes.iter().sum(),
            sum_seconds: stats.handshake_ns as f64 / 1e9,
            p50_at_most_seconds: at_most(0.5),
            p99_at_most_seconds: at_most(0.99),
            buckets: buckets
                .map(|(index, &count)| BucketDoc {
                    at_most_seconds: handshake_bound_ns(index).map(|ns| ns as f64 / 1e9),
                    count,
                })
                .collect(),
        }
    }
}

/// The text, or `None` where it is empty.
pub fn known(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The name of a state in tables and documents.
pub const fn state_name(state: BackendState) -> &'static str {
    match state {
        BackendState::Free => "free",
        BackendState::Ready => "ready",
        BackendState::Terminating => "terminating",
        BackendState::Removed => "removed",
        BackendState::Draining => "draining",
        BackendState::Unused => "unused",
    }
}
