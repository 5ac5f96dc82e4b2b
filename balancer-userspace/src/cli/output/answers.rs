//! Connections, explanations and reports in documents.

use std::net::SocketAddr;

use serde::Serialize;

use super::{agent::seconds, backend::known};
use crate::{
    model::{Frontend, Protocol},
    view::{
        BackendGone, Candidate, CheckItem, Connection, DetachReport, ExplainedService, Explanation, Outcome,
        PassCause, Process, Verdict,
    },
};

/// An address with a port.
#[derive(Debug, Serialize)]
pub(super) struct EndDoc {
    address: String,
    port: u16,
}

impl From<SocketAddr> for EndDoc {
    fn from(addr: SocketAddr) -> Self {
        Self { address: addr.ip().to_string(), port: addr.port() }
    }
}

/// A Service port by name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PortNameDoc {
    namespace: String,
    name: String,
    port_name: Option<String>,
}

/// An item of kind `Connections`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionDoc {
    service: PortNameDoc,
    protocol: Protocol,
    local: Option<EndDoc>,
    frontend: EndDoc,
    backend: EndDoc,
    pod: Option<String>,
    node: Option<String>,
    backend_removed: bool,
    state: &'static str,
    age_seconds: Option<f64>,
    idle_seconds: Option<f64>,
    process: Option<ProcessDoc>,
    network_namespace: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ProcessDoc {
    pid: u32,
    name: String,
    pod: Option<String>,
    cgroup: String,
    sharers: u32,
}

impl From<&Connection> for ConnectionDoc {
    fn from(connection: &Connection) -> Self {
        Self {
            service: PortNameDoc {
                namespace: connection.namespace.to_string(),
                name: connection.service.to_string(),
                port_name: known(&connection.port_name),
            },
            protocol: connection.protocol,
            local: connection.local.map(EndDoc::from),
            frontend: connection.frontend.into(),
            backend: connection.backend.into(),
            pod: known(&connection.pod),
            node: known(&connection.node),
            backend_removed: connection.backend_gone == BackendGone::Yes,
            state: connection.state,
            age_seconds: connection.age.map(seconds),
            idle_seconds: connection.idle.map(seconds),
            process: connection.process.as_ref().map(ProcessDoc::from),
            network_namespace: (connection.netns != 0).then_some(connection.netns),
        }
    }
}

impl From<&Process> for ProcessDoc {
    fn from(process: &Process) -> Self {
        Self {
            pid: process.pid,
            name: process.comm.clone(),
            pod: process.pod.clone(),
            cgroup: process.cgroup.clone(),
            sharers: process.sharers,
        }
    }
}

/// An item of kind `Explanation`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplanationDoc {
    dialled: DialledDoc,
    client: String,
    service: Option<ExplainedServiceDoc>,
    /// `rewrite` or `pass-through`.
    verdict: &'static str,
    /// `null` where the verdict is `rewrite`.
    pass_through_reason: Option<&'static str>,
    /// `null` where the verdict is `pass-through`.
    rule: Option<String>,
    candidates: Vec<CandidateDoc>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct DialledDoc {
    address: String,
    port: u16,
    protocol: Protocol,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedServiceDoc {
    namespace: String,
    name: String,
    port_name: Option<String>,
    algorithm: &'static str,
    affinity_seconds: Option<u64>,
    revision: u32,
}

#[derive(Debug, Serialize)]
struct CandidateDoc {
    address: String,
    port: u16,
    pod: Option<String>,
    node: Option<String>,
    zone: Option<String>,
    weight: u32,
    active: u64,
    chance: f64,
    reason: Option<String>,
}

impl From<&Explanation> for ExplanationDoc {
    fn from(explanation: &Explanation) -> Self {
        let (verdict, reason, choice) = match &explanation.verdict {
            Verdict::PassThrough(cause) => ("pass-through", Some(cause_name(*cause)), None),
            Verdict::Rewrite(choice) => ("rewrite", None, Some(choice)),
            Verdict::Observe(choice) => ("observe", None, Some(choice)),
        };
        let Frontend { addr, port, protocol } = explanation.dialled;
        Self {
            dialled: DialledDoc { address: addr.to_string(), port, protocol },
            client: explanation.client.clone(),
            service: explanation.service.as_ref().map(ExplainedServiceDoc::from),
            verdict,
            pass_through_reason: reason,
            rule: choice.map(|choice| choice.rule.clone()),
            candidates: choice
                .map(|choice| choice.candidates.iter().map(CandidateDoc::from).collect())
                .unwrap_or_default(),
            notes: explanation.notes.clone(),
        }
    }
}

impl From<&ExplainedService> for ExplainedServiceDoc {
    fn from(service: &ExplainedService) -> Self {
        Self {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
            port_name: known(&service.port_name),
            algorithm: service.algorithm.name(),
            affinity_seconds: service.affinity.map(|timeout| timeout.as_secs()),
            revision: service.revision,
        }
    }
}

impl From<&Candidate> for CandidateDoc {
    fn from(candidate: &Candidate) -> Self {
        Self {
            address: candidate.addr.ip().to_string(),
            port: candidate.addr.port(),
            pod: known(&candidate.pod),
            node: known(&candidate.node),
            zone: known(&candidate.zone),
            weight: candidate.weight,
            active: candidate.active,
            chance: candidate.chance,
            reason: known(&candidate.reason),
        }
    }
}

/// The name of a cause in documents.
pub const fn cause_name(cause: PassCause) -> &'static str {
    match cause {
        PassCause::NotAService => "not-a-service",
        PassCause::NotAttached => "not-attached",
        PassCause::OutsideCgroup => "outside-cgroup",
        PassCause::Program(reason) => reason.name(),
    }
}

/// An item of kind `Check`.
#[derive(Debug, Serialize)]
pub struct CheckDoc {
    name: String,
    outcome: &'static str,
    detail: String,
    remedy: Option<String>,
}

impl From<&CheckItem> for CheckDoc {
    fn from(item: &CheckItem) -> Self {
        Self {
            name: item.name.clone(),
            outcome: outcome_name(item.outcome),
            detail: item.detail.clone(),
            remedy: known(&item.remedy),
        }
    }
}

/// The name of an outcome in tables and documents.
pub const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Skipped => "skipped",
        Outcome::Warning => "warning",
        Outcome::Failed => "failed",
    }
}

/// An item of kind `Detach`.
#[derive(Debug, Serialize)]
pub struct DetachDoc {
    what: String,
    /// `removed`, `would-remove` or `kept`.
    outcome: &'static str,
}

/// The items of a report; `removed` is what to call the outcome of what is ours.
pub fn detach_docs(report: &DetachReport, removed: &'static str) -> Vec<DetachDoc> {
    let doc = |outcome| move |what: &String| DetachDoc { what: what.clone(), outcome };
    report.removed.iter().map(doc(removed)).chain(report.kept.iter().map(doc("kept"))).collect()
}
