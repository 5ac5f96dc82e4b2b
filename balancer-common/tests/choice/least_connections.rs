//! Least-connections with a full scan.

use balancer_common::{
    abi::{Algorithm::LeastConnections, FIRST_SERVICE, FULL_SCAN, MAX_WEIGHT, PickReason, SlotRange, WINDOW},
    select::least_connections::{Balance, Found, less_loaded, scan},
};
use proptest::prelude::*;

use crate::world::World;

/// Connections held and weights, by backend; the starting point of the search; the backend chosen.
fn check_from(start: u32, backends: &[(u64, u32)], expect: u32) {
    let weights: Vec<u32> = backends.iter().map(|&(_, weight)| weight).collect();
    let mut world = World::with(LeastConnections, &weights);
    world.set_active(&backends.iter().map(|&(active, _)| active).collect::<Vec<_>>());
    world.node_offset = start;
    assert_eq!(world.choose().backend, expect, "{backends:?} from {start}");
}

/// All of one weight, from the first.
fn check(active: &[u64], expect: u32) {
    check_from(0, &active.iter().map(|&active| (active, 1)).collect::<Vec<_>>(), expect);
}

#[test]
fn the_smallest_count_wins() {
    check(&[0], 0);
    check(&[7], 0);
    check(&[3, 2], 1);
    check(&[2, 3], 0);
    check(&[5, 4, 3, 2, 1], 4);
    check(&[1, 0, 1], 1);
    check(&[9, 9, 9, 8, 9], 3);
    check(&[1 << 46, (1 << 46) - 1], 1);
}

#[test]
fn a_weight_is_a_share() {
    // (active + 1) / weight: 1/1 and 1/2, then 1/1 and 2/2 (a tie), then 1/1 and 3/2.
    check_from(0, &[(0, 1), (0, 2)], 1);
    check_from(0, &[(0, 1), (1, 2)], 0);
    check_from(1, &[(0, 1), (1, 2)], 1);
    check_from(1, &[(0, 1), (2, 2)], 0);
    check_from(0, &[(10, 3), (15, 5)], 1);
    check_from(0, &[(1 << 46, MAX_WEIGHT - 1), (1 << 46, MAX_WEIGHT)], 1);
    check_from(0, &[((1 << 46) - 1, MAX_WEIGHT), (1 << 46, MAX_WEIGHT)], 0);
}

#[test]
fn a_tie_goes_to_the_first_from_the_starting_point() {
    for start in 0..10 {
        check_from(start, &[(4, 1); 5], start % 5);
    }
    check_from(3, &[(0, 1), (0, 1), (1, 1), (1, 1), (1, 1)], 0);
    check_from(1, &[(0, 1), (0, 1), (1, 1), (1, 1), (1, 1)], 1);
    check_from(u32::MAX, &[(0, 1); 7], u32::MAX % 7);
}

#[test]
fn a_slot_of_weight_zero_is_never_preferred() {
    check_from(0, &[(0, 0), (1000, 1)], 1);
    check_from(1, &[(0, 0), (1000, 1)], 1);
    check_from(0, &[(0, 0), (0, 0)], 0);
}

#[test]
fn every_one_of_64_backends_is_compared() {
    let weights = [1; FULL_SCAN as usize];
    for idle in 0..FULL_SCAN {
        for start in [0, 1, idle, idle + 1, FULL_SCAN - 1] {
            let mut world = World::with(LeastConnections, &weights);
            world.node_offset = start;
            world.active.iter().for_each(|active| active.set(5));
            world.active[idle as usize].set(4);
            let choice = world.choose();
            assert_eq!((choice.backend, choice.reason), (idle, PickReason::Algorithm), "from {start}");
            // Each once, and the chosen one again.
            assert_eq!(world.reads.borrow().len(), FULL_SCAN as usize + 1);
        }
    }
}

#[test]
fn an_idle_backend_of_a_uniform_service_ends_the_search() {
    let world = World::with(LeastConnections, &[1; 10]);
    world.set_active(&[1, 1, 0, 1, 0, 1, 1, 1, 1, 1]);
    assert_eq!(world.choose().backend, 2);
    assert_eq!(*world.reads.borrow(), [0, 1, 2, 2]);
}

#[test]
fn a_window_of_any_number_of_slots_is_bounded() {
    for len in [65, 1000, u32::MAX] {
        let mut world = World::with(LeastConnections, &[1; 100]);
        world.node_offset = 95;
        world.active.iter().for_each(|active| active.set(1));
        world.reads.borrow_mut().clear();
        let found = scan(&world, FIRST_SERVICE, SlotRange::new(0, len), Balance::Weighted);
        // From slot 95 the window of a run of more than 100 slots leads out of the table.
        assert_eq!(found, if len == 65 { Some(Found { backend: 30, steps: 0 }) } else { None });
        assert!(world.reads.borrow().len() <= WINDOW as usize);
    }
}

#[test]
fn runs_without_slots_lead_nowhere() {
    let world = World::with(LeastConnections, &[1; 3]);
    for base in [0, 1, 3, u32::MAX] {
        assert_eq!(scan(&world, FIRST_SERVICE, SlotRange::new(base, 0), Balance::Uniform), None);
    }
}

/// What the scan must find, in numbers that cannot overflow: the first least (active + 1) / weight.
fn reference(backends: &[(u64, u32)], start: usize) -> Found {
    let load = |index: usize| {
        let (active, weight) = backends[index];
        (u128::from(active) + 1, u128::from(weight))
    };
    let len = backends.len();
    let (mut best, mut steps) = (start % len, 0);
    for step in 1..len {
        let index = (start + step) % len;
        let ((a, w), (best_a, best_w)) = (load(index), load(best));
        if a * best_w < best_a * w {
            (best, steps) = (index, step);
        }
    }
    Found { backend: best as u32, steps: steps as u32 }
}

fn backends() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let active = prop_oneof![0..4_u64, 0..1000_u64, 0..=1_u64 << 46];
    let weight = prop_oneof![1..4_u32, 1..=MAX_WEIGHT];
    prop::collection::vec((active, weight), 1..=FULL_SCAN as usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_scan_finds_the_first_least_loaded(backends in backends(), start in 0..200_u32) {
        let weights: Vec<u32> = backends.iter().map(|&(_, weight)| weight).collect();
        let mut world = World::with(LeastConnections, &weights);
        world.set_active(&backends.iter().map(|&(active, _)| active).collect::<Vec<_>>());
        world.node_offset = start;
        let found = scan(&world, FIRST_SERVICE, world.slot_range(), Balance::Weighted);
        prop_assert_eq!(found, Some(reference(&backends, start as usize)));
    }

    #[test]
    fn an_early_end_changes_no_answer(
        active in prop::collection::vec(0..4_u64, 1..=FULL_SCAN as usize),
        weight in 1..=MAX_WEIGHT,
        start in 0..200_u32,
    ) {
        let mut world = World::with(LeastConnections, &vec![weight; active.len()]);
        world.set_active(&active);
        world.node_offset = start;
        let slots = world.slot_range();
        let early = scan(&world, FIRST_SERVICE, slots, Balance::Uniform);
        world.turns[FIRST_SERVICE as usize].set(0);
        prop_assert_eq!(early, scan(&world, FIRST_SERVICE, slots, Balance::Weighted));
    }

    #[test]
    fn comparison_by_mask_is_comparison(
        active in 0..=1_u64 << 46, weight in 1..=MAX_WEIGHT,
        other in 0..=1_u64 << 46, other_weight in 1..=MAX_WEIGHT,
    ) {
        let ours = (u128::from(active) + 1) * u128::from(other_weight);
        let theirs = (u128::from(other) + 1) * u128::from(weight);
        let expect = if ours < theirs { u64::MAX } else { 0 };
        prop_assert_eq!(less_loaded(active, weight, other, other_weight), expect);
    }

    #[test]
    fn comparison_survives_any_numbers(active: u64, weight: u32, other: u64, other_weight: u32) {
        let mask = less_loaded(active, weight, other, other_weight);
        prop_assert!(mask == 0 || mask == u64::MAX);
    }
}
