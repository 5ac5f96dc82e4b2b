//! How a source is doing, for metrics, `/readyz` and `balancer check`.
//!
//! Writers are the tasks of one source; readers take a [`HealthSnapshot`]. Counters are atomics, the
//! rest sits behind mutexes that are held for a few instructions and never across an await.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

// The runtime's clock, which tests can set.
use tokio::time::Instant;

use super::SourceKind;

/// Problems that are listed by name; those beyond are counted only.
const MAX_PROBLEMS: usize = 1_000;

/// Never a contact.
const NEVER: u64 = u64::MAX;

/// What a source watches, each with its own connection or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Services of the API server.
    Services,
    /// EndpointSlices of the API server.
    EndpointSlices,
    /// The agent's own Node. Optional: without it zones are unknown, nothing else.
    Node,
    /// Namespaces of the API server. Optional: without them their annotations are unknown, nothing else.
    Namespaces,
    /// Pods of the agent's own node. Optional, and read only on request: without them none is left alone.
    Pods,
    /// The manifests directory.
    Manifests,
}

impl Resource {
    const ALL: [Self; 6] =
        [Self::Services, Self::EndpointSlices, Self::Node, Self::Namespaces, Self::Pods, Self::Manifests];

    /// A name for labels and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Node => "node",
            Self::Namespaces => "namespaces",
            Self::Pods => "pods",
            Self::Manifests => "manifests",
        }
    }

    const fn kind(self) -> SourceKind {
        match self {
            Self::Services | Self::EndpointSlices | Self::Node | Self::Namespaces | Self::Pods => {
                SourceKind::Kubernetes
            }
            Self::Manifests => SourceKind::Manifests,
        }
    }

    /// Whether the view is incomplete without it.
    pub const fn is_required(self) -> bool {
        !matches!(self, Self::Node | Self::Namespaces | Self::Pods)
    }
}

/// Shared between a source and whoever reports on it.
#[derive(Debug)]
pub struct SourceHealth {
    kind: SourceKind,
    epoch: Instant,
    resources: [ResourceHealth; Resource::ALL.len()],
    /// Classes of failures of the source as a whole that were reported since something worked.
    seen: Mutex<BTreeSet<String>>,
    problems: Mutex<Problems>,
}

#[derive(Debug)]
struct ResourceHealth {
    /// Milliseconds since `epoch`, or [`NEVER`].
    contact_ms: AtomicU64,
    lists: AtomicU64,
    reconnects: AtomicU64,
    errors: AtomicU64,
    failure: Mutex<Option<Outage>>,
    last_error: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    text: String,
    /// Classes of failures already logged in this outage.
    seen: BTreeSet<String>,
    /// Whether any failure of it was new.
    novelty: Novelty,
}

#[derive(Debug, Default)]
struct Problems {
    by_place: BTreeMap<String, Vec<Problem>>,
    count: usize,
}

/// Something of the source that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File, document and line, or kind and name.
    pub what: String,
    /// The reason and the remedy.
    pub why: String,
    /// What is lost.
    pub loss: Loss,
}

/// What a [`Problem`] takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// An object that is known, by name, and not used.
    Object,
    /// Nobody can tell: any object may stand in what could not be read.
    Unknown,
}

/// How the problems of a place changed.
#[derive(Debug)]
pub(super) struct ProblemChange {
    /// Those that were not there before.
    pub added: Vec<Problem>,
    /// How many are there no more.
    pub removed: usize,
}

/// How much a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All resources of the source alike: worth saying once, not once per resource.
    Source,
    /// One resource.
    Resource,
}

/// Whether a failure was reported before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Novelty {
    /// The first of its class in this outage: log it.
    New,
    /// Known: stay quiet.
    Known,
}

/// All of it at one instant.
#[derive(Clone, Debug)]
pub struct HealthSnapshot {
    /// Which source.
    pub kind: SourceKind,
    /// Whether every required list was delivered in full.
    pub synced: bool,
    /// Time since the last contact of the required resource that was longest without; `None` while
    /// one had none.
    pub contact: Option<Duration>,
    /// One entry per resource of this kind of source.
    pub resources: Vec<ResourceSnapshot>,
    /// What is left out now, at most 1,000 entries.
    pub problems: Vec<Problem>,
    /// How many there are in all.
    pub problem_count: usize,
}

/// One resource at one instant.
#[derive(Clone, Debug)]
pub struct ResourceSnapshot {
    /// Which.
    pub resource: Resource,
    /// Time since something was heard: a list, an event, a bookmark, or a scan of the directory.
    pub contact: Option<Duration>,
    /// Complete lists delivered.
    pub lists: u64,
    /// Times that a watch had to be started again.
    pub reconnects: u64,
    /// Failed requests, broken watches, failed scans.
    pub errors: u64,
    /// What is failing now, and for how long.
    pub failing: Option<(String, Duration)>,
    /// The last error, past or present.
    pub last_error: Option<String>,
}

impl SourceHealth {
    /// Healthy but never in contact.
    pub fn new(kind: SourceKind) -> Self {
        Self {
            kind,
            epoch: Instant::now(),
            resources: std::array::from_fn(|_| ResourceHealth {
                contact_ms: AtomicU64::new(NEVER),
                lists: AtomicU64::new(0),
                reconnects: AtomicU64::new(0),
                errors: AtomicU64::new(0),
                failure: Mutex::new(None),
                last_error: Mutex::new(None),
            }),
            seen: Mutex::default(),
            problems: Mutex::default(),
        }
    }

    /// Which source it is about.
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// Whether every required list was delivered in full at least once.
    pub fn synced(&self) -> bool {
        self.required().all(|resource| self.of(resource).lists.load(Relaxed) > 0)
    }

    /// Time since the last contact of the required resource that was longest without; `None` while one had none.
    pub fn contact(&self) -> Option<Duration> {
        self.required()
            .map(|resource| self.contact_of(resource))
            .try_fold(Duration::ZERO, |max, age| Some(max.max(age?)))
    }

    /// Whether something could not be read in which any object may stand.
    pub fn is_partial(&self) -> bool {
        lock(&self.problems).by_place.values().flatten().any(|problem| problem.loss == Loss::Unknown)
    }

    /// Failed requests, broken watches and failed scans of all resources.
    pub fn errors(&self) -> u64 {
        self.own().map(|resource| self.of(resource).errors.load(Relaxed)).sum()
    }

    /// Everything, for display.
    pub fn snapshot(&self) -> HealthSnapshot {
        let resources = self.own().map(|resource| self.resource(resource)).collect();
        let problems = lock(&self.problems);
        HealthSnapshot {
            kind: self.kind,
            synced: self.synced(),
            contact: self.contact(),
            resources,
            problems: problems.by_place.values().flatten().take(MAX_PROBLEMS).cloned().collect(),
            problem_count: problems.count,
        }
    }

    fn resource(&self, resource: Resource) -> ResourceSnapshot {
        let health = self.of(resource);
        ResourceSnapshot {
            resource,
            contact: self.contact_of(resource),
            lists: health.lists.load(Relaxed),
            reconnects: health.reconnects.load(Relaxed),
            errors: health.errors.load(Relaxed),
            failing: lock(&health.failure)
                .as_ref()
                .map(|outage| (outage.text.clone(), outage.since.elapsed())),
            last_error: lock(&health.last_error).clone(),
        }
    }

    /// Something was heard of `resource`.
    pub(super) fn touch(&self, resource: Resource) {
        let ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.of(resource).contact_ms.store(ms, Relaxed);
    }

    /// A complete list of `resource` was delivered.
    pub(super) fn listed(&self, resource: Resource) {
        self.of(resource).lists.fetch_add(1, Relaxed);
        self.touch(resource);
    }

    /// A watch of `resource` had to be started again.
    pub(super) fn reconnected(&self, resource: Resource) {
        self.of(resource).reconnects.fetch_add(1, Relaxed);
    }

    /// A failure. `class` is what makes two failures the same one; `text` may differ in details.
    pub(super) fn failed(&self, resource: Resource, extent: Extent, class: &str, text: &str) -> Novelty {
        let health = self.of(resource);
        health.errors.fetch_add(1, Relaxed);
        *lock(&health.last_error) = Some(text.to_owned());
        let is_new = match extent {
            Extent::Source => lock(&self.seen).insert(class.to_owned()),
            Extent::Resource => true,
        };
        let mut failure = lock(&health.failure);
        let outage = failure.get_or_insert_with(|| Outage {
            since: Instant::now(),
            text: String::new(),
            seen: BTreeSet::new(),
            novelty: Novelty::Known,
        });
        outage.text.clear();
        outage.text.push_str(text);
        if outage.seen.insert(class.to_owned()) && is_new {
            outage.novelty = Novelty::New;
            Novelty::New
        } else {
            Novelty::Known
        }
    }

    /// `resource` works. The length of the outage that this ends, if there was one and it was not
    /// reported for another resource.
    pub(super) fn recovered(&self, resource: Resource) -> Option<Duration> {
        let outage = lock(&self.of(resource).failure).take()?;
        lock(&self.seen).clear();
        (outage.novelty == Novelty::New).then(|| outage.since.elapsed())
    }

    /// Replaces what is wrong at `place` (a file, say); an empty list clears it.
    pub(super) fn set_problems(&self, place: &str, list: Vec<Problem>) -> ProblemChange {
        let mut problems = lock(&self.problems);
        let before = problems.by_place.remove(place).unwrap_or_default();
        let added: Vec<_> = list.iter().filter(|problem| !before.contains(problem)).cloned().collect();
        let removed = before.iter().filter(|problem| !list.contains(problem)).count();
        problems.count = problems.count + list.len() - before.len();
        if !list.is_empty() {
            problems.by_place.insert(place.to_owned(), list);
        }
        ProblemChange { added, removed }
    }

    fn of(&self, resource: Resource) -> &ResourceHealth {
        &self.resources[resource as usize]
    }

    fn contact_of(&self, resource: Resource) -> Option<Duration> {
        let ms = self.of(resource).contact_ms.load(Relaxed);
        (ms != NEVER).then(|| self.epoch.elapsed().saturating_sub(Duration::from_millis(ms)))
    }

    fn own(&self) -> impl Iterator<Item = Resource> + use<> {
        let kind = self.kind;
        Resource::ALL.into_iter().filter(move |resource| resource.kind() == kind)
    }

    fn required(&self) -> impl Iterator<Item = Resource> + use<> {
        self.own().filter(|resource| resource.is_required())
    }
}

/// A panic while one of these is held leaves nothing half-written that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_new_once_per_class_and_outage() {
        let health = SourceHealth::new(SourceKind::Kubernetes);
        let failed = |resource, class, text| health.failed(resource, Extent::Resource, class, text);
        assert_eq!(failed(Resource::Services, "http 500", "rev 1"), Novelty::New);
        assert_eq!(failed(Resource::Services, "http 500", "rev 2"), Novelty::Known);
        assert_eq!(failed(Resource::Services, "refused", "refused"), Novelty::New);
        assert_eq!(failed(Resource::EndpointSlices, "http 500", "rev 1"), Novelty::New);
        assert!(health.recovered(Resource::Services).is_some());
        assert!(health.recovered(Resource::Services).is_none());
        assert_eq!(failed(Resource::Services, "http 500", "rev 3"), Novelty::New);
        assert_eq!(health.resource(Resource::Services).errors, 4);
        assert_eq!(health.resource(Resource::Services).last_error.as_deref(), Some("rev 3"));
    }

    #[test]
    fn a_failure_of_the_whole_source_is_new_for_one_resource() {
        let health = SourceHealth::new(SourceKind::Kubernetes);
        let refused = |resource| health.failed(resource, Extent::Source, "refused", "refused");
        assert_eq!(refused(Resource::Services), Novelty::New);
        assert_eq!(refused(Resource::EndpointSlices), Novelty::Known);
        assert!(health.resource(Resource::EndpointSlices).failing.is_some());
        assert!(health.recovered(Resource::EndpointSlices).is_none());
        assert!(health.recovered(Resource::Services).is_some());
        assert_eq!(refused(Resource::Services), Novelty::New);
    }

    #[test]
    fn contact_and_sync_need_every_required_resource() {
        let health = SourceHealth::new(SourceKind::Kubernetes);
        health.listed(Resource::Services);
        assert!(!health.synced() && health.contact().is_none());
        health.listed(Resource::EndpointSlices);
        assert!(health.synced() && health.contact().is_some());
        assert_eq!(health.snapshot().resources.len(), 5);
    }

    #[test]
    fn problems_are_replaced_by_place() {
        let health = SourceHealth::new(SourceKind::Manifests);
        let problem = |what: &str| Problem { what: what.into(), why: "because".into(), loss: Loss::Object };
        health.set_problems("a", vec![problem("1"), problem("2")]);
        health.set_problems("b", vec![problem("3")]);
        health.set_problems("a", vec![problem("4")]);
        assert_eq!(health.snapshot().problems, [problem("4"), problem("3")]);
        health.set_problems("a", vec![]);
        health.set_problems("b", vec![]);
        assert_eq!(health.snapshot().problem_count, 0);
    }
}
