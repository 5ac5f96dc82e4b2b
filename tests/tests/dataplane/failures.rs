//! Attempts that fail: counted apart, once, and the socket can be used again.

use std::{net::IpAddr, process::Command, time::Duration};

use balancer_tests::peer::{
    Client, Socket,
    protocol::{Close, Kind, Setting},
};
use rustix::io::Errno;

use crate::{Counts, World, expect, vip};

/// So many attempts, all over, none of them established.
const fn failed(count: u64) -> Counts {
    Counts { established: 0, ..Counts::done(count) }
}

/// A TCP socket that does not wait.
fn nonblocking(client: &Client) -> Socket {
    let socket = client.socket(Kind::Tcp4).unwrap();
    socket.set(Setting::Nonblocking).unwrap();
    socket
}

#[track_caller]
fn begin(socket: &Socket, number: u16) {
    assert_eq!(socket.connect(vip(number).v4).unwrap_err().errno(), Some(Errno::INPROGRESS));
}

/// The error of a connect() that was begun.
#[track_caller]
fn end(socket: &Socket) -> Option<Errno> {
    socket.finish(Duration::from_secs(10)).unwrap_err().errno()
}

/// A world whose Services 1 to 4 have one backend each: one that refuses, one that swallows, one that the network says is not there,
/// one that there is no route to.
fn failing() -> World {
    let mut world = World::new(1);
    world.servers[0].refuse().unwrap();
    let blackhole = world.node.blackhole().unwrap();
    let nobody = world.node.nobody();
    let outside: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    for (number, name) in [(1, "refusing"), (2, "swallowing"), (3, "gone"), (4, "outside")] {
        world.publish(name, number, |service| service);
    }
    world.bare_endpoints("swallowing", blackhole.both());
    world.bare_endpoints("gone", nobody.both());
    world.bare_endpoints("outside", outside);
    world
}

#[test]
fn each_kind_of_failure_has_a_count_of_its_own() {
    let world = failing();
    let agent = world.agent();
    let client = world.client();
    // All at once: two of them take seconds.
    let sockets = [(Kind::Tcp4, vip(2).v4), (Kind::Tcp6, vip(2).v6), (Kind::Tcp6, vip(2).v4)];
    let swallowed = sockets.map(|(kind, to)| {
        let socket = client.socket(kind).unwrap();
        socket.set(Setting::SynRetries(1)).unwrap();
        socket.set(Setting::Nonblocking).unwrap();
        assert_eq!(socket.connect(to).unwrap_err().errno(), Some(Errno::INPROGRESS));
        socket
    });
    let connecting = Counts { active: 1, opened: 1, ..Counts::default() };
    expect(&agent, vip(2).v6, connecting);
    expect(&agent, vip(2).v4, Counts { active: 2, opened: 2, ..Counts::default() });

    for (kind, to, before) in
        [(Kind::Tcp4, vip(1).v4, 0), (Kind::Tcp6, vip(1).v6, 0), (Kind::Tcp6, vip(1).v4, 1)]
    {
        let socket = client.socket(kind).unwrap();
        assert_eq!(socket.connect(to).unwrap_err().errno(), Some(Errno::CONNREFUSED), "{kind:?}");
        // At once, not when the application closes the socket.
        expect(&agent, to, Counts { refused: before + 1, ..failed(before + 1) });
        drop(socket);
        expect(&agent, to, Counts { refused: before + 1, ..failed(before + 1) });
    }
    for to in [vip(3).v4, vip(3).v6] {
        let socket = client.socket(Kind::tcp(to)).unwrap();
        assert_eq!(socket.connect(to).unwrap_err().errno(), Some(Errno::NETUNREACH), "{to}");
        expect(&agent, to, Counts { unreachable: 1, ..failed(1) });
    }
    for to in [vip(4).v4, vip(4).v6] {
        let socket = client.socket(Kind::tcp(to)).unwrap();
        assert_eq!(socket.connect(to).unwrap_err().errno(), Some(Errno::NETUNREACH), "{to}");
        // Not even a SYN was sent, of which the kernel tells nobody before the socket is closed or used again.
        expect(&agent, to, connecting);
        socket.close(Close::Graceful).unwrap();
        expect(&agent, to, Counts { unreachable: 1, ..failed(1) });
    }
    for socket in &swallowed {
        assert_eq!(end(socket), Some(Errno::TIMEDOUT));
    }
    expect(&agent, vip(2).v6, Counts { timed_out: 1, ..failed(1) });
    expect(&agent, vip(2).v4, Counts { timed_out: 2, ..failed(2) });
    drop(swallowed);
    expect(&agent, vip(2).v4, Counts { timed_out: 2, ..failed(2) });
}

#[test]
fn what_the_application_gives_up_is_aborted() {
    let world = failing();
    let agent = world.agent();
    let client = world.client();
    for (count, how) in [(1, Close::Graceful), (2, Close::Reset)] {
        let socket = nonblocking(&client);
        begin(&socket, 2);
        socket.close(how).unwrap();
        expect(&agent, vip(2).v4, Counts { aborted: count, ..failed(count) });
    }
    // Its own time-out, in the way of most libraries.
    let socket = nonblocking(&client);
    begin(&socket, 2);
    assert_eq!(socket.finish(Duration::from_millis(50)).unwrap_err().errno(), Some(Errno::TIME));
    expect(&agent, vip(2).v4, Counts { active: 1, opened: 3, aborted: 2, ..failed(2) });
    socket.close(Close::Graceful).unwrap();
    expect(&agent, vip(2).v4, Counts { aborted: 3, ..failed(3) });

    // Killed while it waits.
    let sockets: Vec<Socket> = (0..5)
        .map(|_| {
            let socket = nonblocking(&client);
            begin(&socket, 2);
            socket
        })
        .collect();
    expect(&agent, vip(2).v4, Counts { active: 5, opened: 8, aborted: 3, ..failed(3) });
    client.kill().unwrap();
    expect(&agent, vip(2).v4, Counts { aborted: 8, ..failed(8) });
    drop(sockets);
}

#[test]
fn a_user_timeout_is_a_time_out() {
    let world = failing();
    let agent = world.agent();
    let client = world.client();
    let socket = client.socket(Kind::Tcp4).unwrap();
    socket.set(Setting::UserTimeout(300)).unwrap();
    assert_eq!(socket.connect(vip(2).v4).unwrap_err().errno(), Some(Errno::TIMEDOUT));
    expect(&agent, vip(2).v4, Counts { timed_out: 1, ..failed(1) });
}

#[test]
fn a_refused_socket_can_dial_again() {
    let mut world = World::new(2);
    world.publish("web", 1, |service| service.algorithm("round-robin"));
    world.servers[1].refuse().unwrap();
    let agent = world.agent();
    let client = world.client();
    // The one that refuses is met once, and then avoided for a second.
    let (mut tries, mut refused) = (0, 0);
    let mut open = Vec::new();
    for _ in 0..4 {
        let socket = client.socket(Kind::Tcp4).unwrap();
        loop {
            tries += 1;
            match socket.connect(vip(1).v4) {
                Ok(()) => break,
                Err(error) => assert_eq!(error.errno(), Some(Errno::CONNREFUSED)),
            }
            refused += 1;
        }
        assert_eq!(socket.ask().unwrap().pod, "web-1");
        assert_eq!(socket.peer().unwrap(), vip(1).v4);
        open.push(socket);
    }
    let counts =
        Counts { active: 4, opened: tries, established: 4, closed: refused, refused, ..Counts::default() };
    let stats = expect(&agent, vip(1).v4, counts);
    assert!((1..=2).contains(&refused), "{refused}");
    assert_eq!(stats.backend(world.pods[1].addresses().v4).unwrap().failed.refused, refused);
    drop(open);
    expect(&agent, vip(1).v4, Counts { active: 0, closed: tries, ..counts });
}

#[test]
fn a_refused_socket_can_dial_elsewhere() {
    let world = failing();
    world.publish("good", 5, |service| service);
    let other = world.node.pod("other").unwrap();
    let _server = other.server(crate::PORT).unwrap();
    world.endpoints("good", [&other]);
    let agent = world.agent();
    let client = world.client();
    let socket = client.socket(Kind::Tcp4).unwrap();
    for number in [1, 4, 1] {
        socket.connect(vip(number).v4).unwrap_err();
    }
    socket.connect(vip(5).v4).unwrap();
    assert_eq!((socket.ask().unwrap().pod.as_str(), socket.peer().unwrap()), ("other", vip(5).v4));
    expect(&agent, vip(1).v4, Counts { refused: 2, ..failed(2) });
    expect(&agent, vip(4).v4, Counts { unreachable: 1, ..failed(1) });
    expect(&agent, vip(5).v4, Counts::open(1));
}

#[test]
fn connects_that_do_not_wait() {
    let world = World::web(2);
    let agent = world.agent();
    let client = world.client();
    let sockets: Vec<Socket> = (0..10)
        .map(|_| {
            let socket = nonblocking(&client);
            begin(&socket, 1);
            socket
        })
        .collect();
    for socket in &sockets {
        socket.finish(Duration::from_secs(5)).unwrap();
        // The first says that it is done.
        socket.connect(vip(1).v4).unwrap();
        assert_eq!(socket.connect(vip(1).v4).unwrap_err().errno(), Some(Errno::ISCONN));
        assert_eq!(socket.peer().unwrap(), vip(1).v4);
        socket.set(Setting::Blocking).unwrap();
        assert!(socket.ask().unwrap().pod.starts_with("web-"));
    }
    let stats = expect(&agent, vip(1).v4, Counts::open(10));
    assert_eq!(stats.active_each(), [5, 5]);
    drop(sockets);
    expect(&agent, vip(1).v4, Counts::done(10));
}

#[test]
fn a_refusal_that_nobody_waited_for() {
    let mut world = World::web(1);
    let mut servers = std::mem::take(&mut world.servers);
    servers[0].refuse().unwrap();
    let agent = world.agent();
    let client = world.client();
    let socket = nonblocking(&client);
    begin(&socket, 1);
    assert_eq!(end(&socket), Some(Errno::CONNREFUSED));
    expect(&agent, vip(1).v4, Counts { refused: 1, ..failed(1) });
    // The kernel takes the socket down at the next call, and dials at the one after it.
    assert_eq!(socket.connect(vip(1).v4).unwrap_err().errno(), Some(Errno::CONNABORTED));
    let _server = world.pods[0].server(crate::PORT).unwrap();
    begin(&socket, 1);
    socket.finish(Duration::from_secs(5)).unwrap();
    expect(&agent, vip(1).v4, Counts { active: 1, opened: 2, established: 1, refused: 1, ..failed(1) });
}

#[test]
fn a_connect_that_is_taken_back() {
    let world = failing();
    world.publish("web", 5, |service| service);
    let other = world.node.pod("other").unwrap();
    let _server = other.server(crate::PORT).unwrap();
    world.endpoints("web", [&other]);
    let agent = world.agent();
    let client = world.client();
    let socket = nonblocking(&client);
    begin(&socket, 2);
    socket.disconnect().unwrap();
    // Nothing tells it from an ICMP error.
    expect(&agent, vip(2).v4, Counts { unreachable: 1, ..failed(1) });
    socket.set(Setting::Blocking).unwrap();
    socket.connect(vip(5).v4).unwrap();
    assert_eq!(socket.ask().unwrap().pod, "other");
    expect(&agent, vip(5).v4, Counts::open(1));
    socket.close(Close::Graceful).unwrap();
    expect(&agent, vip(5).v4, Counts::done(1));
    expect(&agent, vip(2).v4, Counts { unreachable: 1, ..failed(1) });
}

#[test]
fn connections_that_an_administrator_ends() {
    let world = World::web(1);
    let agent = world.agent();
    let client = world.client();
    client.hold(5, vip(1).v4).unwrap();
    expect(&agent, vip(1).v4, Counts::open(5));
    let mut ss = Command::new("ss");
    ss.args(["--kill", "--tcp", "dst", &world.pods[0].addresses().v4.to_string()]);
    let output = world.pod.output(ss).unwrap();
    assert!(output.status.success(), "{output:?}");
    // At once, though the application still holds the sockets.
    expect(&agent, vip(1).v4, Counts::done(5));
    assert_eq!(client.check_held().unwrap().broken, 5);
    client.release_broken().unwrap();
    expect(&agent, vip(1).v4, Counts::done(5));
}
