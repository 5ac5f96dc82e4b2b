//! UDP, connected and not: backends are kept, answers carry the Service's address, sockets are counted.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use balancer_tests::{
    agent::{Agent, Dialled},
    peer::{
        Client, Server, ServerOptions, Socket,
        protocol::{Close, Identity, Kind, Setting},
    },
};

use crate::{Counts, PORT, World, expect, mapped, vip};

/// Which socket, the `n`th Service as it is dialled by it, and an address as the application sees it.
type Way = (Kind, fn(u16) -> SocketAddr, fn(SocketAddr) -> SocketAddr);

const KINDS: [Way; 3] = [
    (Kind::Udp4, |n| vip(n).v4, |addr| addr),
    (Kind::Udp6, |n| vip(n).v4, mapped),
    (Kind::Udp6, |n| vip(n).v6, |addr| addr),
];

/// A socket that gives up waiting.
fn socket(client: &Client, kind: Kind) -> Socket {
    let socket = client.socket(kind).unwrap();
    socket.set(Setting::ReceiveTimeout(3000)).unwrap();
    socket
}

/// Sends to an address, and checks that the answer seems to come from there.
#[track_caller]
fn ask_at(socket: &Socket, to: SocketAddr, seen: SocketAddr) -> Identity {
    socket.send_to(to).unwrap();
    let (from, identity) =
        socket.receive_from().unwrap_or_else(|error| panic!("no answer from {to}: {error}"));
    assert_eq!(from, seen, "source of the answer, from {identity:?}");
    identity
}

#[track_caller]
fn expect_udp(agent: &Agent<'_>, to: SocketAddr, counts: Counts) {
    expect(agent, Dialled::udp(to), counts);
}

#[test]
fn a_connected_socket_talks_to_one_backend_and_sees_the_service() {
    let world = World::web(3);
    let agent = world.agent();
    let client = world.client();
    for (kind, to, seen) in KINDS {
        let (to, seen) = (to(1), seen(to(1)));
        // The v4-mapped socket dials the Service of IPv4 once more.
        let before = agent.stats_of(Dialled::udp(to)).unwrap().total(|backend| backend.opened);
        let socket = socket(&client, kind);
        socket.connect(to).unwrap();
        assert_eq!(socket.peer().unwrap(), seen, "{kind:?}");
        let pods: BTreeSet<String> = (0..5).map(|_| socket.ask().unwrap().pod).collect();
        assert_eq!(pods.len(), 1, "{kind:?}: {pods:?}");
        // recvfrom() tells where an answer came from on connected sockets too.
        socket.write("who\n").unwrap();
        assert_eq!(socket.receive_from().unwrap().0, seen, "{kind:?}");
        expect_udp(&agent, to, Counts { active: 1, closed: before, ..Counts::open(before + 1) });
        socket.close(Close::Graceful).unwrap();
        expect_udp(&agent, to, Counts::done(before + 1));
    }
}

#[test]
fn an_unconnected_socket_keeps_its_backend_and_is_answered_by_the_service() {
    let world = World::web(3);
    let agent = world.agent();
    let client = world.client();
    for (kind, to, seen) in KINDS {
        let (to, seen) = (to(1), seen(to(1)));
        let before = agent.stats_of(Dialled::udp(to)).unwrap().total(|backend| backend.opened);
        let socket = socket(&client, kind);
        let pods: BTreeSet<String> = (0..5).map(|_| ask_at(&socket, to, seen).pod).collect();
        assert_eq!(pods.len(), 1, "{kind:?}: {pods:?}");
        expect_udp(&agent, to, Counts { active: 1, closed: before, ..Counts::open(before + 1) });
        socket.close(Close::Graceful).unwrap();
        expect_udp(&agent, to, Counts::done(before + 1));
    }
}

#[test]
fn what_is_received_keeps_a_flow_alive() {
    let world = World::web(1);
    let agent = world.agent();
    let client = world.client();
    let (to, socket) = (vip(1).v4, socket(&client, Kind::Udp4));
    let idle = || {
        let listed = agent.json(["connections", "-A"]).unwrap();
        listed["items"][0]["idleSeconds"].as_f64().unwrap_or_else(|| panic!("{listed:#}"))
    };
    socket.send_to(to).unwrap();
    thread::sleep(Duration::from_millis(1_500));
    assert!(idle() >= 1.5);
    // The answer has waited; that it is read is what counts.
    socket.receive_from().unwrap();
    assert!(idle() < 1.5);
}

/// Both Services have the same pod behind them. A connected socket is answered by its peer.
#[test]
fn a_socket_that_is_connected_after_it_sent_is_answered_by_what_it_is_connected_to() {
    let world = World::new(1);
    world.publish("one", 1, |service| service);
    world.publish("two", 2, |service| service);
    let _agent = world.agent();
    let client = world.client();
    for (kind, to, seen) in KINDS {
        let pod = match to(1) {
            SocketAddr::V4(_) => world.pods[0].v4(PORT),
            SocketAddr::V6(_) => world.pods[0].v6(PORT),
        };
        for peer in [to(2), pod] {
            let socket = socket(&client, kind);
            ask_at(&socket, to(1), seen(to(1)));
            socket.connect(peer).unwrap();
            socket.write("who\n").unwrap();
            assert_eq!(socket.receive_from().unwrap().0, seen(peer), "{kind:?} to {peer}");
        }
    }
}

#[test]
fn sockets_are_spread_as_connections_are() {
    let world = World::web(3);
    let agent = world.agent();
    let client = world.client();
    let open: Vec<Socket> = (0..30)
        .map(|number| {
            let socket = socket(&client, Kind::Udp4);
            if number % 2 == 0 {
                socket.connect(vip(1).v4).unwrap();
                socket.ask().unwrap();
            } else {
                ask_at(&socket, vip(1).v4, vip(1).v4);
            }
            socket
        })
        .collect();
    let stats = expect(&agent, Dialled::udp(vip(1).v4), Counts::open(30));
    assert_eq!(stats.active_each(), [10, 10, 10]);
    assert_eq!(stats.picks["algorithm"], 30);
    // No close(): the process is gone at once, and takes them along.
    client.kill().unwrap();
    expect_udp(&agent, vip(1).v4, Counts::done(30));
    drop(open);
}

#[test]
fn one_socket_with_more_services_than_it_may_remember() {
    const SERVICES: u16 = 20;
    const REMEMBERED: u16 = 16;
    let world = World::new(2);
    for number in 1..=SERVICES {
        world.publish(&format!("dns-{number}"), number, |service| service);
    }
    let agent = world.agent();
    let client = world.client();
    let socket = socket(&client, Kind::Udp4);
    // All of them by the same two pods: the answer is from the Service that was asked.
    for number in 1..=SERVICES {
        ask_at(&socket, vip(number).v4, vip(number).v4);
    }
    // The first ones are forgotten: closed and counted, each at its own Service.
    let check = |what: &str, counts: &dyn Fn(u16) -> (Counts, u64)| {
        let all = agent.stats().unwrap();
        for number in 1..=SERVICES {
            let dialled = Dialled::udp(vip(number).v4);
            let stats = all.iter().find(|service| service.is_dialled_by(dialled)).unwrap();
            assert_eq!((Counts::of(stats), stats.flow_evictions), counts(number), "{what}: Service {number}");
        }
    };
    let first = |number: u16| number <= SERVICES - REMEMBERED;
    let all_asked = |number: u16| if first(number) { (Counts::done(1), 1) } else { (Counts::open(1), 0) };
    check("all were asked", &all_asked);
    // Those that are remembered cost nobody anything.
    for number in (1..=SERVICES).filter(|&number| !first(number)) {
        ask_at(&socket, vip(number).v4, vip(number).v4);
    }
    check("those remembered were asked again", &all_asked);
    // A forgotten one is dialled anew, in place of the one that was silent longest.
    ask_at(&socket, vip(1).v4, vip(1).v4);
    check("one forgotten was asked again", &|number| match number {
        1 => (Counts { active: 1, closed: 1, ..Counts::open(2) }, 1),
        5 => (Counts::done(1), 1),
        _ => all_asked(number),
    });
    socket.close(Close::Graceful).unwrap();
    check("closed", &|number| match number {
        1 => (Counts::done(2), 1),
        _ => (Counts::done(1), u64::from(number <= 5)),
    });
}

#[test]
fn late_answers_find_their_service() {
    let mut world = World::new(3);
    world.servers.clear();
    let servers: Vec<Server> = world
        .pods
        .iter()
        .map(|pod| {
            let udp = vec![pod.v4(PORT), pod.v6(PORT)];
            let delay = Duration::from_millis(200);
            Server::start(pod, &ServerOptions { udp, delay, ..ServerOptions::default() }).unwrap()
        })
        .collect();
    for number in 1..=3 {
        let name = format!("dns-{number}");
        world.publish(&name, number, |service| service);
        world.endpoints(&name, [&world.pods[usize::from(number) - 1]]);
    }
    let agent = world.agent();
    let client = world.client();
    for (kind, to, seen) in KINDS {
        let socket = socket(&client, kind);
        (1..=3).for_each(|number| socket.send_to(to(number)).unwrap());
        for _ in 1..=3 {
            let (from, identity) = socket.receive_from().unwrap();
            let number: u16 = identity.pod.strip_prefix("web-").unwrap().parse().unwrap();
            assert_eq!(from, seen(to(number)), "{kind:?}: from {identity:?}");
        }
    }
    drop((servers, agent));
}

#[test]
fn an_answer_from_a_backend_that_was_removed_still_carries_the_service() {
    let mut world = World::new(2);
    world.servers.clear();
    let options = |pod: &balancer_tests::topology::Pod| ServerOptions {
        udp: vec![pod.v4(PORT)],
        delay: Duration::from_millis(500),
        ..ServerOptions::default()
    };
    let _servers: Vec<Server> =
        world.pods.iter().map(|pod| Server::start(pod, &options(pod)).unwrap()).collect();
    world.publish("web", 1, |service| service);
    world.endpoints("web", [&world.pods[0]]);
    let agent = world.agent();
    let client = world.client();
    let socket = socket(&client, Kind::Udp4);
    socket.send_to(vip(1).v4).unwrap();
    world.endpoints("web", [&world.pods[1]]);
    let dialled = Dialled::udp(vip(1).v4);
    agent
        .wait_for(dialled, crate::PATIENCE, |service| {
            service.backend(world.pods[1].addresses().v4).is_some_and(|backend| backend.state == "ready")
        })
        .unwrap();
    let (from, identity) = socket.receive_from().unwrap();
    assert_eq!((from, identity.pod.as_str()), (vip(1).v4, "web-1"));

    // What the socket sends next goes to a backend that is left, and is counted there.
    let identity = ask_at(&socket, vip(1).v4, vip(1).v4);
    assert_eq!(identity.pod, "web-2");
    let stats = agent.wait_for(dialled, crate::PATIENCE, |service| service.active == 1).unwrap();
    assert_eq!(stats.backend(world.pods[1].addresses().v4).unwrap().active, 1, "{stats:#?}");
    socket.close(Close::Graceful).unwrap();
    agent.wait_for(dialled, crate::PATIENCE, |service| service.active == 0).unwrap();
}

#[test]
fn a_connected_socket_that_names_its_service_again_stays_where_it_is() {
    let world = World::new(3);
    world.publish("web", 1, |service| service.algorithm("round-robin"));
    world.publish("other", 2, |service| service.algorithm("round-robin"));
    let agent = world.agent();
    let client = world.client();
    for (kind, to, seen) in KINDS {
        let before = agent.stats_of(Dialled::udp(to(1))).unwrap().total(|backend| backend.opened);
        let socket = socket(&client, kind);
        socket.connect(to(1)).unwrap();
        let pod = socket.ask().unwrap().pod;
        for _ in 0..4 {
            assert_eq!(ask_at(&socket, to(1), seen(to(1))).pod, pod);
        }
        let open = Counts { active: 1, closed: before, ..Counts::open(before + 1) };
        expect_udp(&agent, to(1), open);
        // Another Service gets what is sent to it, but a connected socket does not hear the answer.
        let others = opened(&agent, to(2));
        socket.send_to(to(2)).unwrap();
        expect_udp(&agent, to(2), Counts { active: 1, closed: others, ..Counts::open(others + 1) });
        expect_udp(&agent, to(1), open);
        assert_eq!(socket.ask().unwrap().pod, pod);
        socket.close(Close::Graceful).unwrap();
        expect_udp(&agent, to(1), Counts::done(before + 1));
        expect_udp(&agent, to(2), Counts::done(others + 1));
    }
}

/// How many sockets have been sent to a Service.
fn opened(agent: &Agent<'_>, to: SocketAddr) -> u64 {
    agent.stats_of(Dialled::udp(to)).unwrap().total(|backend| backend.opened)
}

#[test]
fn a_socket_that_is_connected_elsewhere_lets_go() {
    let world = World::web(2);
    world.publish("other", 2, |service| service);
    let agent = world.agent();
    let client = world.client();
    let socket = socket(&client, Kind::Udp4);
    socket.connect(vip(1).v4).unwrap();
    // UDP may be connected again at any time, without taking anything down first.
    socket.connect(vip(2).v4).unwrap();
    assert_eq!(socket.peer().unwrap(), vip(2).v4);
    socket.ask().unwrap();
    expect_udp(&agent, vip(1).v4, Counts::done(1));
    expect_udp(&agent, vip(2).v4, Counts::open(1));
    let direct = world.pods[0].v4(PORT);
    socket.connect(direct).unwrap();
    assert_eq!((socket.peer().unwrap(), socket.ask().unwrap().pod.as_str()), (direct, "web-1"));
    expect_udp(&agent, vip(2).v4, Counts::done(1));
    socket.close(Close::Graceful).unwrap();
    expect_udp(&agent, vip(1).v4, Counts::done(1));
    expect_udp(&agent, vip(2).v4, Counts::done(1));
}

#[test]
fn a_socket_that_is_no_longer_connected_goes_on() {
    let world = World::new(2);
    world.publish("web", 1, |service| service);
    world.endpoints("web", [&world.pods[0]]);
    let agent = world.agent();
    let client = world.client();
    let socket = socket(&client, Kind::Udp4);
    socket.connect(vip(1).v4).unwrap();
    socket.disconnect().unwrap();
    // The kernel tells nobody, so that the socket counts until it is used again or closed.
    expect_udp(&agent, vip(1).v4, Counts::open(1));
    assert_eq!(ask_at(&socket, vip(1).v4, vip(1).v4).pod, "web-1");
    // It does not hold on to a backend that is gone.
    world.endpoints("web", [&world.pods[1]]);
    let there = |pod: usize, state: &'static str| {
        let addr = world.pods[pod].addresses().v4;
        agent
            .wait_for(Dialled::udp(vip(1).v4), crate::PATIENCE, |service| {
                service.backend(addr).is_some_and(|backend| backend.state == state)
            })
            .unwrap()
    };
    there(1, "ready");
    assert_eq!(ask_at(&socket, vip(1).v4, vip(1).v4).pod, "web-2");
    let stats = there(1, "ready");
    assert_eq!(stats.active, 1, "{stats:#?}");
    socket.close(Close::Graceful).unwrap();
    agent.wait_for(Dialled::udp(vip(1).v4), crate::PATIENCE, |service| service.active == 0).unwrap();
}

#[test]
fn threads_that_share_a_socket_share_its_backend() {
    const THREADS: u32 = 8;
    let world = World::new(3);
    for number in 1..=4 {
        let name = format!("dns-{number}");
        world.publish(&name, number, |service| service.algorithm("round-robin"));
        if number < 4 {
            world.endpoints(&name, [&world.pods[usize::from(number) - 1]]);
        }
    }
    let agent = world.agent();
    let client = world.client();
    for (kind, to, seen) in KINDS {
        // Many begin at the same Service at the same time: one choice, one flow.
        let before = opened(&agent, to(4));
        let shared = socket(&client, kind);
        let answers = shared.ask_together(&[to(4)], THREADS, 10).unwrap();
        assert_eq!(answers.len(), 1, "{kind:?}: one source and one pod: {answers:?}");
        assert_eq!((answers[0].0, answers[0].2), (seen(to(4)), u64::from(THREADS) * 10), "{kind:?}");
        expect_udp(&agent, to(4), Counts { active: 1, closed: before, ..Counts::open(before + 1) });
        shared.close(Close::Graceful).unwrap();
        expect_udp(&agent, to(4), Counts::done(before + 1));

        let shared = socket(&client, kind);
        shared.connect(to(4)).unwrap();
        let answers = shared.ask_together(&[], THREADS, 10).unwrap();
        assert_eq!((answers[0].0, answers[0].2), (seen(to(4)), u64::from(THREADS) * 10), "{kind:?}");
        // Some name it and some do not: one backend all the same.
        let more = shared.ask_together(&[to(4)], THREADS, 10).unwrap();
        assert_eq!(more, answers, "{kind:?}");
        expect_udp(&agent, to(4), Counts { active: 1, closed: before + 1, ..Counts::open(before + 2) });
        shared.close(Close::Graceful).unwrap();
        expect_udp(&agent, to(4), Counts::done(before + 2));

        let before = opened(&agent, to(1));
        let shared = socket(&client, kind);
        let answers = shared.ask_together(&[to(1), to(2), to(3)], THREADS, 5).unwrap();
        let expected: Vec<_> = (1..=3)
            .map(|number| (seen(to(number)), format!("web-{number}"), u64::from(THREADS) * 5))
            .collect();
        assert_eq!(answers, expected, "{kind:?}");
        for number in 1..=3 {
            expect_udp(&agent, to(number), Counts { active: 1, closed: before, ..Counts::open(before + 1) });
        }
        shared.close(Close::Graceful).unwrap();
        for number in 1..=3 {
            expect_udp(&agent, to(number), Counts::done(before + 1));
        }
    }
}

#[test]
fn datagrams_elsewhere_are_nobodys() {
    let world = World::web(1);
    let agent = world.agent();
    let client = world.client();
    let socket = socket(&client, Kind::Udp4);
    let direct = world.pods[0].v4(PORT);
    ask_at(&socket, direct, direct);
    // The same socket, the same pod, by way of the Service: from now on the source of its answers is the Service.
    ask_at(&socket, vip(1).v4, vip(1).v4);
    expect_udp(&agent, vip(1).v4, Counts::open(1));
    // TCP has its own Service port.
    expect(&agent, vip(1).v4, Counts::default());
    // Sending to nobody is not an error of the balancer's, nor does it leave a trace.
    thread::sleep(Duration::from_millis(10));
    socket.send_to(SocketAddr::new(vip(1).v4.ip(), 81)).unwrap_err();
    expect_udp(&agent, vip(1).v4, Counts::open(1));
}
