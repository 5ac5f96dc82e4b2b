//! Hand-made snapshots for tests.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use balancer_common::abi::{Algorithm, BackendState, BackendStats, handshake_bucket};

use super::node::SelfProbe;
use crate::{
    model::{Family, Frontend, Protocol},
    view::{
        AgentView, BackendGone, BackendView, Candidate, CheckItem, CheckReport, Choice, Connection,
        DetachReport, ExplainedService, Explanation, Lease, Liveness, MapFill, Outcome, PassCause, Process,
        ServiceView, Snapshot, Verdict,
    },
};

/// An agent with which all is well.
pub fn agent() -> AgentView {
    AgentView {
        mode: balancer_common::abi::Mode::Balance,
        excluded: 0,
        liveness: Liveness::Running,
        pid: 4242,
        version: "0.1.0".into(),
        node: "node-a".into(),
        source: "manifests in /etc/balancer".into(),
        cgroup: PathBuf::from("/sys/fs/cgroup"),
        pins: PathBuf::from("/sys/fs/bpf/balancer/v1"),
        uptime: Duration::from_secs(3725),
        lease: Lease::Valid(Duration::from_millis(51_500)),
        synced: Some(Duration::from_secs(3724)),
        contact: Some(Duration::from_secs(2)),
        changed: Some(Duration::from_secs(100)),
        skipped: 0,
    }
}

/// A backend `10.244.0.{last}:8080` (or `fd00::{last}`) with `active` connections open and 10 more closed.
pub fn backend(id: u32, last: u8, active: u64) -> BackendView {
    let mut handshakes = [0; 20];
    handshakes[handshake_bucket(25_000)] = active + 8;
    handshakes[handshake_bucket(900_000)] = 1;
    BackendView {
        id,
        addr: SocketAddr::from(([10, 244, 0, last], 8080)),
        state: BackendState::Ready,
        weight: 1,
        pod: format!("web-{last}").into(),
        node: "node-a".into(),
        zone: "zone-1".into(),
        stats: BackendStats {
            active,
            opened: active + 10,
            established: active + 9,
            refused: 1,
            closed: 10,
            bytes_in: 4096,
            bytes_out: 123_456_789,
            retransmits: 2,
            handshake_ns: 1_300_000,
            handshakes,
            ..BackendStats::default()
        },
    }
}

/// A Service port without backends.
pub fn service(id: u32, namespace: &str, name: &str, port_name: &str, frontend: &str) -> ServiceView {
    let frontend: SocketAddr = frontend.parse().expect("an address with a port");
    ServiceView {
        id,
        namespace: namespace.into(),
        name: name.into(),
        port_name: port_name.into(),
        protocol: Protocol::Tcp,
        family: Family::of(frontend.ip()),
        frontend,
        algorithm: Algorithm::LeastConnections,
        affinity: None,
        revision: 3,
        problem: None,
        picks: [0; 6],
        passes: [0; 6],
        flow_evictions: 0,
        backends: Vec::new(),
    }
}

/// A node with four Service ports: one busy, one for UDP, one without backends, one in another namespace.
pub fn snapshot() -> Snapshot {
    let mut dns = service(1, "default", "dns", "dns", "10.96.0.10:53");
    dns.protocol = Protocol::Udp;
    dns.algorithm = Algorithm::Random;
    dns.flow_evictions = 1;
    dns.picks = [3, 0, 0, 0, 0, 0];
    dns.backends = vec![BackendView {
        addr: SocketAddr::from(([10, 244, 0, 2], 5353)),
        weight: 1,
        pod: "coredns-0".into(),
        stats: BackendStats { active: 1, opened: 3, established: 3, closed: 2, ..BackendStats::default() },
        ..backend(10, 2, 0)
    }];
    let mut empty = service(2, "default", "empty", "", "10.96.0.99:80");
    empty.passes = [0, 5, 0, 0, 0, 0];
    empty.problem = Some("annotation balancer.dev/algorithm: unknown algorithm \"fastest\"".into());
    let mut web = service(3, "default", "web", "http", "10.96.0.1:80");
    web.affinity = Some(Duration::from_secs(10_800));
    web.picks = [40, 0, 7, 1, 0, 0];
    web.passes = [2, 0, 0, 0, 0, 0];
    web.backends = vec![
        backend(1, 5, 4),
        BackendView { weight: 2, ..backend(2, 6, 7) },
        BackendView { node: "node-b".into(), zone: "zone-2".into(), ..backend(3, 7, 4) },
        BackendView { state: BackendState::Removed, pod: "".into(), ..backend(4, 8, 1) },
    ];
    let mut api = service(4, "shop", "api", "grpc", "[fd00:96::1]:443");
    api.algorithm = Algorithm::SourceHash;
    api.backends = vec![BackendView {
        addr: "[fd00::5]:8443".parse().expect("an address"),
        state: BackendState::Terminating,
        stats: BackendStats { opened: 2, refused: 2, closed: 2, ..BackendStats::default() },
        ..backend(5, 5, 0)
    }];
    Snapshot {
        agent: agent(),
        maps: vec![
            MapFill { name: "SERVICES", used: 4, capacity: 16_384, flag: "max-services" },
            MapFill { name: "BACKENDS", used: 6, capacity: 65_536, flag: "max-backends" },
        ],
        services: vec![dns, empty, web, api],
    }
}

/// Two sockets: one of a pod, one of a host process whose backend is gone.
pub fn connections() -> Vec<Connection> {
    let web = Connection {
        process: Some(Process {
            pid: 1234,
            comm: "curl".into(),
            pod: Some("shop/cart-0".into()),
            cgroup: "/kubepods.slice/pod1/abc".into(),
            sharers: 0,
        }),
        netns: 4_026_532_001,
        namespace: "default".into(),
        service: "web".into(),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        local: Some(SocketAddr::from(([10, 244, 0, 77], 40_000))),
        frontend: SocketAddr::from(([10, 96, 0, 1], 80)),
        backend: SocketAddr::from(([10, 244, 0, 5], 8080)),
        pod: "web-5".into(),
        node: "node-a".into(),
        backend_gone: BackendGone::No,
        state: "ESTABLISHED",
        age: Some(Duration::from_secs(7300)),
        idle: Some(Duration::from_millis(250)),
    };
    let stale = Connection {
        process: Some(Process {
            pid: 99,
            comm: "bad\x1b[2Jname".into(),
            pod: None,
            cgroup: "/system.slice/x.service".into(),
            sharers: 3,
        }),
        backend: SocketAddr::from(([10, 244, 0, 8], 8080)),
        pod: "".into(),
        backend_gone: BackendGone::Yes,
        age: Some(Duration::from_secs(90_000)),
        idle: None,
        ..web.clone()
    };
    let unknown = Connection {
        process: None,
        netns: 0,
        namespace: "default".into(),
        service: "dns".into(),
        port_name: "dns".into(),
        protocol: Protocol::Udp,
        local: None,
        frontend: SocketAddr::from(([10, 96, 0, 10], 53)),
        backend: SocketAddr::from(([10, 244, 0, 2], 5353)),
        pod: "coredns-0".into(),
        state: "UNCONN",
        age: None,
        idle: Some(Duration::from_secs(5)),
        ..web.clone()
    };
    vec![stale, unknown, web]
}

/// Port 80 is a Service, everything else is not.
pub fn explanation(dialled: Frontend) -> Explanation {
    let client = "this network namespace".to_owned();
    if dialled.port != 80 {
        let verdict = Verdict::PassThrough(PassCause::NotAService);
        return Explanation { dialled, client, service: None, verdict, notes: Vec::new() };
    }
    let candidate = |last: u8, active, chance, reason: &str| Candidate {
        addr: SocketAddr::from(([10, 244, 0, last], 8080)),
        pod: format!("web-{last}").into(),
        node: "node-a".into(),
        zone: "zone-1".into(),
        weight: 1,
        active,
        chance,
        reason: reason.to_owned(),
    };
    Explanation {
        dialled,
        client,
        service: Some(ExplainedService {
            namespace: "default".into(),
            name: "web".into(),
            port_name: "http".into(),
            algorithm: Algorithm::LeastConnections,
            affinity: Some(Duration::from_secs(10_800)),
            revision: 3,
        }),
        verdict: Verdict::Rewrite(Choice {
            rule: "fewest open connections for its weight".into(),
            candidates: vec![
                candidate(5, 4, 0.5, "tied for the fewest"),
                candidate(6, 4, 0.5, "tied for the fewest"),
                candidate(7, 9, 0.0, ""),
            ],
        }),
        notes: vec!["ClientIP affinity: this client has no backend yet.".into()],
    }
}

/// One of each outcome.
pub fn check(probe: SelfProbe) -> CheckReport {
    let item = |name: &str, outcome, detail: &str, remedy: &str| CheckItem {
        name: name.into(),
        outcome,
        detail: detail.into(),
        remedy: remedy.into(),
    };
    CheckReport {
        items: vec![
            item("kernel", Outcome::Ok, "6.18.0; 5.15 or later is needed", ""),
            item(
                "map fill",
                Outcome::Warning,
                "SLOTS is 91% full",
                "raise --max-slots and restart the agent",
            ),
            match probe {
                SelfProbe::Connect => {
                    item("self-probe", Outcome::Failed, "no program answered", "see cgroup above")
                }
                SelfProbe::Omit => item("self-probe", Outcome::Skipped, "not asked for", ""),
            },
        ],
    }
}

/// What was removed, and what was left.
pub fn detached() -> DetachReport {
    DetachReport {
        removed: vec![
            "/sys/fs/bpf/balancer/v1/links/connect4".into(),
            "/sys/fs/bpf/balancer/v1/SERVICES".into(),
        ],
        kept: vec!["2 other programs on /sys/fs/cgroup".into()],
    }
}
