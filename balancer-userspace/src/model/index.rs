//! All objects that the agent knows, and which Services an event touches.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use balancer_common::abi::Algorithm;

use crate::compact::CompactMap;

use super::{
    ConnectionSettings, DesiredPort, Dirty, Event, ExcludedPod, Exclusion, InternalTraffic, NamespaceSpec,
    NodeInfo, ObjectName, Scope, Selection, ServiceSpec, SliceSpec,
    claims::Claims,
    dirty::DirtySet,
    pods::Pods,
    resolve::{self, Input},
    scope::scope,
};

/// What holds for the whole node.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// The algorithm of Services that ask for none.
    pub algorithm: Algorithm,
    /// What becomes of open connections of Services that do not say.
    pub connections: ConnectionSettings,
    /// Which Services are balanced of which nobody says anything.
    pub selection: Selection,
    /// When the process started, in milliseconds since 1970. Changes before that do not count as triggers.
    pub started_ms: i64,
}

/// Everything that the source has reported.
///
/// The cost of an event and of resolving a Service depends on that Service alone, not on how many there are
/// (but for whole lists and a change of the node). Which Services are dirty depends on what differs:
/// the same object delivered again marks none.
#[derive(Debug)]
pub struct Index {
    defaults: Defaults,
    node: NodeInfo,
    /// By namespace, then name: what a Namespace says concerns a range of it.
    services: BTreeMap<ObjectName, Entry>,
    /// Those that say something.
    namespaces: HashMap<Arc<str>, NamespaceSpec>,
    pods: Pods,
    /// The name of the Service that each slice belongs to, in the slice's namespace.
    slices: HashMap<ObjectName, Arc<str>>,
    claims: Claims,
    dirty: DirtySet,
    seen: Seen,
}

/// A Service, or only slices that name it. Never empty.
#[derive(Debug, Default)]
struct Entry {
    spec: Option<ServiceSpec>,
    /// By name.
    slices: CompactMap<Arc<str>, Box<SliceSpec>>,
    /// As of the last [`Index::resolve`].
    problems: Vec<String>,
}

/// Which whole lists have come.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    services: bool,
    slices: bool,
}

/// How many objects the index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services, the excluded ones included.
    pub services: usize,
    /// EndpointSlices, the orphans included.
    pub slices: usize,
    /// Slices whose Service is unknown.
    pub orphan_slices: usize,
    /// Endpoints in all slices.
    pub endpoints: usize,
}

impl Index {
    /// An index that knows nothing yet.
    pub fn new(defaults: Defaults) -> Self {
        Self {
            defaults,
            node: NodeInfo::default(),
            services: BTreeMap::new(),
            namespaces: HashMap::new(),
            pods: Pods::default(),
            slices: HashMap::new(),
            claims: Claims::default(),
            dirty: DirtySet::default(),
            seen: Seen::default(),
        }
    }

    /// Takes in what the source reports and marks the Services that it changes.
    ///
    /// [`Event::Skipped`] changes nothing: whoever counts skipped objects gets it from the source.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::AllServices(specs) => self.replace_services(specs),
            Event::AllSlices(specs) => self.replace_slices(specs),
            Event::Service(spec) => self.set_service(*spec),
            Event::ServiceGone(name) => self.remove_service(&name),
            Event::Slice(spec) => self.set_slice(spec),
            Event::SliceGone(name) => self.remove_slice(&name),
            Event::Node(node) => self.set_node(node),
            Event::AllNamespaces(specs) => self.replace_namespaces(specs),
            Event::Namespace(spec) => self.set_namespace(spec),
            Event::NamespaceGone(name) => self.remove_namespace(&name),
            Event::AllPods(specs) => self.pods.replace(specs),
            Event::Pod(spec) => self.pods.set(spec),
            Event::PodGone(name) => self.pods.remove(&name),
            Event::Skipped { .. } => {}
        }
    }

    /// Whether both whole lists have been seen. Before that, what is missing here may exist: nothing may be
    /// removed from the kernel on the word of this index.
    pub fn is_complete(&self) -> bool {
        self.seen.services && self.seen.slices
    }

    /// Whether any Service is dirty.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The Services whose outcome may differ since the last call, in the order of their names.
    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        self.dirty.take()
    }

    /// What should be in the kernel for a Service: nothing if it is unknown or excluded. Remembers its
    /// problems for [`Index::problems`].
    pub fn resolve(&mut self, service: &ObjectName) -> Vec<DesiredPort> {
        let Some(entry) = self.services.get_mut(service) else { return Vec::new() };
        let Some(spec) = &entry.spec else { return Vec::new() };
        let slices: Vec<&SliceSpec> = entry.slices.values().map(Box::as_ref).collect();
        let namespace = self.namespaces.get(&service.namespace);
        let input = Input {
            service: spec,
            scope: scope(spec, namespace, self.defaults.selection),
            namespace,
            slices: &slices,
            node: &self.node,
            default_algorithm: self.defaults.algorithm,
            default_connections: self.defaults.connections,
        };
        let claims = &self.claims;
        let resolved =
            resolve::resolve(input, |frontend, index| claims.other_owner(frontend, &spec.name, index));
        entry.problems = resolved.problems;
        resolved.ports
    }

    /// What somebody should put right, as of each Service's last [`Index::resolve`]. In no order.
    pub fn problems(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.services
            .iter()
            .flat_map(|(name, entry)| entry.problems.iter().map(move |problem| (name, problem.as_str())))
    }

    /// What somebody should put right about one Service, as of its last [`Index::resolve`].
    pub fn problems_of(&self, service: &ObjectName) -> &[String] {
        self.services.get(service).map_or(&[], |entry| &entry.problems)
    }

    /// The Services that are left alone, and why. In no order.
    pub fn excluded(&self) -> impl Iterator<Item = (&ObjectName, Exclusion)> {
        self.services.iter().filter_map(|(name, entry)| match self.scope_of(entry.spec.as_ref()?) {
            Scope::Excluded(reason) => Some((name, reason)),
            Scope::Balanced => None,
        })
    }

    /// Why a Service is left alone; `None` if it is balanced or unknown.
    pub fn exclusion(&self, service: &ObjectName) -> Option<Exclusion> {
        match self.scope_of(self.services.get(service)?.spec.as_ref()?) {
            Scope::Excluded(reason) => Some(reason),
            Scope::Balanced => None,
        }
    }

    /// What the Namespaces say that somebody should put right. In no order.
    pub fn namespace_problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.namespaces
            .values()
            .flat_map(|spec| spec.problems.iter().map(|problem| (&*spec.name, problem.as_str())))
    }

    /// The pods of this node whose connects are left alone, if the source has listed pods and that may have changed
    /// since the last call.
    pub fn take_excluded_pods(&mut self) -> Option<Vec<ExcludedPod>> {
        self.pods.take_excluded(&self.namespaces)
    }

    /// What the pods of this node say that somebody should put right. In no order.
    pub fn pod_problems(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.pods.problems()
    }

    /// A Service as the source reported it.
    pub fn service(&self, name: &ObjectName) -> Option<&ServiceSpec> {
        self.services.get(name)?.spec.as_ref()
    }

    /// The slices of a Service, in the order of their names.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &SliceSpec> {
        self.services.get(service).into_iter().flat_map(|entry| entry.slices.values()).map(Box::as_ref)
    }

    /// The node as the source last reported it.
    pub fn node(&self) -> &NodeInfo {
        &self.node
    }

    /// Counts all objects; walks over all Services.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { slices: self.slices.len(), ..Counts::default() };
        for entry in self.services.values() {
            counts.endpoints += entry.slices.values().map(|slice| slice.endpoints.len()).sum::<usize>();
            match entry.spec {
                Some(_) => counts.services += 1,
                None => counts.orphan_slices += entry.slices.len(),
            }
        }
        counts
    }

    /// Whether nothing is known but the node.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.slices.is_empty()
            && self.namespaces.is_empty()
            && self.claims.is_empty()
    }

    fn replace_services(&mut self, specs: Vec<ServiceSpec>) {
        self.seen.services = true;
        // Of two with one name the last counts.
        let new: HashMap<ObjectName, ServiceSpec> =
            specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let known = self.services.iter().filter(|(_, entry)| entry.spec.is_some()).map(|(name, _)| name);
        let missed: Vec<_> = known.filter(|name| !new.contains_key(*name)).cloned().collect();
        missed.iter().for_each(|name| self.remove_service(name));
        new.into_values().for_each(|spec| self.set_service(spec));
    }

    fn replace_slices(&mut self, specs: Vec<SliceSpec>) {
        self.seen.slices = true;
        let new: HashMap<ObjectName, SliceSpec> =
            specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let missed: Vec<_> = self.slices.keys().filter(|name| !new.contains_key(*name)).cloned().collect();
        missed.iter().for_each(|name| self.remove_slice(name));
        new.into_values().for_each(|spec| self.set_slice(Box::new(spec)));
    }

    fn set_service(&mut self, spec: ServiceSpec) {
        let entry = self.services.entry(spec.name.clone()).or_default();
        if entry.spec.as_ref() == Some(&spec) {
            return;
        }
        self.dirty.mark(&spec.name);
        self.claims.replace(entry.spec.as_ref(), Some(&spec), |other| self.dirty.mark(other));
        entry.spec = Some(spec);
    }

    fn remove_service(&mut self, name: &ObjectName) {
        let Some(entry) = self.services.get_mut(name) else { return };
        let Some(spec) = entry.spec.take() else { return };
        entry.problems = Vec::new();
        if entry.slices.is_empty() {
            self.services.remove(name);
        }
        self.dirty.mark(name);
        self.claims.replace(Some(&spec), None, |other| self.dirty.mark(other));
    }

    fn set_slice(&mut self, spec: Box<SliceSpec>) {
        let service = ObjectName { namespace: spec.name.namespace.clone(), name: spec.service.clone() };
        if self.slices.get(&spec.name).is_some_and(|owner| *owner != spec.service) {
            self.remove_slice(&spec.name);
        }
        let entry = self.services.entry(service.clone()).or_default();
        let slice = spec.name.name.clone();
        let same = entry.slices.get(&slice).is_some_and(|old| is_same_but_for_trigger(old, &spec));
        let namespace = self.namespaces.get(&service.namespace);
        let balanced = entry
            .spec
            .as_ref()
            .is_some_and(|spec| scope(spec, namespace, self.defaults.selection) == Scope::Balanced);
        if !same && balanced {
            match spec.triggered_ms.filter(|time| *time > self.defaults.started_ms) {
                Some(time) => self.dirty.mark_triggered(&service, &slice, time),
                None => self.dirty.mark(&service),
            }
        }
        self.slices.insert(spec.name.clone(), spec.service.clone());
        entry.slices.insert(slice, spec);
    }

    fn remove_slice(&mut self, name: &ObjectName) {
        let Some(owner) = self.slices.remove(name) else { return };
        let service = ObjectName { namespace: name.namespace.clone(), name: owner };
        let Some(entry) = self.services.get_mut(&service) else { return };
        entry.slices.remove(&name.name);
        let namespace = self.namespaces.get(&service.namespace);
        match &entry.spec {
            Some(spec) if scope(spec, namespace, self.defaults.selection) == Scope::Balanced => {
                self.dirty.mark(&service);
            }
            Some(_) => {}
            None if entry.slices.is_empty() => {
                self.services.remove(&service);
            }
            None => {}
        }
        self.dirty.forget_triggers(&service, &name.name);
    }

    fn replace_namespaces(&mut self, specs: Vec<NamespaceSpec>) {
        let new: HashSet<Arc<str>> = specs.iter().map(|spec| spec.name.clone()).collect();
        let missed: Vec<_> = self.namespaces.keys().filter(|name| !new.contains(*name)).cloned().collect();
        missed.iter().for_each(|name| self.remove_namespace(name));
        specs.into_iter().for_each(|spec| self.set_namespace(spec));
    }

    fn set_namespace(&mut self, spec: NamespaceSpec) {
        if !spec.says_something() {
            return self.remove_namespace(&spec.name);
        }
        if self.namespaces.get(&spec.name) == Some(&spec) {
            return;
        }
        let name = spec.name.clone();
        self.namespaces.insert(spec.name.clone(), spec);
        self.mark_namespace(&name);
    }

    fn remove_namespace(&mut self, name: &Arc<str>) {
        if self.namespaces.remove(name).is_some() {
            self.mark_namespace(name);
        }
    }

    /// Its Services, and no others; those for which it makes no difference cost a resolve and no write.
    fn mark_namespace(&mut self, namespace: &Arc<str>) {
        self.pods.reconsider();
        let first = ObjectName::new(Arc::clone(namespace), "");
        let own = self.services.range(first..).take_while(|(name, _)| name.namespace == *namespace);
        for (name, entry) in own {
            if entry.spec.is_some() {
                self.dirty.mark(name);
            }
        }
    }

    fn scope_of(&self, spec: &ServiceSpec) -> Scope {
        scope(spec, self.namespaces.get(&spec.name.namespace), self.defaults.selection)
    }

    fn set_node(&mut self, node: NodeInfo) {
        if self.node == node {
            return;
        }
        self.node = node;
        let depends = self.services.iter().filter(|(_, entry)| {
            entry.depends_on_node()
                && entry.spec.as_ref().is_some_and(|spec| self.scope_of(spec) == Scope::Balanced)
        });
        let names: Vec<_> = depends.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.dirty.mark(name));
    }
}

impl Entry {
    fn depends_on_node(&self) -> bool {
        let Some(spec) = &self.spec else { return false };
        let hinted = || {
            let mut endpoints = self.slices.values().flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| !endpoint.node_hints.is_empty() || !endpoint.zone_hints.is_empty())
        };
        spec.internal_traffic == InternalTraffic::Local || hinted()
    }
}

/// The trigger time alone changes nothing in the kernel.
fn is_same_but_for_trigger(a: &SliceSpec, b: &SliceSpec) -> bool {
    let SliceSpec { name, service, family, ports, endpoints, weight, triggered_ms: _, problems } = a;
    *name == b.name
        && *service == b.service
        && *family == b.family
        && *ports == b.ports
        && *endpoints == b.endpoints
        && *weight == b.weight
        && *problems == b.problems
}
