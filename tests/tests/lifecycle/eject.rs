//! Steering around backends that fail, by what becomes of connects.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use balancer_tests::{
    agent::Agent,
    manifests::Endpoint,
    peer::protocol::{Kind, LoopPlan, Setting, Until},
    topology::Pod,
};
use balancer_userspace::model::Protocol;

use crate::{World, vip};

/// 200 connects a second.
const PAUSE_US: u64 = 4_900;

#[test]
fn one_of_five_that_refuses_costs_five_connects_at_most() {
    let mut world = World::new(5, &[]);
    world.endpoints(&[0, 1, 2, 3, 4], &[]);
    let mut servers = std::mem::take(&mut world.servers);
    let mut agent = world.agent();
    let client = world.client.client().unwrap();
    servers[2].refuse().unwrap();
    let first = client.run(LoopPlan::tcp(vip(), Until::Millis(1_000)).pause_us(PAUSE_US)).unwrap();
    assert!(first.failed() <= 5, "{first:?}");
    assert!(first.failed() >= 1, "nothing was found out: {first:?}");
    // The agent is not needed for any of it.
    agent.kill().unwrap();
    let later = client.run(LoopPlan::tcp(vip(), Until::Millis(8_000)).pause_us(PAUSE_US)).unwrap();
    assert!(later.failed() * 1_000 < 5 * later.attempts, "{later:?}");
}

#[test]
fn what_is_well_again_comes_back_by_itself() {
    let mut world = World::new(2, &[]);
    world.endpoints(&[0, 1], &[]);
    let mut servers = std::mem::take(&mut world.servers);
    let agent = world.agent();
    let client = world.client.client().unwrap();
    servers[0].refuse().unwrap();
    client.run(LoopPlan::tcp(vip(), Until::Millis(2_500)).pause_us(PAUSE_US)).unwrap();
    drop(servers.remove(0));
    servers.push(world.pods[0].server(crate::PORT).unwrap());
    let opened = |agent: &Agent<'_>| {
        let stats = agent.stats_of(vip()).unwrap();
        stats.backend(world.pods[0].v4(crate::PORT).ip()).unwrap().established
    };
    let before = opened(&agent);
    let deadline = Instant::now() + Duration::from_secs(20);
    while opened(&agent) < before + 20 {
        assert!(Instant::now() < deadline, "{}", agent.log());
        let report = client.run(LoopPlan::tcp(vip(), Until::Millis(500)).pause_us(PAUSE_US)).unwrap();
        assert!(report.failed() <= 1, "{report:?}");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_new_backend_that_refuses_once_keeps_its_slow_start() {
    let mut world = World::new(3, &[("slow-start", "10m")]);
    world.endpoints(&[0, 1], &[]);
    let mut servers = std::mem::take(&mut world.servers);
    let agent = world.agent();
    let client = world.client.client().unwrap();
    servers[2].refuse().unwrap();
    world.endpoints(&[0, 1, 2], &[]);
    let new = world.pods[2].v4(crate::PORT).ip();
    let stats = |agent: &Agent<'_>| {
        agent.stats_of(vip()).unwrap().backends.into_iter().find(|backend| backend.address == new)
    };
    let until = |what: &str, done: &dyn Fn(&balancer_tests::agent::BackendStats) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !stats(&agent).is_some_and(|stats| done(&stats)) {
            assert!(Instant::now() < deadline, "not {what}: {}", agent.log());
            client.run(LoopPlan::tcp(vip(), Until::Count(4)).pause_us(PAUSE_US)).unwrap();
        }
    };
    until("refused", &|stats| stats.failed.refused > 0);
    drop(servers.remove(2));
    servers.push(world.pods[2].server(crate::PORT).unwrap());
    until("tried", &|stats| stats.established > 0);
    let json = agent.print(["backends", "-A", "-o", "json"]).unwrap();
    assert!(json.contains("ramping"), "{json}");
    let before = stats(&agent).unwrap().established;
    let report = client.run(LoopPlan::tcp(vip(), Until::Millis(2_000)).pause_us(PAUSE_US)).unwrap();
    let share = (stats(&agent).unwrap().established - before) as f64 / report.attempts as f64;
    assert!(share < 0.12, "{share} of all connects, where a third of a tenth is due");
}

/// Two pods that answer, and an address that swallows what is sent to it.
fn with_a_blackhole() -> World {
    let world = World::new(2, &[]);
    let blackhole = world.node.blackhole().unwrap();
    let slice = world.manifests.slice("web").port("tcp", Protocol::Tcp, crate::PORT);
    let slice = world.pods.iter().fold(slice, |slice, pod| slice.pod(pod));
    slice.endpoint(Endpoint::ready(blackhole.v4)).write().unwrap();
    world
}

/// How often backends were ejected.
fn ejections(agent: &Agent<'_>) -> f64 {
    let metrics = agent.http("/metrics").unwrap().1;
    let of = |line: &&str| line.starts_with("balancer_backend_ejections_total{");
    metrics.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Sockets that give up after a while, several at a time, so that one of them meets the silence.
fn give_up(pod: &Pod, patience: Duration) {
    let client = pod.client().unwrap();
    let sockets: Vec<_> = (0..3)
        .map(|_| {
            let socket = client.socket(Kind::Tcp4).unwrap();
            socket.set(Setting::Nonblocking).unwrap();
            let _ = socket.connect(vip());
            socket
        })
        .collect();
    sleep(patience);
    drop(sockets);
}

#[test]
fn two_clients_that_meet_silence_eject_and_one_does_not() {
    // Given up after the kernel has sent again, and before.
    for patience in [1_300, 300].map(Duration::from_millis) {
        let world = with_a_blackhole();
        let agent = world.agent();
        let other = world.node.pod("other").unwrap();
        let mut turn = 0_u32;
        for _ in 0..5 {
            give_up(&world.client, patience);
        }
        assert_eq!(ejections(&agent), 0.0, "one client alone ejects nobody ({patience:?})");
        let deadline = Instant::now() + Duration::from_secs(60);
        while ejections(&agent) == 0.0 {
            let backends = agent.print(["backends", "-A", "-o", "json"]).unwrap();
            assert!(Instant::now() < deadline, "{patience:?}: {backends}\n{}", agent.log());
            // In an order without a period: whose turn it is when the backend may be tried again is to vary.
            give_up(if turn.count_ones().is_multiple_of(2) { &other } else { &world.client }, patience);
            turn += 1;
        }
    }
}

#[test]
fn what_is_given_up_at_once_says_nothing_of_the_backend() {
    let world = with_a_blackhole();
    let agent = world.agent();
    let other = world.node.pod("other").unwrap();
    for _ in 0..10 {
        [&world.client, &other].into_iter().for_each(|pod| give_up(pod, Duration::from_millis(20)));
    }
    let stats = agent.stats_of(vip()).unwrap();
    // A backend that had failed once would have been met once, and then been avoided.
    let aborted = stats.total(|backend| backend.failed.aborted);
    assert!(aborted >= 10, "{stats:?}");
    assert_eq!(ejections(&agent), 0.0, "{stats:?}");
}
