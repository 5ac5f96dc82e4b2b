//! The agent in a document.

use std::time::Duration;

use serde::Serialize;

use crate::{
    cli::warnings::Warning,
    view::{AgentView, Lease, Liveness},
};

/// [`AgentView`] in a document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentDoc {
    state: &'static str,
    pid: u32,
    version: String,
    node: String,
    source: String,
    mode: &'static str,
    excluded_cgroups: u32,
    cgroup: String,
    pins: String,
    uptime_seconds: f64,
    lease: LeaseDoc,
    synced_seconds: Option<f64>,
    contact_seconds: Option<f64>,
    changed_seconds: Option<f64>,
    skipped_objects: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LeaseDoc {
    state: &'static str,
    remaining_seconds: Option<f64>,
    lapsed_seconds: Option<f64>,
}

impl From<&AgentView> for AgentDoc {
    fn from(agent: &AgentView) -> Self {
        Self {
            state: match agent.liveness {
                Liveness::Running => "running",
                Liveness::Dead => "dead",
            },
            pid: agent.pid,
            version: agent.version.clone(),
            node: agent.node.clone(),
            source: agent.source.clone(),
            mode: agent.mode.name(),
            excluded_cgroups: agent.excluded,
            cgroup: agent.cgroup.display().to_string(),
            pins: agent.pins.display().to_string(),
            uptime_seconds: seconds(agent.uptime),
            lease: LeaseDoc::from(agent.lease),
            synced_seconds: agent.synced.map(seconds),
            contact_seconds: agent.contact.map(seconds),
            changed_seconds: agent.changed.map(seconds),
            skipped_objects: agent.skipped,
        }
    }
}

impl From<Lease> for LeaseDoc {
    fn from(lease: Lease) -> Self {
        let (state, remaining, lapsed) = match lease {
            Lease::Endless => ("endless", None, None),
            Lease::Valid(remaining) => ("valid", Some(remaining), None),
            Lease::Lapsed(lapsed) => ("lapsed", None, Some(lapsed)),
            Lease::Never => ("never", None, None),
        };
        Self { state, remaining_seconds: remaining.map(seconds), lapsed_seconds: lapsed.map(seconds) }
    }
}

/// A warning in a document: a code for scripts and a sentence for people.
#[derive(Debug, Serialize)]
pub struct WarningDoc {
    code: &'static str,
    message: String,
}

impl From<&Warning> for WarningDoc {
    fn from(warning: &Warning) -> Self {
        Self { code: warning.code, message: warning.message.clone() }
    }
}

/// Seconds, to the microsecond: more digits would be noise.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}
