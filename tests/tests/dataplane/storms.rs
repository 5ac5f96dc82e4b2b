//! Storms of connects, resets and kills, while the agent is restarted: afterwards every active count is exactly 0, and all that was
//! opened was closed.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    agent::{Agent, BackendStats, ServiceStats},
    peer::{
        Client,
        protocol::{Ask, Close, Kind, LoopPlan, LoopReport, Until},
    },
    topology::Pod,
};

use crate::{Counts, PATIENCE, PORT, World, eventually, vip};

/// How often the agent is restarted in a storm.
const RESTARTS: u32 = 5;

/// Loops of every kind, until they are told to stop: short ones, resets, talks, datagrams. A pause leaves processors to the agent.
fn plans() -> Vec<LoopPlan> {
    let tcp = |to| LoopPlan::tcp(to, Until::Told).pause_us(300);
    let udp = |kind, to| LoopPlan { kind, ..tcp(to) };
    vec![
        tcp(vip(1).v4),
        tcp(vip(1).v4).close(Close::Reset),
        tcp(vip(1).v6).ask(Ask::Identity).close(Close::Reset),
        LoopPlan { kind: Kind::Tcp6, ..tcp(vip(1).v4) }.ask(Ask::Identity),
        udp(Kind::Udp4, vip(1).v4).ask(Ask::Identity),
        udp(Kind::Udp6, vip(1).v6),
    ]
}

/// Says that the storm is over, also when the test fails: a thread waits for it.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What tells the ports of the Service apart: whether it is IPv4, and whether it is TCP.
type PortKind = (bool, bool);

/// Clients that hold connections of all kinds and are killed, one after the other.
fn kill_clients(pod: &Pod, over: &AtomicBool) -> BTreeMap<PortKind, u64> {
    let mut opened = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        let client: Client = pod.client().unwrap();
        for (kind, to) in [(Kind::Tcp4, vip(1).v4), (Kind::Tcp6, vip(1).v6), (Kind::Udp4, vip(1).v4)] {
            let report = client.hold_kind(60, to, kind).unwrap();
            assert!(report.failures.is_empty(), "{report:?}");
            *opened.entry((to.is_ipv4(), kind.is_stream())).or_default() += 60;
        }
        client.ask_held().unwrap();
        client.release(30, Close::Reset).unwrap();
        client.kill().unwrap();
    }
    opened
}

fn key(service: &ServiceStats) -> PortKind {
    (service.address.is_ipv4(), service.protocol == "TCP")
}

/// Kills the agent, or has it end in order, and starts it again.
fn restart(agent: &mut Agent<'_>) {
    for round in 0..RESTARTS {
        if round % 3 == 2 {
            agent.terminate().unwrap();
        } else {
            agent.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(50));
        agent.spawn().unwrap();
        agent.wait_ready().unwrap();
        thread::sleep(Duration::from_millis(150));
    }
}

/// Whether all that was opened was closed, backend by backend.
fn is_calm(stats: &[ServiceStats]) -> bool {
    let calm = |backend: &BackendStats| backend.active == 0 && backend.opened == backend.closed;
    stats.iter().all(|service| service.active == 0 && service.backends.iter().all(calm))
}

#[test]
fn nothing_is_lost_while_the_agent_is_killed_again_and_again() {
    let world = World::web(4);
    let mut agent = world.agent();
    let pods = world.node.pods("storm", 2).unwrap();
    let over = AtomicBool::new(false);
    let pod = &world.pod;
    let plans = plans();
    let clients: Vec<Client> =
        (0..plans.len()).map(|number| pods[number % pods.len()].client().unwrap()).collect();
    let (reports, held) = thread::scope(|scope| {
        let end = Over(&over);
        let killer = scope.spawn(|| kill_clients(pod, &over));
        let loops: Vec<_> =
            plans.iter().zip(&clients).map(|(plan, client)| client.start(plan.clone()).unwrap()).collect();
        restart(&mut agent);
        drop(end);
        let reports: Vec<LoopReport> = loops.into_iter().map(|one| one.stop().unwrap()).collect();
        (reports, killer.join().unwrap())
    });
    for (plan, report) in plans.iter().zip(&reports) {
        assert_eq!(report.failed(), 0, "{plan:?}: {report:?}");
        assert!(report.attempts > 200, "{plan:?}: {report:?}");
    }

    eventually("every active count is 0", || is_calm(&agent.stats().unwrap()));
    // And nothing moves any more.
    let stats = agent.stats().unwrap();
    let mut expected = held;
    for (plan, report) in plans.iter().zip(&reports) {
        *expected.entry((plan.to.is_ipv4(), plan.kind.is_stream())).or_default() += report.attempts;
    }
    for service in &stats {
        let opened = expected.get(&key(service)).copied().unwrap_or(0);
        assert_eq!(Counts::of(service), Counts::done(opened), "{service:#?}");
        assert_eq!(service.pass_throughs.values().sum::<u64>(), 0, "{service:#?}");
        assert_eq!(service.picks.values().sum::<u64>(), opened, "{service:#?}");
    }
    drop(agent.terminate());
    assert_eq!(agent.stats().unwrap(), stats);
}

#[test]
fn nothing_is_lost_while_backends_come_and_go() {
    let mut world = World::web(4);
    let mut servers = std::mem::take(&mut world.servers);
    let agent = world.agent();
    let over = AtomicBool::new(false);
    let until = Until::Millis(3000);
    let pod = &world.pod;
    thread::scope(|scope| {
        let resets = scope.spawn(|| {
            // Those whose connections are reset, or that meet a server in that moment, may fail; they are counted all the same.
            let client = pod.client().unwrap();
            client.run(LoopPlan::tcp(vip(1).v4, until).ask(Ask::Identity)).unwrap()
        });
        let held = scope.spawn(|| {
            let client = pod.client().unwrap();
            while !over.load(Ordering::Relaxed) {
                client.hold(40, vip(1).v4).unwrap();
                client.hold_kind(20, vip(1).v4, Kind::Udp4).unwrap();
                client.release_broken().unwrap();
                client.release(50, Close::Graceful).unwrap();
            }
            client.kill().unwrap();
        });
        let end = Over(&over);
        let start = Instant::now();
        let mut round = 0;
        while start.elapsed() < Duration::from_secs(3) {
            // Two of the four, another two each time.
            let pods = (0..2).map(|index| &world.pods[(round + index) % 4]);
            world.endpoints("web", pods);
            servers[round % 4].close_all(Close::Reset).unwrap();
            thread::sleep(Duration::from_millis(40));
            round += 1;
        }
        drop(end);
        resets.join().unwrap();
        held.join().unwrap();
    });
    world.endpoints("web", &world.pods);
    let ready = |service: &ServiceStats| {
        service.backends.iter().filter(|backend| backend.state == "ready").count() == 4
    };
    agent.wait_for(vip(1).v4, PATIENCE, ready).unwrap();
    eventually("every active count is 0", || is_calm(&agent.stats().unwrap()));
    // Those that were removed are forgotten with their last socket; none is left behind.
    eventually("no backend is left over", || {
        agent.stats().unwrap().iter().all(|service| service.backends.len() == 4)
    });
    let client = world.client();
    let before = agent.stats_of(vip(1).v4).unwrap().total(|backend| backend.opened);
    client.hold(40, vip(1).v4).unwrap();
    let stats = agent.stats_of(vip(1).v4).unwrap();
    assert_eq!(stats.total(|backend| backend.opened) - before, 40);
    assert_eq!(stats.active_each(), [10; 4]);
    let direct = client.connect(world.pods[0].v4(PORT)).unwrap();
    drop(direct);
}
