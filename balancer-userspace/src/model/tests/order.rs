//! Properties: what is in the kernel depends on what exists, not on how it was reported.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::model::story::{Kernel, follow};

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

fn some_node() -> impl Strategy<Value = NodeInfo> {
    (0..4u8, proptest::option::of(small_name("z"))).prop_map(|(n, zone)| NodeInfo {
        name: if n == 0 { "".into() } else { format!("n{n}").into() },
        zone,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whoever resolves dirty Services alone ends where a restarted agent ends.
    #[test]
    fn following_what_is_dirty_is_enough(data in vec(any::<u8>(), 0..2_000)) {
        crate::fuzzing::resolve(&data);
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
