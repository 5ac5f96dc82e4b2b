//! What is done with open connections, in documents.

use std::{collections::BTreeMap, net::SocketAddr};

use balancer_common::abi::Refusal;
use serde::Serialize;

use super::{
    agent::seconds,
    answers::{EndDoc, ProcessDoc},
    service::PortDoc,
    stats::EvennessDoc,
};
use crate::view::{Drain, LifecycleView, MovedView, OfferView, Overfull, PlanView, ServiceView};

/// [`LifecycleView`] in a document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleDoc {
    rebalance: &'static str,
    drain: bool,
    trust: &'static str,
    configured_quiet_seconds: f64,
    quiet_seconds: f64,
    min_age_seconds: f64,
    budget_percent: u16,
    offered: u64,
    harmless: u64,
    harmful: u64,
    moved: u64,
    reconnected: u64,
    lost: u64,
    drained: u64,
    destroyed: u64,
    refused: BTreeMap<&'static str, u64>,
    pushes: u64,
    longest_push_seconds: f64,
    stopped: Option<StoppedDoc>,
    endpoints_changed_seconds_ago: Option<f64>,
    moved_since_change: u64,
}

/// Why nothing is moved any more.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoppedDoc {
    reason: &'static str,
    seconds_ago: f64,
}

impl StoppedDoc {
    /// `None` where connections are moved, or never were.
    pub fn of(lifecycle: &LifecycleView) -> Option<Self> {
        let (stop, since) = lifecycle.stopped?;
        Some(Self { reason: stop.name(), seconds_ago: seconds(since) })
    }
}

impl From<&LifecycleView> for LifecycleDoc {
    fn from(lifecycle: &LifecycleView) -> Self {
        Self {
            rebalance: lifecycle.mode.name(),
            drain: lifecycle.drain == Drain::On,
            trust: lifecycle.trust.name(),
            configured_quiet_seconds: seconds(lifecycle.configured_quiet),
            quiet_seconds: seconds(lifecycle.quiet),
            min_age_seconds: seconds(lifecycle.min_age),
            budget_percent: lifecycle.budget_percent,
            offered: lifecycle.offered,
            harmless: lifecycle.harmless,
            harmful: lifecycle.harmful,
            moved: lifecycle.moved,
            reconnected: lifecycle.reconnected,
            lost: lifecycle.lost,
            drained: lifecycle.drained,
            destroyed: lifecycle.destroyed,
            refused: Refusal::ALL.map(Refusal::name).into_iter().zip(lifecycle.refused).collect(),
            pushes: lifecycle.pushes,
            longest_push_seconds: seconds(lifecycle.longest_push),
            stopped: StoppedDoc::of(lifecycle),
            endpoints_changed_seconds_ago: lifecycle.endpoints_changed.map(seconds),
            moved_since_change: lifecycle.moved_since_change,
        }
    }
}

/// An item of kind `RebalanceStatus`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDoc {
    #[serde(flatten)]
    port: PortDoc,
    state: &'static str,
    active: u64,
    evenness: Option<EvennessDoc>,
    lifecycle: LifecycleDoc,
}

impl From<&ServiceView> for StatusDoc {
    fn from(service: &ServiceView) -> Self {
        Self {
            port: PortDoc::from(service),
            state: service.activity().name(),
            active: service.active(),
            evenness: service.evenness().map(EvennessDoc::from),
            lifecycle: LifecycleDoc::from(&service.lifecycle),
        }
    }
}

/// An item of kind `RebalancePlan`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanDoc {
    #[serde(flatten)]
    port: PortDoc,
    moves: u32,
    why_not: Option<String>,
    evenness: Option<EvennessDoc>,
    evenness_after: Option<EvennessDoc>,
    from: Vec<OverfullDoc>,
    offers: Vec<OfferDoc>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OverfullDoc {
    backend: EndDoc,
    active: u64,
    even_share: f64,
    excess: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OfferDoc {
    process: Option<ProcessDoc>,
    local: Option<EndDoc>,
    backend: EndDoc,
    idle_seconds: Option<f64>,
    age_seconds: Option<f64>,
    /// `null` for a connection that may be moved.
    refusal: Option<&'static str>,
}

impl PlanDoc {
    /// The plan for a Service port.
    pub fn new(service: &ServiceView, plan: &PlanView) -> Self {
        Self {
            port: PortDoc::from(service),
            moves: plan.moves,
            why_not: plan.why_not.clone(),
            evenness: plan.now.map(EvennessDoc::from),
            evenness_after: plan.after.map(EvennessDoc::from),
            from: plan.from.iter().map(OverfullDoc::from).collect(),
            offers: plan.offers.iter().map(OfferDoc::from).collect(),
        }
    }
}

impl From<&Overfull> for OverfullDoc {
    fn from(full: &Overfull) -> Self {
        // As in evenness: what lies beyond is rounding.
        let even_share = (full.share * 1e6).round() / 1e6;
        Self { backend: full.backend.into(), active: full.active, even_share, excess: full.excess }
    }
}

impl From<&OfferView> for OfferDoc {
    fn from(offer: &OfferView) -> Self {
        let end = |addr: SocketAddr| EndDoc::from(addr);
        Self {
            process: offer.process.as_ref().map(ProcessDoc::from),
            local: offer.local.map(end),
            backend: end(offer.backend),
            idle_seconds: offer.idle.map(seconds),
            age_seconds: offer.age.map(seconds),
            refusal: offer.verdict.err().map(Refusal::name),
        }
    }
}

/// An item of kind `RebalanceMoved`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MovedDoc {
    #[serde(flatten)]
    port: PortDoc,
    moved: u32,
    refused: BTreeMap<&'static str, u32>,
}

impl MovedDoc {
    /// What was done with a Service port.
    pub fn new(service: &ServiceView, done: &MovedView) -> Self {
        let refused = done.refused.iter().map(|(refusal, count)| (refusal.name(), *count)).collect();
        Self { port: PortDoc::from(service), moved: done.moved, refused }
    }
}
