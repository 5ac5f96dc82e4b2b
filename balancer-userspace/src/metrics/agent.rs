//! Instruments of the running agent.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Instruments of the running agent. Feeding them never blocks and never fails.
#[derive(Debug)]
pub struct AgentMetrics {
    registry: Registry,
    events: Family<EventLabels, Counter>,
    source_errors: Counter,
    applies: Family<OutcomeLabels, Counter>,
    apply_time: Histogram,
    programming_time: Histogram,
    port_changes: Counter,
    problems: Counter,
    lease_renewals: Family<OutcomeLabels, Counter>,
    lane_repairs: Counter,
}

/// What kind of event a source reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A Service was added or changed.
    Service,
    /// A Service is gone.
    ServiceGone,
    /// An EndpointSlice was added or changed.
    Slice,
    /// An EndpointSlice is gone.
    SliceGone,
    /// The node changed.
    Node,
    /// A Namespace was added, changed or removed.
    Namespace,
    /// A Pod of this node was added, changed or removed.
    Pod,
    /// A whole list was read.
    List,
    /// An object was skipped.
    Skipped,
}

/// How something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// As intended.
    Ok,
    /// It did not.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: Outcome,
}

impl EncodeLabelValue for EventKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Service => "service",
            Self::ServiceGone => "service-gone",
            Self::Slice => "slice",
            Self::SliceGone => "slice-gone",
            Self::Node => "node",
            Self::Namespace => "namespace",
            Self::Pod => "pod",
            Self::List => "list",
            Self::Skipped => "skipped",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

/// Bounds of an apply: 10 µs, doubling, to 0.7 s.
const APPLY_BOUNDS: [f64; 17] = doubling(10e-6);
/// Bounds of programming a change: 1 ms, doubling, to 65 s, as the source's own delay is part of it.
const PROGRAMMING_BOUNDS: [f64; 17] = doubling(1e-3);

const fn doubling(first: f64) -> [f64; 17] {
    let mut bounds = [first; 17];
    let mut index = 1;
    while index < bounds.len() {
        bounds[index] = bounds[index - 1] * 2.0;
        index += 1;
    }
    bounds
}

impl Default for AgentMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("balancer");
        let events = Family::default();
        registry.register("source_events", "Events that the source reported", events.clone());
        let source_errors = Counter::default();
        registry.register(
            "source_errors",
            "Times the source failed to read or to watch; it tries again",
            source_errors.clone(),
        );
        let applies = Family::<OutcomeLabels, Counter>::default();
        registry.register("applies", "Changes of the kernel's tables, a batch each", applies.clone());
        let apply_time = Histogram::new(APPLY_BOUNDS);
        registry.register_with_unit(
            "apply_duration",
            "From the arrival of an event to the change being in the kernel",
            Unit::Seconds,
            apply_time.clone(),
        );
        let programming_time = Histogram::new(PROGRAMMING_BOUNDS);
        registry.register_with_unit(
            "programming_duration",
            "From the change of a pod or Service, where its time is known, to its being in the kernel",
            Unit::Seconds,
            programming_time.clone(),
        );
        let port_changes = Counter::default();
        registry.register("port_changes", "Service ports whose tables changed", port_changes.clone());
        let problems = Counter::default();
        registry.register(
            "object_problems",
            "Mistakes found in Services, EndpointSlices, Namespaces and Pods, each when it was new",
            problems.clone(),
        );
        let lease_renewals = Family::<OutcomeLabels, Counter>::default();
        registry.register("lease_renewals", "Renewals of the lease", lease_renewals.clone());
        let lane_repairs = Counter::default();
        registry.register(
            "express_lane_repairs",
            "Times something of the express lane was put back that somebody else had taken away",
            lane_repairs.clone(),
        );
        for outcome in [Outcome::Ok, Outcome::Failed] {
            // A series that is there from the start shows the first failure as an increase.
            drop(applies.get_or_create(&OutcomeLabels { outcome }));
            drop(lease_renewals.get_or_create(&OutcomeLabels { outcome }));
        }
        Self {
            registry,
            events,
            source_errors,
            applies,
            apply_time,
            programming_time,
            port_changes,
            problems,
            lease_renewals,
            lane_repairs,
        }
    }
}

impl AgentMetrics {
    /// The registry that all instruments are in.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// An event arrived.
    pub fn event(&self, kind: EventKind) {
        self.events.get_or_create(&EventLabels { kind }).inc();
    }

    /// The source failed so many times more, and will try again.
    pub fn source_errors(&self, more: u64) {
        self.source_errors.inc_by(more);
    }

    /// A batch that changed so many Service ports was written, or could not be. `took` counts from the arrival of its
    /// first event.
    pub fn applied(&self, outcome: Outcome, took: Duration, ports: u64) {
        self.applies.get_or_create(&OutcomeLabels { outcome }).inc();
        self.port_changes.inc_by(ports);
        if outcome == Outcome::Ok {
            self.apply_time.observe(took.as_secs_f64());
        }
    }

    /// A change whose time is known (`endpoints.kubernetes.io/last-change-trigger-time`) is in the kernel.
    pub fn programmed(&self, since_change: Duration) {
        self.programming_time.observe(since_change.as_secs_f64());
    }

    /// Something that somebody should put right was found in an object.
    pub fn problem_found(&self) {
        self.problems.inc();
    }

    /// How often the express lane was put right since the start, all told.
    pub fn lane_repaired(&self, total: u64) {
        self.lane_repairs.inc_by(total.saturating_sub(self.lane_repairs.get()));
    }

    /// The lease was taken or renewed, or lapsed before it could be.
    pub fn lease_renewed(&self, outcome: Outcome) {
        self.lease_renewals.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}
