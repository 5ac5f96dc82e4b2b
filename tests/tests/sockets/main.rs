//! Listing live sockets, against the running kernel. Needs root; nothing is attached to any cgroup, and
//! every socket stays in a network namespace of the test's own.

mod limits;
mod place;
mod process;
mod programs;
mod storage;
mod tcp;
mod udp;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use balancer_common::{
    abi::{FrontendKey, Phase, SocketState, UDP, UdpFlow, UdpFlows},
    addr::{Ip, PortBe},
};
use balancer_userspace::sockets::{Listing, LiveSocket, Scope, SocketsError, live_sockets};
use rustix::thread::ClockId;

use storage::Map;

const FRONTEND: &str = "10.96.0.10:80";

struct Maps {
    sockets: Map,
    flows: Map,
}

impl Maps {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        Self {
            sockets: Map::sk_storage(size_of::<SocketState>()),
            flows: Map::sk_storage(size_of::<UdpFlows>()),
        }
    }

    fn list(&self, scope: Scope) -> Result<Listing, SocketsError> {
        live_sockets(self.sockets.as_fd(), Some(self.flows.as_fd()), scope)
    }

    #[track_caller]
    fn all(&self) -> Vec<LiveSocket> {
        let mut listing = self.list(Scope::Node).unwrap();
        // A machine may well have processes that even root may not look at; the test's are none of them.
        listing.incomplete.retain(|problem| !matches!(problem, SocketsError::HiddenProcesses { .. }));
        assert!(listing.incomplete.is_empty(), "{:?}", listing.incomplete);
        listing.sockets
    }
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn key(protocol: u8) -> FrontendKey {
    let frontend: SocketAddr = FRONTEND.parse().unwrap();
    FrontendKey::new(Ip::from(frontend.ip()), PortBe::from_host(frontend.port()), protocol)
}

/// The state of a socket that connect() was called on 2 s ago.
fn state(protocol: u8, phase: Phase, backend: u32, target: SocketAddr) -> SocketState {
    SocketState {
        phase: phase as u32,
        backend,
        generation: 3,
        service: 5,
        opened_ns: now_ns() - 2_000_000_000,
        established_ns: now_ns() - 1_000_000_000,
        frontend: key(protocol),
        target: Ip::from(target.ip()),
        target_port: PortBe::from_host(target.port()),
        tgid: std::process::id(),
        ..Default::default()
    }
}

fn flow(phase: Phase, backend: u32) -> UdpFlow {
    UdpFlow {
        phase: phase as u32,
        backend,
        generation: 1,
        service: 6,
        used_ns: now_ns() - 4_000_000_000,
        frontend: key(UDP),
        target: Ip::from("10.1.2.3".parse::<IpAddr>().unwrap()),
        target_port: PortBe::from_host(5353),
        ..Default::default()
    }
}

#[track_caller]
fn assert_about(found: Option<Duration>, seconds: u64) {
    let (found, expect) = (found.expect("a duration"), Duration::from_secs(seconds));
    assert!(
        found >= expect && found < expect + balancer_tests::kernel::patience(Duration::from_secs(2)),
        "{found:?}, not {expect:?}"
    );
}
