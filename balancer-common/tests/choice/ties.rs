//! Who is chosen among equals: on one node in turn, and over many nodes not the same ones.

use balancer_common::{
    abi::{Algorithm::LeastConnections, FIRST_SERVICE},
    select::mix,
};

use crate::world::{Rng, World, deviation};

/// Connections by pod after each of `nodes` nodes has opened `each` to a Service of `pods` pods, knowing
/// of its own alone.
fn cluster(nodes: u64, each: usize, pods: usize, seed: u64) -> Vec<u64> {
    let mut total = vec![0; pods];
    for node in 0..nodes {
        let mut world = World::with(LeastConnections, &vec![1; pods]);
        world.node_offset = mix(seed << 32 | node);
        for _ in 0..each {
            total[world.open() as usize] += 1;
        }
    }
    total
}

/// The same if each node took different pods at random.
fn random_ties(nodes: u64, each: usize, pods: usize, rng: &Rng) -> Vec<u64> {
    let mut total = vec![0; pods];
    for _ in 0..nodes {
        let mut left: Vec<usize> = (0..pods).collect();
        for _ in 0..each {
            total[left.swap_remove(rng.below(left.len()))] += 1;
        }
    }
    total
}

fn check_spread(nodes: u64, each: usize, pods: usize) {
    let what = format!("{nodes} nodes with {each} connections each on {pods} pods");
    let rng = Rng::new(3);
    let trials = 100;
    let (mut ours, mut random, mut idle, mut idle_random) = (0.0, 0.0, 0, 0);
    for seed in 0..trials {
        let counts = cluster(nodes, each, pods, seed);
        assert_eq!(counts.iter().sum::<u64>(), nodes * each as u64);
        ours += deviation(&counts);
        idle += counts.iter().filter(|&&count| count == 0).count();
        let counts = random_ties(nodes, each, pods, &rng);
        random += deviation(&counts);
        idle_random += counts.iter().filter(|&&count| count == 0).count();
    }
    let (ours, random) = (ours / trials as f64, random / trials as f64);
    // In theory each node takes a pod with the chance p = each/pods, in both cases.
    let p = each as f64 / pods as f64;
    let theory = (nodes as f64 * p * (1.0 - p)).sqrt();
    assert!(ours < 1.15 * random, "{what}: deviation {ours}, random ties {random}");
    assert!((0.8..1.1).contains(&(ours / theory)), "{what}: deviation {ours}, in theory {theory}");
    let most = idle_random as f64 * 1.2 + trials as f64;
    assert!((idle as f64) < most, "{what}: {idle} idle pods in {trials} trials, random ties {idle_random}");
}

#[test]
fn nodes_do_not_prefer_the_same_pods() {
    // List order would put 100 connections on each of 10 pods and none on 40: a deviation of 40, not 4.
    check_spread(100, 10, 50);
    check_spread(10, 5, 50);
    check_spread(10, 20, 50);
    check_spread(10, 1, 20);
    check_spread(100, 1, 50);
    check_spread(30, 63, 64);
}

#[test]
fn nodes_with_more_connections_than_pods_differ_by_the_remainder_alone() {
    for seed in 0..20 {
        let counts = cluster(10, 75, 50, seed);
        assert!(counts.iter().all(|count| (10..=20).contains(count)), "{counts:?}");
    }
}

/// Connections held, by backend; how often each is chosen by short connections that come one by one.
fn check_short(held: &[u64], connects: usize, expect: &[u64]) {
    for offset in 0..held.len() as u32 {
        let mut world = World::with(LeastConnections, &vec![1; held.len()]);
        world.set_active(held);
        world.node_offset = offset;
        assert_eq!(world.tally(connects), expect, "beside {held:?} from {offset}");
    }
}

#[test]
fn short_connections_take_turns_among_the_least_loaded() {
    check_short(&[0, 0, 0], 30, &[10, 10, 10]);
    check_short(&[2, 2, 2], 30, &[10, 10, 10]);
    check_short(&[1, 0, 0], 30, &[0, 15, 15]);
    check_short(&[0, 1, 1, 1, 1, 1, 0, 0, 0, 0], 50, &[10, 0, 0, 0, 0, 0, 10, 10, 10, 10]);
    check_short(&[5, 3, 5, 3, 5, 5, 3, 9], 30, &[0, 10, 0, 10, 0, 0, 10, 0]);
}

#[test]
fn turns_are_kept_when_the_number_of_backends_changes() {
    let mut world = World::with(LeastConnections, &[1; 5]);
    world.tally(3);
    let new = world.add_backend(FIRST_SERVICE, 1);
    world.schedule(FIRST_SERVICE, &[0, 1, 2, 3, 4, new]);
    assert_eq!([0; 6].map(|_| world.choose().backend), [3, 4, 5, 0, 1, 2]);
}
