//! How connections are spread, seen from outside.

use std::{collections::BTreeMap, net::SocketAddr};

use balancer_tests::{
    agent::{Agent, ServiceStats},
    peer::{
        Client, Server, ServerOptions,
        protocol::{Ask, Close, LoopPlan, Until},
    },
    topology::Pod,
};
use balancer_userspace::model::Protocol;

use crate::{Counts, PATIENCE, PORT, World, eventually, expect, vip};

/// Attempts of each backend, in the order of their addresses.
fn opened_each(stats: &ServiceStats) -> Vec<u64> {
    stats.backends.iter().map(|backend| backend.opened).collect()
}

/// Opens and closes `count` connections one after the other, and returns which pods answered.
#[track_caller]
fn pods(client: &Client, to: SocketAddr, count: u64) -> BTreeMap<String, u64> {
    let report = client.run(LoopPlan::tcp(to, Until::Count(count)).ask(Ask::Identity)).unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    report.pods
}

/// A world whose Service `web` has this algorithm.
fn with(algorithm: &str, backends: usize) -> World {
    let world = World::new(backends);
    world.publish("web", 1, |service| service.algorithm(algorithm));
    world
}

/// The first pod's slice weighs 3, the others' 1.
fn weigh(world: &World) {
    for (name, weight, pods) in [("web-heavy", "3", &world.pods[..1]), ("web", "1", &world.pods[1..])] {
        let slice = world.manifests.slice("web").named(name).annotation("balancer.dev/weight", weight);
        pods.iter()
            .fold(slice.port("tcp", Protocol::Tcp, PORT), |slice, pod| slice.pod(pod))
            .write()
            .unwrap();
    }
}

#[track_caller]
fn wait_ready(agent: &Agent<'_>, to: SocketAddr, count: usize) {
    let ready = |service: &ServiceStats| {
        service.backends.iter().filter(|backend| backend.state == "ready").count() == count
    };
    agent.wait_for(to, PATIENCE, ready).unwrap();
}

#[test]
fn least_connections_is_the_default_and_keeps_held_connections_even() {
    let mut world = World::web(4);
    let mut servers = std::mem::take(&mut world.servers);
    let agent = world.agent();
    let pod = world.node.pod("second").unwrap();
    let clients = [world.client(), pod.client().unwrap(), world.node.host().client().unwrap()];
    for client in &clients {
        client.hold(20, vip(1).v4).unwrap();
    }
    let stats = expect(&agent, vip(1).v4, Counts::open(60));
    assert_eq!((stats.algorithm.as_str(), stats.active_each()), ("least-connections", vec![15; 4]));
    let evenness = stats.evenness.unwrap();
    assert_eq!((evenness.max_over_mean, evenness.jain), (1.0, 1.0));

    // One backend loses all of its connections: the next ones are its own.
    servers[2].close_all(Close::Reset).unwrap();
    expect(&agent, vip(1).v4, Counts { active: 45, closed: 15, ..Counts::open(60) });
    clients[0].hold(15, vip(1).v4).unwrap();
    let stats = expect(&agent, vip(1).v4, Counts { active: 60, closed: 15, ..Counts::open(75) });
    assert_eq!(stats.active_each(), [15; 4]);

    // A client goes, and with it whatever it held of each: what comes next fills the gaps.
    clients[1].kill().unwrap();
    let stats = expect(&agent, vip(1).v4, Counts { active: 45, closed: 30, ..Counts::open(75) });
    assert_eq!(stats.active_each(), [10, 10, 15, 10]);
    clients[2].hold(21, vip(1).v4).unwrap();
    let stats = expect(&agent, vip(1).v4, Counts { active: 66, closed: 30, ..Counts::open(96) });
    let mut each = stats.active_each();
    each.sort_unstable();
    assert_eq!(each, [16, 16, 17, 17]);
}

#[test]
fn least_connections_fills_a_new_backend_and_leaves_the_others_alone() {
    let world = World::web(3);
    world.endpoints("web", &world.pods[..2]);
    let agent = world.agent();
    let client = world.client();
    client.hold(20, vip(1).v4).unwrap();
    world.endpoints("web", &world.pods);
    wait_ready(&agent, vip(1).v4, 3);
    client.hold(10, vip(1).v4).unwrap();
    let stats = expect(&agent, vip(1).v4, Counts::open(30));
    assert_eq!(stats.active_each(), [10; 3]);
    client.hold(3, vip(1).v4).unwrap();
    let stats = expect(&agent, vip(1).v4, Counts::open(33));
    assert_eq!(stats.active_each(), [11; 3]);
}

#[test]
fn least_connections_spreads_short_connections_too() {
    let world = World::web(4);
    let agent = world.agent();
    let client = world.client();
    pods(&client, vip(1).v4, 200);
    let stats = expect(&agent, vip(1).v4, Counts::done(200));
    assert_eq!(opened_each(&stats), [50; 4]);
}

#[test]
fn round_robin_is_exact_for_all_clients_together() {
    let world = with("round-robin", 3);
    let agent = world.agent();
    let pod = world.node.pod("second").unwrap();
    let clients = [world.client(), pod.client().unwrap()];
    for round in 1..=10 {
        // Held: round-robin does not care.
        for client in clients.iter().cycle().take(3) {
            client.hold(1, vip(1).v4).unwrap();
        }
        let stats = expect(&agent, vip(1).v4, Counts::open(3 * round));
        assert_eq!(opened_each(&stats), [round; 3]);
    }
    // Each address of a Service has its own turn.
    assert_eq!(pods(&clients[0], vip(1).v6, 9).into_values().collect::<Vec<_>>(), [3; 3]);
}

#[test]
fn client_round_robin_gives_each_client_every_backend() {
    let world = with("client-round-robin", 5);
    let agent = world.agent();
    let second = world.node.pod("second").unwrap();
    let clients = [world.client(), second.client().unwrap(), world.node.host().client().unwrap()];
    // A pool of fewer connections than backends is on as many backends, whatever the other clients do in between.
    for step in 1..=3 {
        for client in &clients {
            client.hold(1, vip(1).v4).unwrap();
            assert_eq!(client.ask_held().unwrap().pods.len(), step);
        }
    }
    for client in &clients {
        client.hold(2, vip(1).v4).unwrap();
        let pods = client.ask_held().unwrap().pods;
        assert_eq!(pods.into_values().collect::<Vec<_>>(), [1; 5]);
        client.hold(10, vip(1).v4).unwrap();
        let pods = client.ask_held().unwrap().pods;
        assert_eq!(pods.into_values().collect::<Vec<_>>(), [3; 5]);
    }
    let stats = expect(&agent, vip(1).v4, Counts::open(45));
    assert_eq!(stats.active_each(), [9; 5]);
}

#[test]
fn random_is_random() {
    let world = with("random", 4);
    let agent = world.agent();
    let client = world.client();
    pods(&client, vip(1).v4, 400);
    let stats = expect(&agent, vip(1).v4, Counts::done(400));
    let each = opened_each(&stats);
    // 100 each with a standard deviation of 8.7: six of them either way.
    assert!(each.iter().all(|count| (48..=152).contains(count)), "{each:?}");
    assert_ne!(each, [100; 4], "that is not random");
}

#[test]
fn source_hash_keeps_a_client_where_it_is() {
    let world = with("source-hash", 4);
    let agent = world.agent();
    let sources = world.node.pods("source", 10).unwrap();
    let clients: Vec<Client> = sources.iter().map(|pod| pod.client().unwrap()).collect();
    let homes = |clients: &[Client]| -> Vec<String> {
        let home = |client: &Client| {
            let pods = pods(client, vip(1).v4, 5);
            assert_eq!(pods.len(), 1, "one client, one backend: {pods:?}");
            pods.into_keys().next().unwrap()
        };
        clients.iter().map(home).collect()
    };
    let before = homes(&clients);
    // That all ten met the same one has a chance of 4 in a million.
    assert!(before.iter().any(|home| *home != before[0]), "{before:?}");
    assert_eq!(homes(&clients), before);

    // A backend that leaves takes only its own clients along, or few others.
    world.endpoints("web", &world.pods[1..]);
    wait_ready(&agent, vip(1).v4, 3);
    let after = homes(&clients);
    assert!(after.iter().all(|home| home != "web-1"), "{after:?}");
    let moved = before.iter().zip(&after).filter(|(old, new)| *old != "web-1" && old != new).count();
    assert!(moved <= 2, "{before:?} became {after:?}");
}

#[test]
fn weights_are_kept_by_every_algorithm_that_knows_them() {
    let world = with("least-connections", 3);
    weigh(&world);
    for (number, algorithm) in [(2, "round-robin"), (3, "client-round-robin"), (4, "random")] {
        world.publish(algorithm, number, |service| service.algorithm(algorithm));
        for (name, weight, pods) in [("heavy", "3", &world.pods[..1]), ("light", "1", &world.pods[1..])] {
            let name = format!("{algorithm}-{name}");
            let slice =
                world.manifests.slice(algorithm).named(&name).annotation("balancer.dev/weight", weight);
            let slice = slice.port("tcp", Protocol::Tcp, PORT);
            pods.iter().fold(slice, |slice, pod| slice.pod(pod)).write().unwrap();
        }
        world.manifests.remove_slices(algorithm).unwrap();
    }
    let agent = world.agent();
    let client = world.client();
    for number in 1..=3 {
        client.hold(50, vip(number).v4).unwrap();
        let stats = expect(&agent, vip(number).v4, Counts::open(50));
        assert_eq!(stats.active_each(), [30, 10, 10], "{}", stats.algorithm);
        let weights: Vec<u32> = stats.backends.iter().map(|backend| backend.weight).collect();
        assert_eq!(weights, [3, 1, 1]);
        assert_eq!(stats.evenness.unwrap().max_over_mean, 1.0, "{}: weights count", stats.algorithm);
    }
    pods(&client, vip(4).v4, 500);
    let each = opened_each(&expect(&agent, vip(4).v4, Counts::done(500)));
    // 300, 100 and 100, with standard deviations of 11 and 9: six of them either way.
    assert!(
        (234..=366).contains(&each[0]) && each[1..].iter().all(|count| (46..=154).contains(count)),
        "{each:?}"
    );
}

#[test]
fn a_large_service_is_sampled() {
    const PORTS: u16 = 40;
    let mut world = World::new(2);
    world.servers.clear();
    let serve = |pod: &Pod| {
        let tcp = (0..PORTS).map(|port| pod.v4(PORT + port)).collect();
        Server::start(pod, &ServerOptions { tcp, ..ServerOptions::default() }).unwrap()
    };
    let _servers: Vec<Server> = world.pods.iter().map(serve).collect();
    let service = world.manifests.service("large").cluster_ip(vip(1).v4.ip());
    service.named_port("tcp", Protocol::Tcp, 80).write().unwrap();
    for port in PORT..PORT + PORTS {
        let slice = world.manifests.slice("large").named(&format!("large-{port}"));
        let slice = slice.port("tcp", Protocol::Tcp, port);
        world.pods.iter().fold(slice, |slice, pod| slice.pod(pod)).write().unwrap();
    }
    let agent = world.agent();
    wait_ready(&agent, vip(1).v4, 80);
    let client = world.client();
    assert!(client.hold(800, vip(1).v4).unwrap().failures.is_empty());
    let stats = expect(&agent, vip(1).v4, Counts::open(800));
    assert_eq!((stats.picks["sampled"], stats.picks["algorithm"]), (800, 0));
    let each = stats.active_each();
    // Random choice would give a standard deviation of 3.1 and a backend with 18 or more; the better of two keeps close to 10.
    assert!(each.iter().all(|active| (4..=14).contains(active)), "{each:?}");
    client.kill().unwrap();
    expect(&agent, vip(1).v4, Counts::done(800));
}

#[test]
fn an_algorithm_can_be_changed_under_open_connections() {
    let world = World::web(3);
    let agent = world.agent();
    let client = world.client();
    client.hold(9, vip(1).v4).unwrap();
    world.publish("web", 1, |service| service.algorithm("source-hash"));
    eventually("the new algorithm", || agent.stats_of(vip(1).v4).unwrap().algorithm == "source-hash");
    assert_eq!(pods(&client, vip(1).v4, 6).len(), 1);
    let stats = expect(&agent, vip(1).v4, Counts { active: 9, closed: 6, ..Counts::open(15) });
    assert_eq!(stats.active_each(), [3; 3]);
    world.publish("web", 1, |service| service);
    eventually("the old algorithm", || agent.stats_of(vip(1).v4).unwrap().algorithm == "least-connections");
    client.hold(3, vip(1).v4).unwrap();
    let stats = expect(&agent, vip(1).v4, Counts { active: 12, closed: 6, ..Counts::open(18) });
    assert_eq!(stats.active_each(), [4; 3]);
}
