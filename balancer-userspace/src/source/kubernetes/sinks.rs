//! What becomes of the objects of each resource: events, made as the objects arrive, which are then dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    mem,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Resource as KubeResource, core::PartialObjectMeta};
use serde::de::DeserializeOwned;

use crate::{
    model::{
        Event, NamespaceSpec, NodeInfo, ObjectName, PodSpec, ServiceSpec, SliceSpec,
        convert::{self, Skip},
    },
    source::{
        health::{Loss, Problem, Resource, SourceHealth},
        node_info,
    },
};

/// Turns the objects of one resource into events.
///
/// A list is added object by object and reported only when it is complete.
pub(super) trait Sink: Send {
    type Object: KubeResource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static;
    const RESOURCE: Resource;

    /// Which objects to ask for.
    fn selector(&self) -> Selector;
    /// A list begins; what was added to an unfinished one is forgotten.
    fn begin(&mut self);
    fn add(&mut self, object: Self::Object);
    /// The list is complete.
    fn commit(&mut self) -> Vec<Event>;
    fn apply(&mut self, object: Self::Object) -> Vec<Event>;
    fn delete(&mut self, object: Self::Object) -> Vec<Event>;
    /// A list failed.
    fn failed(&mut self) -> Vec<Event> {
        Vec::new()
    }
}

/// Label and field selectors.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// A kind of object of which there are many.
pub(super) trait Kind: Send {
    type Object: KubeResource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static;
    type Spec: Send;
    const RESOURCE: Resource;
    const NAME: &'static str;
    /// Label selector; empty for all.
    const SELECTOR: &'static str;

    fn convert(object: &Self::Object) -> Result<Self::Spec, Skip>;
    fn all(specs: Vec<Self::Spec>) -> Event;
    fn one(spec: Self::Spec) -> Event;
    fn gone(name: ObjectName) -> Event;
}

/// Services.
pub(super) enum Services {}

impl Kind for Services {
    type Object = Service;
    type Spec = ServiceSpec;
    const RESOURCE: Resource = Resource::Services;
    const NAME: &'static str = "Service";
    /// Those of other proxies are never even sent to us.
    const SELECTOR: &'static str = "!service.kubernetes.io/service-proxy-name";

    fn convert(object: &Service) -> Result<ServiceSpec, Skip> {
        convert::service_spec(object)
    }
    fn all(specs: Vec<ServiceSpec>) -> Event {
        Event::AllServices(specs)
    }
    fn one(spec: ServiceSpec) -> Event {
        Event::Service(Box::new(spec))
    }
    fn gone(name: ObjectName) -> Event {
        Event::ServiceGone(name)
    }
}

/// EndpointSlices.
pub(super) enum Slices {}

impl Kind for Slices {
    type Object = EndpointSlice;
    type Spec = SliceSpec;
    const RESOURCE: Resource = Resource::EndpointSlices;
    const NAME: &'static str = "EndpointSlice";
    /// Headless Services have nothing to balance.
    const SELECTOR: &'static str = "!service.kubernetes.io/headless";

    fn convert(object: &EndpointSlice) -> Result<SliceSpec, Skip> {
        convert::slice_spec(object)
    }
    fn all(specs: Vec<SliceSpec>) -> Event {
        Event::AllSlices(specs)
    }
    fn one(spec: SliceSpec) -> Event {
        Event::Slice(Box::new(spec))
    }
    fn gone(name: ObjectName) -> Event {
        Event::SliceGone(name)
    }
}

/// Namespaces, of which only the metadata is asked for.
pub(super) enum Namespaces {}

impl Kind for Namespaces {
    type Object = PartialObjectMeta<Namespace>;
    type Spec = NamespaceSpec;
    const RESOURCE: Resource = Resource::Namespaces;
    const NAME: &'static str = "Namespace";
    const SELECTOR: &'static str = "";

    fn convert(object: &Self::Object) -> Result<NamespaceSpec, Skip> {
        convert::namespace_spec(&object.metadata)
    }
    fn all(specs: Vec<NamespaceSpec>) -> Event {
        Event::AllNamespaces(specs)
    }
    fn one(spec: NamespaceSpec) -> Event {
        Event::Namespace(spec)
    }
    fn gone(name: ObjectName) -> Event {
        Event::NamespaceGone(name.name)
    }
}

/// Pods, of which only the metadata is asked for.
pub(super) enum Pods {}

impl Kind for Pods {
    type Object = PartialObjectMeta<Pod>;
    type Spec = PodSpec;
    const RESOURCE: Resource = Resource::Pods;
    const NAME: &'static str = "Pod";
    const SELECTOR: &'static str = "";

    fn convert(object: &Self::Object) -> Result<PodSpec, Skip> {
        convert::pod_spec(&object.metadata)
    }
    fn all(specs: Vec<PodSpec>) -> Event {
        Event::AllPods(specs)
    }
    fn one(spec: PodSpec) -> Event {
        Event::Pod(spec)
    }
    fn gone(name: ObjectName) -> Event {
        Event::PodGone(name)
    }
}

impl KindSink<Pods> {
    /// The pods of one node.
    pub(super) fn of_node(health: Arc<SourceHealth>, node: &str) -> Self {
        Self { fields: Some(format!("spec.nodeName={node}")), ..Self::new(health) }
    }
}

/// All objects of a kind.
pub(super) struct KindSink<K: Kind> {
    /// Field selector.
    fields: Option<String>,
    health: Arc<SourceHealth>,
    list: Vec<K::Spec>,
    /// Those of the list being read that cannot be used.
    unusable: Vec<(ObjectName, Skip)>,
    /// Those that are reported as such, and why.
    skipped: BTreeMap<ObjectName, Skip>,
}

impl<K: Kind> KindSink<K> {
    pub(super) fn new(health: Arc<SourceHealth>) -> Self {
        Self { fields: None, health, list: Vec::new(), unusable: Vec::new(), skipped: BTreeMap::new() }
    }

    /// What is routine is told, once, and is no problem: healthy clusters would have it for ever.
    fn skip(&mut self, name: ObjectName, skip: Skip) -> Option<Event> {
        if self.skipped.get(&name) == Some(&skip) {
            return None;
        }
        let (what, why) = (format!("{} {name}", K::NAME), skip.to_string());
        if skip.is_routine() {
            self.health.set_problems(&what, Vec::new());
            log::debug!("{what}: {why}");
        } else {
            let problem = Problem { what: what.clone(), why: why.clone(), loss: Loss::Object };
            self.health.set_problems(&what, vec![problem]);
            log::warn!("{what}: {why}");
        }
        self.skipped.insert(name, skip);
        Some(Event::Skipped { what, why })
    }

    fn unskip(&mut self, name: &ObjectName) {
        if self.skipped.remove(name).is_some() {
            self.health.set_problems(&format!("{} {name}", K::NAME), Vec::new());
        }
    }
}

impl<K: Kind> Sink for KindSink<K> {
    type Object = K::Object;
    const RESOURCE: Resource = K::RESOURCE;

    fn selector(&self) -> Selector {
        Selector {
            labels: Some(K::SELECTOR.to_owned()).filter(|labels| !labels.is_empty()),
            fields: self.fields.clone(),
        }
    }

    fn begin(&mut self) {
        self.list.clear();
        self.unusable.clear();
    }

    fn add(&mut self, object: K::Object) {
        match K::convert(&object) {
            Ok(spec) => self.list.push(spec),
            Err(skip) => self.unusable.push((name(&object), skip)),
        }
    }

    fn commit(&mut self) -> Vec<Event> {
        let unusable = mem::take(&mut self.unusable);
        let still: BTreeSet<_> = unusable.iter().map(|(name, _)| name).collect();
        let over: Vec<_> = self.skipped.keys().filter(|name| !still.contains(name)).cloned().collect();
        for name in &over {
            self.unskip(name);
        }
        let mut events = vec![K::all(mem::take(&mut self.list))];
        events.extend(unusable.into_iter().filter_map(|(name, skip)| self.skip(name, skip)));
        events
    }

    fn apply(&mut self, object: K::Object) -> Vec<Event> {
        let name = name(&object);
        match K::convert(&object) {
            Ok(spec) => {
                self.unskip(&name);
                vec![K::one(spec)]
            }
            // It may have been of use before.
            Err(skip) => [K::gone(name.clone())].into_iter().chain(self.skip(name, skip)).collect(),
        }
    }

    fn delete(&mut self, object: K::Object) -> Vec<Event> {
        let name = name(&object);
        self.unskip(&name);
        vec![K::gone(name)]
    }
}

/// The agent's own Node, of which only the metadata is asked for: the rest is large and changes all the time.
pub(super) struct NodeSink {
    name: Arc<str>,
    found: Option<NodeInfo>,
    reported: Option<NodeInfo>,
}

impl NodeSink {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self { name, found: None, reported: None }
    }

    fn report(&mut self, node: NodeInfo) -> Vec<Event> {
        if self.reported.as_ref() == Some(&node) {
            return Vec::new();
        }
        self.reported = Some(node.clone());
        vec![Event::Node(node)]
    }

    /// What is known of a Node that cannot be read, unless something was known before.
    fn unknown(&mut self) -> Vec<Event> {
        match self.reported {
            Some(_) => Vec::new(),
            None => self.report(NodeInfo { name: self.name.clone(), zone: None }),
        }
    }
}

impl Sink for NodeSink {
    type Object = PartialObjectMeta<Node>;
    const RESOURCE: Resource = Resource::Node;

    fn selector(&self) -> Selector {
        Selector { labels: None, fields: Some(format!("metadata.name={}", self.name)) }
    }

    fn begin(&mut self) {
        self.found = None;
    }

    fn add(&mut self, object: Self::Object) {
        self.found = Some(node_info(&object.metadata));
    }

    fn commit(&mut self) -> Vec<Event> {
        match self.found.take() {
            Some(node) => self.report(node),
            None => {
                log::warn!("there is no Node {}: check --node; its zone is taken for unknown", self.name);
                self.unknown()
            }
        }
    }

    fn apply(&mut self, object: Self::Object) -> Vec<Event> {
        self.report(node_info(&object.metadata))
    }

    /// A Node that registers anew is where it was.
    fn delete(&mut self, _: Self::Object) -> Vec<Event> {
        Vec::new()
    }

    fn failed(&mut self) -> Vec<Event> {
        self.unknown()
    }
}

fn name(object: &impl KubeResource) -> ObjectName {
    let metadata = object.meta();
    ObjectName::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}
