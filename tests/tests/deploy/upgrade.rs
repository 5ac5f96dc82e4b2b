//! A rolling upgrade and its way back, as a DaemonSet does them on a node: the old agent is told to end, its pod goes, the new
//! one's comes. Meanwhile a node's clients connect without a pause.

use std::{collections::BTreeMap, net::IpAddr, thread, time::Duration};

use balancer_tests::{
    agent::{Agent, AgentOptions, binary},
    peer::protocol::{Close, LoopPlan, Until},
    topology::Scratch,
};

use crate::{image::Image, node::Node};

/// How long a node is without an agent: what it takes to make a container.
const BETWEEN: Duration = Duration::from_millis(400);
/// Connects a second that must have been going on.
const RATE: f64 = 2_000.0;

/// Two builds of the agent that share no instruction: the one of the tests, linked dynamically, and the one of the image.
#[test]
#[expect(clippy::print_stdout, reason = "the figures, with --no-capture")]
fn no_connect_fails_and_no_count_is_lost() {
    let (node, image) = (Node::new(), Image::open());
    let pins = Scratch::pins();
    let with = |binary| {
        let options = AgentOptions {
            binary: Some(binary),
            pins: Some(pins.path().to_owned()),
            ..AgentOptions::default()
        };
        Agent::stopped(&node.topology, &node.manifests, options).unwrap()
    };
    let mut versions = [with(binary().unwrap()), with(image.root().join("balancer"))];
    versions[0].spawn().unwrap();
    versions[0].wait_ready().unwrap();

    let clients: Vec<_> = (0..2).map(|_| node.client.client().unwrap()).collect();
    let plan = || LoopPlan::tcp(Node::frontend(), Until::Told).close(Close::Reset).pause_us(200);
    let running: Vec<_> = clients.iter().map(|client| client.start(plan()).unwrap()).collect();
    let mut before = BTreeMap::new();
    for round in 0..10 {
        let (old, new) = (round % 2, (round + 1) % 2);
        assert!(versions[old].terminate().unwrap().success());
        // The commands work without an agent, and counting goes on.
        before = not_fewer(&versions[old], &before);
        thread::sleep(BETWEEN);
        before = not_fewer(&versions[old], &before);
        versions[new].spawn().unwrap();
        versions[new].wait_ready().unwrap();
        before = not_fewer(&versions[new], &before);
    }
    let reports: Vec<_> = running.into_iter().map(|running| running.stop().unwrap()).collect();

    let rate: f64 = reports.iter().map(|report| report.rate()).sum();
    let attempts: u64 = reports.iter().map(|report| report.attempts).sum();
    assert!(reports.iter().all(|report| report.failed() == 0), "{reports:?}");
    assert!(rate >= RATE, "{rate:.0} connects a second are fewer than {RATE}");
    let all_closed = |stats: &balancer_tests::agent::ServiceStats| stats.active == 0;
    let stats = versions[0].wait_for(Node::frontend(), Duration::from_secs(10), all_closed).unwrap();
    let total: u64 = stats.backends.iter().map(|backend| backend.opened).sum();
    assert_eq!(total, attempts, "every connect is counted, once");
    assert!(stats.pass_throughs.values().all(|count| *count == 0), "{:?}", stats.pass_throughs);
    let slow: u64 = reports.iter().map(|report| report.slow).sum();
    println!("{attempts} connects, {rate:.0} a second, none failed, {slow} took above 100 ms");
}

/// What each backend has been opened by now; more than `before`.
#[track_caller]
fn not_fewer(agent: &Agent<'_>, before: &BTreeMap<IpAddr, u64>) -> BTreeMap<IpAddr, u64> {
    let stats = agent.stats_of(Node::frontend()).unwrap();
    let now: BTreeMap<_, _> =
        stats.backends.iter().map(|backend| (backend.address, backend.opened)).collect();
    assert_eq!(now.len(), 2);
    for (address, opened) in before {
        assert!(now[address] > *opened, "{address}: {opened}, then {}", now[address]);
    }
    now
}
