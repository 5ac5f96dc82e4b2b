//! Session affinity ClientIP: a client meets the backend that it met before, for as long as it may.

use std::{thread, time::Duration};

use balancer_tests::{
    agent::{Agent, Dialled},
    peer::{Client, protocol::Kind},
};

use crate::{PATIENCE, World, vip};

/// How long a client is remembered, in seconds.
const TIMEOUT: u32 = 1;

/// A world whose Service takes turns, save for clients that it remembers.
fn sticky(backends: usize) -> World {
    let world = World::new(backends);
    world.publish("web", 1, |service| service.algorithm("round-robin").affinity(TIMEOUT));
    world
}

fn meets(client: &Client) -> String {
    client.ask(vip(1).v4).unwrap().pod
}

#[track_caller]
fn expect_picks(agent: &Agent<'_>, algorithm: u64, affinity: u64, replaced: u64) {
    let picks = agent.stats_of(vip(1).v4).unwrap().picks;
    let found = (picks["algorithm"], picks["affinity"], picks["affinity-replaced"]);
    assert_eq!(found, (algorithm, affinity, replaced), "picks by algorithm, affinity, replaced");
}

#[test]
fn a_client_comes_back_to_where_it_was() {
    let world = sticky(3);
    let agent = world.agent();
    let second = world.node.pod("second").unwrap();
    let clients = [world.client(), second.client().unwrap(), world.client()];
    let homes = clients.each_ref().map(meets);
    // Turns: the second client met the next one. The third is the first: a client is a pod, not a process.
    assert_ne!(homes[0], homes[1]);
    assert_eq!(homes[0], homes[2]);
    for _ in 0..3 {
        assert_eq!(clients.each_ref().map(meets), homes);
    }
    expect_picks(&agent, 2, 10, 0);

    // Each protocol and family is a Service port of its own, with its own memory; both ways of UDP have one.
    let udp = Dialled::udp(vip(1).v4);
    let met = |connected: bool| {
        let socket = clients[0].socket(Kind::Udp4).unwrap();
        if connected {
            socket.connect(vip(1).v4).unwrap();
            socket.ask().unwrap().pod
        } else {
            socket.send_to(vip(1).v4).unwrap();
            socket.receive_from().unwrap().1.pod
        }
    };
    let home = met(false);
    assert_eq!([met(true), met(false), met(true)], [home.clone(), home.clone(), home]);
    assert_eq!(agent.stats_of(udp).unwrap().picks["affinity"], 3);
    expect_picks(&agent, 2, 10, 0);
}

#[test]
fn a_client_that_stays_away_is_forgotten_and_one_that_returns_is_not() {
    let world = sticky(2);
    let agent = world.agent();
    let client = world.client();
    let home = meets(&client);
    // Longer than the time-out in all, but never between two connections.
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(500));
        assert_eq!(meets(&client), home);
    }
    expect_picks(&agent, 1, 4, 0);
    thread::sleep(Duration::from_millis(1100));
    assert_ne!(meets(&client), home, "forgotten: the turn of the other");
    expect_picks(&agent, 2, 4, 0);
}

#[test]
fn a_backend_that_leaves_is_replaced() {
    let world = World::new(3);
    world.publish("web", 1, |service| service.algorithm("round-robin").affinity(60));
    let agent = world.agent();
    let client = world.client();
    let home = meets(&client);
    assert_eq!(meets(&client), home);
    expect_picks(&agent, 1, 1, 0);
    world.endpoints("web", world.pods.iter().filter(|pod| pod.name() != home));
    let two = |service: &balancer_tests::agent::ServiceStats| {
        service.backends.iter().filter(|backend| backend.state == "ready").count() == 2
    };
    agent.wait_for(vip(1).v4, PATIENCE, two).unwrap();
    let next = meets(&client);
    assert_ne!(next, home);
    expect_picks(&agent, 1, 1, 1);
    assert_eq!([meets(&client), meets(&client)], [next.clone(), next.clone()]);
    expect_picks(&agent, 1, 3, 1);

    // It is not missed when it comes back.
    world.endpoints("web", &world.pods);
    agent.wait_for(vip(1).v4, PATIENCE, |service| !two(service)).unwrap();
    assert_eq!(meets(&client), next);
    expect_picks(&agent, 1, 4, 1);
}
