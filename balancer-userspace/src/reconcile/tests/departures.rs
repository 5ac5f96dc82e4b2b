//! What is said of backends that leave the slots, and how new ones begin.

use std::time::Duration;

use balancer_common::abi::{BackendState, Rebalance, SERVICE_KEEP_REMOVED, SERVICE_TRACKED};

use super::objects::{Agent, ROOMY, backend, key, port};
use crate::model::{DepartingEndpoint, Departure, DesiredPort, Drain, RemovedSockets};

const SECOND: Duration = Duration::from_secs(1);

/// Service `web` of these pods, with these others in its slices.
fn web(pods: impl IntoIterator<Item = u8>, others: &[(u8, Departure)]) -> DesiredPort {
    let mut web = port("web", 1, pods);
    let endpoint = |(n, departure): &(u8, Departure)| {
        let pod = backend(*n);
        DepartingEndpoint { addr: pod.addr, port: Some(pod.port), pod: pod.pod, departure: *departure }
    };
    web.departing = Some(others.iter().map(endpoint).collect());
    web
}

/// An agent with Service `web` of three pods, to each of which a connection is open.
fn agent() -> Agent {
    let mut agent = Agent::new(ROOMY);
    agent.set(web(1..=3, &[]));
    connect(&mut agent);
    agent
}

fn connect(agent: &mut Agent) {
    let fake = agent.fake();
    for (backend, active) in fake.backends.iter().zip(&mut fake.active) {
        *active = u64::from(backend.state != BackendState::Free as u16);
    }
}

/// The states of the backends that pods 1 to 3 were, by id.
fn check(agent: &Agent, expect: [BackendState; 3]) {
    let fake = agent.tables();
    assert_eq!([2, 3, 4].map(|id| BackendState::from_u16(fake.backends[id].state)), expect);
    let reconciler = agent.reconciler.as_ref().expect("an agent always has its tables");
    let mut departed: Vec<_> = reconciler.departed().map(|(id, _, state, _)| (id, state)).collect();
    departed.sort_by_key(|(id, _)| *id);
    let expect: Vec<_> = (2..).zip(expect).filter(|(_, state)| !state.is_usable()).collect();
    assert_eq!(departed, expect);
}

use BackendState::{Draining, Ready, Removed, Unused};

#[test]
fn a_backend_is_what_the_slices_say_of_it() {
    let mut agent = agent();
    for (pods, others, expect) in [
        (vec![1], vec![(2, Departure::Draining), (3, Departure::Unused)], [Ready, Draining, Unused]),
        (vec![1], vec![(3, Departure::Draining)], [Ready, Removed, Draining]),
        (vec![1, 3], vec![], [Ready, Removed, Ready]),
        (vec![2], vec![(1, Departure::Unused)], [Unused, Ready, Removed]),
        (vec![], vec![], [Removed, Removed, Removed]),
        (vec![1, 2, 3], vec![], [Ready, Ready, Ready]),
    ] {
        assert_eq!(agent.set(web(pods.clone(), &others)), 1);
        check(&agent, expect);
        assert_eq!(agent.set(web(pods, &others)), 0);
    }
}

#[test]
fn since_when_is_told_of_each_state() {
    let mut agent = agent();
    let since =
        |agent: &mut Agent| agent.reconciler().departed().next().map(|(_, _, state, since)| (state, since));
    agent.set(web(1..=2, &[(3, Departure::Draining)]));
    let first = agent.now;
    agent.pass_time(SECOND);
    agent.set(web(1..=1, &[(2, Departure::Unused), (3, Departure::Draining)]));
    agent.set(web(1..=2, &[(3, Departure::Draining)]));
    assert_eq!(since(&mut agent), Some((Draining, first)));
    agent.set(web(1..=2, &[]));
    assert_eq!(since(&mut agent), Some((Removed, first + SECOND)));
}

#[test]
fn of_a_service_that_goes_nobody_says_that_its_endpoints_have_left() {
    let mut agent = agent();
    let mut settings = web(1..=1, &[(3, Departure::Draining)]);
    settings.connections.rebalance = Rebalance::Idle;
    settings.connections.drain = Drain::Idle;
    settings.connections.removed = RemovedSockets::Keep;
    agent.set(settings);
    check(&agent, [Ready, Removed, Draining]);
    let id = agent.tables().frontends[&key(&web([], &[]).frontend)] as usize;
    assert_ne!(agent.tables().services[id].flags & SERVICE_TRACKED, 0);
    agent.apply("web", Vec::new()).expect("the kernel refuses nothing");
    check(&agent, [Unused, Removed, Unused]);
    let service = agent.tables().services[id];
    assert_eq!((service.flags, service.rebalance), (SERVICE_KEEP_REMOVED, 0));
    // When it is back it is known again what has left.
    agent.set(web(2..=2, &[(1, Departure::Draining)]));
    check(&agent, [Draining, Ready, Removed]);
}

#[test]
fn a_renamed_port_takes_its_endpoints_for_unused() {
    let mut agent = agent();
    let mut renamed = web(1..=3, &[]);
    renamed.key.port_name = "http".into();
    agent.set(renamed);
    check(&agent, [Unused, Unused, Unused]);
}

#[test]
fn a_new_agent_invents_nothing_and_finds_out_by_the_first_list() {
    let mut agent = agent();
    agent.set(web(1..=1, &[(2, Departure::Draining)]));
    agent.restart();
    check(&agent, [Ready, Draining, Removed]);
    agent.set(web(1..=1, &[(3, Departure::Unused)]));
    check(&agent, [Ready, Removed, Unused]);
    agent.restart();
    check(&agent, [Ready, Removed, Unused]);

    // It dies when the Service has been switched to new slots, and before it says what has left them.
    agent.set(web(1..=3, &[]));
    agent.fake().lives_for = Some(1 + 2 + 8);
    agent.apply("web", vec![web(1..=2, &[])]).expect("nothing is refused");
    agent.restart();
    check(&agent, [Ready, Ready, Unused]);
    assert!(agent.reconciler().would_lose(&web([], &[]).key.service, &[web(1..=2, &[])]));
    assert!(!agent.reconciler().would_lose(&web([], &[]).key.service, &[web(1..=3, &[])]));
    agent.set(web(1..=2, &[]));
    check(&agent, [Ready, Ready, Removed]);
}

#[test]
fn another_mode_is_another_time() {
    let mut agent = agent();
    agent.set(web(1..=2, &[]));
    check(&agent, [Ready, Ready, Removed]);
    let now = agent.now;
    agent.reconciler().disband("observe", now).expect("the kernel refuses nothing");
    check(&agent, [Unused, Unused, Unused]);
    agent.set(web([9], &[]));
    for id in [2, 3, 4] {
        assert_eq!(agent.tables().backends[id].state, Unused as u16, "nobody can tell where its sockets go");
    }
}

#[test]
fn whoever_joins_others_begins_slowly() {
    let slow = |pods: Vec<u8>, others: &[(u8, Departure)]| {
        let mut slow = web(pods, others);
        slow.connections.slow_start_ms = 30_000;
        slow
    };
    let ramps = |agent: &Agent| -> Vec<usize> {
        (2..10).filter(|id| agent.tables().health[*id].state.0 != 0).collect()
    };
    let mut agent = Agent::new(ROOMY);
    agent.set(slow(vec![], &[]));
    agent.set(slow(vec![1, 2], &[]));
    assert!(ramps(&agent).is_empty(), "all are new");
    agent.set(slow(vec![1, 2, 3], &[]));
    assert_eq!(ramps(&agent), [4]);
    connect(&mut agent);
    agent.fake().health[4] = balancer_common::abi::BackendHealth::default();
    agent.set(slow(vec![1, 2], &[(3, Departure::Unused)]));
    agent.set(slow(vec![1, 2, 3], &[]));
    assert!(ramps(&agent).is_empty(), "it was here before");
    agent.restart();
    agent.set(slow(vec![1, 2, 3, 4], &[]));
    assert_eq!(ramps(&agent), [5]);
    agent.set(web([1, 2, 3, 4, 5], &[]));
    assert_eq!(ramps(&agent), [5], "not asked for any more");
}

#[test]
fn it_is_noted_when_the_endpoints_change() {
    let mut agent = Agent::new(ROOMY);
    let mut noted = 0;
    let mut check = |port: DesiredPort, changes: u32| {
        let key = key(&port.frontend);
        agent.set(port);
        let id = agent.tables().frontends[&key] as usize;
        let now = agent.tables().endpoint_changes[id];
        assert_eq!(now - noted, changes);
        noted = now;
    };
    // Created; endpoints came.
    check(web(1..=2, &[]), 2);
    check(web(1..=2, &[(3, Departure::Unused)]), 0);
    check(web(1..=3, &[]), 1);
    check(web(2..=4, &[]), 1);
    check(web(2..=3, &[(4, Departure::Draining)]), 1);
    let mut heavy = web(2..=3, &[]);
    heavy.backends[0].weight = 7;
    check(heavy, 0);
    check(web([], &[]), 1);
}
