//! From events to tables.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{express::ExpressLane, notices::Notices};
use crate::{
    datapath::Maps,
    lifecycle::{self, Departed},
    metrics::{AgentMetrics, EventKind, Outcome},
    model::{Event, Index, ObjectName},
    reconcile::Reconciler,
};

/// What the owner of a Service is told that found no room; the log of the node names the map and the flag.
const NO_ROOM: &str = "a node's tables are full: some of it is left to kube-proxy there, or balanced over fewer backends; \
                       raise --max-services, --max-backends or --max-slots of the agent";

/// Holds the two views, what should be and what is, and brings the second to the first.
pub(super) struct Engine {
    index: Index,
    reconciler: Reconciler<Maps>,
    metrics: Arc<AgentMetrics>,
    notices: Notices,
    lane: ExpressLane,
    zone: Option<Arc<str>>,
    synced: bool,
    /// Services of an earlier agent that would lose something, although not all that the source has could
    /// be read.
    doubtful: BTreeSet<ObjectName>,
}

/// Whether the source could read all that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It could.
    Whole,
    /// Some of it is malformed: what is missing may stand there.
    Partial,
}

impl Engine {
    /// `zone` overrides what the source says of this node.
    pub(super) fn new(
        reconciler: Reconciler<Maps>,
        index: Index,
        zone: Option<String>,
        metrics: Arc<AgentMetrics>,
        notices: Notices,
        lane: ExpressLane,
    ) -> Self {
        Self {
            index,
            reconciler,
            metrics,
            notices,
            lane,
            zone: zone.map(Into::into),
            synced: false,
            doubtful: BTreeSet::new(),
        }
    }

    pub(super) const fn maps(&self) -> &Maps {
        self.reconciler.kernel()
    }

    pub(super) const fn maps_mut(&mut self) -> &mut Maps {
        self.reconciler.kernel_mut()
    }

    /// The express lane.
    pub(super) const fn lane(&self) -> &ExpressLane {
        &self.lane
    }

    /// The same, when nothing is to come any more.
    pub(super) fn into_lane(self) -> ExpressLane {
        self.lane
    }

    pub(super) const fn is_synced(&self) -> bool {
        self.synced
    }

    /// Takes events in and brings the tables in step. Whether anything may have changed.
    ///
    /// Until the source has listed everything, events are only noted: a partial view must not remove
    /// what an earlier agent knew. Nor does a first list of which some could not be read: Services that
    /// would lose something by it stay as they are until [`Engine::settle`].
    pub(super) fn handle(
        &mut self,
        events: impl Iterator<Item = Event>,
        reading: Reading,
        now: Instant,
    ) -> bool {
        for event in events {
            self.metrics.event(kind(&event));
            let event = self.with_zone(event);
            self.index.apply(event);
        }
        if !self.index.is_complete() {
            return false;
        }
        self.notices.others(&self.index);
        let first = !self.synced;
        let mut dirty = self.index.take_dirty();
        let mut services: Vec<ObjectName> = dirty.iter().map(|dirty| dirty.service.clone()).collect();
        if first {
            services.extend(self.reconciler.known_services());
            services.sort_unstable();
            services.dedup();
        }
        if first {
            self.doubtful.clear();
            if reading == Reading::Partial {
                self.doubtful = self.losers(&services);
            }
            for service in &self.doubtful {
                log::warn!(
                    "{service}: kept as it was: not everything could be read, and it would lose something"
                );
            }
        } else if !self.doubtful.is_empty() {
            // Whatever is new of them, if it takes nothing away.
            let asked: Vec<_> =
                services.iter().filter(|service| self.doubtful.contains(service)).cloned().collect();
            let losers = self.losers(&asked);
            self.doubtful.retain(|service| !asked.contains(service) || losers.contains(service));
        }
        services.retain(|service| !self.doubtful.contains(service));
        let changed = self.apply(&services, now);
        #[expect(
            clippy::disallowed_methods,
            reason = "triggers are wall-clock times; only a metric goes by it"
        )]
        let applied_ms = jiff::Timestamp::now().as_millisecond();
        for trigger_ms in dirty.drain(..).flat_map(|dirty| dirty.triggers) {
            // A trigger in the future is a clock that differs, not a change that was foreseen.
            let took = u64::try_from(applied_ms - trigger_ms).unwrap_or(0);
            self.metrics.programmed(Duration::from_millis(took));
        }
        if first {
            self.synced = true;
            let Self { lane, index, reconciler, .. } = self;
            let others = lane.services().into_iter().chain(self.doubtful.iter().cloned());
            others.for_each(|service| lane.refresh(&service, index, reconciler));
            lane.whole();
            let (services, backends, _) = self.reconciler.used();
            log::info!(
                "in step with the source after {} ms: {services} Service ports, {backends} backends",
                now.elapsed().as_millis()
            );
        }
        changed > 0 || first
    }

    /// All that the source has could be read, and is taken in: what was kept in doubt is brought in step.
    /// Whether anything changed.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        if !self.synced || self.doubtful.is_empty() {
            return false;
        }
        let services: Vec<_> = std::mem::take(&mut self.doubtful).into_iter().collect();
        self.apply(&services, now) > 0
    }

    /// Forgets what the source has said, for it will say all of it again. The tables stay as they are until
    /// it has.
    pub(super) fn start_over(&mut self, index: Index) {
        self.index = index;
        self.synced = false;
        self.lane.suspend();
    }

    /// The UIDs of the pods whose connects are left alone, if that may have changed since the last call.
    pub(super) fn take_excluded_pods(&mut self) -> Option<BTreeSet<Arc<str>>> {
        let pods = self.index.take_excluded_pods()?;
        for pod in &pods {
            log::debug!(
                "the connects of pod {} ({}) are left alone: {}",
                pod.name,
                pod.uid,
                pod.reason.name()
            );
        }
        Some(pods.into_iter().map(|pod| pod.uid).collect())
    }

    /// Which of `services` would lose a port or a backend.
    fn losers(&mut self, services: &[ObjectName]) -> BTreeSet<ObjectName> {
        let loses = |service: &&ObjectName| {
            let desired = self.index.resolve(service);
            self.reconciler.would_lose(service, &desired)
        };
        services.iter().filter(loses).cloned().collect()
    }

    /// Brings the ports of `services` in step; how many ports changed. What one Service cannot have does
    /// not keep the others from theirs.
    fn apply(&mut self, services: &[ObjectName], now: Instant) -> usize {
        let mut changed = 0;
        let mut outcome = Outcome::Ok;
        for service in services {
            let desired = self.index.resolve(service);
            if let Some(reason) = self.index.exclusion(service) {
                log::debug!("{service} is left alone: {}", reason.name());
            }
            match self.reconciler.apply(service, desired, now) {
                Ok(ports) => {
                    changed += ports;
                    if ports > 0 {
                        log::debug!("{service}: {ports} ports changed");
                    }
                }
                Err(error) => {
                    outcome = Outcome::Failed;
                    log::error!("{service}: {error}");
                }
            }
            self.lane.refresh(service, &self.index, &self.reconciler);
            let starved = self.reconciler.is_starved(service).then_some(NO_ROOM);
            self.notices.service(&self.index, service, starved);
        }
        if !services.is_empty() {
            self.metrics.applied(outcome, now.elapsed(), changed as u64);
        }
        changed
    }

    /// What the tables hold of Services and backends whose open connections are looked after.
    pub(super) fn lifecycle(&self) -> lifecycle::Update {
        let departed = |(backend, service, state, since)| Departed { backend, service, state, since };
        let mut departed: Vec<Departed> = self.reconciler.departed().map(departed).collect();
        departed.sort_unstable_by_key(|departed| departed.backend);
        lifecycle::Update { services: self.reconciler.rebalanced(), departed }
    }

    /// Tells the owners of Services what became of their connections.
    pub(super) fn report(&mut self, reports: Vec<lifecycle::Report>) {
        for report in reports {
            if let Some(key) = self.reconciler.owner(report.service) {
                self.notices.rebalance(&self.index, &key.service, report.stop);
            }
        }
    }

    /// Frees what nothing refers to, and serves what had found no room.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.notices.pass(now);
        if !self.synced {
            return;
        }
        match self.reconciler.sweep(now) {
            Ok(waiting) => {
                self.apply(&waiting, now);
            }
            Err(error) => log::error!("freeing what is not used any more: {error}"),
        }
    }

    fn with_zone(&self, event: Event) -> Event {
        match event {
            Event::Node(mut node) if self.zone.is_some() => {
                node.zone.clone_from(&self.zone);
                Event::Node(node)
            }
            event => event,
        }
    }
}

fn kind(event: &Event) -> EventKind {
    match event {
        Event::AllServices(_) | Event::AllSlices(_) | Event::AllNamespaces(_) | Event::AllPods(_) => {
            EventKind::List
        }
        Event::Service(_) => EventKind::Service,
        Event::ServiceGone(_) => EventKind::ServiceGone,
        Event::Slice(_) => EventKind::Slice,
        Event::SliceGone(_) => EventKind::SliceGone,
        Event::Node(_) => EventKind::Node,
        Event::Namespace(_) | Event::NamespaceGone(_) => EventKind::Namespace,
        Event::Pod(_) | Event::PodGone(_) => EventKind::Pod,
        Event::Skipped { .. } => EventKind::Skipped,
    }
}
