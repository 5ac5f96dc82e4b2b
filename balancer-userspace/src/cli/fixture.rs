//! Hand-made snapshots for tests.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use balancer_common::abi::{
    Algorithm, BackendHistory, BackendState, BackendStats, HISTORY_STEP_NS, Rebalance, Refusal, Stop,
    handshake_bucket,
};

use super::node::SelfProbe;
use crate::{
    evenness::{Evenness, Load},
    history::{self, History},
    model::{Family, Frontend, Protocol},
    view::{
        AgentView, BackendGone, BackendView, Candidate, CheckItem, CheckReport, Choice, Condition,
        Connection, DetachReport, Drain, ExplainedService, Explanation, HealthView, Lease, LifecycleView,
        Liveness, MapFill, OfferView, Outcome, Overfull, PassCause, PlanView, Process, ServiceView, Snapshot,
        Trust, Verdict,
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
        lane: Default::default(),
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
        health: HealthView::default(),
        history: History::default(),
    }
}

/// A history of `samples`, the last of which is of now.
pub fn history(samples: &[Option<u64>]) -> History {
    let mut ring = BackendHistory::default();
    let mut now_ns = 100 * HISTORY_STEP_NS;
    for sample in samples {
        now_ns += HISTORY_STEP_NS;
        if let Some(active) = sample {
            history::sample(&mut ring, now_ns, *active);
        }
    }
    History { ring, now_ns }
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
        lifecycle: LifecycleView::default(),
        backends: Vec::new(),
    }
}

/// Connections are moved, and drained; one push has raised the time that they must be quiet.
fn lifecycle() -> LifecycleView {
    let mut refused = [0; Refusal::ALL.len()];
    refused[Refusal::Busy as usize] = 310;
    refused[Refusal::Young as usize] = 12;
    refused[Refusal::Running as usize] = 40;
    LifecycleView {
        mode: Rebalance::Idle,
        trust: Trust::Record,
        drain: Drain::On,
        configured_quiet: Duration::from_secs(2),
        quiet: Duration::from_millis(4_600),
        min_age: Duration::from_secs(60),
        budget_percent: 5,
        offered: 260,
        harmless: 250,
        harmful: 0,
        clean: 250,
        moved: 30,
        reconnected: 28,
        lost: 1,
        drained: 2,
        destroyed: 0,
        refused,
        pushes: 1,
        longest_push: Duration::from_millis(2_300),
        stopped: None,
        endpoints_changed: Some(Duration::from_secs(184)),
        moved_since_change: 27,
    }
}

/// What would be moved from one backend of each of `services`.
pub fn plans(services: &[u32]) -> Vec<PlanView> {
    let backend = SocketAddr::from(([10, 244, 0, 5], 8080));
    let load = |connections| Load { connections, weight: 1 };
    let offer = |verdict| OfferView {
        process: Some(Process {
            pid: 1234,
            comm: "curl".into(),
            pod: Some("shop/cart-0".into()),
            cgroup: "/kubepods.slice/pod1/abc".into(),
            sharers: 0,
        }),
        local: Some(SocketAddr::from(([10, 244, 0, 77], 40_000))),
        backend,
        idle: Some(Duration::from_secs(8)),
        age: Some(Duration::from_secs(7300)),
        verdict,
    };
    let plan = |service| PlanView {
        service,
        from: vec![Overfull { backend, active: 10, share: 20.0 / 3.0, excess: 3 }],
        moves: u32::from(service != 4),
        now: Evenness::of(&[load(10), load(5), load(5)]),
        after: Evenness::of(&[load(9), load(6), load(5)]),
        offers: vec![
            offer(Ok(())),
            OfferView { process: None, local: None, ..offer(Err(Refusal::Unreachable)) },
        ],
        why_not: (service == 4).then(|| "an offer would have cut off an answer".into()),
    };
    services.iter().copied().map(plan).collect()
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
    web.lifecycle = lifecycle();
    let seconds = Duration::from_secs;
    let ejected = HealthView { condition: Condition::Ejected(seconds(12)), ejections: 2, trials: 1 };
    let ramping = HealthView { condition: Condition::Ramping(seconds(9)), ..HealthView::default() };
    let filled = |samples: std::ops::Range<u64>| history(&samples.map(Some).collect::<Vec<_>>());
    web.backends = vec![
        BackendView { history: filled(7..19), ..backend(1, 5, 4) },
        BackendView { weight: 2, health: ejected, history: filled(0..12), ..backend(2, 6, 7) },
        BackendView {
            node: "node-b".into(),
            zone: "zone-2".into(),
            health: ramping,
            history: history(&[Some(0), None, None, Some(4)]),
            ..backend(3, 7, 4)
        },
        BackendView { state: BackendState::Removed, pod: "".into(), ..backend(4, 8, 1) },
    ];
    let mut api = service(4, "shop", "api", "grpc", "[fd00:96::1]:443");
    api.algorithm = Algorithm::SourceHash;
    api.lifecycle = LifecycleView {
        mode: Rebalance::DryRun,
        quiet: Duration::from_secs(2),
        configured_quiet: Duration::from_secs(2),
        offered: 5,
        harmful: 1,
        stopped: Some((Stop::Harm, Duration::from_secs(180))),
        ..LifecycleView::default()
    };
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
