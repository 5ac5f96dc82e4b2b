//! What must not be moved, and is not.

use std::time::Duration;

use balancer_tests::agent::Agent;
use serde_json::Value;

use crate::{Pool, World, vip};

/// Moves at once what may be moved.
const READY: [(&str, &str); 4] = [
    ("rebalance", "idle"),
    ("rebalance-trust", "immediate"),
    ("rebalance-quiet", "200ms"),
    ("rebalance-min-age", "0s"),
];

/// `balancer rebalance now`: how many were moved, and all that was said.
fn now(agent: &Agent<'_>, max: u32) -> (u64, Value) {
    let max = max.to_string();
    let output =
        agent.cli(["rebalance", "now", "web", "-n", "default", "--max", &max, "-o", "json"]).unwrap();
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let item = &document["items"][0];
    (item["moved"].as_u64().unwrap(), item["refused"].clone())
}

/// A pool of four that has had enough turns, all idle.
fn idle_pool(world: &World) -> Pool {
    let mut pool = Pool::open(&world.client, 4, vip());
    (0..6).for_each(|_| pool.round());
    std::thread::sleep(Duration::from_millis(400));
    pool
}

#[test]
fn what_is_idle_is_moved_on_command() {
    let world = World::new(2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = idle_pool(&world);
    let (moved, refused) = now(&agent, 2);
    assert_eq!(moved, 2, "{refused}");
    pool.round();
    assert_eq!(pool.replaced, 2);
}

#[test]
fn what_waits_for_an_answer_is_not() {
    let world = World::answering_after(Duration::from_secs(3), 2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let client = world.client.client().unwrap();
    let socket = client.connect(vip()).unwrap();
    // Enough turns, each answered after three seconds.
    for _ in 0..5 {
        socket.ask().unwrap();
    }
    socket.write("who\n").unwrap();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(300));
        let (moved, refused) = now(&agent, 1);
        assert_eq!((moved, refused["unanswered"].as_u64()), (0, Some(1)), "{refused}");
    }
}

#[test]
fn a_socket_that_two_processes_hold_is_not() {
    let world = World::new(2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let pool = idle_pool(&world);
    let socket_holder = pool.client.fork().unwrap();
    let (moved, refused) = now(&agent, 4);
    assert_eq!(moved, 0, "{refused}");
    assert_eq!(refused["shared"].as_u64(), Some(4), "{refused}");
    socket_holder.end().unwrap();
    assert_eq!(now(&agent, 4).0, 4);
}

#[test]
fn a_connection_without_enough_turns_is_not() {
    let world = World::new(2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 4, vip());
    pool.round();
    std::thread::sleep(Duration::from_millis(400));
    let (moved, refused) = now(&agent, 4);
    assert_eq!((moved, refused["few-turns"].as_u64()), (0, Some(4)), "{refused}");
    pool.close();
}

#[test]
fn a_connection_that_was_opened_before_is_not() {
    let world = World::new(2, &[]);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let pool = idle_pool(&world);
    world.annotate(&READY);
    std::thread::sleep(Duration::from_secs(1));
    let (moved, refused) = now(&agent, 4);
    assert_eq!((moved, refused["untracked"].as_u64()), (0, Some(4)), "{refused}");
    pool.close();
}
