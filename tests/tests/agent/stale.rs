//! What becomes of connects, and what a user sees, when tables grow old: a dead agent, one that stands still, a
//! source out of reach, a clock that is off.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    agent::{Agent, AgentOptions, binary},
    peer::{Server, ServerOptions},
    topology::{NODE, Pod, Scratch, ip_batch},
};
use balancer_userspace::{
    datapath::{read_lease, read_snapshot},
    view::Lease,
};
use rustix::process::Signal;

use crate::{
    containers::line,
    lease::{passes, proxy},
    set::{PORT, Set, vip4, wait_for, without_end},
    tables::Tables,
};

/// Short enough to wait for, long enough for what is to happen before.
const LEASE: Duration = Duration::from_secs(2);

fn agent(set: &Set) -> Agent<'_> {
    let pins = Some(set.pins().to_owned());
    let options = AgentOptions { lease: Some(LEASE), pins, ..AgentOptions::default() };
    Agent::with(&set.node, &set.manifests, options).unwrap()
}

#[track_caller]
fn check(agent: &Agent<'_>) -> serde_json::Value {
    let output = agent.cli(["check", "-o", "json"]).unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The codes of the warnings of `balancer stats`.
#[track_caller]
fn warnings(agent: &Agent<'_>) -> Vec<String> {
    let stats = agent.json(["stats", "-A"]).unwrap();
    let warnings = stats["warnings"].as_array().unwrap_or_else(|| panic!("{stats}"));
    warnings.iter().map(|warning| warning["code"].as_str().unwrap().to_owned()).collect()
}

/// The value of a metric without labels, or with these.
#[track_caller]
fn metric(agent: &Agent<'_>, name: &str) -> f64 {
    let (_, text) = agent.http("/metrics").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[track_caller]
fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// Gives the address of one pod to another, as happens when a pod is gone and a new one comes.
fn hand_over(set: &Set, from: &Pod, to: &Pod) {
    let (addr, gateway) = (from.addresses().v4, NODE.v4);
    let mut route = Command::new("ip");
    route.args(["-o", "route", "get", &to.addresses().v4.to_string()]);
    let route = String::from_utf8(set.node.host().output(route).unwrap().stdout).unwrap();
    let link = route.split(' ').skip_while(|word| *word != "dev").nth(1).unwrap().to_owned();
    ip_batch(Some(from.netns()), &[format!("address delete {addr}/32 dev eth0")]).unwrap();
    ip_batch(Some(to.netns()), &[format!("address add {addr}/32 dev eth0")]).unwrap();
    let node = set.node.host().netns();
    ip_batch(Some(node), &[format!("route replace {addr}/32 dev {link} src {gateway}")]).unwrap();
}

#[test]
fn after_its_death_a_pods_address_that_another_has_is_dialled_no_longer_than_the_lease() {
    let set = Set::new(2);
    set.client.route_services_to_node().unwrap();
    proxy(&set, vip4(1), &set.pods[0]);
    let stranger = set.node.pod("stranger").unwrap();
    let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT);
    let options = ServerOptions { tcp: vec![everywhere], ..ServerOptions::default() };
    let _server = Server::start(&stranger, &options).unwrap();
    let mut agent = agent(&set);
    let client = set.client.client().unwrap();

    agent.kill().unwrap();
    let died = Instant::now();
    assert!(matches!(read_lease(set.pins()).unwrap(), Lease::Valid(rest) if rest <= LEASE));
    hand_over(&set, &set.pods[1], &stranger);
    // The danger is real: for as long as the lease, connects go by tables that nobody corrects.
    let running = client.start(without_end(vip4(1))).unwrap();
    wait_for("the lease lapses", || passes(&set) > 0);
    let lapsed = died.elapsed();
    let report = running.stop().unwrap();
    assert!(lapsed <= LEASE + Duration::from_secs(1), "it lapsed after {lapsed:?}");
    assert!(report.pods.contains_key(stranger.name()), "{report:?}");

    // And no longer.
    let running = client.start(without_end(vip4(1))).unwrap();
    thread::sleep(Duration::from_secs(1));
    let report = running.stop().unwrap();
    assert!(report.attempts > 100 && report.failed() == 0, "{report:?}");
    assert_eq!(report.pods.keys().collect::<Vec<_>>(), [set.pods[0].name()], "{report:?}");

    // What a user sees.
    let found = check(&agent);
    assert_has(&line(&found, "agent"), &["failed: no agent runs"]);
    assert_has(&line(&found, "lease"), &["failed: lapsed", "kube-proxy", "start the agent again"]);
    assert_has(&line(&found, "sync"), &["failed: nobody follows manifests in"]);
    assert_has(&line(&found, "self-probe"), &["failed: connects are passed through"]);
    assert_eq!(warnings(&agent), ["agent-dead", "lease-lapsed"]);
    assert!(agent.http("/readyz").is_err());
}

#[test]
fn an_agent_that_stands_still_is_seen_to_and_says_so_when_it_goes_on() {
    let set = Set::new(1);
    set.client.route_services_to_node().unwrap();
    proxy(&set, vip4(1), &set.pods[0]);
    let mut agent = agent(&set);
    agent.process().unwrap().signal(Signal::STOP).unwrap();
    wait_for("the lease lapses", || matches!(read_lease(set.pins()).unwrap(), Lease::Lapsed(_)));
    let found = check(&agent);
    assert_has(&line(&found, "agent"), &["ok:"]);
    assert_has(&line(&found, "lease"), &["failed: lapsed", "stands still", "SIGSTOP"]);
    assert_has(&line(&found, "sync"), &["failed: the agent stands still"]);
    assert_eq!(warnings(&agent), ["lease-lapsed"]);

    agent.process().unwrap().signal(Signal::CONT).unwrap();
    wait_for("it is at work again", || matches!(agent.http("/readyz"), Ok((200, _))));
    let log = agent.log();
    assert_eq!(log.matches("the lease lapsed while this agent stood still").count(), 1, "{log}");
    let failed = "balancer_lease_renewals_total{outcome=\"failed\"}";
    assert!((metric(&agent, failed) - 1.0).abs() < 0.1, "{}", metric(&agent, failed));
    assert!(metric(&agent, "balancer_lease_remaining_seconds") > 0.0);
    let found = check(&agent);
    assert_has(&line(&found, "lease"), &["ok: valid"]);
    assert_has(&line(&found, "sync"), &["ok: in step"]);
    assert!(warnings(&agent).is_empty());
    set.client.client().unwrap().ask(vip4(1)).unwrap();
}

#[test]
fn a_source_out_of_reach_for_many_leases_changes_nothing_and_its_age_is_told() {
    let set = Set::new(2);
    let agent = agent(&set);
    let client = set.client.client().unwrap();
    let running = client.start(without_end(vip4(1))).unwrap();
    let away = set.manifests.path().with_extension("away");
    fs::rename(set.manifests.path(), &away).unwrap();
    thread::sleep(3 * LEASE);
    assert!(matches!(read_lease(set.pins()).unwrap(), Lease::Valid(_)), "it goes on being renewed");
    let age = metric(&agent, "balancer_source_contact_age_seconds");
    let told = agent.json(["stats", "-A"]).unwrap()["agent"]["contactSeconds"].as_f64().unwrap();
    assert_eq!(agent.http("/readyz").unwrap().0, 200, "connects are balanced");
    fs::rename(&away, set.manifests.path()).unwrap();
    assert!(age > 3.0 && age < 10.0, "{age} s");
    assert!(told > 3.0 && told < 10.0, "{told} s");
    wait_for("it is in touch again", || metric(&agent, "balancer_source_contact_age_seconds") < 2.0);
    let report = running.stop().unwrap();
    assert_eq!((report.failed(), passes(&set)), (0, 0), "{report:?}");
    assert_eq!(report.pods.len(), 2, "{report:?}");
    assert!(set.manifests.path().exists());
}

/// Starts an agent whose clock of boot time is ahead of the machine's by so many seconds, in a time namespace,
/// and asks it and its tables for the lease; that of an agent that has died lapses.
#[track_caller]
fn in_a_time_namespace(offset: i64) {
    let set = Set::new(2);
    let within = |program: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--time", "--boottime", &offset.to_string(), "--fork", "--kill-child"]);
        command.arg(binary().unwrap()).args(program).arg("--pins").arg(set.pins());
        command
    };
    let scratch = Scratch::files().unwrap();
    let log = scratch.path().join("agent.log");
    let manifests = set.manifests.path().display().to_string();
    let cgroup = set.node.cgroup().display().to_string();
    let mut command =
        within(&["agent", "--http", "off", "--lease", "2s", "--manifests", &manifests, "--cgroup", &cgroup]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let mut process = set.node.host().spawn(command).unwrap();
    let text = || fs::read_to_string(&log).unwrap();
    wait_for("it is in step", || {
        assert_eq!(process.exited().unwrap(), None, "{}", text());
        text().contains("in step with the source")
    });
    assert_has(&text(), &[&format!("in a time namespace, {offset} s off")]);
    thread::sleep(2 * LEASE);
    let client = set.client.client().unwrap();
    client.ask(vip4(1)).unwrap();
    assert_eq!(
        Tables::read(set.pins()).total(|stats| stats.opened),
        1,
        "the programs see a lease that holds"
    );
    let soon = |lease| matches!(lease, Lease::Valid(rest) if rest <= LEASE);
    let lease = read_lease(set.pins()).unwrap();
    assert!(soon(lease), "from outside: {lease:?}");
    let output = set.node.host().output(within(&["stats", "-A", "-o", "json"])).unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stats["agent"]["lease"]["state"], "valid", "from inside: {stats}");
    assert!(stats["agent"]["uptimeSeconds"].as_f64().unwrap() < 60.0, "{stats}");

    process.kill().unwrap();
    wait_for("the lease lapses", || matches!(read_lease(set.pins()).unwrap(), Lease::Lapsed(_)));
    assert!(client.ask(vip4(1)).is_err(), "nobody answers at the Service's address itself");
    assert_eq!(read_snapshot(set.pins()).unwrap().services.iter().map(|it| it.passes[0]).sum::<u64>(), 1);
}

#[test]
fn a_clock_that_is_ahead_in_a_time_namespace_does_not_matter() {
    in_a_time_namespace(100 * 86_400);
}

#[test]
fn a_clock_that_is_behind_in_a_time_namespace_does_not_matter() {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    // The kernel allows no clock below 0.
    in_a_time_namespace(-(uptime as i64) / 2);
}
