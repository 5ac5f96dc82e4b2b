//! Steering around what fails, and the ramp of what is new: simulated, by the code that the programs run.

use balancer_common::{
    abi::{Algorithm, FIRST_SERVICE, PickReason},
    health::{Admission, Condition, Failure, Health, RETURN_MS, Suspicion},
};

use crate::world::{SECOND, World};

/// A connect to a backend that refuses, or one that is answered; as `balancer-ebpf/src/account.rs` notes it.
fn attempt(world: &World, refuses: impl Fn(u32) -> bool) -> Result<u32, u32> {
    let backend = world.choose().backend;
    let cell = &world.health[backend as usize];
    let now = world.now_ns.get();
    if refuses(backend) {
        cell.set(cell.get().failed(Failure::Refused, now, world.rng.next() as u32));
        return Err(backend);
    }
    if !cell.get().is_clear() {
        cell.set(cell.get().succeeded(now, world.services[FIRST_SERVICE as usize].slow_start_ms));
    }
    Ok(backend)
}

/// Failures of `connects` connects, `per_second` of them, each closed again at once.
fn failures(world: &World, connects: u64, per_second: u64, refuses: impl Fn(u32) -> bool) -> u64 {
    let mut failed = 0;
    for _ in 0..connects {
        failed += u64::from(attempt(world, &refuses).is_err());
        world.advance(SECOND / per_second);
    }
    failed
}

#[test]
fn one_of_five_that_refuses_costs_few_connects() {
    for algorithm in Algorithm::ALL {
        let world = World::with(algorithm, &[1; 5]);
        // A client of source-hash knows one backend: let it be the one.
        let victim = world.choose().backend;
        let first = failures(&world, 200, 200, |backend| backend == victim);
        assert!(first <= 5, "{}: {first} in the first second", algorithm.name());
        let later = failures(&world, 20_000, 200, |backend| backend == victim);
        assert!(later * 1_000 < 5 * 20_000, "{}: {later} of 20,000 after it", algorithm.name());
        assert!(matches!(world.health[victim as usize].get().condition(), Condition::Ejected(_)));
    }
}

#[test]
fn without_failures_nothing_is_steered() {
    for algorithm in Algorithm::ALL {
        let world = World::with(algorithm, &[1, 2, 3]);
        for _ in 0..1_000 {
            assert_eq!(world.choose().reason, PickReason::Algorithm);
        }
    }
}

#[test]
fn what_was_ejected_is_tried_by_one_connect_and_comes_back() {
    let world = World::with(Algorithm::LeastConnections, &[1; 3]);
    failures(&world, 2_000, 200, |backend| backend == 0);
    let Condition::Ejected(until_ms) = world.health[0].get().condition() else { panic!("not ejected") };
    world.now_ns.set(until_ms * 1_000_000);
    world.set_active(&[0, 9, 9]);
    assert_eq!(world.choose().backend, 0, "the trial");
    assert!((0..100).all(|_| world.choose().backend != 0), "one connect tries, no more");
    let cell = &world.health[0];
    cell.set(cell.get().succeeded(world.now_ns.get(), 0));
    let share = world.tally(1_000)[0];
    assert!((50..200).contains(&share), "a tenth at first, not {share} of 1,000");
    world.advance(RETURN_MS * 1_000_000);
    assert_eq!(world.tally(100)[0], 100, "the idle one gets all in the end");
}

#[test]
fn the_last_ones_are_used_whatever_they_do() {
    for algorithm in Algorithm::ALL {
        let alone = World::with(algorithm, &[1]);
        assert_eq!(failures(&alone, 100, 200, |_| true), 100);
        // Half may be out, more may not: then all are tried, though two of three refuse; random ones would cost 4,000.
        let world = World::with(algorithm, &[1; 3]);
        let failed = failures(&world, 6_000, 200, |backend| backend < 2);
        if algorithm != Algorithm::SourceHash {
            assert!((1_000..4_200).contains(&failed), "{}: {failed} of 6,000 in panic", algorithm.name());
        }
        let half = World::with(algorithm, &[1; 4]);
        let failed = failures(&half, 6_000, 200, |backend| backend < 2);
        assert!(failed < 60, "{}: {failed} of 6,000 with two of four", algorithm.name());
    }
}

#[test]
fn a_client_whose_backend_is_ejected_gets_another_and_keeps_it() {
    let mut world = World::with(Algorithm::LeastConnections, &[1; 3]);
    world.services[FIRST_SERVICE as usize].affinity_seconds = 100;
    let first = world.choose().backend;
    let now = world.now_ns.get();
    let cell = &world.health[first as usize];
    cell.set(cell.get().failed(Failure::Refused, now, 0));
    assert_eq!(world.choose().backend, first, "one failure tears nobody away");
    let cell = &world.health[first as usize];
    cell.set(cell.get().failed(Failure::Refused, now, 0).failed(Failure::Refused, now, 0));
    let choice = world.choose();
    assert_eq!(choice.reason, PickReason::AffinityReplaced);
    assert_ne!(choice.backend, first);
    assert_eq!(world.choose().backend, choice.backend);
}

#[test]
fn clients_of_source_hash_agree_on_the_replacement() {
    let world = World::with(Algorithm::SourceHash, &[1; 7]);
    let before = world.choose().backend;
    world.health[before as usize].set(Health::CLEAR.failed(Failure::Refused, world.now_ns.get(), 0));
    let replacement = world.choose().backend;
    assert_ne!(replacement, before);
    assert!((0..100).all(|_| world.choose().backend == replacement));
}

#[test]
fn a_new_backend_ramps_up_where_its_service_asks_for_it() {
    let mut world = World::with(Algorithm::LeastConnections, &[1; 4]);
    world.services[FIRST_SERVICE as usize].slow_start_ms = 10_000;
    world.set_active(&[0, 50, 50, 50]);
    world.health[0].set(Health::ramp(world.now_ns.get()));
    let mut shares = Vec::new();
    for _ in 0..=10 {
        shares.push(world.tally(1_000)[0]);
        world.advance(SECOND);
    }
    assert!((50..150).contains(&shares[0]) && (400..600).contains(&shares[5]), "{shares:?}");
    assert_eq!(shares[10], 1_000, "{shares:?}");
    // All new: nobody is spared.
    world.health.iter().for_each(|health| health.set(Health::ramp(world.now_ns.get())));
    assert!(world.tally(1_000).iter().sum::<u64>() == 1_000);
}

/// Its share of so many connects that are answered and closed at once, `per_second` of them.
fn share(world: &World, backend: u32, connects: u64, per_second: u64) -> f64 {
    let mut had = 0;
    for _ in 0..connects {
        had += u64::from(attempt(world, |_| false) == Ok(backend));
        world.advance(SECOND / per_second);
    }
    had as f64 / connects as f64
}

#[test]
fn a_ramp_of_ten_minutes_takes_ten_minutes() {
    let mut world = World::with(Algorithm::LeastConnections, &[1; 4]);
    world.services[FIRST_SERVICE as usize].slow_start_ms = 600_000;
    world.set_active(&[0, 50, 50, 50]);
    world.health[0].set(Health::ramp(world.now_ns.get()));
    let minutes: Vec<f64> = (0..12).map(|_| share(&world, 0, 1_200, 20)).collect();
    for (minute, share) in minutes.iter().enumerate() {
        let expected = ((minute as f64 + 0.5) / 10.0).clamp(0.1, 1.0);
        assert!((share - expected).abs() < 0.06, "minute {minute}: {minutes:?}");
    }
    assert_eq!(world.health[0].get(), Health::CLEAR);
}

#[test]
fn a_failure_does_not_end_a_ramp() {
    let mut world = World::with(Algorithm::LeastConnections, &[1; 4]);
    world.services[FIRST_SERVICE as usize].slow_start_ms = 600_000;
    world.set_active(&[0, 50, 50, 50]);
    world.health[0].set(Health::ramp(world.now_ns.get()));
    while attempt(&world, |backend| backend == 0).is_ok() {
        world.advance(SECOND / 20);
    }
    let at_first = share(&world, 0, 1_200, 20);
    assert!((0.05..0.15).contains(&at_first), "{at_first} in the first minute");
    world.advance(240 * SECOND);
    while attempt(&world, |backend| backend == 0).is_ok() {}
    let in_the_middle = share(&world, 0, 1_200, 20);
    assert!((0.4..0.65).contains(&in_the_middle), "{in_the_middle} in the sixth minute");
    world.advance(300 * SECOND);
    assert!(share(&world, 0, 100, 20) > 0.99);
}

/// What refuses at once looks idle: without this it would get every connect for as long as the other ramps up.
#[test]
fn one_that_is_coming_back_is_better_than_one_that_fails() {
    for algorithm in Algorithm::ALL {
        let mut world = World::with(algorithm, &[1, 1]);
        world.services[FIRST_SERVICE as usize].slow_start_ms = 600_000;
        world.health[1].set(Health::ramp(world.now_ns.get()));
        let failed = failures(&world, 6_000, 200, |backend| backend == 0);
        assert!(failed < 12, "{}: {failed} of 6,000 beside one that ramps up", algorithm.name());
    }
}

#[test]
fn one_client_that_meets_silence_does_not_eject_for_others() {
    let mut health = Health::CLEAR;
    for second in 0..100 {
        health = health.failed(Failure::Slow(Suspicion::OneClient), second * SECOND, 0);
        assert!(!health.is_ejected());
        if let Admission::Trial(next) = health.admit((second + 9) * SECOND, 0, 0) {
            health = next;
        }
    }
}

#[test]
fn of_many_backends_those_that_are_looked_at_decide() {
    let world = World::with(Algorithm::LeastConnections, &[1; 500]);
    let failed = failures(&world, 20_000, 200, |backend| backend % 5 == 0);
    assert!(failed < 700, "{failed} of 20,000 with 100 of 500 that refuse");
}
