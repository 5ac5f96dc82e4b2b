//! Least-connections above 64 backends: two random choices.

use balancer_common::{
    abi::{
        Algorithm::{self, LeastConnections, Random},
        FIRST_SERVICE, FULL_SCAN, PickReason, SlotRange,
    },
    select::{least_connections::sample, scale},
    tables::Load,
};
use proptest::prelude::*;

use crate::world::{World, gap, mean};

/// Answers for every slot there can be: a backend of the slot's own number, and as loaded.
struct Endless(World);

impl Load for Endless {
    fn slot(&self, index: u32) -> Option<(u32, u32)> {
        self.0.slot(index);
        Some((index, 1))
    }

    fn active(&self, backend: u32) -> u64 {
        u64::from(backend)
    }

    fn take_turn(&self, service: u32) -> u32 {
        self.0.take_turn(service)
    }

    fn skip_turns(&self, service: u32, count: u32) {
        self.0.skip_turns(service, count);
    }

    fn node_offset(&self) -> u32 {
        self.0.node_offset()
    }

    fn random(&self) -> u32 {
        self.0.random()
    }
}

/// The draw that [`scale`] turns into `index` of `len`.
fn draw(index: u32, len: u32) -> u32 {
    let draw = ((u64::from(index) << 32).div_ceil(u64::from(len))) as u32;
    assert_eq!(scale(draw, len), index);
    draw
}

#[test]
fn sampling_begins_at_65_backends() {
    for (backends, reason, reads) in
        [(64, PickReason::Algorithm, 64 + 1), (65, PickReason::Sampled, 2), (66, PickReason::Sampled, 2)]
    {
        assert_eq!(reason == PickReason::Sampled, backends > FULL_SCAN);
        let world = World::with(LeastConnections, &vec![1; backends as usize]);
        world.active.iter().for_each(|active| active.set(1));
        assert_eq!(world.choose().reason, reason);
        assert_eq!(world.reads.borrow().len(), reads, "slots read for {backends} backends");
    }
}

#[test]
fn the_less_loaded_of_two_is_taken() {
    let world = World::with(LeastConnections, &[1, 1, 2]);
    let check = |first: u32, second: u32, active: [u64; 3], expect: u32| {
        world.set_active(&active);
        // The second draw is among the others: those behind the first are one nearer.
        let behind = if second > first { second - 1 } else { second };
        world.draws.borrow_mut().extend([draw(first, 3), draw(behind, 2)]);
        world.reads.borrow_mut().clear();
        assert_eq!(sample(&world, world.slot_range()), Some(expect), "{first} and {second} of {active:?}");
        assert_eq!(*world.reads.borrow(), [first, second]);
    };
    check(0, 1, [3, 2, 0], 1);
    check(1, 0, [3, 2, 0], 1);
    check(0, 1, [2, 2, 0], 0);
    check(1, 0, [2, 2, 0], 1);
    check(0, 2, [2, 0, 4], 2);
    check(0, 2, [1, 0, 4], 0);
    check(2, 1, [0, 0, 0], 2);
    check(1, 2, [0, 0, 0], 2);
}

#[test]
fn one_backend_needs_no_draw() {
    let world = World::with(LeastConnections, &[1]);
    world.draws.borrow_mut().push_back(9);
    assert_eq!(sample(&world, world.slot_range()), Some(0));
    assert_eq!(world.draws.borrow().len(), 1);
}

#[test]
fn every_pair_is_drawn_as_often() {
    let len = 70;
    let world = World::with(LeastConnections, &[1; 70]);
    // All draws at the same distance: each of the pairs exactly once.
    let mut seen = vec![false; len * len];
    for first in 0..len as u32 {
        for other in 0..len as u32 - 1 {
            world.draws.borrow_mut().extend([draw(first, 70), draw(other, 69)]);
            world.reads.borrow_mut().clear();
            sample(&world, world.slot_range()).unwrap();
            let (one, two) = (world.reads.borrow()[0] as usize, world.reads.borrow()[1] as usize);
            assert_ne!(one, two);
            assert!(!std::mem::replace(&mut seen[one * len + two], true), "{one} and {two} twice");
        }
    }
    assert_eq!(seen.iter().filter(|&&seen| seen).count(), len * (len - 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn two_different_slots_of_the_run_are_read(
        base: u32,
        len in prop_oneof![2..100_u32, 2..=u32::MAX, Just(u32::MAX)],
        first in prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)],
        second in prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)],
    ) {
        let tables = Endless(World::new());
        tables.0.draws.borrow_mut().extend([first, second]);
        let picked = sample(&tables, SlotRange::new(base, len)).unwrap();
        let reads = tables.0.reads.borrow();
        prop_assert_eq!(reads.len(), 2);
        prop_assert_ne!(reads[0], reads[1]);
        for read in reads.iter() {
            prop_assert!(read.wrapping_sub(base) < len);
        }
        prop_assert_eq!(picked, reads[0].min(reads[1]));
    }

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
    // Two choices keep the fullest within log2(log2 n) + O(1) of the mean for any number of connections
    // (Berenbrink, Czumaj, Steger, Voecking: Balanced allocations, the heavily loaded case); one choice
    // lets it grow with the square root of that number.
    for backends in [65, 100, 500] {
        let bound = (backends as f64).log2().log2().ceil() + 1.0;
        for rounds in [1, 10, 100] {
            let two = excess(LeastConnections, backends, rounds);
            assert!(two <= bound, "{two} above the mean of {rounds} on {backends} backends");
        }
        let one = excess(Random, backends, 100);
        let two = excess(LeastConnections, backends, 100);
        assert!(one > 4.0 * two, "random is {one} above the mean, two choices {two}");
    }
}

#[test]
fn new_backends_of_a_large_service_fill_faster_than_old_ones() {
    let mut world = World::with(LeastConnections, &[1; 100]);
    for _ in 0..1000 {
        world.open();
    }
    for _ in 0..30 {
        world.add_backend(FIRST_SERVICE, 1);
    }
    world.schedule(FIRST_SERVICE, &(0..130).collect::<Vec<_>>());
    let before = world.loads();
    for _ in 0..130 {
        world.open();
    }
    let new: u64 = world.loads()[100..].iter().sum();
    let old: u64 = world.loads()[..100].iter().sum::<u64>() - before[..100].iter().sum::<u64>();
    // A pair holds a new one with a chance of 1 - (100/130 * 99/129) = 41%; one draw in 130 would give 23%.
    assert_eq!(new + old, 130);
    assert!((40..=68).contains(&new), "{new} of 130 connections on the 30 new backends");
    // In the end all are even.
    for _ in 0..5000 {
        world.open();
    }
    assert!(gap(&world.loads()) <= 8, "{:?}", world.loads());
}
