//! What the simulation says, beside what can be said without it.

use super::{super::measures::Measures, *};

fn counts(chooser: Chooser, point: Point, backends: u32, seed: u64) -> Vec<u64> {
    run(chooser, point, backends, seed).connections
}

const NUMBERED: Chooser = Chooser::Balancer(Names::Numbered);
const NAMED: Chooser = Chooser::Balancer(Names::Random);
const ALL: [Chooser; 5] = [Chooser::Random, Chooser::FromAnywhere, Chooser::FromTheFirst, NUMBERED, NAMED];

#[test]
fn every_connection_is_held_somewhere() {
    for chooser in ALL {
        for point in [Point { k: 1, nodes: 1 }, Point { k: 3, nodes: 7 }, Point { k: 100, nodes: 32 }] {
            let counts = counts(chooser, point, 12, 4);
            assert_eq!(counts.len(), 12);
            assert_eq!(counts.iter().sum::<u64>(), point.k * point.nodes, "{chooser:?}, {point:?}");
        }
    }
}

#[test]
fn one_node_is_as_even_as_can_be() {
    for (k, backends, seed) in [(1, 5, 1), (4, 5, 2), (5, 5, 3), (7, 5, 4), (100, 12, 5), (300, 80, 6)] {
        let measures = Measures::of(&counts(NAMED, Point { k, nodes: 1 }, backends, seed));
        let best = Measures::best(k, backends as usize);
        let figure = |measures: Option<Measures>| measures.map(|measures| measures.max_over_mean);
        // Above 64 backends a window of them is compared.
        if backends <= 64 {
            assert_eq!(figure(measures), figure(best), "{k} on {backends}");
        } else {
            assert!(figure(measures) <= figure(best).map(|best| best * 1.35), "{k} on {backends}");
        }
    }
}

#[test]
fn what_begins_at_the_first_server_fills_the_first_servers() {
    assert_eq!(counts(Chooser::FromTheFirst, Point { k: 2, nodes: 8 }, 5, 1), [8, 8, 0, 0, 0]);
    assert_eq!(counts(Chooser::FromTheFirst, Point { k: 6, nodes: 2 }, 5, 1), [4, 2, 2, 2, 2]);
}

#[test]
fn nodes_with_more_connections_than_backends_differ_by_the_remainder_alone() {
    for seed in 0..30 {
        let counts = counts(NAMED, Point { k: 103, nodes: 8 }, 5, seed);
        assert!(counts.iter().all(|count| (160..=168).contains(count)), "{counts:?}");
    }
}

#[test]
fn a_run_repeats_from_its_seed() {
    for chooser in ALL {
        let point = Point { k: 3, nodes: 8 };
        assert_eq!(counts(chooser, point, 5, 7), counts(chooser, point, 5, 7));
    }
    assert_ne!(
        counts(Chooser::Random, Point { k: 10, nodes: 8 }, 5, 1),
        counts(Chooser::Random, Point { k: 10, nodes: 8 }, 5, 2)
    );
}

#[test]
fn numbered_nodes_with_few_connections_each_are_as_even_as_can_be() {
    for backends in BACKENDS {
        for k in [1, 2, 10] {
            for (nodes, seed) in NODES.into_iter().zip(1..) {
                let measures = Measures::of(&counts(NUMBERED, Point { k, nodes }, backends, seed));
                let best = Measures::best(k * nodes, backends as usize);
                assert_eq!(measures, best, "{nodes} nodes with {k} each on {backends}");
            }
        }
    }
}

/// In how many of [`PAIRS`] pairs of nodes both connections went to one server.
fn met(arm: Arm, figure: &str) -> u64 {
    let outcome = two_nodes();
    let cell = outcome.arms.iter().find(|(its, _)| *its == arm).map(|(_, cell)| cell);
    let Some(Cell::Ran(runs)) = cell else { panic!("{arm:?} is not simulated") };
    assert_eq!(runs.len() as u64, PAIRS);
    runs.iter().filter(|run| run.extra[figure] > 0.0).count() as u64
}

#[test]
fn two_nodes_meet_unless_they_are_numbered() {
    assert_eq!(met(Arm::ConnectOnly, MET), 0);
    assert_eq!(met(Arm::IpvsRr, MET), PAIRS);
    // A fifth, within four standard deviations.
    for (arm, figure) in [(Arm::Direct, MET), (Arm::Iptables, MET), (Arm::ConnectOnly, MET_RANDOM)] {
        let met = met(arm, figure);
        assert!((150..=250).contains(&met), "{arm:?}: {met} of {PAIRS}");
    }
}

#[test]
fn sizes_are_found_again_in_the_runs() {
    let outcome = by_size(5, Names::Numbered, &[1, 2]);
    assert_eq!(points(&outcome).len(), CONNECTIONS.len() * NODES.len());
    for (arm, cell) in &outcome.arms {
        let runs = at(cell, Point { k: 10, nodes: 4 }).count();
        assert_eq!(runs, if matches!(cell, Cell::Ran(_)) { 2 } else { 0 }, "{arm:?}");
    }
    assert!(points(&Outcome { simulated: false, ..outcome }).is_empty());
    assert!(points(&two_nodes()).is_empty());
}
