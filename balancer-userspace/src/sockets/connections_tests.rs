use std::{net::SocketAddr, time::Duration};

use balancer_common::{
    abi::{FrontendKey, PROBE_TCP, Phase, SocketState, TCP},
    addr::{Ip, PortBe},
};

use super::*;
use crate::{
    cli::fixture,
    model::Protocol,
    sockets::{Namespace, NamespaceName, PodRef, SocketStatus, TcpState, Translation},
};

/// A socket that dialled Service 3 of the fixture, `default/web:http`, and was sent to its first backend.
fn socket(change: impl FnOnce(&mut SocketState)) -> LiveSocket {
    let port = |text: &str| -> (Ip, PortBe) {
        let address: SocketAddr = text.parse().unwrap();
        (Ip::from(address.ip()), PortBe::from_host(address.port()))
    };
    let (frontend, target) = (port("10.96.0.1:80"), port("10.244.0.5:8080"));
    let mut state = SocketState {
        phase: Phase::Established as u32,
        backend: 1,
        generation: 9,
        service: 3,
        frontend: FrontendKey::new(frontend.0, frontend.1, TCP),
        target: target.0,
        target_port: target.1,
        ..Default::default()
    };
    change(&mut state);
    LiveSocket {
        netns: Some(Arc::new(Namespace {
            inode: 4_026_531_840,
            cookie: Some(1),
            name: NamespaceName::Process(1),
        })),
        protocol: Protocol::Tcp,
        local: Some("10.244.0.9:40000".parse().unwrap()),
        remote: Some("10.244.0.5:8080".parse().unwrap()),
        status: SocketStatus::Tcp(TcpState::Established),
        cookie: 1,
        inode: 77,
        cgroup_id: Some(1),
        translation: Translation::Connect(state),
        tcp: None,
        receive_queue: 0,
        send_queue: 0,
        age: Some(Duration::from_secs(60)),
        idle: Some(Duration::from_secs(5)),
    }
}

fn rows(sockets: Vec<LiveSocket>, owners: &HashMap<u32, Vec<Process>>) -> Vec<Connection> {
    connections(&Listing { sockets, incomplete: Vec::new() }, owners, &fixture::snapshot())
}

#[test]
fn a_row_has_the_names_of_what_it_leads_to_and_of_who_holds_it() {
    let holder = |pid| Process {
        pid,
        comm: format!("curl-{pid}"),
        cgroup: "/kubepods/x".into(),
        pod: Some(PodRef { uid: "some-uid".into(), container: Some("some-id".into()) }),
    };
    let owners = [(77, vec![holder(5), holder(6)])].into();
    let rows = rows(vec![socket(|_| {})], &owners);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((&*row.namespace, &*row.service, &*row.port_name), ("default", "web", "http"));
    assert_eq!((&*row.pod, &*row.node, row.backend_gone), ("web-5", "node-a", BackendGone::No));
    assert_eq!(
        (row.frontend, row.backend),
        ("10.96.0.1:80".parse().unwrap(), "10.244.0.5:8080".parse().unwrap())
    );
    assert_eq!((row.state, row.netns), ("ESTABLISHED", 4_026_531_840));
    assert_eq!((row.age, row.idle), (Some(Duration::from_secs(60)), Some(Duration::from_secs(5))));
    let expect = view::Process {
        pid: 5,
        comm: "curl-5".into(),
        pod: Some("some-uid".into()),
        cgroup: "/kubepods/x".into(),
        sharers: 1,
    };
    assert_eq!(row.process, Some(expect));
}

#[test]
fn what_is_counted_as_closed_and_the_self_probe_are_no_connections() {
    let closed = socket(|state| state.phase = Phase::Closed as u32);
    let probe = socket(|state| state.service = PROBE_TCP);
    assert!(rows(vec![closed, probe], &HashMap::new()).is_empty());
}

#[test]
fn an_id_that_stands_for_something_else_by_now_lends_no_name() {
    let other_service = socket(|state| state.frontend.port = PortBe::from_host(81));
    let no_service = socket(|state| state.service = 99);
    for (case, name) in [(other_service, "removed Service 3"), (no_service, "removed Service 99")] {
        let rows = rows(vec![case], &HashMap::new());
        assert_eq!((&*rows[0].namespace, &*rows[0].service), ("", name));
    }

    let other_backend = socket(|state| state.target_port = PortBe::from_host(1));
    let no_backend = socket(|state| state.backend = 99);
    for case in [other_backend, no_backend] {
        let rows = rows(vec![case], &HashMap::new());
        assert_eq!((&*rows[0].pod, rows[0].backend_gone), ("", BackendGone::Yes));
        assert_eq!(&*rows[0].service, "web");
        assert_eq!(rows[0].process, None);
    }
}

#[test]
fn a_backend_that_was_removed_is_marked() {
    let target = SocketAddr::from(([10, 244, 0, 8], 8080));
    let removed = socket(|state| {
        state.backend = 4;
        state.target = Ip::from(target.ip());
    });
    let rows = rows(vec![removed], &HashMap::new());
    assert_eq!((rows[0].backend, rows[0].backend_gone), (target, BackendGone::Yes));
}
