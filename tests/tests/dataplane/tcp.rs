//! TCP: where connections land, what applications see of it, and what is counted.

use balancer_tests::peer::protocol::{Close, Kind};
use rustix::io::Errno;

use crate::{Counts, World, eventually, expect, mapped, vip};

#[test]
fn every_family_lands_on_a_backend_and_shows_the_service() {
    let world = World::web(2);
    let agent = world.agent();
    let client = world.client();
    let vip = vip(1);
    // How it is dialled, what getpeername() says, and how often this Service port was dialled before.
    for (kind, to, peer, before) in [
        (Kind::Tcp4, vip.v4, vip.v4, 0),
        (Kind::Tcp6, vip.v4, mapped(vip.v4), 1),
        (Kind::Tcp6, vip.v6, vip.v6, 0),
    ] {
        let socket = client.socket(kind).unwrap();
        socket.connect(to).unwrap_or_else(|error| panic!("{kind:?} to {to}: {error}"));
        assert_eq!(socket.peer().unwrap(), peer, "{kind:?}");
        let identity = socket.ask().unwrap();
        let backend = world.pods.iter().find(|pod| pod.name() == identity.pod).unwrap();
        let address = if to.is_ipv4() { backend.v4(crate::PORT) } else { backend.v6(crate::PORT) };
        assert_eq!(identity.local, address, "{kind:?}");
        let client_address = if to.is_ipv4() { world.pod.v4(0) } else { world.pod.v6(0) };
        assert_eq!(identity.peer.ip(), client_address.ip(), "{kind:?}: the backend sees the client itself");

        let open = Counts {
            active: 1,
            opened: before + 1,
            established: before + 1,
            closed: before,
            ..Counts::default()
        };
        let stats = expect(&agent, to, open);
        assert_eq!(stats.picks["algorithm"], before + 1);
        assert_eq!(stats.backend(address.ip()).unwrap().active, 1, "{stats:#?}");
        socket.close(Close::Graceful).unwrap();
        let stats = expect(&agent, to, Counts::done(before + 1));
        assert_eq!(stats.pass_throughs.values().sum::<u64>(), 0);
    }
}

#[test]
fn the_handshake_is_timed_once() {
    let world = World::web(1);
    let agent = world.agent();
    let client = world.client();
    let start = std::time::Instant::now();
    client.hold(100, vip(1).v4).unwrap();
    let took = start.elapsed();
    expect(&agent, vip(1).v4, Counts::open(100));
    let stats = agent.json(["stats", "web"]).unwrap();
    let items = stats["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["protocol"] == "TCP" && item["family"] == "IPv4").unwrap();
    let handshake = &item["backends"][0]["handshake"];
    assert_eq!(handshake["count"], 100, "{handshake:#}");
    let counted: u64 =
        handshake["buckets"].as_array().unwrap().iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, 100, "{handshake:#}");
    let sum = handshake["sumSeconds"].as_f64().unwrap();
    assert!(sum > 0.0 && sum < took.as_secs_f64(), "{sum} s of {took:?}");
}

#[test]
fn a_second_connect_on_a_connected_socket_changes_nothing() {
    let world = World::web(2);
    let agent = world.agent();
    let client = world.client();
    let socket = client.connect(vip(1).v4).unwrap();
    let pod = socket.ask().unwrap().pod;
    assert_eq!(socket.connect(vip(1).v4).unwrap_err().errno(), Some(Errno::ISCONN));
    assert_eq!(socket.ask().unwrap().pod, pod);
    assert_eq!(socket.peer().unwrap(), vip(1).v4);
    expect(&agent, vip(1).v4, Counts::open(1));
}

#[test]
fn a_socket_that_is_taken_down_and_dialled_again_is_a_new_connection() {
    let world = World::web(2);
    world.publish("other", 2, |service| service);
    let agent = world.agent();
    let client = world.client();
    let socket = client.connect(vip(1).v4).unwrap();
    socket.ask().unwrap();
    socket.disconnect().unwrap();
    assert_eq!(socket.peer().unwrap_err().errno(), Some(Errno::NOTCONN));
    expect(&agent, vip(1).v4, Counts::done(1));

    socket.connect(vip(2).v4).unwrap();
    assert_eq!(socket.peer().unwrap(), vip(2).v4);
    socket.ask().unwrap();
    expect(&agent, vip(1).v4, Counts::done(1));
    expect(&agent, vip(2).v4, Counts::open(1));

    // Past the balancer: nothing of it is counted, and the application sees where it really is.
    socket.disconnect().unwrap();
    let stats = expect(&agent, vip(2).v4, Counts::done(1));
    let direct = world.pods[0].v4(crate::PORT);
    socket.connect(direct).unwrap();
    assert_eq!(socket.peer().unwrap(), direct);
    socket.write("send 5000\n").unwrap();
    assert_eq!(socket.read(5000).unwrap(), 5000);
    socket.close(Close::Graceful).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(agent.stats_of(vip(2).v4).unwrap(), stats);
    expect(&agent, vip(1).v4, Counts::done(1));
}

#[test]
fn a_direct_connection_is_nobodys() {
    let world = World::web(1);
    let agent = world.agent();
    let client = world.client();
    for to in [world.pods[0].v4(crate::PORT), world.pods[0].v6(crate::PORT)] {
        let socket = client.connect(to).unwrap();
        assert_eq!(socket.peer().unwrap(), to);
        assert_eq!(socket.ask().unwrap().pod, "web-1");
    }
    for to in [vip(1).v4, vip(1).v6] {
        let stats = expect(&agent, to, Counts::default());
        assert_eq!(stats.picks.values().chain(stats.pass_throughs.values()).sum::<u64>(), 0);
    }
}

#[test]
fn host_processes_are_served_too() {
    let world = World::web(2);
    let agent = world.agent();
    let client = world.node.host().client().unwrap();
    for to in [vip(1).v4, vip(1).v6] {
        let socket = client.connect(to).unwrap();
        assert!(socket.ask().unwrap().pod.starts_with("web-"));
        assert_eq!(socket.peer().unwrap(), to);
        expect(&agent, to, Counts::open(1));
    }
}

/// The kernel shows the hooks the subflow, a TCP socket of its own: it is counted like any other, failures and bytes included.
/// getpeername() is asked of the multipath socket, which no hook has seen before: it shows the backend.
#[test]
fn multipath_tcp_is_served() {
    let mut world = World::web(2);
    let mut servers = std::mem::take(&mut world.servers);
    let agent = world.agent();
    let client = world.client();
    for (kind, to, before) in
        [(Kind::Mptcp4, vip(1).v4, 0), (Kind::Mptcp6, vip(1).v4, 1), (Kind::Mptcp6, vip(1).v6, 0)]
    {
        let socket = client.socket(kind).unwrap();
        socket.connect(to).unwrap_or_else(|error| panic!("{kind:?} to {to}: {error}"));
        let identity = socket.ask().unwrap();
        assert!(identity.pod.starts_with("web-"));
        let shown = socket.peer().unwrap();
        assert!([identity.local, mapped(identity.local)].contains(&shown), "{kind:?}: {shown}");
        expect(&agent, to, Counts { active: 1, closed: before, ..Counts::open(before + 1) });
        socket.write("send 1000\n").unwrap();
        assert_eq!(socket.read(1000).unwrap(), 1000);
        socket.close(Close::Graceful).unwrap();
        expect(&agent, to, Counts::done(before + 1));
    }
    let answers = |bytes: u64| (2000..2300).contains(&bytes);
    eventually("bytes of both", || {
        answers(agent.stats_of(vip(1).v4).unwrap().total(|backend| backend.bytes_in))
    });

    client.hold_kind(20, vip(1).v4, Kind::Mptcp4).unwrap();
    let stats = expect(&agent, vip(1).v4, Counts { closed: 2, active: 20, ..Counts::open(22) });
    assert_eq!(stats.active_each(), [10, 10]);
    client.kill().unwrap();
    expect(&agent, vip(1).v4, Counts::done(22));

    for server in &mut servers {
        server.refuse().unwrap();
    }
    let client = world.client();
    let socket = client.socket(Kind::Mptcp4).unwrap();
    assert_eq!(socket.connect(vip(1).v4).unwrap_err().errno(), Some(Errno::CONNREFUSED));
    expect(&agent, vip(1).v4, Counts { opened: 23, closed: 23, refused: 1, ..Counts::done(22) });
}
