//! Random storms of opened and closed connections: what always holds of least-connections.

use balancer_common::abi::{Algorithm::LeastConnections, FULL_SCAN};
use proptest::prelude::*;

use crate::world::{World, gap};

/// What happens to a Service's connections.
#[derive(Clone, Debug)]
enum Step {
    /// One is opened.
    Open,
    /// The one at this place, from the oldest, is closed.
    Close(usize),
    /// All those of a backend are.
    Crash(usize),
    /// The first so many.
    Drop(usize),
}

fn storm() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => Just(Step::Open),
        6 => any::<usize>().prop_map(Step::Close),
        1 => any::<usize>().prop_map(Step::Crash),
        1 => (0..20_usize).prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 0..300)
}

fn backends() -> impl Strategy<Value = usize> {
    prop_oneof![2..8_usize, 1..=FULL_SCAN as usize]
}

/// Opens a connection and checks that it went to one of the least loaded.
fn open_to_least(world: &World, held: &mut Vec<u32>) -> Result<(), TestCaseError> {
    let before = world.loads();
    let backend = world.open();
    let least = *before.iter().min().unwrap();
    prop_assert_eq!(before[backend as usize], least, "backend {} of {:?}", backend, before);
    held.push(backend);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn while_nothing_closes_all_are_even(
        backends in backends(), offset: u32, weight in 1..=u32::from(u16::MAX), opens in 0..300_usize,
    ) {
        let mut world = World::with(LeastConnections, &vec![weight; backends]);
        world.node_offset = offset;
        for _ in 0..opens {
            world.open();
            prop_assert!(gap(&world.loads()) <= 1, "{:?}", world.loads());
        }
        prop_assert_eq!(world.loads().iter().sum::<u64>(), opens as u64);
    }

    #[test]
    fn while_nothing_closes_shares_follow_weights(
        weights in prop::collection::vec(prop_oneof![1..5_u32, 1..=65_535_u32], 1..=FULL_SCAN as usize),
        offset: u32,
        opens in 0..300_usize,
    ) {
        let mut world = World::with(LeastConnections, &weights);
        world.node_offset = offset;
        (0..opens).for_each(|_| { world.open(); });
        let loads = world.loads();
        // The last connection of i was no worse there than at j: a(i) / w(i) <= (a(j) + 1) / w(j).
        for i in 0..weights.len() {
            for j in 0..weights.len() {
                let (ours, theirs) = (loads[i] * u64::from(weights[j]), (loads[j] + 1) * u64::from(weights[i]));
                prop_assert!(ours <= theirs, "{i} and {j} of {loads:?}, weights {weights:?}");
            }
        }
    }

    #[test]
    fn every_choice_in_a_storm_is_the_least_loaded_and_evens_out(
        backends in backends(), offset: u32, storm in storm(),
    ) {
        let mut world = World::with(LeastConnections, &vec![1; backends]);
        world.node_offset = offset;
        let mut held = Vec::new();
        for step in storm {
            let before = gap(&world.loads());
            match step {
                Step::Open => {
                    open_to_least(&world, &mut held)?;
                    prop_assert!(gap(&world.loads()) <= before.max(1));
                }
                Step::Close(_) if held.is_empty() => {}
                Step::Close(place) => {
                    let place = place % held.len();
                    world.close(held.remove(place));
                }
                Step::Crash(backend) => {
                    let backend = (backend % backends) as u32;
                    held.iter().filter(|&&held| held == backend).for_each(|_| world.close(backend));
                    held.retain(|&held| held != backend);
                }
                Step::Drop(count) => {
                    held.drain(..count.min(held.len())).for_each(|backend| world.close(backend));
                }
            }
        }
        // As many as are missing below the fullest bring all to one level.
        let loads = world.loads();
        let missing = loads.iter().max().unwrap() * backends as u64 - loads.iter().sum::<u64>();
        for _ in 0..missing {
            open_to_least(&world, &mut held)?;
        }
        prop_assert_eq!(gap(&world.loads()), 0, "{:?}", world.loads());
        held.drain(..).for_each(|backend| world.close(backend));
        prop_assert_eq!(world.loads(), vec![0; backends]);
    }
}
