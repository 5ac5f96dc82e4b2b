//! One Service, its slices and the node: what should be in the kernel for it. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use balancer_common::abi::Algorithm;

use super::{
    ConnectionSettings, DepartingEndpoint, DesiredBackend, DesiredPort, Family, Frontend, InternalTraffic,
    NamespaceSpec, NodeInfo, ObjectName, PortKey, PortSpec, Protocol, Scope, ServiceSpec, SliceSpec,
    annotations,
    endpoints::{Candidate, departure, select, sort_and_merge},
    problems::Problems,
    quote::quote,
};

/// The most bytes of [`DesiredPort::problem`].
const MAX_PROBLEM: usize = 512;
/// The most endpoints that all ports of a Service have together, as many as `--max-backends` can ask for:
/// what one Service takes of memory and time ends here, whatever its objects hold.
const MOST_ENDPOINTS: usize = 1 << 20;

/// Everything that the outcome depends on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The Service.
    pub service: &'a ServiceSpec,
    /// Whether it is balanced.
    pub scope: Scope,
    /// Its Namespace, where that says anything.
    pub namespace: Option<&'a NamespaceSpec>,
    /// All slices of the Service, in the order of their names.
    pub slices: &'a [&'a SliceSpec],
    /// The node that the agent runs on.
    pub node: &'a NodeInfo,
    /// The algorithm of Services that ask for none.
    pub default_algorithm: Algorithm,
    /// What becomes of open connections where the Service does not say.
    pub default_connections: ConnectionSettings,
}

/// What becomes of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Its ports, by address and then in the order of the Service. Empty if it is not balanced.
    pub ports: Vec<DesiredPort>,
    /// What somebody should put right, in words. That nothing is ready is not among it: that passes.
    pub problems: Vec<String>,
}

/// Resolves a Service. `owner_of` names the Service that the frontend of port `index` belongs to, if that is
/// not this port: the port is then left out.
pub fn resolve<'a>(
    input: Input<'a>,
    owner_of: impl Fn(&Frontend, usize) -> Option<&'a ObjectName>,
) -> Resolved {
    let Input { service, slices, .. } = input;
    let own = service.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let (settings, errors) = annotations::parse_service(own);
    let mut general = Problems::default();
    general.extend(&service.problems);
    general.extend(errors);
    if input.scope != Scope::Balanced {
        return Resolved { ports: Vec::new(), problems: general.into_vec() };
    }
    for (slice, problem) in slices.iter().flat_map(|slice| slice.problems.iter().map(move |p| (slice, p))) {
        general.add(format_args!("EndpointSlice {}: {problem}", slice.name.name));
    }
    let general = general.into_vec();
    let of_namespace = namespace_problems(input.namespace);

    let mut ports = Vec::new();
    let mut particular = Problems::default();
    let connections = settings.connections.over(input.default_connections);
    let mut room = Room { endpoints: MOST_ENDPOINTS, elsewhere: MOST_ENDPOINTS };
    for addr in &service.cluster_ips {
        let family = Family::of(*addr);
        let offers = Offers::of(slices, family);
        for (index, port) in service.ports.iter().enumerate() {
            let frontend = Frontend { addr: *addr, port: port.port, protocol: port.protocol };
            if let Some(owner) = owner_of(&frontend, index) {
                let owner = if *owner == service.name { "another of its ports" } else { &owner.to_string() };
                particular.add_once(format_args!(
                    "{frontend} already belongs to {owner}: it is not balanced for this one"
                ));
                continue;
            }
            let (backends, departing, finding) = backends(input, &offers, port, &mut room);
            if let Some(Finding::Mistake(text)) = &finding {
                particular.add_once(text);
            }
            ports.push(DesiredPort {
                key: PortKey {
                    service: service.name.clone(),
                    port_name: port.name.clone(),
                    protocol: port.protocol,
                    family,
                },
                frontend,
                algorithm: settings.algorithm.unwrap_or(input.default_algorithm),
                affinity: service.affinity,
                connections: connections.of_port(port.protocol),
                backends,
                departing,
                problem: sentence(finding.as_ref().map(Finding::text), &general, &of_namespace),
            });
        }
    }
    let mut problems = general;
    problems.extend(particular.into_vec());
    Resolved { ports, problems }
}

/// Shown with each of its Services, since their owner may wonder, although it is none of their mistakes.
fn namespace_problems(namespace: Option<&NamespaceSpec>) -> Vec<String> {
    let problems = namespace.into_iter().flat_map(|namespace| &namespace.problems);
    problems.map(|problem| format!("its Namespace: {problem}")).collect()
}

/// Why a port has no backends.
enum Finding {
    /// Somebody should put it right.
    Mistake(String),
    /// It passes, or is meant.
    State(State),
}

impl Finding {
    fn text(&self) -> &str {
        match self {
            Self::Mistake(text) => text,
            Self::State(state) => state.text(),
        }
    }
}

/// What may leave a port without backends although everything is written as it should be.
#[derive(Clone, Copy)]
enum State {
    Unready,
    UnreadyHere,
    /// None of this family, although there are some of the other.
    Lacks(Family),
}

impl State {
    const ALL: [Self; 4] =
        [Self::Unready, Self::UnreadyHere, Self::Lacks(Family::V4), Self::Lacks(Family::V6)];

    const fn text(self) -> &'static str {
        match self {
            Self::Unready => "no ready endpoints",
            Self::UnreadyHere => "no ready endpoints on this node (internalTrafficPolicy: Local)",
            Self::Lacks(Family::V4) => "no IPv4 endpoints, although there are IPv6 ones",
            Self::Lacks(Family::V6) => "no IPv6 endpoints, although there are IPv4 ones",
        }
    }
}

/// Whether a [`DesiredPort::problem`] says nothing but what passes, or is meant: nobody has to put anything right.
pub fn is_state(problem: &str) -> bool {
    State::ALL.iter().any(|state| state.text() == problem)
}

/// What the slices of one family offer, by the name and protocol of the port.
struct Offers<'a> {
    family: Family,
    /// Whether there is any slice of this family.
    any: bool,
    /// Whether any slice of this family has endpoints, and whether one of the other family has.
    filled: bool,
    others: bool,
    slices: Vec<&'a SliceSpec>,
    by_port: BTreeMap<(&'a str, Protocol), Vec<(&'a SliceSpec, u16)>>,
}

/// How many endpoints there is room for.
struct Room {
    /// As candidates.
    endpoints: usize,
    /// In slices that do not have the port.
    elsewhere: usize,
}

impl<'a> Offers<'a> {
    /// Slices without endpoints offer nothing.
    fn of(slices: &[&'a SliceSpec], family: Family) -> Self {
        let filled = || slices.iter().filter(|slice| !slice.endpoints.is_empty());
        let mut offers = Self {
            family,
            any: slices.iter().any(|slice| slice.family == family),
            filled: filled().any(|slice| slice.family == family),
            others: filled().any(|slice| slice.family != family),
            slices: filled().filter(|slice| slice.family == family).copied().collect(),
            by_port: BTreeMap::new(),
        };
        for slice in &offers.slices {
            for port in &slice.ports {
                let offer = offers.by_port.entry((&*port.name, port.protocol)).or_default();
                offer.push((*slice, port.port));
            }
        }
        offers
    }
}

fn backends(
    input: Input<'_>,
    offers: &Offers<'_>,
    port: &PortSpec,
    room: &mut Room,
) -> (Vec<DesiredBackend>, Option<Vec<DepartingEndpoint>>, Option<Finding>) {
    let mut candidates = candidates(offers, port, room.endpoints);
    room.endpoints -= candidates.len();
    let all_seen = room.endpoints > 0;
    // Who has no slices at all, not even an empty one, of that nobody has said anything: its controller writes one even for
    // none, and has not come to a Service that was made anew.
    let elsewhere = elsewhere(offers, port, room).filter(|_| all_seen && offers.any);
    if candidates.is_empty() {
        let finding = if all_seen { why_no_candidates(offers, port) } else { Some(too_many()) };
        return (Vec::new(), elsewhere, finding);
    }
    sort_and_merge(&mut candidates);
    let known = candidates.clone();
    select(&mut candidates, input.service.internal_traffic, input.node);
    let departing = elsewhere.map(|elsewhere| departing(&known, &candidates, elsewhere));
    if candidates.is_empty() {
        return (Vec::new(), departing, Some(why_none_usable(input)));
    }
    let finding = (!all_seen).then(too_many);
    (candidates.iter().filter_map(backend).collect(), departing, finding)
}

/// What is known and not selected, with those `elsewhere`. The first two are in the same order.
fn departing(
    known: &[Candidate<'_>],
    selected: &[Candidate<'_>],
    elsewhere: Vec<DepartingEndpoint>,
) -> Vec<DepartingEndpoint> {
    let mut departing = elsewhere;
    let mut selected = selected.iter().map(Candidate::target).peekable();
    for candidate in known {
        if selected.next_if_eq(&candidate.target()).is_none() {
            departing.push(DepartingEndpoint {
                addr: candidate.endpoint.addr,
                port: Some(candidate.port),
                pod: candidate.endpoint.pod.clone(),
                departure: departure(candidate.endpoint),
            });
        }
    }
    departing.sort_by_key(|endpoint| (endpoint.addr, endpoint.port));
    departing
}

/// Pods that are endpoints of the Service without having this port: one whose target port was changed lives
/// on, and so do connections to the old one. `None` if they are too many.
fn elsewhere(offers: &Offers<'_>, port: &PortSpec, room: &mut Room) -> Option<Vec<DepartingEndpoint>> {
    let has_port = |slice: &&&SliceSpec| {
        slice.ports.iter().any(|other| (&other.name, other.protocol) == (&port.name, port.protocol))
    };
    let mut pods = Vec::new();
    for slice in offers.slices.iter().filter(|slice| !has_port(slice)) {
        room.elsewhere = room.elsewhere.checked_sub(slice.endpoints.len())?;
        pods.extend(slice.endpoints.iter().filter(|endpoint| endpoint.pod.is_some()).map(|endpoint| {
            DepartingEndpoint {
                addr: endpoint.addr,
                port: None,
                pod: endpoint.pod.clone(),
                departure: departure(endpoint),
            }
        }));
    }
    pods.sort_by_key(|endpoint| endpoint.addr);
    Some(pods)
}

/// The endpoints of slices whose port has the name and protocol of the Service's port. The number comes
/// from the slice: one `targetPort` name may stand for another number in every pod.
fn candidates<'a>(offers: &Offers<'a>, port: &PortSpec, room: usize) -> Vec<Candidate<'a>> {
    let matching = offers.by_port.get(&(&*port.name, port.protocol)).into_iter().flatten();
    let candidates = matching.flat_map(|(slice, port)| {
        slice.endpoints.iter().map(|endpoint| Candidate { endpoint, port: *port, weight: slice.weight })
    });
    candidates.take(room).collect()
}

fn too_many() -> Finding {
    Finding::Mistake(format!(
        "its ports have {MOST_ENDPOINTS} endpoints together, or more: what is beyond is left out; split the Service"
    ))
}

fn backend(candidate: &Candidate<'_>) -> Option<DesiredBackend> {
    let endpoint = candidate.endpoint;
    Some(DesiredBackend {
        addr: endpoint.addr,
        port: candidate.port,
        weight: candidate.weight,
        condition: candidate.condition()?,
        pod: endpoint.pod.clone(),
        node: endpoint.node.clone(),
        zone: endpoint.zone.clone(),
    })
}

/// That a Service has no endpoints at all is nothing worth a word: it may be scaled to zero.
fn why_no_candidates(offers: &Offers<'_>, port: &PortSpec) -> Option<Finding> {
    if !offers.filled {
        return offers.others.then_some(Finding::State(State::Lacks(offers.family)));
    }
    let offered = offers.by_port.keys();
    let mut text = format!("no EndpointSlice has {}", port_words(&port.name, port.protocol));
    for (index, (name, protocol)) in offered.clone().take(3).enumerate() {
        let lead = if index == 0 { "; there is" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(text, "{lead} {}", port_words(name, *protocol));
    }
    if offered.len() > 3 {
        let _ = write!(text, " and {} more", offered.len() - 3);
    }
    Some(Finding::Mistake(text))
}

fn port_words(name: &str, protocol: Protocol) -> String {
    if name.is_empty() {
        format!("an unnamed {protocol} port")
    } else {
        format!("a {protocol} port named {}", quote(name))
    }
}

fn why_none_usable(input: Input<'_>) -> Finding {
    match input.service.internal_traffic {
        InternalTraffic::Cluster => Finding::State(State::Unready),
        InternalTraffic::Local if input.node.name.is_empty() => Finding::Mistake(
            "internalTrafficPolicy is Local, but the agent does not know the name of its node".to_owned(),
        ),
        InternalTraffic::Local => Finding::State(State::UnreadyHere),
    }
}

/// What a port shows of it: its own finding first, since the text is cut where it is kept.
fn sentence(finding: Option<&str>, general: &[String], of_namespace: &[String]) -> Option<String> {
    let general = general.iter().chain(of_namespace).map(String::as_str);
    let parts: Vec<&str> = finding.into_iter().chain(general).collect();
    if parts.is_empty() {
        return None;
    }
    let mut text = parts.join("; ");
    if text.len() > MAX_PROBLEM {
        text.truncate(text.floor_char_boundary(MAX_PROBLEM));
    }
    Some(text)
}
