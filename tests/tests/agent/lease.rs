//! What the lease is for: an agent that is gone, or stands still, must not send anybody to where pods were.

use std::{net::SocketAddr, process::Command, thread, time::Duration};

use balancer_tests::{agent::AgentOptions, topology::Pod};
use rustix::process::Signal;

use crate::{
    set::{PORT, Set, vip4, wait_for, without_end},
    tables::{Tables, settle},
};

const LEASE: Duration = Duration::from_secs(1);

/// Stands in for kube-proxy: sends what reaches the node for a Service address to one pod.
pub fn proxy(set: &Set, vip: SocketAddr, to: &Pod) {
    let mut rules = vec![vec!["-F".to_owned(), "PREROUTING".to_owned()]];
    let rule = format!(
        "-A PREROUTING -d {} -p tcp --dport {} -j DNAT --to-destination {}",
        vip.ip(),
        vip.port(),
        to.v4(PORT)
    );
    rules.push(rule.split(' ').map(str::to_owned).collect());
    for rule in rules {
        let mut command = Command::new("iptables");
        command.args(["-w", "-t", "nat"]).args(rule);
        let output = set.node.host().output(command).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// A set whose Service is answered by pod 0 where the programs leave a connect alone.
pub fn beside_a_proxy(pods: usize) -> Set {
    let set = Set::new(pods);
    set.client.route_services_to_node().unwrap();
    proxy(&set, vip4(1), &set.pods[0]);
    set
}

fn with_lease(lease: Duration, set: &Set) -> AgentOptions {
    AgentOptions { lease: Some(lease), pins: Some(set.pins().to_owned()), ..AgentOptions::default() }
}

pub fn passes(set: &Set) -> u64 {
    let stats = balancer_userspace::datapath::read_snapshot(set.pins()).unwrap();
    stats.services.iter().map(|service| service.passes[0]).sum()
}

#[test]
fn an_agent_that_stands_still_is_passed_by_until_it_goes_on() {
    let set = beside_a_proxy(4);
    let mut agent =
        balancer_tests::agent::Agent::with(&set.node, &set.manifests, with_lease(LEASE, &set)).unwrap();
    let client = set.client.client().unwrap();
    let before = settle(set.pins(), set.expect("shop/web", 1, 0..4));

    let running = client.start(without_end(vip4(1))).unwrap();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(passes(&set), 0);
    agent.process().unwrap().signal(Signal::STOP).unwrap();
    wait_for("connects are left alone", || passes(&set) > 50);
    // Nothing is translated any more.
    let opened = Tables::read(set.pins()).total(|stats| stats.opened);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(Tables::read(set.pins()).total(|stats| stats.opened), opened);

    // It goes on: what it counted, and the ids, are what they were.
    agent.process().unwrap().signal(Signal::CONT).unwrap();
    wait_for("connects are translated again", || {
        Tables::read(set.pins()).total(|stats| stats.opened) > opened + 100
    });
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    let after = settle(set.pins(), set.expect("shop/web", 1, 0..4));
    assert_eq!(after.ids(), before.ids());
    assert_eq!(after.total(|stats| stats.opened) + passes(&set), report.attempts);
    assert_eq!(agent.http("/readyz").unwrap().0, 200);
}

#[test]
fn an_agent_that_wakes_up_does_not_act_on_what_it_knew() {
    let set = beside_a_proxy(4);
    set.backends("shop/web", 0..2);
    let mut agent =
        balancer_tests::agent::Agent::with(&set.node, &set.manifests, with_lease(LEASE, &set)).unwrap();
    let client = set.client.client().unwrap();
    for (round, pods) in [2..4, 0..2, 2..4].into_iter().enumerate() {
        agent.process().unwrap().signal(Signal::STOP).unwrap();
        // While it stands still, other pods take the place of those that it knows.
        proxy(&set, vip4(1), &set.pods[pods.start]);
        set.backends("shop/web", pods.clone());
        let lapsed = passes(&set);
        let warm = client.start(without_end(vip4(1))).unwrap();
        wait_for("the lease lapses", || passes(&set) > lapsed);
        warm.stop().unwrap();
        let running = client.start(without_end(vip4(1))).unwrap();
        thread::sleep(Duration::from_millis(50));
        agent.process().unwrap().signal(Signal::CONT).unwrap();
        let opened = Tables::read(set.pins()).total(|stats| stats.opened);
        wait_for("connects are translated again", || {
            Tables::read(set.pins()).total(|stats| stats.opened) > opened + 20
        });
        let report = running.stop().unwrap();
        assert_eq!(report.failed(), 0, "{report:?}");
        let names: Vec<&str> = pods.map(|pod| set.pods[pod].name()).collect();
        assert!(
            report.pods.keys().all(|pod| names.contains(&pod.as_str())),
            "round {round}: only {names:?} are left: {report:?}"
        );
    }
}

#[test]
fn an_agent_that_is_dead_for_long_is_passed_by_until_there_is_one_again() {
    let set = beside_a_proxy(3);
    let mut agent =
        balancer_tests::agent::Agent::with(&set.node, &set.manifests, with_lease(LEASE, &set)).unwrap();
    let client = set.client.client().unwrap();
    let before = settle(set.pins(), set.expect("shop/web", 1, 0..3));
    let running = client.start(without_end(vip4(1))).unwrap();
    agent.kill().unwrap();
    wait_for("connects are left alone", || passes(&set) > 50);
    let check = agent.cli(["check"]).unwrap();
    assert_eq!(check.status.code(), Some(1), "{check:?}");

    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    let opened = Tables::read(set.pins()).total(|stats| stats.opened);
    wait_for("connects are translated again", || {
        Tables::read(set.pins()).total(|stats| stats.opened) > opened + 100
    });
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    let after = settle(set.pins(), set.expect("shop/web", 1, 0..3));
    assert_eq!(after.ids(), before.ids());
    assert_eq!(after.total(|stats| stats.opened) + passes(&set), report.attempts);
}

#[test]
fn an_endless_lease_outlives_its_agent() {
    let set = beside_a_proxy(3);
    let mut agent = set.agent_with(&["--lease", "0"]);
    agent.kill().unwrap();
    thread::sleep(Duration::from_millis(1500));
    let client = set.client.client().unwrap();
    for _ in 0..10 {
        client.ask(vip4(1)).unwrap();
    }
    assert_eq!((passes(&set), Tables::read(set.pins()).total(|stats| stats.opened)), (0, 10));
    let text = agent.cli(["stats", "-A"]).unwrap();
    let warning = String::from_utf8_lossy(&text.stderr).into_owned();
    assert!(warning.contains("never lapses"), "{warning}");
}
