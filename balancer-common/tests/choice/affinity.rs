//! Session affinity: a client stays where it was.

use balancer_common::{
    abi::{
        Algorithm::{self, ClientRoundRobin, LeastConnections, RoundRobin},
        BackendState, ClientKey, ClientState, FIRST_SERVICE, PickReason,
        PickReason::{Affinity, AffinityReplaced, Sampled},
    },
    translate::Translation,
};

use crate::world::{SECOND, World};

/// Ten seconds of affinity, a client that has just connected, and the backend that it met.
fn sticky(algorithm: Algorithm) -> (World, u32) {
    let mut world = World::with(algorithm, &[1; 3]);
    world.services[FIRST_SERVICE as usize].affinity_seconds = 10;
    let choice = world.choose();
    assert_eq!(choice.reason, PickReason::Algorithm);
    (world, choice.backend)
}

fn check(world: &World, backend: u32, reason: PickReason) {
    let choice = world.choose();
    assert_eq!((choice.backend, choice.reason), (backend, reason));
}

fn state(world: &World) -> ClientState {
    world.clients.borrow()[&ClientKey { netns_cookie: 1, service: FIRST_SERVICE, pad: 0 }]
}

#[test]
fn a_client_stays_within_the_timeout() {
    for algorithm in Algorithm::ALL {
        let (world, first) = sticky(algorithm);
        world.set_active(&[100, 100, 100]);
        world.active[(first as usize + 1) % 3].set(0);
        for _ in 0..5 {
            check(&world, first, Affinity);
        }
    }
}

#[test]
fn every_connection_begins_the_timeout_anew() {
    let (world, first) = sticky(RoundRobin);
    for _ in 0..5 {
        world.advance(9 * SECOND);
        check(&world, first, Affinity);
        assert_eq!(state(&world).used_ns, world.now_ns.get());
    }
}

#[test]
fn the_timeout_ends_after_its_last_nanosecond() {
    let (world, first) = sticky(RoundRobin);
    world.advance(10 * SECOND);
    check(&world, first, Affinity);
    world.advance(10 * SECOND + 1);
    check(&world, (first + 1) % 3, PickReason::Algorithm);
    world.advance(10 * SECOND);
    check(&world, (first + 1) % 3, Affinity);
}

#[test]
fn the_longest_timeout_does_not_overflow() {
    let (mut world, first) = sticky(RoundRobin);
    world.services[FIRST_SERVICE as usize].affinity_seconds = u32::MAX;
    world.advance(u64::from(u32::MAX) * SECOND);
    check(&world, first, Affinity);
    world.advance(u64::from(u32::MAX) * SECOND + 1);
    check(&world, (first + 1) % 3, PickReason::Algorithm);
}

#[test]
fn a_clock_that_seems_to_run_backwards_expires_nothing() {
    // Another CPU noted a later time.
    let (world, first) = sticky(RoundRobin);
    world.now_ns.set(SECOND / 2);
    check(&world, first, Affinity);
}

#[test]
fn clients_and_services_are_remembered_apart() {
    let mut world = World::with(RoundRobin, &[1; 3]);
    let other = world.add_service(RoundRobin, &[1; 3]);
    for service in [FIRST_SERVICE, other] {
        world.services[service as usize].affinity_seconds = 10;
    }
    let connect = |client: u64, service: u32| {
        world.client.set(client);
        match world.connect_to(service) {
            Translation::Rewrite(choice) => choice.backend,
            pass => panic!("{pass:?}"),
        }
    };
    let pairs = [(1, FIRST_SERVICE), (2, FIRST_SERVICE), (3, FIRST_SERVICE), (1, other), (2, other)];
    let met = pairs.map(|(client, service)| connect(client, service));
    assert_eq!(met, [0, 1, 2, 3, 4]);
    assert_eq!(pairs.map(|(client, service)| connect(client, service)), met);
}

#[test]
fn a_backend_that_may_not_be_used_is_replaced() {
    for damage in [
        (|world, backend| world.set_state(backend, BackendState::Removed)) as fn(&mut World, u32),
        |world, backend| world.set_state(backend, BackendState::Free),
        |world, backend| world.backends[backend as usize].service = FIRST_SERVICE + 1,
        // Its id was handed out anew, even to the same Service.
        |world, backend| world.backends[backend as usize].generation += 1,
        |_, _| {},
    ] {
        let (mut world, first) = sticky(LeastConnections);
        assert_eq!(first, 0);
        world.schedule(FIRST_SERVICE, &[1, 2]);
        let undamaged = world.backends.clone();
        damage(&mut world, first);
        if world.backends == undamaged {
            // Not in the slots, but nobody said that it may not be used.
            check(&world, first, Affinity);
            continue;
        }
        let choice = world.choose();
        assert_eq!(choice.reason, AffinityReplaced);
        assert_ne!(choice.backend, first);
        check(&world, choice.backend, Affinity);
        assert_eq!(state(&world).generation, world.backends[choice.backend as usize].generation);
    }
}

#[test]
fn a_reused_id_is_no_old_acquaintance() {
    let (mut world, first) = sticky(LeastConnections);
    world.schedule(FIRST_SERVICE, &[first]);
    world.backends[first as usize].generation += 1;
    check(&world, first, AffinityReplaced);
    check(&world, first, Affinity);
}

#[test]
fn a_terminating_backend_keeps_its_clients_while_it_is_used() {
    let (mut world, first) = sticky(LeastConnections);
    world.set_state(first, BackendState::Terminating);
    check(&world, first, Affinity);
}

#[test]
fn an_expired_memory_of_a_removed_backend_is_no_replacement() {
    let (mut world, first) = sticky(LeastConnections);
    world.schedule(FIRST_SERVICE, &[1, 2]);
    world.set_state(first, BackendState::Removed);
    world.advance(11 * SECOND);
    assert_eq!(world.choose().reason, PickReason::Algorithm);
}

#[test]
fn a_large_service_samples_once_and_then_remembers() {
    let mut world = World::with(LeastConnections, &[1; 100]);
    world.services[FIRST_SERVICE as usize].affinity_seconds = 10;
    let choice = world.choose();
    assert_eq!(choice.reason, Sampled);
    check(&world, choice.backend, Affinity);
}

#[test]
fn a_failed_choice_is_not_remembered() {
    let mut world = World::with(LeastConnections, &[1]);
    world.services[FIRST_SERVICE as usize].affinity_seconds = 10;
    world.set_state(0, BackendState::Removed);
    assert!(matches!(world.connect(), Translation::PassThrough { .. }));
    assert!(world.clients.borrow().is_empty());
}

#[test]
fn client_round_robin_keeps_its_turn_under_affinity() {
    let (mut world, first) = sticky(ClientRoundRobin);
    assert_eq!(state(&world).turn, 1);
    for _ in 0..5 {
        check(&world, first, Affinity);
    }
    assert_eq!(state(&world).turn, 1, "affinity took turns");
    // Each time that the memory expires the next backend's turn has come.
    for turn in 1..7 {
        world.advance(11 * SECOND);
        check(&world, (first + turn) % 3, PickReason::Algorithm);
        check(&world, (first + turn) % 3, Affinity);
        assert_eq!(state(&world).turn, turn + 1);
    }
    // A removed backend counts as a turn as well, and the client does not begin again.
    let last = (first + 6) % 3;
    let rest: Vec<u32> = (0..3).filter(|&backend| backend != last).collect();
    world.schedule(FIRST_SERVICE, &rest);
    world.set_state(last, BackendState::Removed);
    let replaced = world.choose();
    assert_eq!((replaced.reason, state(&world).turn), (AffinityReplaced, 8));
    check(&world, replaced.backend, Affinity);
}

#[test]
fn affinity_that_is_switched_on_later_knows_nobody() {
    let mut world = World::with(ClientRoundRobin, &[1; 3]);
    let first = world.choose().backend;
    world.services[FIRST_SERVICE as usize].affinity_seconds = 10;
    // The client has taken turns but was never noted at a backend; backend 0 is nothing special.
    check(&world, (first + 1) % 3, PickReason::Algorithm);
    check(&world, (first + 1) % 3, Affinity);
}

#[test]
fn affinity_that_is_switched_off_ends() {
    let (mut world, first) = sticky(RoundRobin);
    world.services[FIRST_SERVICE as usize].affinity_seconds = 0;
    check(&world, (first + 1) % 3, PickReason::Algorithm);
    check(&world, (first + 2) % 3, PickReason::Algorithm);
}
