//! What is refused, what is reported as missing, and how much there may be.

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use balancer_common::abi::{Phase, TCP, UdpFlows};
use balancer_userspace::sockets::{Scope, SocketsError, active_by_backend, live_sockets};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities, set_capabilities},
};

use crate::{Maps, flow, place::Place, state, storage::Map};

#[test]
fn a_map_that_is_no_socket_storage_or_of_another_layout_is_refused() {
    let hash = Map::hash();
    let error = live_sockets(hash.as_fd(), None, Scope::Own).unwrap_err();
    assert!(matches!(error, SocketsError::NotSocketStorage { .. }), "{error}");

    let other = Map::sk_storage(40);
    let place = Place::named();
    let (_listener, client) = place.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    });
    other.set(&client, &[0_u8; 40]);
    let error = place.enter(|| live_sockets(other.as_fd(), None, Scope::Own)).unwrap_err();
    let expected = size_of::<balancer_common::abi::SocketState>();
    assert!(
        matches!(error, SocketsError::Layout { expected: bytes, found: 40, .. } if bytes == expected),
        "{error}"
    );
}

#[test]
fn missing_capabilities_are_named() {
    let maps = Maps::new();
    let place = Place::named();
    let _client = place.enter(|| UdpSocket::bind("127.0.0.1:0").unwrap());

    // Other namespaces need CAP_SYS_ADMIN; the own one is listed all the same.
    let listing = place.enter(|| {
        without(CapabilitySet::SYS_ADMIN);
        maps.list(Scope::Node).unwrap()
    });
    let texts: Vec<_> = listing.incomplete.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|text| text.contains("CAP_SYS_ADMIN")), "{texts:?}");

    let error = place.enter(|| {
        without(CapabilitySet::SYS_ADMIN | CapabilitySet::BPF);
        maps.list(Scope::Own).unwrap_err()
    });
    assert!(error.to_string().contains("CAP_BPF"), "{error}");

    // Without what iterators need, TCP is listed and UDP reported as missing.
    let listing = place.enter(|| {
        without(CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON);
        maps.list(Scope::Own).unwrap()
    });
    let texts: Vec<_> = listing.incomplete.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|text| text.contains("CAP_PERFMON")), "{texts:?}");
}

/// Gives capabilities of the calling thread up.
fn without(dropped: CapabilitySet) {
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(dropped);
    sets.permitted.remove(dropped);
    set_capabilities(None, sets).unwrap();
}

#[test]
#[expect(clippy::print_stderr, reason = "a measurement, for who wants to see it")]
fn thousands_of_sockets_are_listed_completely_and_fast() {
    const TCP_SOCKETS: usize = 2_000;
    const UDP_SOCKETS: usize = 2_000;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).unwrap();
    let maps = Maps::new();
    let place = Place::named();
    let target: SocketAddr = "127.0.0.1:7".parse().unwrap();
    let (_listener, connections, datagrams) = place.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Vec<_> = (0..TCP_SOCKETS)
            .map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap()))
            .collect();
        let datagrams: Vec<_> = (0..UDP_SOCKETS).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        (listener, connections, datagrams)
    });
    for (client, _) in &connections {
        maps.sockets.set(client, &state(TCP, Phase::Established, 1, target));
    }
    let mut flows = UdpFlows::default();
    flows.flows[0] = flow(Phase::Established, 2);
    flows.flows[9] = flow(Phase::Established, 2);
    for socket in &datagrams {
        maps.flows.set(socket, &flows);
    }

    let began = Instant::now();
    let found = maps.all();
    let took = began.elapsed();
    eprintln!("{} sockets in {took:?}", found.len());
    let active = active_by_backend(&found);
    assert_eq!(active, [((1, 3), TCP_SOCKETS as u64), ((2, 1), 2 * UDP_SOCKETS as u64)].into());
    // An unoptimised build on a busy machine; a scan that is quadratic would take many seconds.
    assert!(took < Duration::from_secs(3), "{took:?}");
}
