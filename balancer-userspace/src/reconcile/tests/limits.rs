//! Full maps: what fits is served, the rest says so, and is served as soon as there is room.

use std::time::Duration;

use balancer_common::abi::{Algorithm, FIRST_BACKEND, FIRST_SERVICE, FIRST_SLOT};

use super::objects::{Agent, key, port};
use crate::{datapath::from_text, model::DesiredPort};

const SECOND: Duration = Duration::from_secs(1);

fn scarce(services: u32, backends: u32, slots: u32) -> Agent {
    let mut agent = Agent::new((FIRST_SERVICE + services, FIRST_BACKEND + backends, FIRST_SLOT + slots));
    agent.scarce = true;
    agent
}

/// What is said of a Service, and how many backends may be reached through it.
fn state(agent: &Agent, port: &DesiredPort) -> (String, usize) {
    let fake = agent.tables();
    let key = key(&port.frontend);
    let problem = fake
        .frontends
        .get(&key)
        .map_or_else(|| "not there".to_owned(), |id| from_text(&fake.service_metas[id].problem));
    (problem, fake.targets(&key).len())
}

/// Lets ids and slots rest, and waiting Services be tried again. How often that was.
fn wait(agent: &mut Agent) -> usize {
    (0..3)
        .map(|_| {
            agent.pass_time(SECOND);
            agent.sweep().expect("the kernel refuses nothing")
        })
        .sum()
}

#[test]
fn the_last_backend_fits_and_the_next_is_served_when_another_goes() {
    let mut agent = scarce(2, 4, 64);
    let (a, b) = (port("a", 1, 1..=3), port("b", 2, 4..=5));
    agent.set(a.clone());
    agent.set(b.clone());
    assert_eq!(state(&agent, &a), (String::new(), 3));
    let full = "1 endpoints left out: map BACKENDS is full (6 entries); raise --max-backends";
    assert_eq!(state(&agent, &b), (full.to_owned(), 1));
    assert_eq!(wait(&mut agent), 0, "nothing has made room");

    agent.set(port("a", 1, 1..=2));
    assert!(wait(&mut agent) > 0);
    assert_eq!(state(&agent, &b), (String::new(), 2));
    assert_eq!(agent.used(), (2, 4, 4));
}

#[test]
fn a_backend_with_open_connections_makes_no_room() {
    let mut agent = scarce(1, 1, 64);
    let (old, new) = (port("a", 1, [1]), port("a", 1, [2]));
    agent.set(old.clone());
    let choice = agent.fake().dial(&key(&old.frontend), 1, 0).expect("there is a backend");
    agent.set(new.clone());
    assert_eq!(state(&agent, &new).1, 0);
    wait(&mut agent);
    assert_eq!(state(&agent, &new).1, 0);
    agent.fake().active[choice.backend as usize] = 0;
    assert!(wait(&mut agent) > 0);
    assert_eq!(state(&agent, &new), (String::new(), 1));
}

#[test]
fn the_last_service_fits_and_the_next_is_served_when_another_goes() {
    let mut agent = scarce(2, 16, 64);
    let ports: Vec<_> = (1..=3).map(|n| port(&format!("s{n}"), n, [n])).collect();
    for port in &ports {
        agent.set(port.clone());
    }
    assert_eq!(state(&agent, &ports[1]), (String::new(), 1));
    assert_eq!(state(&agent, &ports[2]).0, "not there");
    agent.apply("s1", Vec::new()).expect("the kernel refuses nothing");
    assert!(wait(&mut agent) > 0);
    assert_eq!(state(&agent, &ports[2]), (String::new(), 1));
    assert_eq!(agent.used(), (2, 2, 2));
}

#[test]
fn a_service_moves_to_another_address_though_no_frontend_is_free() {
    let mut agent = scarce(2, 16, 64);
    agent.set(port("a", 1, [1]));
    agent.set(port("b", 2, [2]));
    // Probes, and whatever else: the map is full.
    while (agent.fake().frontends.len() as u32) < FIRST_SERVICE + 2 {
        let n = 200 + agent.fake().frontends.len() as u8;
        let (key, id) = (key(&port("probe", n, []).frontend), agent.fake().frontends.len() as u32 - 2);
        agent.fake().frontends.insert(key, id);
        agent.fake().services[id as usize].frontend = key;
    }
    let moved = port("a", 3, [1]);
    agent.scarce = true;
    let ports = vec![moved.clone()];
    let now = agent.now;
    agent.reconciler().apply(&moved.key.service, ports, now).expect("the kernel refuses nothing");
    assert_eq!(state(&agent, &moved), (String::new(), 1));
}

#[test]
fn a_problem_of_the_objects_comes_back_when_the_lack_of_room_is_over() {
    let mut agent = scarce(2, 2, 64);
    agent.set(port("a", 1, [1]));
    let mut b = port("b", 2, 2..=3);
    b.problem = Some("an annotation is not understood".to_owned());
    agent.set(b.clone());
    let (problem, _) = state(&agent, &b);
    assert!(problem.contains("--max-backends") && problem.contains("annotation"), "{problem}");
    agent.apply("a", Vec::new()).expect("the kernel refuses nothing");
    wait(&mut agent);
    assert_eq!(state(&agent, &b), ("an annotation is not understood".to_owned(), 2));
}

#[test]
fn a_service_without_room_for_new_slots_keeps_what_it_has() {
    // One run of 4, and nothing else.
    let mut agent = scarce(1, 32, 6);
    agent.set(port("a", 1, 1..=3));
    // Rewritten where they are.
    for pods in [2..=4, 3..=6, 6..=7] {
        let port = port("a", 1, pods.clone());
        agent.set(port.clone());
        assert_eq!(state(&agent, &port), (String::new(), pods.count()));
    }
    // As many as fit.
    let five = port("a", 1, 1..=5);
    agent.set(five.clone());
    let (problem, reached) = state(&agent, &five);
    assert!(problem.contains("map SLOTS is full (8 entries); raise --max-slots"), "{problem}");
    assert!(reached >= 2, "{reached}");
    wait(&mut agent);
    agent.set(five.clone());
    assert_eq!(state(&agent, &five).1, 4);
}

#[test]
fn where_a_schedule_does_not_fit_each_backend_has_one_slot() {
    let mut agent = scarce(2, 32, 30);
    let mut heavy = port("a", 1, 1..=4);
    heavy.algorithm = Algorithm::RoundRobin;
    heavy.backends[0].weight = 100;
    agent.set(heavy.clone());
    let (problem, reached) = state(&agent, &heavy);
    assert!(problem.contains("without weights: map SLOTS is full"), "{problem}");
    assert_eq!(reached, 4);
    heavy.backends[0].weight = 2;
    agent.set(heavy.clone());
    assert_eq!(state(&agent, &heavy), (String::new(), 4));
}

#[test]
fn a_storm_of_changes_does_not_use_up_the_slots() {
    let mut agent = Agent::new((8, 256, 3 * 1024));
    for round in 0..100_u8 {
        let mut port = port("a", 1, round..round + 10);
        port.algorithm = Algorithm::SourceHash;
        agent.set(port.clone());
        assert_eq!(state(&agent, &port), (String::new(), 10), "round {round}");
        agent.pass_time(Duration::from_millis(20));
    }
    agent.apply("a", Vec::new()).expect("the kernel refuses nothing");
    wait(&mut agent);
    assert_eq!(agent.used(), (0, 0, 0));
}

#[test]
fn what_lacks_room_is_not_written_again_and_again() {
    let mut agent = scarce(2, 3, 6);
    let ports = [port("a", 1, 1..=2), port("b", 2, 3..=6), port("c", 3, 7..=8)];
    for port in &ports {
        agent.set(port.clone());
    }
    let before = agent.fake().writes;
    for port in &ports {
        assert_eq!(agent.set(port.clone()), 0);
    }
    assert_eq!(agent.fake().writes, before);
}
