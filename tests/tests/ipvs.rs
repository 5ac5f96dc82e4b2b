//! IPVS in kube-proxy's shape: what balancer is compared with has to work as the kernel says it does.
//!
//! Only kernels with IPVS run these tests: those of Debian, under `cargo xtask vm`.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, SocketAddrV4},
};

use balancer_tests::{
    bench::rules::Service,
    ipvs::{self, Scheduler},
    kernel::require_kernel,
    peer::{Client, Server, Socket},
    topology::{Pod, Topology, service_v4},
};

const PORT: u16 = 8080;

/// A Service of three backends, and two clients. Fields are dropped in order.
struct World {
    clients: Vec<(Client, Pod)>,
    _servers: Vec<Server>,
    pods: Vec<Pod>,
    node: Topology,
}

impl World {
    fn new() -> Self {
        require_kernel();
        let node = Topology::new().unwrap();
        ipvs::available(node.host().netns()).unwrap();
        let pods = node.pods("web", 3).unwrap();
        let servers = pods.iter().map(|pod| pod.server(PORT).unwrap()).collect();
        let clients = node.pods("client", 2).unwrap();
        let clients = clients.into_iter().map(|pod| {
            pod.route_services_to_node().unwrap();
            (pod.client().unwrap(), pod)
        });
        Self { clients: clients.collect(), _servers: servers, pods, node }
    }

    fn install(&self, scheduler: Scheduler) {
        let v4 = |address| match address {
            SocketAddr::V4(v4) => v4,
            SocketAddr::V6(v6) => panic!("{v6}"),
        };
        let endpoints = self.pods.iter().map(|pod| v4(pod.v4(PORT))).collect();
        let service = Service { address: vip(), endpoints };
        ipvs::install(self.node.host().netns(), &[(scheduler, service)]).unwrap();
    }
}

fn vip() -> SocketAddrV4 {
    SocketAddrV4::new(service_v4(1), 80)
}

/// How many of these sockets each pod has.
fn by_pod(sockets: &[Socket]) -> Vec<usize> {
    let mut counts = BTreeMap::new();
    for socket in sockets {
        *counts.entry(socket.ask().unwrap().pod).or_insert(0) += 1;
    }
    counts.into_values().collect()
}

fn hold(client: &Client, count: usize) -> Vec<Socket> {
    (0..count).map(|_| client.connect(vip().into()).unwrap()).collect()
}

#[test]
fn connects_are_spread_as_the_scheduler_says() {
    let world = World::new();
    for scheduler in Scheduler::ALL {
        world.install(scheduler);
        let held: Vec<_> = world.clients.iter().map(|(client, _)| hold(client, 9)).collect();
        assert!(
            held.iter().flatten().all(|socket| socket.peer().unwrap() == vip().into()),
            "who it is is not seen"
        );
        let counts: Vec<_> = held.iter().map(|sockets| by_pod(sockets)).collect();
        match scheduler {
            Scheduler::RoundRobin => assert_eq!(counts, [[3, 3, 3], [3, 3, 3]]),
            // A handshake counts for less than an open connection, and its end may come after the next connect.
            Scheduler::LeastConnections | Scheduler::ShortestExpectedDelay => {
                let even = |counts: &Vec<usize>| {
                    counts.len() == 3 && counts.iter().all(|count| (2..=4).contains(count))
                };
                assert!(counts.iter().all(even), "{scheduler:?}: {counts:?}");
            }
            Scheduler::SourceHash => assert_eq!(counts, [[9], [9]], "a client stays where it is"),
        }
    }
}

#[test]
fn other_services_take_the_place_of_all_before() {
    let world = World::new();
    world.install(Scheduler::RoundRobin);
    let (client, _) = &world.clients[0];
    assert_eq!(hold(client, 1).len(), 1);
    let other = Service { address: SocketAddrV4::new(service_v4(2), 80), endpoints: Vec::new() };
    ipvs::install(world.node.host().netns(), &[(Scheduler::RoundRobin, other)]).unwrap();
    assert!(client.connect(vip().into()).is_err(), "the Service is gone");
    world.install(Scheduler::RoundRobin);
    assert_eq!(by_pod(&hold(client, 3)), [1, 1, 1]);
}
