//! The real programs, and real traffic: what they record is what is listed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use balancer_common::{
    abi::{
        Backend, BackendState, Control, FIRST_BACKEND, FIRST_SERVICE, FrontendKey, SERVICE_UNIFORM, Service,
        Slot, SlotRange, TCP, UDP,
    },
    addr::PortBe,
};
use balancer_tests::{
    kernel::require_kernel,
    peer::{Server, ServerOptions, protocol::Kind},
    topology::{Pod, Scratch, Topology, service_v4, service_v6},
};
use balancer_userspace::{
    datapath::{self, Installation, Maps, Pins, Sizes},
    model::Protocol,
    sockets::{LiveSocket, Scope, Search, SocketStatus, TcpState, active_by_backend, live_sockets, owners},
};

const PORT: u16 = 8080;

/// The programs, attached to the cgroup of a topology; everything is removed when dropped.
struct Balancer {
    installation: Installation,
    pins: Pins,
    /// Removes what [`datapath::detach`] might leave.
    _scratch: Scratch,
}

impl Balancer {
    fn install(node: &Topology) -> Self {
        let scratch = Scratch::pins();
        let pins = Pins::new(scratch.path());
        let sizes = Sizes { services: 64, backends: 64, slots: 64, clients: 64 };
        let installation = datapath::install(&pins, node.cgroup(), &sizes, 0).unwrap();
        // As an agent with an endless lease would leave it.
        let control: Control = Control { lease_expires_ns: u64::MAX, ..bytemuck::Zeroable::zeroed() };
        installation.maps.control.set(0, &control);
        Self { installation, pins, _scratch: scratch }
    }

    fn maps(&self) -> &Maps {
        &self.installation.maps
    }

    /// Makes `frontend` a Service with these backends; its id is `FIRST_SERVICE + number`.
    fn serve(&mut self, number: u32, protocol: u8, frontend: SocketAddr, backends: &[SocketAddr]) {
        let maps = &mut self.installation.maps;
        let service = FIRST_SERVICE + number;
        let key = FrontendKey::new(frontend.ip().into(), PortBe::from_host(frontend.port()), protocol);
        let len = backends.len() as u32;
        for (index, address) in (number * len..).zip(backends) {
            let backend = FIRST_BACKEND + index;
            maps.backends.set(
                backend,
                &Backend {
                    addr: address.ip().into(),
                    port: PortBe::from_host(address.port()),
                    state: BackendState::Ready as u16,
                    service,
                    generation: 1,
                    weight: 1,
                },
            );
            maps.slots.set(index, &Slot { backend, weight: 1 });
        }
        maps.services.set(
            service,
            &Service {
                slots: SlotRange::new(number * len, len),
                frontend: key,
                flags: SERVICE_UNIFORM,
                backends: len,
                revision: 1,
                ..Service::default()
            },
        );
        maps.insert_frontend(&key, service).unwrap();
    }

    fn list(&self) -> Vec<LiveSocket> {
        live_sockets(self.maps().sockets(), Some(self.maps().flows()), Scope::Node).unwrap().sockets
    }

    /// What the counters say, where they say anything.
    fn counted(&self) -> HashMap<(u32, u32), u64> {
        let stats = self.maps().backend_stats.iter();
        stats.filter(|(_, stats)| stats.active > 0).map(|(id, stats)| ((id, 1), stats.active)).collect()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = datapath::detach(&self.pins, datapath::Removal::Act);
    }
}

fn serve(pods: &[Pod]) -> Vec<Server> {
    let start = |pod: &Pod| {
        let both = vec![pod.v4(PORT), pod.v6(PORT)];
        let options = ServerOptions { mptcp: both.clone(), udp: both, ..ServerOptions::default() };
        Server::start(pod, &options).unwrap()
    };
    pods.iter().map(start).collect()
}

#[test]
fn what_the_programs_count_is_what_is_listed() {
    require_kernel();
    let node = Topology::new().unwrap();
    let client = node.pod("client").unwrap();
    let backends = node.pods("backend", 2).unwrap();
    let _servers = serve(&backends);
    let mut balancer = Balancer::install(&node);
    let (vip4, vip6) = (SocketAddr::new(service_v4(1).into(), 80), SocketAddr::new(service_v6(1).into(), 80));
    let v4: Vec<_> = backends.iter().map(|pod| pod.v4(PORT)).collect();
    let v6: Vec<_> = backends.iter().map(|pod| pod.v6(PORT)).collect();
    for (number, protocol, frontend, backends) in
        [(0, TCP, vip4, &v4), (1, TCP, vip6, &v6), (2, UDP, vip4, &v4), (3, UDP, vip6, &v6)]
    {
        balancer.serve(number, protocol, frontend, backends);
    }

    let peer = client.client().unwrap();
    let mut connected = Vec::new();
    for (kind, dialled) in [
        (Kind::Tcp4, vip4),
        (Kind::Tcp6, vip6),
        (Kind::Tcp6, vip4),
        (Kind::Mptcp4, vip4),
        (Kind::Udp4, vip4),
        (Kind::Udp6, vip6),
        (Kind::Udp6, vip4),
    ] {
        let socket = peer.socket(kind).unwrap();
        socket.connect(dialled).unwrap_or_else(|error| panic!("{kind:?} to {dialled}: {error}"));
        socket.ask().unwrap();
        connected.push((kind, dialled, socket));
    }
    let unconnected = peer.socket(Kind::Udp4).unwrap();
    unconnected.send_to(vip4).unwrap();
    unconnected.receive_from().unwrap();

    let found = balancer.list();
    let holders = owners(&found, Search::Recorded).unwrap();
    let one = |what: &str, matches: &dyn Fn(&LiveSocket) -> bool| -> &LiveSocket {
        let mut with = found.iter().filter(|socket| matches(socket));
        let socket = with.next().unwrap_or_else(|| panic!("no {what} in {found:#?}"));
        assert!(with.next().is_none(), "{what} is listed twice");
        socket
    };
    for (kind, dialled, socket) in &connected {
        let listed = if *kind == Kind::Mptcp4 {
            // What connects is a subflow, whose cookie the application cannot ask for.
            let local = socket.local().unwrap();
            one("multipath socket", &|listed| listed.local == Some(local))
        } else {
            let cookie = socket.cookie().unwrap();
            one(&format!("{kind:?}"), &|listed| listed.cookie == cookie)
        };
        assert_eq!(listed.frontend(), *dialled, "{kind:?}");
        assert_eq!(listed.remote, Some(listed.target()), "{kind:?}: the peer is the backend");
        assert!(v4.contains(&listed.target()) || v6.contains(&listed.target()));
        assert!(listed.is_open());
        let status = match listed.protocol {
            Protocol::Tcp => SocketStatus::Tcp(TcpState::Established),
            Protocol::Udp => SocketStatus::Connected,
        };
        assert_eq!(listed.status, status, "{kind:?}");
        assert!(listed.age.unwrap() < Duration::from_secs(60), "{kind:?}");
        assert_eq!(listed.tgid(), Some(peer.process_id()), "{kind:?}");
    }
    let cookie = unconnected.cookie().unwrap();
    let flow = one("flow", &|listed| listed.cookie == cookie);
    assert_eq!((flow.frontend(), flow.status), (vip4, SocketStatus::Unconnected));
    assert!(flow.idle.unwrap() < Duration::from_secs(60));
    for listed in &found {
        let process = &holders[&listed.inode][0];
        assert_eq!(process.pid, peer.process_id());
        assert!(listed.netns.as_ref().unwrap().name.to_string().contains("client"), "{:?}", listed.netns);
    }
    assert_eq!(found.len(), connected.len() + 1, "{found:#?}");
    assert_eq!(active_by_backend(&found), balancer.counted());

    // Without warning: no socket is closed by its owner.
    peer.kill().unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while !balancer.list().iter().all(|socket| !socket.is_open()) {
        assert!(Instant::now() < end, "{:#?}", balancer.list());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(balancer.counted(), HashMap::new());
}
