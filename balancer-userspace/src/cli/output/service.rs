//! A Service port in a document: alone, with its statistics, or as the owner of a backend.

use std::collections::BTreeMap;

use balancer_common::abi::{BackendState, PassReason, PickReason};
use serde::Serialize;

use super::backend::{BackendDoc, known};
use crate::{
    evenness::Evenness,
    model::{Family, Protocol},
    view::{BackendView, ServiceView},
};

/// What identifies a Service port.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortDoc {
    namespace: String,
    name: String,
    /// `null` for an unnamed port.
    port_name: Option<String>,
    address: String,
    port: u16,
    protocol: Protocol,
    family: Family,
}

impl From<&ServiceView> for PortDoc {
    fn from(service: &ServiceView) -> Self {
        Self {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
            port_name: known(&service.port_name),
            address: service.frontend.ip().to_string(),
            port: service.frontend.port(),
            protocol: service.protocol,
            family: service.family,
        }
    }
}

/// An item of kind `Services`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDoc {
    #[serde(flatten)]
    port: PortDoc,
    algorithm: &'static str,
    affinity_seconds: Option<u64>,
    revision: u32,
    problem: Option<String>,
    backends: BackendCounts,
    active: u64,
}

/// Backends by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackendCounts {
    /// Ready.
    pub ready: usize,
    /// Terminating, used for want of ready ones.
    pub terminating: usize,
    /// Removed, kept while sockets are open to them.
    pub removed: usize,
}

impl BackendCounts {
    /// Counts.
    pub fn of(service: &ServiceView) -> Self {
        let count = |state| service.backends.iter().filter(|backend| backend.state == state).count();
        Self {
            ready: count(BackendState::Ready),
            terminating: count(BackendState::Terminating),
            removed: count(BackendState::Removed),
        }
    }
}

impl From<&ServiceView> for ServiceDoc {
    fn from(service: &ServiceView) -> Self {
        Self {
            port: PortDoc::from(service),
            algorithm: service.algorithm.name(),
            affinity_seconds: service.affinity.map(|timeout| timeout.as_secs()),
            revision: service.revision,
            problem: service.problem.clone(),
            backends: BackendCounts::of(service),
            active: service.active(),
        }
    }
}

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
    picks: BTreeMap<&'static str, u64>,
    pass_throughs: BTreeMap<&'static str, u64>,
    flow_evictions: u64,
    backends: Vec<BackendDoc>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EvennessDoc {
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
            picks: PickReason::ALL.map(PickReason::name).into_iter().zip(service.picks).collect(),
            pass_throughs: PassReason::ALL.map(PassReason::name).into_iter().zip(service.passes).collect(),
            flow_evictions: service.flow_evictions,
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

/// An item of kind `Backends`.
#[derive(Debug, Serialize)]
pub struct BackendItem {
    service: PortDoc,
    #[serde(flatten)]
    backend: BackendDoc,
}

impl BackendItem {
    /// A backend with the Service port that it belongs to.
    pub fn new(service: &ServiceView, backend: &BackendView) -> Self {
        Self { service: PortDoc::from(service), backend: BackendDoc::from(backend) }
    }
}
