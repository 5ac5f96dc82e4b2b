//! A Service port with its statistics, in a document.

use std::collections::BTreeMap;

use balancer_common::abi::{PassReason, PickReason};
use serde::Serialize;

use super::{backend::BackendDoc, lifecycle::LifecycleDoc, service::PortDoc};
use crate::{evenness::Evenness, view::ServiceView};

/// An item of kind `Stats`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsDoc {
    #[serde(flatten)]
    port: PortDoc,
    algorithm: &'static str,
    active: u64,
    /// `null` where there is nothing to spread, or nowhere to spread it.
    evenness: Option<EvennessDoc>,
    /// Of the backends that may be chosen now; `null` where that is not known.
    evenness_minute_ago: Option<EvennessDoc>,
    picks: BTreeMap<&'static str, u64>,
    pass_throughs: BTreeMap<&'static str, u64>,
    flow_evictions: u64,
    lifecycle: LifecycleDoc,
    backends: Vec<BackendDoc>,
}

/// [`Evenness`] in a document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EvennessDoc {
    connections: u64,
    backends: usize,
    max_over_mean: f64,
    best_max_over_mean: f64,
    jain: f64,
    best_jain: f64,
}

impl From<&ServiceView> for StatsDoc {
    fn from(service: &ServiceView) -> Self {
        Self {
            port: PortDoc::from(service),
            algorithm: service.algorithm.name(),
            active: service.active(),
            evenness: service.evenness().map(EvennessDoc::from),
            evenness_minute_ago: service.evenness_a_minute_ago().map(EvennessDoc::from),
            picks: PickReason::ALL.map(PickReason::name).into_iter().zip(service.picks).collect(),
            pass_throughs: PassReason::ALL.map(PassReason::name).into_iter().zip(service.passes).collect(),
            flow_evictions: service.flow_evictions,
            lifecycle: LifecycleDoc::from(&service.lifecycle),
            backends: service.backends.iter().map(BackendDoc::from).collect(),
        }
    }
}

impl From<Evenness> for EvennessDoc {
    fn from(even: Evenness) -> Self {
        // Six decimals: what lies beyond is rounding of the division, not a property of the spread.
        let round = |value: f64| (value * 1e6).round() / 1e6;
        Self {
            connections: even.connections,
            backends: even.backends,
            max_over_mean: round(even.max_over_mean),
            best_max_over_mean: round(even.best_max_over_mean),
            jain: round(even.jain),
            best_jain: round(even.best_jain),
        }
    }
}
