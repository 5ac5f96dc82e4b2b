//! From the text of one document to the objects in it.

use std::{fmt, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    split::{Document, TypeMeta},
    text::Text,
};
use crate::{
    model::{
        NamespaceSpec, NodeInfo, ObjectName, PodSpec, ServiceSpec, SliceSpec,
        convert::{self, Skip},
    },
    source::node_info,
};

/// An object that matters here.
#[derive(Clone, Debug)]
pub(super) enum Object {
    /// A Service.
    Service(ServiceSpec),
    /// An EndpointSlice.
    Slice(SliceSpec),
    /// Any Node.
    Node(NodeInfo),
    /// A Namespace.
    Namespace(NamespaceSpec),
    /// A Pod, and the node that it is bound to, if it says so.
    Pod(PodSpec, Option<Arc<str>>),
}

/// What identifies an object across files.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// A Node, by name.
    Node(Arc<str>),
    /// A Namespace, by name. Reported before the Services in it.
    Namespace(Arc<str>),
    /// A Pod.
    Pod(ObjectName),
    /// A Service.
    Service(ObjectName),
    /// An EndpointSlice.
    Slice(ObjectName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Slice(name) => write!(f, "EndpointSlice {name}"),
        }
    }
}

impl Object {
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Service(spec) => Key::Service(spec.name.clone()),
            Self::Slice(spec) => Key::Slice(spec.name.clone()),
            Self::Node(node) => Key::Node(node.name.clone()),
            Self::Namespace(spec) => Key::Namespace(spec.name.clone()),
            Self::Pod(spec, _) => Key::Pod(spec.name.clone()),
        }
    }
}

/// What one document gave.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// The objects, in order.
    pub objects: Vec<Object>,
    /// Parts that could not be read. Their objects may be ones that were read before.
    pub malformed: Vec<Fault>,
    /// Objects that were read and cannot be used.
    pub unusable: Vec<Fault>,
}

/// Something wrong in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Line of the file, where it is known.
    pub line: Option<usize>,
    /// The object, where it is known.
    pub object: Option<String>,
    /// What is wrong.
    pub why: String,
}

/// Reads a document.
///
/// Kinds other than Service, EndpointSlice, Node, Namespace, Pod and lists of them are ignored.
pub(super) fn parse(document: &Document<'_>) -> Parsed {
    let mut parsed = Parsed::default();
    let text = Text::of(document);
    let head = match text.head() {
        Ok(head) => head,
        Err(fault) => {
            parsed.malformed.push(fault);
            return parsed;
        }
    };
    match Kind::of(&head) {
        Some(Kind::List(default)) => {
            let mut number = 0;
            let read = text.for_each_item(&mut |item| {
                number += 1;
                parsed.list_item(number, &item, default);
            });
            if let Err(fault) = read {
                parsed.malformed.push(fault);
            }
        }
        Some(Kind::One(kind)) => parsed.object(kind, &text),
        Some(Kind::Outdated) => parsed.unusable.push(outdated(&head, text.line())),
        None if head.is_complete() => log::debug!("ignoring {head}"),
        None => parsed.malformed.push(Fault {
            line: text.line(),
            object: None,
            why: "it has no kind and apiVersion: every Kubernetes object names both".to_owned(),
        }),
    }
    parsed
}

fn outdated(head: &TypeMeta, line: Option<usize>) -> Fault {
    Fault {
        line,
        object: None,
        why: format!("EndpointSlice of {} is not read: use discovery.k8s.io/v1", head.api_version),
    }
}

#[derive(Clone, Copy)]
enum One {
    Service,
    Slice,
    Node,
    Namespace,
    Pod,
}

#[derive(Clone, Copy)]
enum Kind {
    One(One),
    /// A list, whose items may go without a type where the list names it.
    List(Option<One>),
    Outdated,
}

impl Kind {
    fn of(head: &TypeMeta) -> Option<Self> {
        Some(match (head.api_version.as_str(), head.kind.as_str()) {
            ("v1", "Service") => Self::One(One::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::One(One::Slice),
            ("v1", "Node") => Self::One(One::Node),
            ("v1", "Namespace") => Self::One(One::Namespace),
            ("v1", "Pod") => Self::One(One::Pod),
            ("v1", "List") => Self::List(None),
            ("v1", "ServiceList") => Self::List(Some(One::Service)),
            ("discovery.k8s.io/v1", "EndpointSliceList") => Self::List(Some(One::Slice)),
            ("v1", "NodeList") => Self::List(Some(One::Node)),
            ("v1", "PodList") => Self::List(Some(One::Pod)),
            ("v1", "NamespaceList") => Self::List(Some(One::Namespace)),
            (group, "EndpointSlice" | "EndpointSliceList") if group.starts_with("discovery.k8s.io/") => {
                Self::Outdated
            }
            _ => return None,
        })
    }
}

impl Parsed {
    fn object(&mut self, kind: One, text: &Text<'_>) {
        let line = text.line();
        let read = match kind {
            One::Service => text.read().map(|object| self.service(&object, line)),
            One::Slice => text.read().map(|object| self.slice(&object, line)),
            One::Node => text.read().map(|object| self.node(&object)),
            One::Pod => text.read().map(|object| self.pod(&object, line)),
            One::Namespace => text.read().map(|object| self.namespace(&object, line)),
        };
        if let Err(fault) = read {
            self.malformed.push(fault);
        }
    }

    fn list_item(&mut self, number: usize, item: &Text<'_>, default: Option<One>) {
        let head = match item.head() {
            Ok(head) => head,
            Err(fault) => return self.malformed.push(fault),
        };
        match (Kind::of(&head), default) {
            (Some(Kind::One(kind)), _) => self.object(kind, item),
            (Some(Kind::Outdated), _) => self.unusable.push(outdated(&head, item.line())),
            (_, Some(kind)) if head.kind.is_empty() => self.object(kind, item),
            _ if head.is_complete() => log::debug!("ignoring {head} in a list"),
            _ => self.malformed.push(Fault {
                line: item.line(),
                object: None,
                why: format!("item {number} of the list has no kind and apiVersion"),
            }),
        }
    }

    fn service(&mut self, object: &Service, line: Option<usize>) {
        match convert::service_spec(object) {
            Ok(spec) => self.objects.push(Object::Service(spec)),
            Err(skip) => self.skip("Service", &object.metadata, line, &skip),
        }
    }

    fn slice(&mut self, object: &EndpointSlice, line: Option<usize>) {
        match convert::slice_spec(object) {
            Ok(spec) => self.objects.push(Object::Slice(spec)),
            Err(skip) => self.skip("EndpointSlice", &object.metadata, line, &skip),
        }
    }

    fn node(&mut self, object: &Node) {
        self.objects.push(Object::Node(node_info(&object.metadata)));
    }

    fn namespace(&mut self, object: &Namespace, line: Option<usize>) {
        match convert::namespace_spec(&object.metadata) {
            Ok(spec) => self.objects.push(Object::Namespace(spec)),
            Err(skip) => self.skip("Namespace", &object.metadata, line, &skip),
        }
    }

    fn pod(&mut self, object: &Pod, line: Option<usize>) {
        match convert::pod_spec(&object.metadata) {
            Ok(spec) => {
                let node = object.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                self.objects.push(Object::Pod(spec, node.map(Into::into)));
            }
            // Written to be applied, not read from a cluster.
            Err(Skip::NoUid) => log::debug!("ignoring a Pod without metadata.uid"),
            Err(skip) => self.skip("Pod", &object.metadata, line, &skip),
        }
    }

    fn skip(&mut self, kind: &str, metadata: &ObjectMeta, line: Option<usize>, skip: &Skip) {
        let fault = |object| Fault { line, object, why: skip.to_string() };
        let name = || {
            let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
            let name = metadata.name.as_deref().unwrap_or_default();
            format!("{kind} {}/{name}", namespace.unwrap_or("default"))
        };
        match skip {
            // Without a name there is no telling which object it was before.
            Skip::Name(_) | Skip::Namespace(_) | Skip::NoUid => self.malformed.push(fault(None)),
            // The API server is asked to leave these out.
            Skip::Headless => log::debug!("ignoring {}: {skip}", name()),
            Skip::NoService | Skip::Fqdn | Skip::AddressType(_) => self.unusable.push(fault(Some(name()))),
        }
    }
}
