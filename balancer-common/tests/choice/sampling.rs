//! Least-connections above 64 backends: a window that moves.

use balancer_common::{
    abi::{
        Algorithm::{self, LeastConnections, Random},
        FIRST_SERVICE, FULL_SCAN, PickReason,
    },
    select::{mix, scale},
};
use proptest::prelude::*;

use crate::world::{World, gap, mean};

#[test]
fn sampling_begins_at_65_backends() {
    for (backends, reason, reads) in [
        (64, PickReason::Algorithm, 64 + 1),
        (65, PickReason::Sampled, 8 + 1),
        (66, PickReason::Sampled, 8 + 1),
    ] {
        assert_eq!(reason == PickReason::Sampled, backends > FULL_SCAN);
        let world = World::with(LeastConnections, &vec![1; backends as usize]);
        world.active.iter().for_each(|active| active.set(1));
        assert_eq!(world.choose().reason, reason);
        assert_eq!(world.reads.borrow().len(), reads, "slots read for {backends} backends");
    }
}

proptest! {
    #[test]
    fn a_scaled_number_is_below_the_length(number: u32, len in 1..=u32::MAX) {
        prop_assert!(scale(number, len) < len);
        prop_assert_eq!(scale(0, len), 0);
        prop_assert_eq!(scale(u32::MAX, len), len - 1);
    }
}

/// How far the fullest of `backends` is above the mean once `rounds` connections for each are open.
fn excess(algorithm: Algorithm, backends: usize, rounds: usize) -> f64 {
    let world = World::with(algorithm, &vec![1; backends]);
    for _ in 0..backends * rounds {
        world.open();
    }
    let loads = world.loads();
    *loads.iter().max().unwrap() as f64 - mean(&loads)
}

#[test]
fn the_fullest_backend_stays_near_the_mean_however_many_connections_are_open() {
    for backends in [65, 100, 500] {
        for rounds in [1, 10, 100] {
            let fullest = excess(LeastConnections, backends, rounds);
            assert!(fullest <= 1.0, "{fullest} above the mean of {rounds} on {backends} backends");
        }
        let one = excess(Random, backends, 100);
        let window = excess(LeastConnections, backends, 100);
        assert!(one > 4.0 * window, "random is {one} above the mean, a window {window}");
    }
}

/// Each index below `len` once, in an order that has nothing to do with theirs.
fn shuffled(len: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len).collect();
    order.sort_by_key(|&index| mix(u64::from(index)));
    order
}

#[test]
fn closing_at_random_leaves_a_large_service_far_more_even_than_random_choice() {
    let spread = |algorithm| {
        let mut world = World::with(algorithm, &[1; 200]);
        world.schedule(FIRST_SERVICE, &shuffled(200));
        let mut open: Vec<u32> = (0..1000).map(|_| world.open()).collect();
        for step in 0..20_000_u64 {
            let place = mix(step) as usize % open.len();
            world.close(open.swap_remove(place));
            open.push(world.open());
        }
        gap(&world.loads())
    };
    let (window, random) = (spread(LeastConnections), spread(Random));
    assert!(window <= 6 && random >= 2 * window, "gap of {window} with a window, {random} at random");
}

#[test]
fn new_backends_of_a_large_service_fill_first() {
    let mut world = World::with(LeastConnections, &[1; 100]);
    for _ in 0..1000 {
        world.open();
    }
    for _ in 0..30 {
        world.add_backend(FIRST_SERVICE, 1);
    }
    world.schedule(FIRST_SERVICE, &shuffled(130));
    let before = world.loads();
    for _ in 0..130 {
        world.open();
    }
    let new: u64 = world.loads()[100..].iter().sum();
    let old: u64 = world.loads()[..100].iter().sum::<u64>() - before[..100].iter().sum::<u64>();
    // Of windows of 8, all but 12% hold a new one: (100/130)^8. One draw in 130 would give 23%.
    assert_eq!(new + old, 130);
    assert!(new >= 100, "{new} of 130 connections on the 30 new backends");
    // In the end all are even.
    for _ in 0..5000 {
        world.open();
    }
    assert!(gap(&world.loads()) <= 3, "{:?}", world.loads());
}
