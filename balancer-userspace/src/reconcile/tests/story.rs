//! What happens to a handful of Services, as data for properties.

use std::{collections::BTreeMap, time::Duration};

use balancer_common::abi::{Algorithm, Rebalance};
use proptest::prelude::*;

use super::objects::{backend, name, vip};
use crate::model::{
    Condition, ConnectionSettings, DepartingEndpoint, Departure, DesiredBackend, DesiredPort, Drain, Family,
    Frontend, ObjectName, PortKey, Protocol, RemovedSockets,
};

/// How many Services there may be; the last one is of IPv6.
pub(super) const SERVICES: usize = 4;
/// How many pods a port may have.
const PODS: u8 = 6;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A Service port gets these pods, one of them with this weight.
    Scale { at: (usize, usize), pods: u8, weight: (u8, u32) },
    /// It is to choose in another way.
    Settings { at: (usize, usize), algorithm: Algorithm, affinity: bool, connections: ConnectionSettings },
    /// Something is found to be wrong with it, or right again.
    Problem { at: (usize, usize) },
    /// One of its pods is replaced at the same address.
    Replace { at: (usize, usize), pod: u8 },
    /// One of its pods begins or ceases to terminate.
    Terminate { at: (usize, usize), pod: u8 },
    /// One of its pods stays in the slices, and is not used for this reason; or is used again.
    Depart { at: (usize, usize), pod: u8, departure: Option<Departure> },
    /// A port goes.
    RemovePort { at: (usize, usize) },
    /// A port gets another name.
    Rename { service: usize },
    /// Two ports swap their numbers.
    SwapPorts { service: usize },
    /// A Service goes.
    Remove { service: usize },
    /// A Service gets another address.
    Move { service: usize },
    /// Two Services swap their addresses.
    Swap { services: (usize, usize) },
    /// A connection is opened.
    Open { at: (usize, usize), client: u64, roll: u32 },
    /// A connection is closed.
    Close { index: usize },
    /// Time passes, and the agent sweeps.
    Sweep { after_ms: u64 },
    /// Everything is delivered again.
    Again,
    /// During the next change, the agent dies after this many writes.
    Crash { lives_for: u64 },
    /// During the next change, the kernel refuses a call.
    Refuse { after: u64 },
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    let at = || (0..SERVICES, 0..2_usize);
    let pod = || 0..PODS;
    prop_oneof![
        6 => (at(), 0..1_u8 << PODS, pod(), prop_oneof![Just(1), Just(2), 1..200_u32])
            .prop_map(|(at, pods, pod, weight)| Event::Scale { at, pods, weight: (pod, weight) }),
        2 => (at(), prop::sample::select(&Algorithm::ALL[..]), any::<bool>(), connections()).prop_map(
            |(at, algorithm, affinity, connections)| Event::Settings { at, algorithm, affinity, connections }
        ),
        1 => at().prop_map(|at| Event::Problem { at }),
        2 => (at(), pod()).prop_map(|(at, pod)| Event::Replace { at, pod }),
        1 => (at(), pod()).prop_map(|(at, pod)| Event::Terminate { at, pod }),
        4 => (at(), pod(), prop::sample::select(vec![None, Some(Departure::Draining), Some(Departure::Unused)]))
            .prop_map(|(at, pod, departure)| Event::Depart { at, pod, departure }),
        1 => at().prop_map(|at| Event::RemovePort { at }),
        1 => (0..SERVICES).prop_map(|service| Event::Rename { service }),
        1 => (0..SERVICES).prop_map(|service| Event::SwapPorts { service }),
        1 => (0..SERVICES).prop_map(|service| Event::Remove { service }),
        1 => (0..SERVICES).prop_map(|service| Event::Move { service }),
        1 => (0..SERVICES - 1, 0..SERVICES - 1).prop_map(|services| Event::Swap { services }),
        6 => (at(), 1..4_u64, any::<u32>())
            .prop_map(|(at, client, roll)| Event::Open { at, client, roll }),
        3 => any::<prop::sample::Index>().prop_map(|index| Event::Close { index: index.index(1 << 16) }),
        3 => prop_oneof![Just(0), Just(999), Just(1000), 0..3000_u64]
            .prop_map(|after_ms| Event::Sweep { after_ms }),
        1 => Just(Event::Again),
        3 => prop_oneof![0..20_u64, 0..60_u64, 0..600_u64].prop_map(|lives_for| Event::Crash { lives_for }),
        2 => (0..12_u64).prop_map(|after| Event::Refuse { after }),
    ]
}

fn connections() -> impl Strategy<Value = ConnectionSettings> {
    let flags = (any::<bool>(), any::<bool>(), prop::sample::select(&Rebalance::ALL[..]));
    (flags, 0..2_u32).prop_map(|((drains, keeps, rebalance), slow_start_ms)| ConnectionSettings {
        slow_start_ms,
        rebalance,
        drain: if drains { Drain::Idle } else { Drain::Off },
        removed: if keeps { RemovedSockets::Keep } else { RemovedSockets::Close },
        ..ConnectionSettings::default()
    })
}

#[derive(Clone, Debug)]
struct Pod {
    weight: u32,
    replaced: u32,
    condition: Condition,
    departure: Option<Departure>,
}

#[derive(Clone, Debug, Default)]
struct Port {
    pods: BTreeMap<u8, Pod>,
    algorithm: Algorithm,
    sticky: bool,
    connections: ConnectionSettings,
    broken: bool,
}

#[derive(Clone, Debug)]
struct ServiceState {
    vip: u8,
    renamed: bool,
    swapped: bool,
    ports: [Option<Port>; 2],
}

/// Services as a user sees them.
#[derive(Debug)]
pub(super) struct Cluster {
    services: Vec<ServiceState>,
    next_vip: u8,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let service = |index| ServiceState {
            vip: index as u8 + 1,
            renamed: false,
            swapped: false,
            ports: [None, None],
        };
        Self { services: (0..SERVICES).map(service).collect(), next_vip: SERVICES as u8 + 1 }
    }

    /// Lets something happen. Which Services it concerns, in the order in which it becomes known.
    pub(super) fn happens(&mut self, event: &Event) -> Vec<usize> {
        match *event {
            Event::Scale { at, pods, weight: (heavy, weight) } => {
                let old = self.port(at).take().unwrap_or_default();
                let pod = |pod: u8| {
                    let fresh = Pod { weight: 1, replaced: 0, condition: Condition::Ready, departure: None };
                    let mut state = old.pods.get(&pod).cloned().unwrap_or(fresh);
                    if pod == heavy {
                        state.weight = weight;
                    }
                    (pod, state)
                };
                let pods = (0..PODS).filter(|pod| pods & (1 << pod) != 0).map(pod).collect();
                *self.port(at) = Some(Port { pods, ..old });
                vec![at.0]
            }
            Event::Settings { at, algorithm, affinity, connections } => self.change(at, |port| {
                (port.algorithm, port.sticky, port.connections) = (algorithm, affinity, connections);
            }),
            Event::Depart { at, pod, departure } => self.change(at, |port| {
                if let Some(pod) = port.pods.get_mut(&pod) {
                    pod.departure = departure;
                }
            }),
            Event::Problem { at } => self.change(at, |port| port.broken = !port.broken),
            Event::Replace { at, pod } => self.change(at, |port| {
                if let Some(pod) = port.pods.get_mut(&pod) {
                    pod.replaced += 1;
                }
            }),
            Event::Terminate { at, pod } => self.change(at, |port| {
                if let Some(pod) = port.pods.get_mut(&pod) {
                    pod.condition = match pod.condition {
                        Condition::Ready => Condition::Terminating,
                        Condition::Terminating => Condition::Ready,
                    };
                }
            }),
            Event::RemovePort { at } => {
                *self.port(at) = None;
                vec![at.0]
            }
            Event::Rename { service } => {
                self.services[service].renamed ^= true;
                vec![service]
            }
            Event::SwapPorts { service } => {
                self.services[service].swapped ^= true;
                vec![service]
            }
            Event::Remove { service } => {
                self.services[service].ports = [None, None];
                vec![service]
            }
            Event::Move { service } => {
                self.services[service].vip = self.next_vip;
                self.next_vip = self.next_vip.wrapping_add(1);
                vec![service]
            }
            Event::Swap { services: (a, b) } => {
                let vip = self.services[a].vip;
                self.services[a].vip = self.services[b].vip;
                self.services[b].vip = vip;
                vec![a, b]
            }
            Event::Again => (0..SERVICES).collect(),
            Event::Open { .. }
            | Event::Close { .. }
            | Event::Sweep { .. }
            | Event::Crash { .. }
            | Event::Refuse { .. } => Vec::new(),
        }
    }

    /// What should be in the kernel for a Service.
    pub(super) fn desired(&self, service: usize) -> (ObjectName, Vec<DesiredPort>) {
        let name = name(&format!("s{service}"));
        let state = &self.services[service];
        let family = if service + 1 == SERVICES { Family::V6 } else { Family::V4 };
        let ports = state.ports.iter().enumerate().filter_map(|(index, port)| {
            let port = port.as_ref()?;
            let port_name = match (index, state.renamed) {
                (0, false) => "a",
                (0, true) => "c",
                _ => "b",
            };
            let protocol = Protocol::Tcp;
            let number = if (index == 0) == state.swapped { 81 } else { 80 };
            Some(DesiredPort {
                key: PortKey { service: name.clone(), port_name: port_name.into(), protocol, family },
                frontend: Frontend { addr: vip(state.vip, family), port: number, protocol },
                algorithm: port.algorithm,
                affinity: port.sticky.then_some(Duration::from_secs(10_800)),
                connections: port.connections,
                backends: port
                    .pods
                    .iter()
                    .filter(|(_, pod)| pod.departure.is_none())
                    .map(|(n, pod)| pod_backend(*n, pod, family))
                    .collect(),
                departing: Some(port.pods.iter().filter_map(|(n, pod)| departing(*n, pod, family)).collect()),
                problem: port.broken.then(|| "this is what is wrong".repeat(20)),
            })
        });
        let ports = ports.collect();
        (name, ports)
    }

    fn port(&mut self, (service, port): (usize, usize)) -> &mut Option<Port> {
        &mut self.services[service].ports[port]
    }

    fn change(&mut self, at: (usize, usize), change: impl FnOnce(&mut Port)) -> Vec<usize> {
        match self.port(at) {
            Some(port) => {
                change(port);
                vec![at.0]
            }
            None => Vec::new(),
        }
    }
}

fn departing(n: u8, pod: &Pod, family: Family) -> Option<DepartingEndpoint> {
    let DesiredBackend { addr, port, pod: name, .. } = pod_backend(n, pod, family);
    Some(DepartingEndpoint { addr, port: Some(port), pod: name, departure: pod.departure? })
}

fn pod_backend(n: u8, pod: &Pod, family: Family) -> DesiredBackend {
    let addr = match family {
        Family::V4 => backend(n).addr,
        Family::V6 => vip(n, Family::V6),
    };
    DesiredBackend {
        addr,
        weight: pod.weight,
        condition: pod.condition,
        // Every third pod is not known by name.
        pod: (n % 3 != 2).then(|| format!("pod-{n}-{}", pod.replaced).into()),
        node: (pod.replaced > 1).then(|| "node-1".into()),
        ..backend(n)
    }
}
