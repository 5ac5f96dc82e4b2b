//! Connections that are open already: steered around, drained, closed, evened out; by the real agent, with real
//! sockets.
//!
//! What is asserted is what clients see, and `balancer stats -o json`.

mod close;
mod drain;
mod eject;
mod even;
mod faults;
mod rolling;
mod shadow;

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use balancer_tests::{
    agent::{Agent, AgentOptions, ServiceStats},
    kernel::require_kernel,
    manifests::{Endpoint, ManifestDir},
    peer::{Client, Server, ServerOptions, protocol::Close},
    topology::{Pod, Topology, service_v4, service_v6},
};
use balancer_userspace::model::Protocol;

/// Where backends listen.
const PORT: u16 = 8080;

/// The Service's address.
fn vip() -> SocketAddr {
    SocketAddr::new(service_v4(1).into(), 80)
}

fn vip6() -> SocketAddr {
    SocketAddr::new(service_v6(1).into(), 80)
}

/// A node with pods that serve, a client pod, and the Service `shop/web`.
struct World {
    servers: Vec<Server>,
    pods: Vec<Pod>,
    client: Pod,
    manifests: ManifestDir,
    node: Topology,
}

impl World {
    /// With so many pods, none of them an endpoint yet, and these annotations of the Service, without their prefix.
    fn new(pods: usize, annotations: &[(&str, &str)]) -> Self {
        Self::answering_after(Duration::ZERO, pods, annotations)
    }

    /// The same with servers that take so long to answer.
    fn answering_after(delay: Duration, pods: usize, annotations: &[(&str, &str)]) -> Self {
        require_kernel();
        let node = Topology::new().unwrap();
        let pods = node.pods("web", pods).unwrap();
        let options = |pod: &Pod| ServerOptions { delay, ..ServerOptions::all(pod, PORT) };
        let servers = pods.iter().map(|pod| Server::start(pod, &options(pod)).unwrap()).collect();
        let client = node.pod("client").unwrap();
        let world = Self { servers, pods, client, manifests: ManifestDir::new().unwrap(), node };
        world.annotate(annotations);
        world
    }

    /// Writes the Service.
    fn annotate(&self, annotations: &[(&str, &str)]) {
        let service = self
            .manifests
            .service("web")
            .cluster_ips([vip().ip(), vip6().ip()])
            .named_port("tcp", Protocol::Tcp, 80)
            .named_port("udp", Protocol::Udp, 80);
        let annotated = annotations.iter().fold(service, |service, (name, value)| {
            service.annotation(&format!("balancer.dev/{name}"), value)
        });
        annotated.write().unwrap();
    }

    /// Makes the first pods ready, those in `terminating` terminating, and all others no endpoints.
    fn endpoints(&self, ready: &[usize], terminating: &[usize]) {
        let slice = self.manifests.slice("web");
        let mut slice = slice.port("tcp", Protocol::Tcp, PORT).port("udp", Protocol::Udp, PORT);
        for index in ready {
            slice = slice.pod(&self.pods[*index]);
        }
        for index in terminating {
            let pod = &self.pods[*index];
            for addr in pod.addresses().both() {
                slice = slice.endpoint(Endpoint::terminating(addr).pod(pod.name()));
            }
        }
        slice.write().unwrap();
    }

    fn agent(&self) -> Agent<'_> {
        Agent::with(&self.node, &self.manifests, AgentOptions::default()).unwrap()
    }
}

/// Connections per backend, in the order of addresses.
fn spread(service: &ServiceStats) -> Vec<u64> {
    service.backends.iter().map(|backend| backend.active).collect()
}

/// A pool of keep-alive connections, as a well-made client keeps it: one that the other side has ended is replaced
/// before it is used.
struct Pool {
    client: Client,
    size: u64,
    to: SocketAddr,
    /// How often a connection was replaced.
    replaced: u64,
}

impl Pool {
    fn open(pod: &Pod, size: u64, to: SocketAddr) -> Self {
        let client = pod.client().unwrap();
        assert!(client.hold(size, to).unwrap().failures.is_empty());
        Self { client, size, to, replaced: 0 }
    }

    /// One request on each connection; every one is answered.
    #[track_caller]
    fn round(&mut self) {
        let kept = self.client.release_broken().unwrap().held;
        if kept < self.size {
            self.replaced += self.size - kept;
            let opened = self.client.hold(self.size - kept, self.to).unwrap();
            assert!(opened.failures.is_empty(), "{opened:?}");
        }
        let asked = self.client.ask_held().unwrap();
        // A connection may be ended between the look and the request, which was not sent then: the next round
        // replaces it.
        let unsent = asked.failures.get("answer EPIPE").copied().unwrap_or(0);
        assert_eq!(asked.failures.values().sum::<u64>(), unsent, "a request was cut off: {asked:?}");
    }

    /// Rounds with a pause after each, until `done` or the time is over; whether it was done.
    #[track_caller]
    fn rounds(&mut self, pause: Duration, time: Duration, mut done: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + balancer_tests::kernel::patience(time);
        while Instant::now() < deadline {
            self.round();
            if done() {
                return true;
            }
            sleep(pause);
        }
        false
    }

    /// Closes it.
    fn close(self) {
        self.client.release(self.size, Close::Graceful).unwrap();
    }
}

/// Waits until something is true.
#[track_caller]
fn eventually(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + balancer_tests::kernel::patience(patience);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}
