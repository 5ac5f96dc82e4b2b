//! When a socket ends: one release, at the last reference, whoever holds it and however it goes.

use balancer_tests::{
    agent::Dialled,
    peer::{
        Server,
        protocol::{Ask, Close, Kind, LoopPlan, Until},
    },
};

use crate::{Counts, PORT, World, eventually, expect, vip};

#[test]
fn a_duplicate_holds_the_connection() {
    let world = World::web(2);
    let agent = world.agent();
    let client = world.client();
    let socket = client.connect(vip(1).v4).unwrap();
    let copy = socket.duplicate().unwrap();
    socket.close(Close::Graceful).unwrap();
    expect(&agent, vip(1).v4, Counts::open(1));
    assert_eq!(copy.peer().unwrap(), vip(1).v4);
    copy.ask().unwrap();
    copy.close(Close::Graceful).unwrap();
    expect(&agent, vip(1).v4, Counts::done(1));
}

#[test]
fn a_child_holds_what_it_inherited() {
    let world = World::web(2);
    let agent = world.agent();
    let client = world.client();
    let connection = client.connect(vip(1).v6).unwrap();
    let connected = client.socket(Kind::Udp6).unwrap();
    connected.connect(vip(1).v6).unwrap();
    let unconnected = client.socket(Kind::Udp6).unwrap();
    unconnected.send_to(vip(1).v6).unwrap();
    unconnected.receive_from().unwrap();
    let child = client.fork().unwrap();
    for socket in [connection, connected, unconnected] {
        socket.close(Close::Graceful).unwrap();
    }
    expect(&agent, vip(1).v6, Counts::open(1));
    expect(&agent, Dialled::udp(vip(1).v6), Counts::open(2));
    child.end().unwrap();
    expect(&agent, vip(1).v6, Counts::done(1));
    expect(&agent, Dialled::udp(vip(1).v6), Counts::done(2));
}

#[test]
fn a_socket_that_is_passed_on_is_held_by_whoever_has_it() {
    let world = World::web(2);
    let agent = world.agent();
    let client = world.client();
    let (first, second) = (client.fork().unwrap(), client.fork().unwrap());
    let socket = client.connect(vip(1).v4).unwrap();
    first.pass(&socket).unwrap();
    second.pass(&socket).unwrap();
    socket.close(Close::Graceful).unwrap();
    expect(&agent, vip(1).v4, Counts::open(1));
    first.end().unwrap();
    expect(&agent, vip(1).v4, Counts::open(1));
    second.end().unwrap();
    expect(&agent, vip(1).v4, Counts::done(1));
}

#[test]
fn killed_clients_leave_nothing_behind() {
    let world = World::web(3);
    let agent = world.agent();
    let clients = [world.client(), world.client(), world.node.host().client().unwrap()];
    for client in &clients {
        assert_eq!(client.hold(300, vip(1).v4).unwrap().held, 300);
        assert_eq!(client.hold_kind(100, vip(1).v4, Kind::Udp4).unwrap().held, 400);
    }
    let stats = expect(&agent, vip(1).v4, Counts::open(900));
    assert_eq!(stats.active_each(), [300; 3]);
    let stats = expect(&agent, Dialled::udp(vip(1).v4), Counts::open(300));
    assert_eq!(stats.active_each(), [100; 3]);
    let [first, second, third] = clients;
    first.kill().unwrap();
    expect(&agent, vip(1).v4, Counts { active: 600, closed: 300, ..Counts::open(900) });
    second.kill().unwrap();
    third.kill().unwrap();
    let stats = expect(&agent, vip(1).v4, Counts::done(900));
    assert!(stats.backends.iter().all(|backend| backend.active == 0 && backend.opened == backend.closed));
    expect(&agent, Dialled::udp(vip(1).v4), Counts::done(300));
}

#[test]
fn storms_of_resets() {
    let world = World::web(3);
    let agent = world.agent();
    let client = world.client();
    let plan = LoopPlan::tcp(vip(1).v4, Until::Count(1500)).close(Close::Reset);
    let report = client.run(plan.clone()).unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    expect(&agent, vip(1).v4, Counts::done(1500));
    let report = client.run(plan.ask(Ask::Identity)).unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    let stats = expect(&agent, vip(1).v4, Counts::done(3000));
    // One after the other, each to the next of three that are idle.
    assert!(stats.backends.iter().all(|backend| backend.opened == 1000), "{stats:#?}");
}

#[test]
fn what_the_server_resets_is_over_at_once() {
    let mut world = World::web(2);
    let mut servers = std::mem::take(&mut world.servers);
    let agent = world.agent();
    let client = world.client();
    client.hold(300, vip(1).v4).unwrap();
    servers[0].close_all(Close::Reset).unwrap();
    // The application still has the sockets, but they are no connections any more.
    let stats = expect(&agent, vip(1).v4, Counts { active: 150, closed: 150, ..Counts::open(300) });
    assert_eq!(stats.backend(world.pods[0].addresses().v4).unwrap().active, 0);
    assert_eq!(client.check_held().unwrap().broken, 150);
    client.release_broken().unwrap();
    expect(&agent, vip(1).v4, Counts { active: 150, closed: 150, ..Counts::open(300) });
    client.release(150, Close::Reset).unwrap();
    expect(&agent, vip(1).v4, Counts::done(300));
}

#[test]
fn what_the_server_closes_is_counted_once_the_client_closes_it_too() {
    let mut world = World::web(2);
    let mut servers: Vec<Server> = std::mem::take(&mut world.servers);
    let pods = std::mem::take(&mut world.pods);
    let agent = world.agent();
    let client = world.client();
    client.hold(100, vip(1).v4).unwrap();
    // Killed: the kernel closes its connections in order, or with a reset where it had not read everything,
    // which ends the client's side as well. Whichever it was, each is counted once.
    servers[0].process().kill().unwrap();
    eventually("half of them broken", || client.check_held().unwrap().broken == 50);
    assert_eq!(client.release_broken().unwrap().held, 50);
    expect(&agent, vip(1).v4, Counts { active: 50, closed: 50, ..Counts::open(100) });

    // A whole pod gone: nobody answers any more. Closing counts all the same.
    drop((servers, pods));
    client.release(50, Close::Graceful).unwrap();
    expect(&agent, vip(1).v4, Counts::done(100));
}

#[test]
fn closed_while_the_agent_is_away() {
    let world = World::web(2);
    let mut agent = world.agent();
    let client = world.client();
    client.hold(40, vip(1).v4).unwrap();
    client.hold_kind(20, vip(1).v4, Kind::Udp4).unwrap();
    agent.kill().unwrap();
    client.release(20, Close::Graceful).unwrap();
    client.hold(10, vip(1).v4).unwrap();
    expect(&agent, vip(1).v4, Counts { active: 30, closed: 20, ..Counts::open(50) });
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    expect(&agent, vip(1).v4, Counts { active: 30, closed: 20, ..Counts::open(50) });
    let direct = client.connect(world.pods[0].v4(PORT)).unwrap();
    client.kill().unwrap();
    drop(direct);
    expect(&agent, vip(1).v4, Counts::done(50));
    expect(&agent, Dialled::udp(vip(1).v4), Counts::done(20));
}
