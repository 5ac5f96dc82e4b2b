//! A Service port in a document: alone, or as the owner of a backend.

use balancer_common::abi::BackendState;
use serde::Serialize;

use super::{
    backend::{BackendDoc, known, state_name},
    lifecycle::StoppedDoc,
};
use crate::{
    model::{Family, Protocol},
    view::{BackendView, Drain, ServiceView},
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
    rebalance: &'static str,
    drain: bool,
    /// Why nothing is moved any more.
    stopped: Option<StoppedDoc>,
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
    /// Terminating, in no use, with connections that should go elsewhere.
    pub draining: usize,
    /// Endpoints that are not used here: not ready, or meant for other nodes.
    pub unused: usize,
}

impl BackendCounts {
    /// Counts.
    pub fn of(service: &ServiceView) -> Self {
        let count = |state| service.backends.iter().filter(|backend| backend.state == state).count();
        Self {
            ready: count(BackendState::Ready),
            terminating: count(BackendState::Terminating),
            removed: count(BackendState::Removed),
            draining: count(BackendState::Draining),
            unused: count(BackendState::Unused),
        }
    }

    /// Each count with the name of its state.
    pub fn by_state(self) -> impl Iterator<Item = (usize, &'static str)> {
        let states = [
            BackendState::Ready,
            BackendState::Terminating,
            BackendState::Draining,
            BackendState::Unused,
            BackendState::Removed,
        ];
        [self.ready, self.terminating, self.draining, self.unused, self.removed]
            .into_iter()
            .zip(states.map(state_name))
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
            rebalance: service.lifecycle.mode.name(),
            drain: service.lifecycle.drain == Drain::On,
            stopped: StoppedDoc::of(&service.lifecycle),
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
