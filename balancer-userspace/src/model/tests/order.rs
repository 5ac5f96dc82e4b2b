//! Properties: what is in the kernel depends on what exists, not on how it was reported.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;

/// What a reconciler holds that resolves the dirty Services, and those alone.
type Kernel = BTreeMap<ObjectName, Vec<DesiredPort>>;

fn follow(index: &mut Index, kernel: &mut Kernel) {
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
fn check_kernel(kernel: &Kernel) {
    let mut frontends = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for port in kernel.values().flatten() {
        assert!(frontends.insert(port.frontend), "{} twice", port.frontend);
        assert!(keys.insert(port.key.clone()), "{} twice", port.key);
        assert_eq!(Family::of(port.frontend.addr), port.key.family);
        assert!(port.backends.is_sorted_by(|a, b| (a.addr, a.port) < (b.addr, b.port)));
        for backend in &port.backends {
            assert_eq!(Family::of(backend.addr), port.key.family);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Service(ServiceSpec),
    ServiceGone(ObjectName),
    Slice(SliceSpec),
    SliceGone(ObjectName),
    Node(NodeInfo),
    RelistServices,
    RelistSlices,
    /// The reconciler takes what is dirty.
    Take,
}

fn name(prefix: &'static str, count: u8) -> impl Strategy<Value = ObjectName> {
    (0..count).prop_map(move |n| object(&format!("{prefix}{n}")))
}

fn some_service() -> impl Strategy<Value = ServiceSpec> {
    let addrs = (proptest::option::of(1..4u8), proptest::option::of(1..3u8));
    let ports = subsequence(vec![("", 80), ("a", 80), ("b", 81), ("c", 82)], 0..=3);
    let flavour = (0..3i64, 0..8u8, any::<bool>());
    (name("s", 4), addrs, ports, flavour).prop_map(|(name, (v4, v6), ports, (created, scope, local))| {
        let v4 = v4.map(|n| IpAddr::from([10, 96, 0, n]));
        let v6 = v6.map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n.into()]));
        ServiceSpec {
            name,
            barred: (scope == 0).then_some(Exclusion::OtherProxy),
            enabled: [None, Some(Participation::OptedIn), Some(Participation::OptedOut)]
                [usize::from(scope % 3)],
            cluster_ips: v4.into_iter().chain(v6).collect(),
            ports: ports.into_iter().map(|(name, number)| port(name, number)).collect(),
            affinity: None,
            internal_traffic: if local { InternalTraffic::Local } else { InternalTraffic::Cluster },
            annotations: vec![],
            created,
            problems: vec![],
        }
    })
}

fn small_name(prefix: &'static str) -> impl Strategy<Value = std::sync::Arc<str>> {
    (0..3u8).prop_map(move |n| format!("{prefix}{n}").into())
}

fn some_endpoint(family: Family) -> impl Strategy<Value = EndpointSpec> {
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    let hints = (vec(small_name("n"), 0..2), vec(small_name("z"), 0..2));
    let place = proptest::option::of(small_name("n"));
    (1..6u8, conditions, place, hints).prop_map(
        move |(n, (ready, serving, terminating), node, (node_hints, zone_hints))| EndpointSpec {
            addr: match family {
                Family::V4 => IpAddr::from([10, 0, 0, n]),
                Family::V6 => IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, n.into()]),
            },
            conditions: Conditions { ready, serving, terminating },
            node,
            zone: None,
            pod: None,
            node_hints,
            zone_hints,
        },
    )
}

fn some_slice() -> impl Strategy<Value = SliceSpec> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let ports = subsequence(vec![("", 8080), ("a", 8080), ("a", 8081), ("b", 8082)], 0..=4);
    (name("l", 6), 0..5u8, family, ports, 1..3u32).prop_flat_map(|(name, service, family, ports, weight)| {
        vec(some_endpoint(family), 0..5).prop_map(move |endpoints| SliceSpec {
            name: name.clone(),
            service: format!("s{service}").into(),
            family,
            ports: ports.iter().map(|(name, number)| port(name, *number)).collect(),
            endpoints,
            weight,
            triggered_ms: None,
            problems: vec![],
        })
    })
}

fn some_node() -> impl Strategy<Value = NodeInfo> {
    (0..4u8, proptest::option::of(small_name("z"))).prop_map(|(n, zone)| NodeInfo {
        name: if n == 0 { "".into() } else { format!("n{n}").into() },
        zone,
    })
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => some_service().prop_map(Step::Service),
        3 => name("s", 4).prop_map(Step::ServiceGone),
        8 => some_slice().prop_map(Step::Slice),
        3 => name("l", 6).prop_map(Step::SliceGone),
        1 => some_node().prop_map(Step::Node),
        1 => Just(Step::RelistServices),
        1 => Just(Step::RelistSlices),
        6 => Just(Step::Take),
    ]
}

/// What exists, kept the plain way.
#[derive(Default)]
struct World {
    services: BTreeMap<ObjectName, ServiceSpec>,
    slices: BTreeMap<ObjectName, SliceSpec>,
    node: NodeInfo,
}

impl World {
    /// Makes it so, and says how it is reported: changes alone, or not at all until the next relist.
    fn apply(&mut self, step: Step) -> Option<Event> {
        Some(match step {
            Step::Service(spec) => {
                self.services.insert(spec.name.clone(), spec.clone());
                Event::Service(Box::new(spec))
            }
            Step::ServiceGone(name) => {
                self.services.remove(&name);
                Event::ServiceGone(name)
            }
            Step::Slice(spec) => {
                self.slices.insert(spec.name.clone(), spec.clone());
                Event::Slice(Box::new(spec))
            }
            Step::SliceGone(name) => {
                self.slices.remove(&name);
                Event::SliceGone(name)
            }
            Step::Node(node) => {
                self.node = node.clone();
                Event::Node(node)
            }
            Step::RelistServices => Event::AllServices(self.services.values().cloned().collect()),
            Step::RelistSlices => Event::AllSlices(self.slices.values().cloned().collect()),
            Step::Take => return None,
        })
    }

    /// What an agent that starts now makes of it.
    fn kernel(&self) -> Kernel {
        let mut index = new_index();
        let mut kernel = Kernel::new();
        index.apply(Event::Node(self.node.clone()));
        index.apply(Event::AllServices(self.services.values().cloned().collect()));
        index.apply(Event::AllSlices(self.slices.values().cloned().collect()));
        follow(&mut index, &mut kernel);
        kernel
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whoever resolves dirty Services alone ends where a restarted agent ends, duplicates of addresses,
    /// missed events and relists included.
    #[test]
    fn following_what_is_dirty_is_enough(steps in vec((some_step(), 0..8u8), 0..60)) {
        let mut world = World::default();
        let mut index = new_index();
        let mut kernel = Kernel::new();
        let mut missed = (false, false);
        for (step, luck) in steps {
            let take = matches!(step, Step::Take);
            let kind = match &step {
                Step::Service(_) | Step::ServiceGone(_) => Some(&mut missed.0),
                Step::Slice(_) | Step::SliceGone(_) => Some(&mut missed.1),
                Step::RelistServices => { missed.0 = false; None }
                Step::RelistSlices => { missed.1 = false; None }
                Step::Node(_) | Step::Take => None,
            };
            match (world.apply(step), kind) {
                // The watch was broken: this event never arrives.
                (Some(_), Some(missed)) if luck == 0 => *missed = true,
                (Some(event), _) => {
                    index.apply(event.clone());
                    if luck == 1 {
                        index.apply(event);
                    }
                }
                (None, _) => {}
            }
            if take {
                follow(&mut index, &mut kernel);
                check_kernel(&kernel);
                if missed == (false, false) {
                    prop_assert_eq!(&kernel, &world.kernel());
                }
            }
        }
        index.apply(world.apply(Step::RelistSlices).unwrap());
        index.apply(world.apply(Step::RelistServices).unwrap());
        follow(&mut index, &mut kernel);
        check_kernel(&kernel);
        prop_assert_eq!(&kernel, &world.kernel());
        prop_assert!(index.is_complete());
    }

    /// The same endpoints in one sorted slice, or split over many with stale copies, in any order.
    #[test]
    fn slices_are_a_detail(
        endpoints in vec(some_endpoint(Family::V4), 1..12),
        places in vec((0..5usize, proptest::option::of(0..5usize)), 12),
        order in Just((0..10).collect::<Vec<usize>>()).prop_shuffle(),
        node in some_node(),
    ) {
        // One of each address, sorted: what the split must amount to.
        let whole: BTreeMap<IpAddr, EndpointSpec> =
            endpoints.into_iter().map(|endpoint| (endpoint.addr, endpoint)).collect();
        let mut sorted = slice("whole", "a", &[]);
        sorted.endpoints = whole.values().cloned().collect();

        let mut parts: Vec<SliceSpec> = (0..5).map(|n| slice(&format!("part{n}"), "a", &[])).collect();
        for (endpoint, (place, copy)) in whole.values().rev().zip(places) {
            parts[place].endpoints.push(endpoint.clone());
            if let Some(copy) = copy {
                // Of two unusable copies either may be kept.
                let mut stale = endpoint.clone();
                stale.conditions = Conditions { ready: false, serving: false, terminating: true };
                parts[copy].endpoints.insert(0, stale);
            }
        }

        let web = service("a", "10.96.0.1");
        let resolve = |events: Vec<Event>| {
            let mut index = new_index();
            let mut kernel = Kernel::new();
            index.apply(Event::Node(node.clone()));
            events.into_iter().for_each(|event| index.apply(event));
            follow(&mut index, &mut kernel);
            (index, kernel)
        };
        let (_, expect) = resolve(vec![set_service(&web), set_slice(&sorted)]);
        // Every part is delivered twice, somewhere; the Service comes in the middle.
        let mut events: Vec<_> = order.iter().map(|n| set_slice(&parts[n % 5])).collect();
        events.insert(order[0], set_service(&web));
        let (mut index, mut kernel) = resolve(events);
        prop_assert_eq!(&kernel, &expect);

        // Removed in any order, nothing is left, not even the Service.
        for n in &order {
            index.apply(Event::SliceGone(parts[n % 5].name.clone()));
        }
        follow(&mut index, &mut kernel);
        prop_assert!(kernel.values().flatten().all(|port| port.backends.is_empty()));
        index.apply(Event::ServiceGone(web.name));
        follow(&mut index, &mut kernel);
        prop_assert!(kernel.is_empty());
        prop_assert_eq!(index.counts(), Counts::default());
    }
}
