//! The vocabulary of the model: what a source reports and what the reconciler is asked for.
//!
//! Sources turn API objects into these compact types at once, so that 20,000 endpoints cost a few
//! megabytes and nothing behind the source depends on an API client.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use balancer_common::abi::Algorithm;
use serde::Serialize;

use super::{ConnectionSettings, Exclusion, NamespaceSpec, Participation, PodSpec, Uid};

/// Namespace and name of an object. Ordered by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// `namespace/name`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The protocols that are balanced. SCTP is passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => balancer_common::abi::TCP,
            Self::Udp => balancer_common::abi::UDP,
        }
    }

    /// From an IP protocol number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            balancer_common::abi::TCP => Some(Self::Tcp),
            balancer_common::abi::UDP => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// An IP address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// The family of an address. A v4-mapped IPv6 address is IPv4.
    pub const fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// As in `addressType` and `ipFamilies`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What identifies one Service port of one family for as long as it exists, whatever its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// The Service.
    pub service: ObjectName,
    /// Port name; empty for the only, unnamed port.
    pub port_name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Family of the Service address and of all backends.
    pub family: Family,
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.port_name.is_empty() {
            write!(f, ":{}", self.port_name)?;
        }
        write!(f, "/{}", self.protocol)
    }
}

/// What an application dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// Service address.
    pub addr: IpAddr,
    /// Service port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.addr, self.port), self.protocol)
    }
}

/// One Service port of one family as it should be in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPort {
    /// Identity.
    pub key: PortKey,
    /// What it is dialled by.
    pub frontend: Frontend,
    /// How to choose.
    pub algorithm: Algorithm,
    /// `sessionAffinity: ClientIP`, and for how long.
    pub affinity: Option<Duration>,
    /// What becomes of its open connections.
    pub connections: ConnectionSettings,
    /// Sorted by address and port, without duplicates. May be empty: connects are then passed through.
    pub backends: Vec<DesiredBackend>,
    /// Endpoints in its slices that connects do not go to, sorted by address and port. What is neither here nor
    /// among the backends has left the slices. `None` where there are too many endpoints to tell.
    pub departing: Option<Vec<DepartingEndpoint>>,
    /// What is wrong with the objects behind it, in words for the user; `None` when all is well.
    pub problem: Option<String>,
}

/// Whether a backend is a regular one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Ready.
    Ready,
    /// Terminating but still serving, used because nothing is ready (KEP-1669).
    Terminating,
}

/// One endpoint that connects may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredBackend {
    /// Pod address.
    pub addr: IpAddr,
    /// Target port, never 0.
    pub port: u16,
    /// 1 to [`balancer_common::abi::MAX_WEIGHT`].
    pub weight: u32,
    /// Ready, or the fallback.
    pub condition: Condition,
    /// Name of the pod, where the slice names one.
    pub pod: Option<Arc<str>>,
    /// Node that it runs on.
    pub node: Option<Arc<str>>,
    /// Zone that it runs in.
    pub zone: Option<Arc<str>>,
}

/// An endpoint that stands in the slices of a Service and that connects to one of its ports do not go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepartingEndpoint {
    /// Pod address.
    pub addr: IpAddr,
    /// Target port; `None` where its slice does not have the Service port at all.
    pub port: Option<u16>,
    /// Name of the pod, where the slice names one. Never `None` beside a port that is `None`.
    pub pod: Option<Arc<str>>,
    /// Why.
    pub departure: Departure,
}

/// Why connects do not go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departure {
    /// It is terminating.
    Draining,
    /// It is not ready, or left to other nodes by hints or `internalTrafficPolicy`.
    Unused,
}

/// What is known of the node that the agent runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Node name; empty where unknown (no node hint and no `internalTrafficPolicy: Local` can match).
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`; `None` where absent or empty.
    pub zone: Option<Arc<str>>,
}

/// What the model needs of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Name.
    pub name: ObjectName,
    /// `metadata.uid`, which no later Service of this name has; `None` where an API server gave none.
    pub uid: Option<Uid>,
    /// Why it can never be balanced, if so, whatever anybody asks for.
    pub barred: Option<Exclusion>,
    /// `balancer.dev/enabled`; `None` where absent or malformed.
    pub enabled: Option<Participation>,
    /// Service addresses, at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// What else it is dialled at, where kube-proxy answers alone: `externalIPs`, and the addresses of a load balancer.
    /// Sorted, without duplicates.
    pub external: Box<[IpAddr]>,
    /// Its ports, TCP and UDP alone, unique by name and protocol.
    pub ports: Vec<PortSpec>,
    /// `sessionAffinity: ClientIP` and its timeout.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_traffic: InternalTraffic,
    /// Annotations that begin with `balancer.dev/`, without that prefix, sorted.
    pub annotations: Vec<(String, String)>,
    /// `metadata.creationTimestamp` in seconds since 1970; the older of two Services with one address wins.
    pub created: i64,
    /// What was found wrong while reading the object.
    pub problems: Vec<String>,
}

/// `spec.internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InternalTraffic {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints on this node alone.
    Local,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Name; empty for the only, unnamed port.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number that applications dial.
    pub port: u16,
}

/// What the model needs of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceSpec {
    /// Name.
    pub name: ObjectName,
    /// From label `kubernetes.io/service-name`.
    pub service: Arc<str>,
    /// From `addressType`.
    pub family: Family,
    /// Ports whose name and number are given, TCP and UDP alone.
    pub ports: Vec<PortSpec>,
    /// Endpoints whose first address is of the family and may be dialled.
    pub endpoints: Vec<EndpointSpec>,
    /// Annotation `balancer.dev/weight`, applied to all its endpoints; 1 where absent.
    pub weight: u32,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, in milliseconds since 1970.
    pub triggered_ms: Option<i64>,
    /// What was found wrong while reading the object.
    pub problems: Vec<String>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// `addresses[0]`.
    pub addr: IpAddr,
    /// Conditions.
    pub conditions: Conditions,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `targetRef.name` where the kind is Pod.
    pub pod: Option<Arc<str>>,
    /// `hints.forNodes`.
    pub node_hints: Vec<Arc<str>>,
    /// `hints.forZones`.
    pub zone_hints: Vec<Arc<str>>,
}

/// The conditions of an endpoint, nil resolved as kube-proxy does: ready and serving true, terminating false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// `ready`.
    pub ready: bool,
    /// `serving`.
    pub serving: bool,
    /// `terminating`.
    pub terminating: bool,
}

/// What a source reports. Order matters within one source; a source sends whole lists before single changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All Services that exist: whatever is not among them is gone.
    AllServices(Vec<ServiceSpec>),
    /// All EndpointSlices that exist: whatever is not among them is gone.
    AllSlices(Vec<SliceSpec>),
    /// A Service was added or changed.
    Service(Box<ServiceSpec>),
    /// A Service is gone.
    ServiceGone(ObjectName),
    /// A slice was added or changed.
    Slice(Box<SliceSpec>),
    /// A slice is gone.
    SliceGone(ObjectName),
    /// All Namespaces that exist: what was known of any other is forgotten. It comes before the first
    /// [`Event::AllServices`] where the source can read them in time.
    AllNamespaces(Vec<NamespaceSpec>),
    /// A Namespace was added or changed.
    Namespace(NamespaceSpec),
    /// A Namespace is gone.
    NamespaceGone(Arc<str>),
    /// All Pods of this node. Where the source reads them, it comes before the first Services and slices.
    AllPods(Vec<PodSpec>),
    /// A Pod of this node was added or changed.
    Pod(PodSpec),
    /// A Pod is gone from this node.
    PodGone(ObjectName),
    /// The node that the agent runs on was read or changed.
    Node(NodeInfo),
    /// An object was skipped whole; `what` names it (file and document, or namespace/name), `why` and the remedy.
    Skipped {
        /// The object.
        what: String,
        /// The reason and the remedy.
        why: String,
    },
}
