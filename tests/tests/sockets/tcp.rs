//! TCP, in every family and phase.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::Command,
    time::Duration,
};

use balancer_common::abi::{Phase, SocketState, TCP};
use balancer_userspace::{
    model::Protocol,
    sockets::{LiveSocket, SocketStatus, TcpState, Translation, active_by_backend},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt::socket_cookie},
};

use crate::{FRONTEND, Maps, assert_about, place::Place, state};

#[test]
fn tcp_sockets_of_every_family_come_with_what_they_carry() {
    let maps = Maps::new();
    let place = Place::named();
    for (listen, dial) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        // An AF_INET6 socket that talks IPv4.
        ("127.0.0.1:0", "::ffff:127.0.0.1"),
    ] {
        let (listener, client, _server) = place.enter(|| {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect((dial.parse::<IpAddr>().unwrap(), port)).unwrap();
            let (server, _) = listener.accept().unwrap();
            (listener, client, server)
        });
        let target = listener.local_addr().unwrap();
        let carried = state(TCP, Phase::Established, 17, target);
        maps.sockets.set(&client, &carried);

        let found = maps.all();
        let [socket] = found.as_slice() else { panic!("{dial}: {found:#?}") };
        assert_eq!(socket.translation, Translation::Connect(carried), "{dial}");
        assert_eq!(socket.cookie, socket_cookie(&client).unwrap());
        assert_eq!(socket.status, SocketStatus::Tcp(TcpState::Established));
        assert_eq!((socket.protocol, socket.remote, socket.target()), (Protocol::Tcp, Some(target), target));
        let local = client.local_addr().unwrap();
        assert_eq!(socket.local, Some(SocketAddr::new(local.ip().to_canonical(), local.port())));
        assert_eq!(socket.frontend(), FRONTEND.parse().unwrap());
        assert_eq!((socket.backend(), socket.service(), socket.is_open()), ((17, 3), 5, true));
        let netns = socket.netns.as_ref().unwrap();
        assert_eq!((netns.inode, netns.name.to_string()), (place.inode(), place.name()));
        assert_about(socket.age, 2);
        // Nothing was sent: idle since the handshake, which is recorded as 1 s ago.
        assert_about(socket.idle, 1);
    }
}

#[test]
fn what_the_kernel_measures_is_told_as_payload() {
    let maps = Maps::new();
    let place = Place::named();
    let (listener, mut client, mut server) = place.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    });
    maps.sockets.set(&client, &state(TCP, Phase::Established, 1, listener.local_addr().unwrap()));
    let metrics = |maps: &Maps| maps.all()[0].tcp.unwrap();

    let fresh = metrics(&maps);
    assert_eq!((fresh.bytes_sent, fresh.bytes_received, fresh.idle()), (0, 0, None));

    client.write_all(b"hello, server").unwrap();
    server.read_exact(&mut [0; 13]).unwrap();
    let asked = metrics(&maps);
    assert_eq!((asked.bytes_sent, asked.last_received), (13, None));
    assert!(asked.last_sent.is_some());

    server.write_all(b"hi").unwrap();
    client.read_exact(&mut [0; 2]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let answered = metrics(&maps);
    assert_eq!((answered.bytes_sent, answered.bytes_received, answered.unacked), (13, 2, 0));
    let idle = answered.idle().unwrap();
    assert!(idle >= Duration::from_millis(250) && idle < Duration::from_secs(5), "{idle:?}");
    assert!(answered.rtt.is_some_and(|rtt| rtt > Duration::ZERO));
}

#[test]
fn a_connecting_socket_has_no_measurements_and_a_closed_phase_is_not_open() {
    let maps = Maps::new();
    let place = Place::named();
    let target: SocketAddr = "192.0.2.1:80".parse().unwrap();
    // A link to nobody: the SYN is never answered.
    let (client, _listener, done, _server) = place.enter(|| {
        for command in [
            "ip link add dead type veth peer name end",
            "ip link set dead up && ip link set end up",
            "ip addr add 192.0.2.2/24 dev dead",
            "ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev dead",
        ] {
            assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let done = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (dial_without_waiting(target), listener, done, server)
    });
    maps.sockets.set(&client, &SocketState { established_ns: 0, ..state(TCP, Phase::Connecting, 1, target) });
    maps.sockets.set(&done, &state(TCP, Phase::Closed, 2, target));

    let found = maps.all();
    let of = |phase: Phase| {
        let has =
            |s: &&LiveSocket| matches!(s.translation, Translation::Connect(c) if c.phase == phase as u32);
        found.iter().find(has).unwrap()
    };
    let (closed, connecting) = (of(Phase::Closed), of(Phase::Connecting));
    assert_eq!(found.len(), 2);
    assert_eq!(connecting.status, SocketStatus::Tcp(TcpState::SynSent));
    assert_eq!((connecting.is_open(), connecting.tcp, connecting.idle), (true, None, None));
    assert!(!closed.is_open());
    assert_eq!(active_by_backend(&found), [((1, 3), 1)].into());
}

/// A TCP socket whose handshake is under way.
fn dial_without_waiting(target: SocketAddr) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    assert_eq!(connect(&socket, &target), Err(Errno::INPROGRESS));
    socket
}
