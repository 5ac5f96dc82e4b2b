//! Closing: whoever waits for a backend that is gone is told at once.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use balancer_tests::peer::protocol::Kind;
use rustix::io::Errno;

use crate::{World, eventually, vip, vip6};

/// Every way in which a connection may be made to the Service.
const WAYS: [(Kind, fn() -> SocketAddr); 3] = [(Kind::Tcp4, vip), (Kind::Tcp6, vip6), (Kind::Tcp6, vip)];

#[test]
fn clients_of_a_backend_that_is_gone_are_told_within_a_second() {
    let world = World::new(2, &[]);
    world.endpoints(&[0], &[]);
    let agent = world.agent();
    let clients = WAYS.map(|(kind, to)| {
        let client = world.client.client().unwrap();
        assert!(client.hold_kind(3, to(), kind).unwrap().failures.is_empty());
        client
    });
    // Connected UDP hears of nothing by itself.
    let udp = world.client.client().unwrap();
    let connected = udp.socket(Kind::Udp4).unwrap();
    connected.connect(vip()).unwrap();
    connected.ask().unwrap();
    let unconnected = udp.socket(Kind::Udp4).unwrap();
    unconnected.send_to(vip()).unwrap();
    unconnected.receive_from().unwrap();
    let port = unconnected.local().unwrap();

    world.endpoints(&[1], &[]);
    let begun = Instant::now();
    for client in &clients {
        eventually("all are told", Duration::from_secs(5), || client.check_held().unwrap().broken == 3);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(1_500), "{took:?}\n{}", agent.log());
    eventually("connected UDP is told", Duration::from_secs(2), || {
        matches!(
            connected.ask().map_err(|error| error.errno()),
            Err(Some(Errno::CONNABORTED | Errno::DESTADDRREQ))
        )
    });
    // The other one keeps its port, and goes on with another backend.
    unconnected.send_to(vip()).unwrap();
    assert_eq!(unconnected.receive_from().unwrap().1.pod, "web-2");
    assert_eq!(unconnected.local().unwrap(), port);
    eventually("nothing is open to it", Duration::from_secs(5), || {
        agent.stats_of(vip()).unwrap().backends.iter().all(|backend| backend.state == "ready")
    });
}

/// Holds three connections, does something to the Service, and looks after two seconds whether they are there.
fn check(annotations: &[(&str, &str)], change: impl FnOnce(&World), expect_broken: u64) {
    let world = World::new(2, annotations);
    world.endpoints(&[0], &[]);
    let agent = world.agent();
    let client = world.client.client().unwrap();
    client.hold(3, vip()).unwrap();
    change(&world);
    std::thread::sleep(Duration::from_secs(2));
    let held = client.check_held().unwrap();
    assert_eq!((held.held, held.broken), (3, expect_broken), "{}", agent.log());
}

#[test]
fn a_service_may_keep_its_sockets() {
    check(&[("close-removed", "false")], |world| world.endpoints(&[1], &[]), 0);
    check(&[], |world| world.endpoints(&[1], &[]), 3);
}

#[test]
fn endpoints_that_do_not_go_keep_their_sockets() {
    // Its Service is deleted, or leaves balancer: the pod may be well.
    check(&[], |world| world.manifests.remove_service("web").unwrap(), 0);
    check(&[], |world| world.annotate(&[("enabled", "false")]), 0);
    // It is deleted and made anew, and its controller has not come to it yet.
    let anew = |world: &World| {
        world.manifests.remove_service("web").unwrap();
        world.manifests.remove_slices("web").unwrap();
        std::thread::sleep(Duration::from_millis(500));
        world.annotate(&[]);
    };
    check(&[], anew, 0);
    check(&[], |world| world.manifests.remove_slices("web").unwrap(), 0);
    // It terminates, and may still answer.
    check(&[], |world| world.endpoints(&[1], &[0]), 0);
}

#[test]
fn an_agent_that_comes_back_closes_what_went_while_it_was_away() {
    let world = World::new(2, &[]);
    world.endpoints(&[0, 1], &[]);
    let mut agent = world.agent();
    let client = world.client.client().unwrap();
    client.hold(4, vip()).unwrap();
    agent.kill().unwrap();
    world.endpoints(&[1], &[]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(client.check_held().unwrap().broken, 0);
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    eventually("told at last", Duration::from_secs(5), || client.check_held().unwrap().broken == 2);
}
