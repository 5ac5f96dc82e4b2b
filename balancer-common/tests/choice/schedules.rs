//! Round-robin, client-round-robin, random and source-hash: what follows a schedule of slots.

use balancer_common::{
    abi::{
        Algorithm::{self, ClientRoundRobin, Random, RoundRobin, SourceHash},
        ClientKey, FIRST_SERVICE, PickReason, SlotRange,
    },
    select::{self, client_round_robin, mix, random, round_robin, source_hash},
};

use crate::world::{Rng, World, chi_square, gap};

/// A Service with the backends 0 to `backends` and this schedule of them.
fn scheduled(algorithm: Algorithm, backends: usize, schedule: &[u32]) -> World {
    let mut world = World::with(algorithm, &vec![1; backends]);
    world.schedule(FIRST_SERVICE, schedule);
    world
}

fn check_sequence(offset: u32, schedule: &[u32], expect: &[u32]) {
    let mut world = scheduled(RoundRobin, 5, schedule);
    world.node_offset = offset;
    let got: Vec<u32> = expect.iter().map(|_| world.choose().backend).collect();
    assert_eq!(got, expect, "{schedule:?} from {offset}");
}

#[test]
fn round_robin_follows_the_schedule() {
    check_sequence(0, &[0], &[0, 0, 0]);
    check_sequence(0, &[0, 1, 2], &[0, 1, 2, 0, 1, 2, 0]);
    check_sequence(2, &[0, 1, 2], &[2, 0, 1, 2]);
    check_sequence(7, &[4, 3], &[3, 4, 3]);
    check_sequence(0, &[0, 1, 0, 2], &[0, 1, 0, 2, 0, 1, 0, 2]);
    check_sequence(u32::MAX, &[0, 1, 2], &[0, 0, 1, 2]);
}

#[test]
fn round_robin_is_exact_over_full_cycles() {
    for len in [1_u32, 2, 3, 7, 64, 65, 1000] {
        for offset in [0, 1, 999] {
            let mut world = World::with(RoundRobin, &vec![1; len as usize]);
            world.node_offset = offset;
            assert_eq!(world.tally(3 * len as usize), vec![3; len as usize], "{len} from {offset}");
            // Any number of connects is even within one, wherever it begins.
            let tally = world.tally(len as usize + 1);
            assert!(gap(&tally) <= 1, "{tally:?}");
        }
    }
    let weighted = scheduled(RoundRobin, 3, &[0, 1, 0, 2, 0, 1]);
    assert_eq!(weighted.tally(60), [30, 20, 10]);
}

#[test]
fn round_robin_is_exact_while_connections_stay_open_unevenly() {
    let world = World::with(RoundRobin, &[1; 4]);
    world.set_active(&[100, 0, 7, 50]);
    assert_eq!(world.tally(40), [10; 4]);
}

#[test]
fn round_robin_turns_belong_to_one_service() {
    let mut world = World::with(RoundRobin, &[1; 2]);
    let other = world.add_service(RoundRobin, &[1; 2]);
    let mut tally = [0; 4];
    for _ in 0..10 {
        tally[world.choose().backend as usize] += 1;
        match world.connect_to(other) {
            balancer_common::translate::Translation::Rewrite(choice) => tally[choice.backend as usize] += 1,
            pass => panic!("{pass:?}"),
        }
    }
    // With turns in common each Service would see every other one, and one backend of it.
    assert_eq!(tally, [5; 4]);
}

#[test]
fn a_pool_covers_as_many_backends_as_it_can_for_every_client() {
    let rng = Rng::new(7);
    for backends in [1_usize, 2, 5, 16, 70] {
        for pool in [1_usize, 2, 5, 16, 100] {
            let mut world = World::with(ClientRoundRobin, &vec![1; backends]);
            world.node_offset = rng.next() as u32;
            // All clients open their pools at the same time, in any order.
            let clients = 20;
            let mut left = vec![pool; clients];
            let mut met = vec![vec![0_u64; backends]; clients];
            while left.iter().any(|&left| left > 0) {
                let client = rng.below(clients);
                if left[client] > 0 {
                    left[client] -= 1;
                    world.client.set(4096 + client as u64);
                    met[client][world.choose().backend as usize] += 1;
                }
            }
            for met in met {
                let covered = met.iter().filter(|&&count| count > 0).count();
                assert_eq!(covered, pool.min(backends), "{pool} connections on {backends} backends");
                assert!(gap(&met) <= 1, "{met:?}");
            }
        }
    }
}

#[test]
fn clients_begin_at_different_backends() {
    let mut first = vec![0; 10];
    for node in 0..100_u64 {
        let mut world = World::with(ClientRoundRobin, &[1; 10]);
        world.node_offset = mix(node);
        for client in 1..=10 {
            world.client.set(client);
            first[world.choose().backend as usize] += 1;
        }
    }
    // 9 degrees of freedom: 99.9% of what is uniform lies below 27.9.
    let chi = chi_square(&first, &[100.0; 10]);
    assert!(chi < 27.9, "{first:?}: {chi}");
}

#[test]
fn a_forgotten_client_begins_again() {
    let world = World::with(ClientRoundRobin, &[1; 5]);
    let first = world.choose().backend;
    let second = world.choose().backend;
    assert_eq!(second, (first + 1) % 5);
    world.clients.borrow_mut().clear();
    assert_eq!(world.choose().backend, first);
}

#[test]
fn a_client_turns_past_the_last_number() {
    let world = World::with(ClientRoundRobin, &[1; 8]);
    let first = world.choose().backend;
    let key = ClientKey { netns_cookie: 1, service: FIRST_SERVICE, pad: 0 };
    world.clients.borrow_mut().get_mut(&key).unwrap().turn = u32::MAX;
    assert_eq!(world.choose().backend, (first + 7) % 8);
    assert_eq!(world.choose().backend, first);
}

#[test]
fn random_is_even_but_not_too_even() {
    // 9 degrees of freedom: 99.9% of what is uniform lies above 1.15, and as much below 27.9.
    let world = World::with(Random, &[1; 10]);
    let tally = world.tally(100_000);
    let chi = chi_square(&tally, &[10_000.0; 10]);
    assert!((1.15..27.9).contains(&chi), "{tally:?}: {chi}");

    let world = scheduled(Random, 3, &[0, 1, 0, 2, 0, 1]);
    let tally = world.tally(60_000);
    // 2 degrees of freedom.
    let chi = chi_square(&tally, &[30_000.0, 20_000.0, 10_000.0]);
    assert!((0.002..13.8).contains(&chi), "{tally:?}: {chi}");
}

#[test]
fn an_unknown_algorithm_is_random() {
    let mut world = World::with(Random, &[1; 4]);
    world.services[FIRST_SERVICE as usize].algorithm = 1000;
    world.draws.borrow_mut().extend([0, 1 << 30, 2 << 30, 3 << 30]);
    assert_eq!([0; 4].map(|_| world.choose().backend), [0, 1, 2, 3]);
    assert_eq!(world.choose().reason, PickReason::Algorithm);
}

/// A table of 1021 slots in which 10 backends have equal shares (within one).
fn hash_table() -> World {
    scheduled(SourceHash, 10, &(0..1021).map(|slot| slot % 10).collect::<Vec<_>>())
}

#[test]
fn a_source_keeps_its_backend() {
    let mut world = hash_table();
    world.node_offset = 77;
    for client in 1..500 {
        world.client.set(client);
        let backend = world.choose().backend;
        world.active[backend as usize].set(1_000_000);
        assert_eq!([0; 5].map(|_| world.choose().backend), [backend; 5]);
    }
}

#[test]
fn sources_spread_evenly() {
    // Cookies are handed out in sequence, in batches of 4096 for each CPU.
    for (what, cookie) in [
        ("one CPU", (|n| n + 1) as fn(u64) -> u64),
        ("16 CPUs", |n| (n % 16) * 4096 + n / 16 + 1),
        ("large numbers", |n| (n + 1) << 20),
    ] {
        let world = hash_table();
        let mut tally = [0; 10];
        for n in 0..10_000 {
            world.client.set(cookie(n));
            tally[world.choose().backend as usize] += 1;
        }
        let share = |backend: u32| if backend == 0 { 103.0 } else { 102.0 };
        let expected: Vec<f64> = (0..10).map(|backend| 10_000.0 * share(backend) / 1021.0).collect();
        let chi = chi_square(&tally, &expected);
        assert!(chi < 27.9, "{what}: {tally:?}: {chi}");
    }
}

#[test]
fn the_same_cookie_on_other_nodes_is_another_source() {
    // Every node's first namespace, its own, has cookie 1.
    let mut world = hash_table();
    let mut tally = [0; 10];
    for node in 0..1000 {
        world.node_offset = mix(node);
        world.client.set(1);
        tally[world.choose().backend as usize] += 1;
    }
    let chi = chi_square(&tally, &[100.0; 10]);
    assert!(chi < 27.9, "{tally:?}: {chi}");
}

#[test]
fn runs_without_slots_lead_nowhere() {
    let mut world = World::with(RoundRobin, &[1; 3]);
    for base in [0, 2, u32::MAX] {
        let none = SlotRange::new(base, 0);
        assert_eq!(round_robin::pick(&world, FIRST_SERVICE, none), None);
        assert_eq!(client_round_robin::pick(&world, FIRST_SERVICE, none), None);
        assert_eq!(random::pick(&world, none), None);
        assert_eq!(source_hash::pick(&world, none), None);
        for algorithm in 0..6 {
            world.services[FIRST_SERVICE as usize].algorithm = algorithm;
            let service = world.services[FIRST_SERVICE as usize];
            assert_eq!(select::pick(&world, FIRST_SERVICE, &service, none), None);
        }
    }
    assert_eq!(source_hash::index(1, 2, 0), 0);
}

#[test]
fn the_longest_run_stays_within_its_bounds() {
    let mut world = World::with(RoundRobin, &[1]);
    world.node_offset = u32::MAX;
    for base in [0, 1, u32::MAX] {
        let all = SlotRange::new(base, u32::MAX);
        for _ in 0..100 {
            world.client.set(world.rng.next());
            round_robin::pick(&world, FIRST_SERVICE, all);
            client_round_robin::pick(&world, FIRST_SERVICE, all);
            random::pick(&world, all);
            source_hash::pick(&world, all);
        }
        for read in world.reads.borrow_mut().drain(..) {
            assert_ne!(read, base.wrapping_add(u32::MAX), "behind the last slot");
        }
    }
}
