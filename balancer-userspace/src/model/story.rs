//! What may happen in a small cluster, made from any bytes: for property tests and for fuzzing.
//!
//! Few names and addresses, so that everything collides: Services that take each other's address, slices
//! that change hands, endpoints that stand in several slices, namespaces that come late.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use arbitrary::{Arbitrary, Result, Unstructured};
use balancer_common::abi::Algorithm;

use super::{
    Conditions, ConnectionSettings, Defaults, DesiredPort, EndpointSpec, Event, Exclusion, Family, Index,
    InternalTraffic, NamespaceSpec, NodeInfo, ObjectName, Participation, PortSpec, Protocol, Selection,
    ServiceSpec, SliceSpec,
};

/// What a reconciler holds that resolves the dirty Services, and those alone.
pub(crate) type Kernel = BTreeMap<ObjectName, Vec<DesiredPort>>;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A Service is created or changed.
    Service(ServiceSpec),
    /// A Service is deleted.
    ServiceGone(ObjectName),
    /// A slice is created or changed.
    Slice(SliceSpec),
    /// A slice is deleted.
    SliceGone(ObjectName),
    /// A Namespace is created or changed.
    Namespace(NamespaceSpec),
    /// A Namespace is deleted.
    NamespaceGone(Arc<str>),
    /// The node gets other labels.
    Node(NodeInfo),
    /// An endpoint moves from one slice of a Service to another: first it stands in both.
    Move {
        /// From.
        from: ObjectName,
        /// To.
        to: ObjectName,
    },
    /// All Services are listed.
    RelistServices,
    /// All slices are listed.
    RelistSlices,
    /// All Namespaces are listed.
    RelistNamespaces,
    /// The reconciler takes what is dirty.
    Take,
}

/// How an event reaches the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Once,
    Twice,
    /// The watch was broken: it never arrives, and a list will have to tell.
    Never,
}

impl<'a> Arbitrary<'a> for Delivery {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(*u.choose(&[Self::Once, Self::Once, Self::Once, Self::Twice, Self::Never])?)
    }
}

const NAMESPACES: [&str; 2] = ["shop", "shop-2"];

fn object(u: &mut Unstructured<'_>, prefix: &str, count: u8) -> Result<ObjectName> {
    Ok(ObjectName::new(*u.choose(&NAMESPACES)?, format!("{prefix}{}", u.int_in_range(0..=count - 1)?)))
}

fn word(u: &mut Unstructured<'_>, prefix: &str) -> Result<Arc<str>> {
    Ok(format!("{prefix}{}", u.int_in_range(0..=2_u8)?).into())
}

fn enabled(u: &mut Unstructured<'_>) -> Result<Option<Participation>> {
    Ok(*u.choose(&[None, None, None, Some(Participation::OptedIn), Some(Participation::OptedOut)])?)
}

fn ports(u: &mut Unstructured<'_>, choice: &[(&str, Protocol, u16)]) -> Result<Vec<PortSpec>> {
    let mut ports = Vec::new();
    for (name, protocol, port) in choice {
        if u.arbitrary()? {
            ports.push(PortSpec { name: (*name).into(), protocol: *protocol, port: *port });
        }
    }
    Ok(ports)
}

fn service(u: &mut Unstructured<'_>) -> Result<ServiceSpec> {
    let ports = ports(
        u,
        &[
            ("", Protocol::Tcp, 80),
            ("a", Protocol::Tcp, 80),
            ("b", Protocol::Tcp, 81),
            // One number, and even one name, with two protocols.
            ("b", Protocol::Udp, 81),
        ],
    )?;
    let v4 = u.int_in_range(0..=3_u8)?;
    let v6 = u.int_in_range(0..=2_u8)?;
    let v4 = (v4 > 0).then(|| IpAddr::from([10, 96, 0, v4]));
    let v6 = (v6 > 0).then(|| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, v6.into()]));
    Ok(ServiceSpec {
        name: object(u, "s", 3)?,
        uid: None,
        barred: u.ratio(1, 12)?.then_some(Exclusion::OtherProxy),
        enabled: enabled(u)?,
        cluster_ips: v4.into_iter().chain(v6).collect(),
        external: Box::default(),
        ports,
        affinity: None,
        internal_traffic: if u.ratio(1, 4)? { InternalTraffic::Local } else { InternalTraffic::Cluster },
        annotations: Vec::new(),
        created: u.int_in_range(0..=2)?,
        problems: Vec::new(),
    })
}

fn endpoint(u: &mut Unstructured<'_>, family: Family) -> Result<EndpointSpec> {
    let n = u.int_in_range(1..=6_u8)?;
    let bits: u8 = u.arbitrary()?;
    let hint = |u: &mut Unstructured<'_>, prefix, wanted: bool| {
        Ok(if wanted { vec![word(u, prefix)?] } else { Vec::new() })
    };
    Ok(EndpointSpec {
        addr: match family {
            Family::V4 => IpAddr::from([10, 0, 0, n]),
            Family::V6 => IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, n.into()]),
        },
        conditions: Conditions { ready: bits & 3 != 0, serving: bits & 4 != 0, terminating: bits & 24 == 24 },
        node: if bits & 32 != 0 { Some(word(u, "n")?) } else { None },
        zone: None,
        pod: if n.is_multiple_of(2) { Some(word(u, "p")?) } else { None },
        node_hints: hint(u, "n", bits & 64 != 0)?,
        zone_hints: hint(u, "z", bits & 128 != 0)?,
    })
}

fn slice(u: &mut Unstructured<'_>) -> Result<SliceSpec> {
    let family = if u.ratio(1, 3)? { Family::V6 } else { Family::V4 };
    let ports = ports(
        u,
        &[
            ("", Protocol::Tcp, 8080),
            ("a", Protocol::Tcp, 8080),
            ("b", Protocol::Tcp, 8081),
            ("b", Protocol::Udp, 8081),
        ],
    )?;
    let endpoints = (0..u.int_in_range(0..=4_u8)?).map(|_| endpoint(u, family)).collect::<Result<_>>()?;
    Ok(SliceSpec {
        name: object(u, "l", 4)?,
        service: format!("s{}", u.int_in_range(0..=3_u8)?).into(),
        family,
        ports,
        endpoints,
        weight: u.int_in_range(1..=2)?,
        triggered_ms: None,
        problems: Vec::new(),
    })
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=31_u8)? {
            0..=7 => Self::Service(service(u)?),
            8..=9 => Self::ServiceGone(object(u, "s", 3)?),
            10..=17 => Self::Slice(slice(u)?),
            18..=19 => Self::SliceGone(object(u, "l", 4)?),
            20..=21 => Self::Namespace(NamespaceSpec {
                name: (*u.choose(&NAMESPACES)?).into(),
                enabled: enabled(u)?,
                problems: if u.ratio(1, 8)? { vec!["wrong".to_owned()] } else { Vec::new() },
            }),
            22 => Self::NamespaceGone((*u.choose(&NAMESPACES)?).into()),
            23 => Self::Node(NodeInfo {
                name: if u.ratio(1, 4)? { "".into() } else { word(u, "n")? },
                zone: if u.arbitrary()? { Some(word(u, "z")?) } else { None },
            }),
            24 => Self::RelistServices,
            25 => Self::RelistSlices,
            26 => Self::RelistNamespaces,
            27..=28 => Self::Move { from: object(u, "l", 4)?, to: object(u, "l", 4)? },
            _ => Self::Take,
        })
    }
}

/// What exists, kept the plain way.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) services: BTreeMap<ObjectName, ServiceSpec>,
    pub(crate) slices: BTreeMap<ObjectName, SliceSpec>,
    pub(crate) namespaces: BTreeMap<Arc<str>, NamespaceSpec>,
    pub(crate) node: NodeInfo,
}

impl World {
    /// Makes it so, and says how it is reported.
    pub(crate) fn happens(&mut self, step: Step) -> Vec<Event> {
        match step {
            Step::Service(spec) => {
                self.services.insert(spec.name.clone(), spec.clone());
                vec![Event::Service(Box::new(spec))]
            }
            Step::ServiceGone(name) => {
                self.services.remove(&name);
                vec![Event::ServiceGone(name)]
            }
            Step::Slice(spec) => {
                self.slices.insert(spec.name.clone(), spec.clone());
                vec![Event::Slice(Box::new(spec))]
            }
            Step::SliceGone(name) => {
                self.slices.remove(&name);
                vec![Event::SliceGone(name)]
            }
            Step::Namespace(spec) => {
                self.namespaces.insert(spec.name.clone(), spec.clone());
                vec![Event::Namespace(spec)]
            }
            Step::NamespaceGone(name) => {
                self.namespaces.remove(&name);
                vec![Event::NamespaceGone(name)]
            }
            Step::Node(node) => {
                self.node = node.clone();
                vec![Event::Node(node)]
            }
            Step::Move { from, to } => self.move_endpoint(&from, &to),
            Step::RelistServices => vec![self.all_services()],
            Step::RelistSlices => vec![self.all_slices()],
            Step::RelistNamespaces => vec![self.all_namespaces()],
            Step::Take => Vec::new(),
        }
    }

    fn move_endpoint(&mut self, from: &ObjectName, to: &ObjectName) -> Vec<Event> {
        let same = |a: &SliceSpec, b: &SliceSpec| a.service == b.service && a.family == b.family;
        let (Some(source), Some(target)) = (self.slices.get(from), self.slices.get(to)) else {
            return Vec::new();
        };
        if from == to || !same(source, target) || source.endpoints.is_empty() {
            return Vec::new();
        }
        let (mut source, mut target) = (source.clone(), target.clone());
        target.endpoints.extend(source.endpoints.pop());
        let events =
            [target.clone(), source.clone()].map(|spec| Event::Slice(Box::new(spec))).into_iter().collect();
        self.slices.insert(to.clone(), target);
        self.slices.insert(from.clone(), source);
        events
    }

    pub(crate) fn all_services(&self) -> Event {
        Event::AllServices(self.services.values().cloned().collect())
    }

    pub(crate) fn all_slices(&self) -> Event {
        Event::AllSlices(self.slices.values().cloned().collect())
    }

    pub(crate) fn all_namespaces(&self) -> Event {
        Event::AllNamespaces(self.namespaces.values().cloned().collect())
    }

    /// What an agent that starts now makes of it.
    pub(crate) fn kernel(&self, selection: Selection) -> Kernel {
        let mut index = new_index(selection);
        let mut kernel = Kernel::new();
        index.apply(Event::Node(self.node.clone()));
        index.apply(self.all_namespaces());
        index.apply(self.all_services());
        index.apply(self.all_slices());
        follow(&mut index, &mut kernel);
        kernel
    }
}

/// An index of an agent with this `--select`.
pub(crate) fn new_index(selection: Selection) -> Index {
    Index::new(Defaults {
        algorithm: Algorithm::LeastConnections,
        connections: ConnectionSettings::default(),
        selection,
        started_ms: 0,
    })
}

/// Resolves what is dirty, and nothing else.
pub(crate) fn follow(index: &mut Index, kernel: &mut Kernel) {
    for dirty in index.take_dirty() {
        let ports = index.resolve(&dirty.service);
        if ports.is_empty() {
            kernel.remove(&dirty.service);
        } else {
            kernel.insert(dirty.service, ports);
        }
    }
}

/// No two ports share a frontend or an identity, backends are sorted and unique, nothing is empty.
///
/// # Panics
///
/// If it is not so.
pub(crate) fn check_kernel(kernel: &Kernel) {
    let mut frontends = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for port in kernel.values().flatten() {
        assert!(frontends.insert(port.frontend), "{} twice", port.frontend);
        assert!(keys.insert(port.key.clone()), "{} twice", port.key);
        assert_eq!(Family::of(port.frontend.addr), port.key.family);
        assert!(port.backends.is_sorted_by(|a, b| (a.addr, a.port) < (b.addr, b.port)));
        for backend in &port.backends {
            assert_eq!(Family::of(backend.addr), port.key.family);
            assert!(backend.port > 0 && backend.weight > 0);
        }
        // Nobody has written a slice for it, if there are not too many.
        let Some(departing) = &port.departing else {
            assert!(port.backends.is_empty());
            continue;
        };
        assert!(departing.is_sorted_by(|a, b| (a.addr, a.port) <= (b.addr, b.port)));
        for endpoint in departing {
            assert_eq!(Family::of(endpoint.addr), port.key.family);
            assert!(endpoint.port.is_some() || endpoint.pod.is_some());
            let place = (endpoint.addr, endpoint.port);
            assert!(!port.backends.iter().any(|backend| (backend.addr, Some(backend.port)) == place));
        }
    }
}

/// Whoever resolves dirty Services alone ends where a restarted agent ends: duplicates of addresses, missed
/// events and relists included.
///
/// # Panics
///
/// If it is not so.
pub(crate) fn check_following(selection: Selection, steps: impl IntoIterator<Item = (Step, Delivery)>) {
    let mut world = World::default();
    let mut index = new_index(selection);
    let mut kernel = Kernel::new();
    // Services, slices, Namespaces.
    let mut missed = [false; 3];
    for (step, delivery) in steps {
        let kind = match &step {
            Step::Service(_) | Step::ServiceGone(_) | Step::RelistServices => Some(0),
            Step::Slice(_) | Step::SliceGone(_) | Step::Move { .. } | Step::RelistSlices => Some(1),
            Step::Namespace(_) | Step::NamespaceGone(_) | Step::RelistNamespaces => Some(2),
            Step::Node(_) | Step::Take => None,
        };
        let take = matches!(step, Step::Take);
        let list = matches!(step, Step::RelistServices | Step::RelistSlices | Step::RelistNamespaces);
        for event in world.happens(step) {
            match (delivery, kind) {
                (Delivery::Never, Some(kind)) if !list => missed[kind] = true,
                (Delivery::Twice, _) => {
                    index.apply(event.clone());
                    index.apply(event);
                }
                _ => index.apply(event),
            }
        }
        if let Some(kind) = kind.filter(|_| list) {
            missed[kind] = false;
        }
        if take {
            follow(&mut index, &mut kernel);
            check_kernel(&kernel);
            if missed == [false; 3] {
                assert_eq!(kernel, world.kernel(selection));
            }
        }
    }
    for event in [world.all_slices(), world.all_namespaces(), world.all_services()] {
        index.apply(event);
    }
    follow(&mut index, &mut kernel);
    check_kernel(&kernel);
    assert_eq!(kernel, world.kernel(selection));
    assert!(index.is_complete());
    let counts = index.counts();
    assert_eq!((counts.services, counts.slices), (world.services.len(), world.slices.len()));
    for event in [Event::AllSlices(vec![]), Event::AllServices(vec![]), Event::AllNamespaces(vec![])] {
        index.apply(event);
    }
    follow(&mut index, &mut kernel);
    assert!(kernel.is_empty() && index.is_empty());
}
