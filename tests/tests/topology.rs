//! The topology itself, without a balancer: what other tests take for granted.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use balancer_tests::{
    kernel::require_kernel,
    peer::{
        Server, ServerOptions,
        protocol::{Ask, Close, Kind, LoopPlan, ServerStats, Setting, Until},
    },
    topology::{Topology, service_v4, service_v6},
};
use rustix::io::Errno;

const PORT: u16 = 8080;

fn topology() -> Topology {
    require_kernel();
    Topology::new().unwrap()
}

#[test]
fn clients_reach_servers_by_every_kind_of_socket() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let both = vec![backend.v4(PORT), backend.v6(PORT)];
    let options = ServerOptions { mptcp: both.clone(), udp: both, ..ServerOptions::default() };
    let mut server = Server::start(&backend, &options).unwrap();
    let peer = client.client().unwrap();

    let v4 = backend.v4(PORT);
    let v6 = backend.v6(PORT);
    let mapped = |addr: SocketAddr| match addr {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => addr,
    };
    for (kind, to, seen) in [
        (Kind::Tcp4, v4, v4),
        (Kind::Tcp6, v6, v6),
        (Kind::Tcp6, v4, mapped(v4)),
        (Kind::Mptcp4, v4, v4),
        (Kind::Mptcp6, v6, v6),
        (Kind::Udp4, v4, v4),
        (Kind::Udp6, v6, v6),
        (Kind::Udp6, v4, mapped(v4)),
    ] {
        let socket = peer.socket(kind).unwrap();
        socket.connect(to).unwrap_or_else(|error| panic!("{kind:?} to {to}: {error}"));
        assert_eq!(socket.peer().unwrap(), seen, "{kind:?}");
        let identity = socket.ask().unwrap();
        assert_eq!(identity.pod, "backend");
        assert_eq!(identity.local, to, "{kind:?}");
        assert!(
            client.addresses().both().contains(&identity.peer.ip()),
            "{kind:?} came from {}",
            identity.peer
        );
    }
    for (kind, to, seen) in [(Kind::Udp4, v4, v4), (Kind::Udp6, v6, v6), (Kind::Udp6, v4, mapped(v4))] {
        let socket = peer.socket(kind).unwrap();
        socket.send_to(to).unwrap();
        let (from, identity) = socket.receive_from().unwrap();
        assert_eq!((from, identity.pod.as_str()), (seen, "backend"), "{kind:?} unconnected");
    }
    let stats = server.stats().unwrap();
    assert_eq!((stats.accepted, stats.answers, stats.datagrams), (5, 5, 6));
}

#[test]
fn the_host_reaches_pods_and_is_reached() {
    let node = topology();
    let backend = node.pod("backend").unwrap();
    let _servers = (backend.server(PORT).unwrap(), node.host().server(PORT).unwrap());
    let host = node.host().client().unwrap();
    assert_eq!(host.ask(backend.v4(PORT)).unwrap().pod, "backend");
    assert_eq!(host.ask(backend.v6(PORT)).unwrap().pod, "backend");
    let pod = backend.client().unwrap();
    assert_eq!(pod.ask(node.host().v4(PORT)).unwrap().pod, "node");
    assert_eq!(pod.ask(node.host().v6(PORT)).unwrap().pod, "node");
}

#[test]
fn a_service_address_that_nobody_translates_fails_at_once() {
    let node = topology();
    let pod = node.pod("client").unwrap();
    for client in [pod.client().unwrap(), node.host().client().unwrap()] {
        for to in [SocketAddr::new(service_v4(1).into(), 80), SocketAddr::new(service_v6(1).into(), 80)] {
            let start = Instant::now();
            let report = client.run(LoopPlan::tcp(to, Until::Count(200))).unwrap();
            assert_eq!(report.failures.get("connect EHOSTUNREACH"), Some(&200), "{to}: {report:?}");
            assert!(start.elapsed() < Duration::from_secs(1), "{to} took {:?}", start.elapsed());
        }
    }
}

#[test]
fn services_can_be_routed_to_the_node() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let _server = backend.server(PORT).unwrap();
    client.route_services_to_node().unwrap();
    let peer = client.client().unwrap();
    let (vip4, vip6) = (service_v4(1), service_v6(1));
    for (vip, errno) in [(vip4.into(), Errno::HOSTUNREACH), (vip6.into(), Errno::NETUNREACH)] {
        assert_eq!(peer.connect(SocketAddr::new(vip, 80)).unwrap_err().errno(), Some(errno), "{vip}");
    }
    let v4 = backend.v4(PORT);
    let v6 = backend.v6(PORT);
    for (tool, vip, to) in [("iptables", vip4.to_string(), v4), ("ip6tables", vip6.to_string(), v6)] {
        let mut command = Command::new(tool);
        command.args(["-t", "nat", "-A", "PREROUTING", "-d", &vip, "-p", "tcp", "--dport", "80"]);
        command.args(["-j", "DNAT", "--to-destination", &to.to_string()]);
        let output = node.host().output(command).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(peer.ask(SocketAddr::new(vip4.into(), 80)).unwrap().local, v4);
    assert_eq!(peer.ask(SocketAddr::new(vip6.into(), 80)).unwrap().local, v6);
}

#[test]
fn nothing_leaves_the_machine() {
    let node = topology();
    let pod = node.pod("client").unwrap();
    for client in [pod.client().unwrap(), node.host().client().unwrap()] {
        for to in ["192.0.2.1:80", "[2001:db8::1]:80"] {
            let errno = client.connect(to.parse().unwrap()).unwrap_err().errno();
            assert_eq!(errno, Some(Errno::NETUNREACH), "{to}");
        }
    }
}

#[test]
fn failures_are_of_the_kind_that_was_asked_for() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let peer = client.client().unwrap();

    let refused = peer.connect(backend.v4(PORT)).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::CONNREFUSED));
    let refused = peer.connect(backend.v6(PORT)).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::CONNREFUSED));

    let nobody = node.nobody();
    for addr in nobody.both() {
        let failed = peer.connect(SocketAddr::new(addr, PORT)).unwrap_err().errno();
        assert_eq!(failed, Some(Errno::NETUNREACH), "{addr}");
    }

    let blackhole = node.blackhole().unwrap();
    for addr in blackhole.both() {
        let to = SocketAddr::new(addr, PORT);
        let socket = peer.socket(Kind::tcp(to)).unwrap();
        socket.set(Setting::Nonblocking).unwrap();
        assert_eq!(socket.connect(to).unwrap_err().errno(), Some(Errno::INPROGRESS));
        assert_eq!(
            socket.finish(Duration::from_millis(300)).unwrap_err().errno(),
            Some(Errno::TIME),
            "{addr}"
        );

        let socket = peer.socket(Kind::tcp(to)).unwrap();
        socket.set(Setting::UserTimeout(500)).unwrap();
        assert_eq!(socket.connect(to).unwrap_err().errno(), Some(Errno::TIMEDOUT), "{addr}");
    }
}

#[test]
fn syn_retries_bound_a_time_out() {
    let node = topology();
    let to = SocketAddr::new(node.blackhole().unwrap().v4.into(), PORT);
    let pod = node.pod("client").unwrap();
    let peer = pod.client().unwrap();
    let socket = peer.socket(Kind::Tcp4).unwrap();
    socket.set(Setting::SynRetries(1)).unwrap();
    let start = Instant::now();
    assert_eq!(socket.connect(to).unwrap_err().errno(), Some(Errno::TIMEDOUT));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn an_unplugged_pod_swallows_and_a_plugged_one_answers() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let _server = backend.server(PORT).unwrap();
    let peer = client.client().unwrap();
    for to in [backend.v4(PORT), backend.v6(PORT)] {
        backend.unplug().unwrap();
        let socket = peer.socket(Kind::tcp(to)).unwrap();
        socket.set(Setting::UserTimeout(300)).unwrap();
        assert_eq!(socket.connect(to).unwrap_err().errno(), Some(Errno::TIMEDOUT), "{to}");
        backend.plug().unwrap();
        assert_eq!(peer.ask(to).unwrap().pod, "backend", "{to}");
    }
}

#[test]
fn held_connections_are_counted_and_their_end_is_noticed() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let mut server = backend.server(PORT).unwrap();
    let peer = client.client().unwrap();

    assert_eq!(peer.hold(1500, backend.v4(PORT)).unwrap().held, 1500);
    let asked = peer.ask_held().unwrap();
    assert_eq!((asked.pods.get("backend"), asked.broken), (Some(&1500), 0));
    assert_eq!(server.stats().unwrap().open, 1500);
    assert_eq!(peer.release(500, Close::Reset).unwrap().held, 1000);
    wait_for(|| server.stats().unwrap().open == 1000);
    assert_eq!(server.close_all(Close::Graceful).unwrap().open, 0);
    wait_for(|| peer.check_held().unwrap().broken == 1000);
    assert_eq!(peer.release_broken().unwrap().held, 0);

    // Counted from both sides: what the loop says is what the server saw.
    let plan = LoopPlan::tcp(backend.v6(PORT), Until::Count(300)).ask(Ask::Identity).close(Close::Reset);
    let report = peer.run(plan).unwrap();
    assert_eq!((report.failed(), report.pods.get("backend")), (0, Some(&300)));
    assert_eq!((report.connect.count, report.connect.p50 > 0), (300, true));
    let ServerStats { accepted, .. } = server.stats().unwrap();
    assert_eq!(accepted, 1800);

    let running = peer.start(LoopPlan::tcp(backend.v4(PORT), Until::Told).pause_us(100)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let report = running.stop().unwrap();
    assert!(report.attempts > 10 && report.failed() == 0, "{report:?}");

    server.refuse().unwrap();
    let report = peer.run(LoopPlan::tcp(backend.v4(PORT), Until::Count(5))).unwrap();
    assert_eq!(report.failures.get("connect ECONNREFUSED"), Some(&5));
}

#[test]
fn a_socket_outlives_its_maker_in_a_child() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let mut server = backend.server(PORT).unwrap();
    let peer = client.client().unwrap();
    let early = peer.fork().unwrap();

    let inherited = peer.connect(backend.v4(PORT)).unwrap();
    let late = peer.fork().unwrap();
    inherited.close(Close::Graceful).unwrap();
    let passed = peer.connect(backend.v4(PORT)).unwrap();
    early.pass(&passed).unwrap();
    let copy = passed.duplicate().unwrap();
    assert_eq!(copy.cookie().unwrap(), passed.cookie().unwrap());
    passed.close(Close::Graceful).unwrap();
    assert_eq!(copy.ask().unwrap().pod, "backend");
    copy.close(Close::Graceful).unwrap();

    assert_eq!(server.stats().unwrap().open, 2);
    late.end().unwrap();
    wait_for(|| server.stats().unwrap().open == 1);
    early.end().unwrap();
    wait_for(|| server.stats().unwrap().open == 0);
}

#[test]
fn a_socket_can_be_used_again() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let _server = backend.server(PORT).unwrap();
    let peer = client.client().unwrap();
    let socket = peer.socket(Kind::Tcp4).unwrap();
    assert_eq!(socket.connect(backend.v4(PORT + 1)).unwrap_err().errno(), Some(Errno::CONNREFUSED));
    socket.connect(backend.v4(PORT)).unwrap();
    assert_eq!(socket.connect(backend.v4(PORT)).unwrap_err().errno(), Some(Errno::ISCONN));
    socket.disconnect().unwrap();
    assert_eq!(socket.peer().unwrap_err().errno(), Some(Errno::NOTCONN));
    socket.connect(backend.v4(PORT)).unwrap();
    assert_eq!(socket.ask().unwrap().pod, "backend");
}

#[test]
fn real_programs_run_in_pods() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let options = ServerOptions {
        tcp: vec![backend.v4(PORT), backend.v6(PORT)],
        delay: Duration::from_millis(50),
        ..ServerOptions::default()
    };
    let _server = Server::start(&backend, &options).unwrap();
    for to in [backend.v4(PORT), backend.v6(PORT)] {
        let mut curl = Command::new("curl");
        // Two requests on one connection.
        let url = format!("http://{to}/");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--write-out",
            "%{num_connects} ",
            &url,
            &url,
        ]);
        let output = client.output(curl).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text.matches(r#""pod":"backend""#).count(), 2, "{text}");
        assert!(text.ends_with("0 "), "the second request opened a connection: {text}");
    }
}

#[test]
fn processes_are_in_their_cgroup() {
    let node = topology();
    let pod = node.pod("client").unwrap();
    let peer = pod.client().unwrap();
    assert_eq!(pod.cgroup().processes().unwrap(), [peer.process_id()]);
    assert!(pod.cgroup().path().starts_with(node.cgroup()));
    let child = peer.fork().unwrap();
    assert!(pod.cgroup().processes().unwrap().contains(&child.process_id()));
}

#[track_caller]
fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + balancer_tests::kernel::patience(Duration::from_secs(10));
    while !condition() {
        assert!(Instant::now() < deadline, "did not come true in 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}
