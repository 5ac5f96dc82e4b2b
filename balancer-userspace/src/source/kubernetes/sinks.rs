//! What becomes of the objects of each resource: events, made as the objects arrive, which are then dropped.

use std::{collections::BTreeSet, fmt::Debug, mem, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Resource as KubeResource, core::PartialObjectMeta};
use serde::de::DeserializeOwned;

use crate::{
    model::{Event, NodeInfo, ObjectName, ServiceSpec, SliceSpec},
    source::{
        adapter,
        health::{Problem, Resource, SourceHealth},
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

/// Services.
#[derive(Default)]
pub(super) struct ServiceSink {
    list: Vec<ServiceSpec>,
}

impl Sink for ServiceSink {
    type Object = Service;
    const RESOURCE: Resource = Resource::Services;

    /// Those of other proxies are never even sent to us.
    fn selector(&self) -> Selector {
        Selector { labels: Some("!service.kubernetes.io/service-proxy-name".to_owned()), fields: None }
    }

    fn begin(&mut self) {
        self.list.clear();
    }

    fn add(&mut self, object: Service) {
        self.list.push(adapter::service_spec(&object));
    }

    fn commit(&mut self) -> Vec<Event> {
        vec![Event::AllServices(mem::take(&mut self.list))]
    }

    fn apply(&mut self, object: Service) -> Vec<Event> {
        vec![Event::Service(Box::new(adapter::service_spec(&object)))]
    }

    fn delete(&mut self, object: Service) -> Vec<Event> {
        vec![Event::ServiceGone(name(&object))]
    }
}

/// EndpointSlices.
pub(super) struct SliceSink {
    health: Arc<SourceHealth>,
    list: Vec<SliceSpec>,
    /// Those of the list being read that cannot be used.
    unusable: Vec<(ObjectName, String)>,
    /// Those that are reported as such.
    skipped: BTreeSet<ObjectName>,
}

impl SliceSink {
    pub(super) fn new(health: Arc<SourceHealth>) -> Self {
        Self { health, list: Vec::new(), unusable: Vec::new(), skipped: BTreeSet::new() }
    }

    fn skip(&mut self, name: ObjectName, why: String) -> Option<Event> {
        let what = format!("EndpointSlice {name}");
        let problem = Problem { what: what.clone(), why: why.clone() };
        let is_new = !self.health.set_problems(&what, vec![problem]).added.is_empty();
        self.skipped.insert(name);
        is_new.then(|| {
            log::info!("{what}: {why}");
            Event::Skipped { what, why }
        })
    }

    fn unskip(&mut self, name: &ObjectName) {
        if self.skipped.remove(name) {
            self.health.set_problems(&format!("EndpointSlice {name}"), Vec::new());
        }
    }
}

impl Sink for SliceSink {
    type Object = EndpointSlice;
    const RESOURCE: Resource = Resource::EndpointSlices;

    /// Slices of headless Services have nothing to balance.
    fn selector(&self) -> Selector {
        Selector { labels: Some("!service.kubernetes.io/headless".to_owned()), fields: None }
    }

    fn begin(&mut self) {
        self.list.clear();
        self.unusable.clear();
    }

    fn add(&mut self, object: EndpointSlice) {
        match adapter::slice_spec(&object) {
            Ok(spec) => self.list.push(spec),
            Err(why) => self.unusable.push((name(&object), why)),
        }
    }

    fn commit(&mut self) -> Vec<Event> {
        let unusable = mem::take(&mut self.unusable);
        let still: BTreeSet<_> = unusable.iter().map(|(name, _)| name).collect();
        let over: Vec<_> = self.skipped.iter().filter(|name| !still.contains(name)).cloned().collect();
        for name in &over {
            self.unskip(name);
        }
        let mut events = vec![Event::AllSlices(mem::take(&mut self.list))];
        events.extend(unusable.into_iter().filter_map(|(name, why)| self.skip(name, why)));
        events
    }

    fn apply(&mut self, object: EndpointSlice) -> Vec<Event> {
        let name = name(&object);
        match adapter::slice_spec(&object) {
            Ok(spec) => {
                self.unskip(&name);
                vec![Event::Slice(Box::new(spec))]
            }
            // It may have been of use before.
            Err(why) => [Event::SliceGone(name.clone())].into_iter().chain(self.skip(name, why)).collect(),
        }
    }

    fn delete(&mut self, object: EndpointSlice) -> Vec<Event> {
        let name = name(&object);
        self.unskip(&name);
        vec![Event::SliceGone(name)]
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
                log::warn!(
                    "there is no Node {}: check --node-name; its zone is taken for unknown",
                    self.name
                );
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
