//! What the balancer is for: long-lived connections while the set of backends changes.

use balancer_common::{
    abi::{
        Algorithm::{LeastConnections, Random},
        BackendState, FIRST_SERVICE,
    },
    translate::Translation,
};

use crate::world::{World, gap};

/// Adds backends to the first Service, behind those that it has.
fn scale_up(world: &mut World, to: u32) {
    while (world.backends.len() as u32) < to {
        world.add_backend(FIRST_SERVICE, 1);
    }
    world.schedule(FIRST_SERVICE, &(0..to).collect::<Vec<_>>());
}

#[test]
fn after_scaling_from_3_to_6_new_connections_go_to_the_new_backends_until_all_are_even() {
    for offset in 0..6 {
        let mut world = World::with(LeastConnections, &[1; 3]);
        world.node_offset = offset;
        for _ in 0..60 {
            world.open();
        }
        assert_eq!(world.loads(), [20, 20, 20]);
        scale_up(&mut world, 6);
        for connection in 1..=60 {
            assert!(world.open() >= 3, "connection {connection} went to an old backend: {:?}", world.loads());
            assert!(gap(&world.loads()[3..]) <= 1, "{:?}", world.loads());
        }
        assert_eq!(world.loads(), [20; 6]);
        for _ in 0..30 {
            world.open();
            assert!(gap(&world.loads()) <= 1, "{:?}", world.loads());
        }
        assert_eq!(world.loads(), [25; 6]);
    }
}

#[test]
fn random_choice_does_not_even_out() {
    // The test above is worth something only if it can fail.
    let mut world = World::with(Random, &[1; 3]);
    (0..60).for_each(|_| {
        world.open();
    });
    scale_up(&mut world, 6);
    (0..60).for_each(|_| {
        world.open();
    });
    assert!(gap(&world.loads()) > 10, "{:?}", world.loads());
}

#[test]
fn heavier_new_backends_get_their_share() {
    let mut world = World::with(LeastConnections, &[1; 3]);
    for _ in 0..60 {
        world.open();
    }
    world.add_backend(FIRST_SERVICE, 3);
    world.schedule(FIRST_SERVICE, &[0, 1, 2, 3]);
    for _ in 0..60 {
        assert_eq!(world.open(), 3);
    }
    assert_eq!(world.loads(), [20, 20, 20, 60]);
    (0..6).for_each(|_| {
        world.open();
    });
    assert_eq!(world.loads(), [21, 21, 21, 63]);
}

#[test]
fn a_rolling_restart_ends_even() {
    // Random choice ends at about 187/112/0: whoever restarts last has nothing.
    let mut world = World::with(LeastConnections, &[1; 3]);
    let mut slots = vec![0, 1, 2];
    for _ in 0..300 {
        world.open();
    }
    for old in 0..3 {
        // The new pod is ready before the old one goes; then its clients come back.
        let new = world.add_backend(FIRST_SERVICE, 1);
        slots.push(new);
        world.schedule(FIRST_SERVICE, &slots);
        slots.retain(|&backend| backend != old);
        world.schedule(FIRST_SERVICE, &slots);
        world.set_state(old, BackendState::Removed);
        for _ in 0..world.active[old as usize].replace(0) {
            world.open();
        }
    }
    assert_eq!(world.loads(), [0, 0, 0, 100, 100, 100]);
}

#[test]
fn few_clients_use_every_backend() {
    // 2 clients with pools of 10 and 5 servers; 5 clients with one connection and 2 servers.
    let world = World::with(LeastConnections, &[1; 5]);
    for _ in 0..10 {
        for client in 1..=2 {
            world.client.set(client);
            world.open();
        }
    }
    assert_eq!(world.loads(), [4; 5]);
    let world = World::with(LeastConnections, &[1; 2]);
    for client in 1..=5 {
        world.client.set(client);
        world.open();
    }
    assert_eq!(world.loads(), [3, 2]);
}

#[test]
fn scaling_to_zero_and_back() {
    let mut world = World::with(LeastConnections, &[1; 3]);
    world.schedule(FIRST_SERVICE, &[]);
    (0..3).for_each(|backend| world.set_state(backend, BackendState::Removed));
    assert!(matches!(world.connect(), Translation::PassThrough { .. }));
    scale_up(&mut world, 5);
    world.schedule(FIRST_SERVICE, &[3, 4]);
    for _ in 0..10 {
        world.open();
    }
    assert_eq!(world.loads(), [0, 0, 0, 5, 5]);
}
