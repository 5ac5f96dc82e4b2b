//! What is left alone: the node's own answer comes, at once, and the reason is counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    agent::{Agent, AgentOptions, Dialled},
    manifests::{Endpoint, Service},
    peer::{
        Client,
        protocol::{Close, Kind, LoopPlan, Until},
    },
};
use balancer_userspace::model::Protocol;
use rustix::io::Errno;

use crate::{Counts, PATIENCE, PORT, World, expect, mapped, vip};

/// The node's answer for a Service address that nobody serves. No connect may take long.
#[track_caller]
fn assert_node_answers(client: &Client, to: SocketAddr) {
    let start = Instant::now();
    let report = client.run(LoopPlan::tcp(to, Until::Count(20))).unwrap();
    assert_eq!(report.failures, BTreeMap::from([("connect EHOSTUNREACH".to_owned(), 20)]), "{to}");
    assert!(start.elapsed() < Duration::from_secs(1), "{to}: 20 connects took {:?}", start.elapsed());
}

/// Pass-throughs by reason: those that there were.
#[track_caller]
fn passes(agent: &Agent<'_>, dialled: impl Into<Dialled>) -> BTreeMap<String, u64> {
    let mut passes = agent.stats_of(dialled).unwrap().pass_throughs;
    passes.retain(|_, count| *count != 0);
    passes
}

fn because(reason: &str, count: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(reason.to_owned(), count)])
}

#[test]
fn what_is_no_service_is_not_touched() {
    let world = World::web(1);
    let agent = world.agent();
    let client = world.client();
    let port = |to: SocketAddr| SocketAddr::new(to.ip(), 81);
    for to in [vip(9).v4, vip(9).v6, port(vip(1).v4), port(vip(1).v6)] {
        assert_node_answers(&client, to);
    }
    let stats = agent.stats().unwrap();
    assert_eq!(stats.len(), 4, "{stats:#?}");
    for service in &stats {
        assert_eq!(Counts::of(service), Counts::default());
        assert_eq!(service.pass_throughs.values().sum::<u64>(), 0);
    }
}

/// Connections to endpoints that go are left alone.
fn keep_removed() -> AgentOptions {
    AgentOptions { arguments: vec!["--close-removed".into(), "false".into()], ..AgentOptions::default() }
}

#[test]
fn a_service_without_endpoints_is_answered_by_the_node() {
    let world = World::new(1);
    // No slice at all; a slice without endpoints; endpoints of which none can be used.
    for (number, name) in [(1, "none"), (2, "empty"), (3, "unready")] {
        world.publish(name, number, |service| service);
    }
    world.manifests.remove_slices("none").unwrap();
    world.endpoints("empty", []);
    let slice = world.manifests.slice("unready");
    let slice = slice.port("tcp", Protocol::Tcp, PORT).port("udp", Protocol::Udp, PORT);
    let endpoints = world.pods[0].addresses().both().map(Endpoint::not_ready);
    endpoints.into_iter().fold(slice, |slice, endpoint| slice.endpoint(endpoint)).write().unwrap();
    let agent = world.agent_with(keep_removed());
    let client = world.client();
    for number in 1..=3 {
        for to in [vip(number).v4, vip(number).v6] {
            assert_node_answers(&client, to);
            assert_eq!(passes(&agent, to), because("no-backends", 20));
            expect(&agent, to, Counts::default());
        }
        let socket = client.socket(Kind::Tcp6).unwrap();
        assert_eq!(socket.connect(vip(number).v4).unwrap_err().errno(), Some(Errno::HOSTUNREACH));
        assert_eq!(passes(&agent, vip(number).v4), because("no-backends", 21), "v4-mapped");

        let udp = Dialled::udp(vip(number).v4);
        let socket = client.socket(Kind::Udp4).unwrap();
        assert_eq!(socket.send_to(vip(number).v4).unwrap_err().errno(), Some(Errno::HOSTUNREACH));
        assert_eq!(socket.connect(vip(number).v4).unwrap_err().errno(), Some(Errno::HOSTUNREACH));
        let socket = client.socket(Kind::Udp6).unwrap();
        assert_eq!(socket.send_to(vip(number).v4).unwrap_err().errno(), Some(Errno::HOSTUNREACH));
        assert_eq!(passes(&agent, udp), because("no-backends", 3));
        expect(&agent, udp, Counts::default());
    }

    // An endpoint that becomes ready is used by the very next connect; one that goes takes the Service with it.
    world.endpoints("unready", &world.pods);
    agent.wait_for(vip(3).v4, PATIENCE, |service| service.backends.len() == 1).unwrap();
    let socket = client.connect(vip(3).v4).unwrap();
    assert_eq!(socket.ask().unwrap().pod, "web-1");
    world.endpoints("unready", []);
    agent.wait_for(vip(3).v4, PATIENCE, |service| service.backends[0].state == "removed").unwrap();
    assert_node_answers(&client, vip(3).v4);
    assert_eq!(passes(&agent, vip(3).v4), because("no-backends", 41));
    // What is connected stays so, and is counted where it is.
    assert_eq!(socket.ask().unwrap().pod, "web-1");
    assert_eq!(socket.peer().unwrap(), vip(3).v4);
    expect(&agent, vip(3).v4, Counts::open(1));
}

#[test]
fn terminating_endpoints_serve_when_no_others_do() {
    let world = World::new(2);
    world.publish("web", 1, |service| service);
    let slice = world.manifests.slice("web").port("tcp", Protocol::Tcp, PORT);
    let [first, second] = [0, 1].map(|index: usize| world.pods[index].addresses().v4);
    slice.endpoint(Endpoint::terminating(first)).endpoint(Endpoint::not_ready(second)).write().unwrap();
    let agent = world.agent();
    let client = world.client();
    assert_eq!(client.ask(vip(1).v4).unwrap().pod, "web-1");
    let stats = expect(&agent, vip(1).v4, Counts::done(1));
    assert_eq!((stats.backends.len(), stats.backends[0].state.as_str()), (1, "terminating"));
}

/// A Service that is none of ours, by the way it is written.
struct Excluded {
    name: &'static str,
    number: u16,
    write: fn(Service<'_>) -> Service<'_>,
}

const EXCLUDED: [Excluded; 4] = [
    Excluded {
        name: "meshed",
        number: 2,
        write: |service| service.label("service.kubernetes.io/service-proxy-name", "mesh"),
    },
    Excluded {
        name: "opted-out",
        number: 3,
        write: |service| service.annotation("balancer.dev/enabled", "false"),
    },
    Excluded {
        name: "elsewhere",
        number: 4,
        write: |service| service.spec("type", "ExternalName").spec("externalName", "example.com"),
    },
    Excluded { name: "kubernetes", number: 5, write: |service| service },
];

#[test]
fn excluded_services_are_not_touched() {
    let world = World::web(1);
    for Excluded { name, number, write } in EXCLUDED {
        world.publish(name, number, write);
    }
    let slices = |name: &str| world.endpoints(name, &world.pods);
    // Headless: there is no address to translate, and its slices say so.
    let headless =
        world.manifests.service("headless").spec("clusterIP", "None").spec("clusterIPs", "[\"None\"]");
    headless.named_port("tcp", Protocol::Tcp, 80).write().unwrap();
    slices("headless");
    // Other addresses of a Service than its own.
    let external = [vip(6).v4.ip(), vip(6).v6.ip()].map(|addr| format!("\"{addr}\"")).join(", ");
    world.publish("external", 7, |service| {
        service.spec("type", "LoadBalancer").spec("externalIPs", &format!("[{external}]"))
    });
    let file = "default.external.service.yaml";
    let text = std::fs::read_to_string(world.manifests.path().join(file)).unwrap();
    let balanced = [vip(8).v4.ip(), vip(8).v6.ip()].map(|addr| format!("{{ip: \"{addr}\"}}")).join(", ");
    world
        .manifests
        .put(file, &format!("{text}status: {{loadBalancer: {{ingress: [{balanced}]}}}}\n"))
        .unwrap();
    let agent = world.agent();
    let client = world.client();
    for number in [2, 3, 4, 5, 6, 8] {
        for to in [vip(number).v4, vip(number).v6] {
            assert_node_answers(&client, to);
        }
    }
    let known: Vec<String> = agent.stats().unwrap().into_iter().map(|service| service.name).collect();
    assert_eq!(known.iter().filter(|name| *name == "web").count(), 4, "{known:?}");
    assert_eq!(known.iter().filter(|name| *name == "external").count(), 4, "{known:?}");
    for service in agent.stats().unwrap() {
        assert_eq!(service.pass_throughs.values().sum::<u64>(), 0, "{service:?}");
    }
    // The others are served, by their own address.
    assert_eq!(client.ask(vip(7).v4).unwrap().pod, "web-1");
    assert_eq!(client.ask(vip(1).v4).unwrap().pod, "web-1");
}

#[test]
fn a_service_that_opts_out_later_is_left_alone_from_then_on() {
    let world = World::web(1);
    let agent = world.agent();
    let client = world.client();
    let socket = client.connect(vip(1).v4).unwrap();
    world.publish("web", 1, |service| service.annotation("balancer.dev/enabled", "false"));
    crate::eventually("the Service is left alone", || client.connect(vip(1).v4).is_err());
    assert_node_answers(&client, vip(1).v4);
    // What is open stays open, and still shows what it dialled.
    assert_eq!((socket.ask().unwrap().pod.as_str(), socket.peer().unwrap()), ("web-1", vip(1).v4));
    socket.close(Close::Graceful).unwrap();
    world.publish("web", 1, |service| service);
    crate::eventually("the Service is back", || client.ask(vip(1).v4).is_ok());
    drop(agent);
}

#[test]
fn a_dead_agent_lets_go_when_its_lease_lapses_and_takes_up_again() {
    let world = World::web(2);
    let lease = Some(Duration::from_secs(1));
    let mut agent = world.agent_with(AgentOptions { lease, ..AgentOptions::default() });
    let client = world.client();
    client.hold(10, vip(1).v4).unwrap();
    // Renewed in time while it lives.
    let report = client.run(LoopPlan::tcp(vip(1).v4, Until::Millis(2500)).pause_us(5000)).unwrap();
    assert_eq!((report.failed(), report.slow), (0, 0), "{report:?}");
    let before = 10 + report.attempts;

    agent.kill().unwrap();
    let report = client.run(LoopPlan::tcp(vip(1).v4, Until::Count(10))).unwrap();
    assert_eq!(report.failed(), 0, "the lease still holds");
    let before = before + 10;
    let counts = Counts { active: 10, closed: before - 10, ..Counts::open(before) };
    expect(&agent, vip(1).v4, counts);
    thread::sleep(Duration::from_millis(1200));

    for to in [vip(1).v4, vip(1).v6] {
        assert_node_answers(&client, to);
        assert_eq!(passes(&agent, to), because("lease-expired", 20));
    }
    let socket = client.socket(Kind::Udp4).unwrap();
    assert_eq!(socket.send_to(vip(1).v4).unwrap_err().errno(), Some(Errno::HOSTUNREACH));
    assert_eq!(socket.connect(vip(1).v4).unwrap_err().errno(), Some(Errno::HOSTUNREACH));
    assert_eq!(passes(&agent, Dialled::udp(vip(1).v4)), because("lease-expired", 2));
    // What is connected stays so, seen as before; counting goes on without the agent.
    assert_eq!(client.ask_held().unwrap().pods.values().sum::<u64>(), 10);
    expect(&agent, vip(1).v4, counts);
    client.release(4, Close::Graceful).unwrap();
    expect(&agent, vip(1).v4, Counts { active: 6, closed: before - 6, ..counts });
    // The command line says so.
    let document = agent.json(["stats"]).unwrap();
    let codes: Vec<&str> = document["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|warning| warning["code"].as_str().unwrap())
        .collect();
    assert!(codes.contains(&"agent-dead") && codes.contains(&"lease-lapsed"), "{codes:?}");

    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    assert!(client.ask(vip(1).v4).is_ok());
    assert!(client.ask(vip(1).v6).is_ok());
    let socket = client.socket(Kind::Udp4).unwrap();
    socket.send_to(vip(1).v4).unwrap();
    assert_eq!(socket.receive_from().unwrap().0, vip(1).v4);
    let opened = before + 1;
    expect(&agent, vip(1).v4, Counts { active: 6, closed: opened - 6, ..Counts::open(opened) });
    assert_eq!(passes(&agent, vip(1).v4), because("lease-expired", 20));
}

#[test]
fn what_is_passed_through_reaches_the_rules_of_the_node() {
    let world = World::web(2);
    // What kube-proxy would have set up for the Service.
    world.pod.route_services_to_node().unwrap();
    for (tool, from, to) in
        [("iptables", vip(1).v4, world.pods[0].v4(PORT)), ("ip6tables", vip(1).v6, world.pods[0].v6(PORT))]
    {
        let mut command = Command::new(tool);
        command.args(["-t", "nat", "-A", "PREROUTING", "-d", &from.ip().to_string(), "-p", "tcp"]);
        command.args(["--dport", "80", "-j", "DNAT", "--to-destination", &to.to_string()]);
        let output = world.node.host().output(command).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let client = world.client();
    assert_eq!(client.ask(vip(1).v4).unwrap().pod, "web-1", "without an agent");
    let lease = Some(Duration::from_secs(1));
    let mut agent = world.agent_with(AgentOptions { lease, ..AgentOptions::default() });
    for to in [vip(1).v4, vip(1).v6] {
        let pods = [0; 4].map(|_| client.ask(to).unwrap().pod);
        assert!(pods.iter().any(|pod| pod == "web-2"), "{pods:?}");
        expect(&agent, to, Counts::done(4));
    }
    // From the balancer's hands into the node's, without one that fails.
    agent.kill().unwrap();
    let report = client.run(LoopPlan::tcp(vip(1).v4, Until::Millis(2000)).pause_us(2000)).unwrap();
    assert_eq!((report.failed(), report.slow), (0, 0), "{report:?}");
    let passed = passes(&agent, vip(1).v4)["lease-expired"];
    let stats = expect(&agent, vip(1).v4, Counts::done(4 + report.attempts - passed));
    assert!(passed > 0 && stats.picks["algorithm"] > 4, "{passed} of {report:?}");
    let socket = client.socket(Kind::Tcp6).unwrap();
    socket.connect(vip(1).v4).unwrap();
    assert_eq!((socket.peer().unwrap(), socket.ask().unwrap().pod.as_str()), (mapped(vip(1).v4), "web-1"));
    // And back.
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    let report = client.run(LoopPlan::tcp(vip(1).v4, Until::Count(100))).unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert_eq!(passes(&agent, vip(1).v4), because("lease-expired", passed + 1));
}
