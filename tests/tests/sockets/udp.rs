//! UDP, connected and not, and the namespaces that its sockets are in.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use balancer_common::abi::{Phase, SocketState, UDP, UdpFlows};
use balancer_userspace::{
    model::Protocol,
    sockets::{LiveSocket, Scope, SocketStatus, Translation},
};
use rustix::net::sockopt::socket_cookie;

use crate::{Maps, assert_about, flow, place::Place, state};

#[test]
fn connected_udp_sockets_of_every_family_come_with_what_they_carry() {
    let maps = Maps::new();
    let place = Place::named();
    for (bind, dial) in
        [("127.0.0.1:0", "127.0.0.1:53"), ("[::1]:0", "[::1]:53"), ("[::]:0", "[::ffff:127.0.0.1]:53")]
    {
        let client = place.enter(|| {
            let client = UdpSocket::bind(bind).unwrap();
            client.connect(dial).unwrap();
            client
        });
        let dial: SocketAddr = dial.parse().unwrap();
        let target = SocketAddr::new(dial.ip().to_canonical(), dial.port());
        let carried = state(UDP, Phase::Established, 9, target);
        maps.sockets.set(&client, &carried);

        let found = maps.all();
        let [socket] = found.as_slice() else { panic!("{dial}: {found:#?}") };
        assert_eq!(socket.translation, Translation::Connect(carried));
        assert_eq!((socket.protocol, socket.status), (Protocol::Udp, SocketStatus::Connected));
        assert_eq!((socket.remote, socket.idle), (Some(target), None));
        assert_eq!(socket.cookie, socket_cookie(&client).unwrap());
        assert_eq!(socket.netns.as_ref().unwrap().name.to_string(), place.name());
        assert_about(socket.age, 2);
        // As the programs leave it: the value outlives the socket for a moment.
        maps.sockets.set(&client, &SocketState { phase: Phase::Closed as u32, ..carried });
    }
}

#[test]
fn an_unconnected_udp_socket_is_listed_once_per_open_flow() {
    let maps = Maps::new();
    let place = Place::named();
    let client = place.enter(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut flows = UdpFlows::default();
    flows.flows[0] = flow(Phase::Established, 1);
    flows.flows[1] = flow(Phase::Closed, 2);
    flows.flows[2] = flow(Phase::Claimed, 3);
    flows.flows[15] = flow(Phase::Established, 4);
    maps.flows.set(&client, &flows);

    let found = maps.all();
    assert_eq!(found.iter().map(LiveSocket::backend).collect::<Vec<_>>(), [(1, 1), (4, 1)]);
    for socket in &found {
        assert_eq!((socket.protocol, socket.status), (Protocol::Udp, SocketStatus::Unconnected));
        assert_eq!((socket.local, socket.remote), (Some(client.local_addr().unwrap()), None));
        assert_eq!((socket.target(), socket.age), ("10.1.2.3:5353".parse().unwrap(), None));
        assert_about(socket.idle, 4);
    }
}

#[test]
fn namespaces_are_found_by_name_and_by_process_and_the_own_one_alone_if_so_asked() {
    let maps = Maps::new();
    let places = [Place::named(), Place::with_process()];
    let clients = places.each_ref().map(|place| {
        place.enter(|| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect("127.0.0.1:53").unwrap();
            client
        })
    });
    for client in &clients {
        maps.sockets.set(client, &state(UDP, Phase::Established, 1, "127.0.0.1:53".parse().unwrap()));
    }
    let found = maps.all();
    assert_eq!(found.len(), 2);
    let namespaces = clients.each_ref().map(|client| {
        let cookie = socket_cookie(client).unwrap();
        let socket = found.iter().find(|socket| socket.cookie == cookie).unwrap();
        Arc::clone(socket.netns.as_ref().unwrap())
    });
    assert_eq!(namespaces.each_ref().map(|n| n.name.to_string()), places.each_ref().map(Place::name));
    assert_eq!(namespaces.each_ref().map(|n| n.inode), places.each_ref().map(Place::inode));
    let [one, other] = namespaces.map(|namespace| namespace.cookie.unwrap());
    assert_ne!(one, other);

    assert!(maps.list(Scope::Own).unwrap().sockets.is_empty());
    let inside = places[0].enter(|| maps.list(Scope::Own).unwrap());
    assert_eq!(
        inside.sockets.iter().map(|s| s.cookie).collect::<Vec<_>>(),
        [socket_cookie(&clients[0]).unwrap()]
    );
}

#[test]
fn a_udp_socket_in_a_namespace_that_nothing_leads_to_is_listed_without_address() {
    let maps = Maps::new();
    let place = Place::named();
    let client = place.enter(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut flows = UdpFlows::default();
    flows.flows[3] = flow(Phase::Established, 1);
    maps.flows.set(&client, &flows);
    drop(place);
    let found = maps.all();
    let [socket] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((socket.netns.as_ref(), socket.local), (None, None));
    assert_eq!((socket.status, socket.is_open()), (SocketStatus::Unknown, true));
}
