//! UDP that is left alone on purpose: an agent that only observes, a process in an excluded cgroup.

use std::process::Command;

use balancer_tests::{
    agent::{AgentOptions, Dialled},
    peer::{
        Socket,
        protocol::{Close, Kind},
    },
};

use crate::{Counts, PORT, World, expect, vip};

/// Two backends, and a stand-in for kube-proxy that sends the IPv4 Service's datagrams to the first.
fn beside_a_proxy() -> World {
    let world = World::web(2);
    world.pod.route_services_to_node().unwrap();
    let mut rule = Command::new("iptables");
    let to = world.pods[0].v4(PORT).to_string();
    rule.args(["-w", "-t", "nat", "-A", "PREROUTING", "-d", &vip(1).v4.ip().to_string(), "-p", "udp"]);
    rule.args(["--dport", "80", "-j", "DNAT", "--to-destination", &to]);
    let output = world.node.host().output(rule).unwrap();
    assert!(output.status.success(), "{output:?}");
    world
}

fn arguments<const N: usize>(arguments: [&str; N]) -> AgentOptions {
    AgentOptions { arguments: arguments.map(str::to_owned).to_vec(), ..AgentOptions::default() }
}

#[track_caller]
fn ask(socket: &Socket, to: std::net::SocketAddr) -> String {
    socket.send_to(to).unwrap();
    let (from, identity) = socket.receive_from().unwrap();
    assert_eq!(from, to, "the source of the answer");
    identity.pod
}

#[test]
fn observed_datagrams_go_where_they_went_and_are_counted_where_they_would_have_gone() {
    let world = beside_a_proxy();
    let agent = world.agent_with(arguments(["--mode", "observe"]));
    let client = world.client();
    let dialled = Dialled::udp(vip(1).v4);
    let sockets: Vec<Socket> = (0..4).map(|_| client.socket(Kind::Udp4).unwrap()).collect();
    for socket in &sockets {
        assert_eq!(ask(socket, vip(1).v4), "web-1");
        assert_eq!(ask(socket, vip(1).v4), "web-1", "the flow goes on");
        // Where the answer comes from a pod that was addressed as such, it says so.
        for pod in &world.pods {
            assert_eq!(ask(socket, pod.v4(PORT)), pod.name());
        }
    }
    let stats = expect(&agent, dialled, Counts::open(4));
    assert_eq!(stats.backends.iter().map(|backend| backend.active).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(stats.pass_throughs["observed"], 4, "a flow is counted once");

    let connected = client.socket(Kind::Udp4).unwrap();
    connected.connect(vip(1).v4).unwrap();
    assert_eq!(connected.peer().unwrap(), vip(1).v4);
    assert_eq!(connected.ask().unwrap().pod, "web-1");
    expect(&agent, dialled, Counts::open(5));
    for socket in sockets.into_iter().chain([connected]) {
        socket.close(Close::Graceful).unwrap();
    }
    expect(&agent, dialled, Counts::done(5));
}

#[test]
fn datagrams_of_an_excluded_cgroup_are_not_translated() {
    let world = beside_a_proxy();
    let excluded = world.pod.cgroup().path().to_str().unwrap().to_owned();
    let agent = world.agent_with(arguments(["--exclude-cgroup", &excluded]));
    let client = world.client();
    let socket = client.socket(Kind::Udp4).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&socket, vip(1).v4), "web-1");
    }
    let stats = expect(&agent, Dialled::udp(vip(1).v4), Counts::default());
    assert_eq!(stats.pass_throughs["excluded"], 3);
}
