//! Programs of others on the same cgroup, attached before ours and after: each does its work, and detaching ours leaves theirs alone.

use balancer_tests::{
    agent::{Agent, AgentOptions, Dialled},
    peer::{
        Client,
        protocol::{Ask, Close, Kind, LoopPlan, Until},
    },
};
use rustix::io::Errno;

use crate::{
    Counts, PATIENCE, World, eventually, expect,
    foreign::{
        CONNECT4, Company, Foreign, GETPEERNAME4, Hook, Manner, RECVMSG4, SENDMSG4, SOCK_OPS, SOCK_RELEASE,
        attached,
    },
    vip,
};

const HOOKS: [Hook; 6] = [CONNECT4, SENDMSG4, RECVMSG4, GETPEERNAME4, SOCK_RELEASE, SOCK_OPS];

/// One program on every hook.
fn attach_all(world: &World) -> Vec<Foreign> {
    HOOKS.iter().map(|&hook| Foreign::attach(world.node.cgroup(), hook, Manner::Quiet)).collect()
}

fn ids(world: &World) -> Vec<Vec<u32>> {
    HOOKS.iter().map(|&hook| attached(world.node.cgroup(), hook)).collect()
}

/// Has every hook run, by `rounds` connections and as many datagrams.
#[track_caller]
fn traffic(client: &Client, rounds: u64) {
    let report = client.run(LoopPlan::tcp(vip(1).v4, Until::Count(rounds)).ask(Ask::Identity)).unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    for _ in 0..rounds {
        let socket = client.connect(vip(1).v4).unwrap();
        assert_eq!(socket.peer().unwrap(), vip(1).v4);
        let socket = client.socket(Kind::Udp4).unwrap();
        socket.send_to(vip(1).v4).unwrap();
        assert_eq!(socket.receive_from().unwrap().0, vip(1).v4);
    }
}

#[track_caller]
fn expect_traffic(agent: &Agent<'_>, rounds: u64) {
    let stats = expect(agent, vip(1).v4, Counts::done(2 * rounds));
    assert!(stats.total(|backend| backend.bytes_in) > 0);
    expect(agent, Dialled::udp(vip(1).v4), Counts::done(rounds));
}

#[test]
fn others_before_and_after_ours_are_undisturbed() {
    let world = World::web(2);
    let before = attach_all(&world);
    let theirs = ids(&world);
    let mut agent = world.agent();
    let with_ours = ids(&world);
    for (theirs, all) in theirs.iter().zip(&with_ours) {
        assert_eq!((theirs.len(), all.len(), all[0]), (1, 2, theirs[0]));
    }
    let after = attach_all(&world);
    let client = world.client();
    let runs = |foreign: &[Foreign]| foreign.iter().map(Foreign::runs).collect::<Vec<_>>();
    let earlier = [runs(&before), runs(&after)];
    traffic(&client, 5);
    expect_traffic(&agent, 5);
    let later = [runs(&before), runs(&after)];
    let [first, last] = [0, 1].map(|who| {
        later[who].iter().zip(&earlier[who]).map(|(later, earlier)| later - earlier).collect::<Vec<_>>()
    });
    assert_eq!(first, last, "they see the same events");
    assert!(first.iter().all(|runs| *runs >= 5), "{first:?}");

    // One that goes leaves ours alone, and a restart leaves theirs alone.
    drop(before);
    agent.restart().unwrap();
    traffic(&client, 5);
    expect_traffic(&agent, 10);
    let theirs: Vec<u32> = ids(&world).iter().map(|ids| ids[1]).collect();

    agent.terminate().unwrap();
    let held = client.connect(vip(1).v4).unwrap();
    agent.print(["detach"]).unwrap();
    assert_eq!(ids(&world), theirs.iter().map(|&id| vec![id]).collect::<Vec<_>>());
    assert!(!agent.pins().exists(), "{} is left", agent.pins().display());
    let runs = after[0].runs();
    assert_eq!(client.connect(vip(1).v4).unwrap_err().errno(), Some(Errno::HOSTUNREACH));
    assert_eq!(after[0].runs(), runs + 1);
    // What was connected stays so, and is now seen as it is.
    let backend = held.ask().unwrap().local;
    assert_eq!(held.peer().unwrap(), backend);
    held.close(Close::Graceful).unwrap();

    // A new beginning finds nothing of the old one.
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    traffic(&client, 1);
    expect_traffic(&agent, 1);
}

#[test]
fn programs_attached_without_a_link_are_undisturbed() {
    let world = World::web(1);
    let cgroup = world.node.cgroup();
    let theirs =
        [CONNECT4, SOCK_OPS].map(|hook| Foreign::attach_without_link(cgroup, hook, Company::Welcome));
    let before = ids(&world);
    let mut agent = world.agent();
    let client = world.client();
    traffic(&client, 3);
    expect_traffic(&agent, 3);
    assert!(theirs.iter().all(|foreign| foreign.runs() >= 6));
    agent.terminate().unwrap();
    agent.print(["detach"]).unwrap();
    assert_eq!(ids(&world), before);
}

/// sock_ops programs share one set of flags per connection, and each can set its own over those of others. Ours are added to what is
/// there, so that one that runs before them takes nothing away.
#[test]
fn one_that_asks_for_its_own_events_first_takes_nothing_from_ours() {
    let mut world = World::web(1);
    let mut servers = std::mem::take(&mut world.servers);
    let greedy = Foreign::attach(world.node.cgroup(), SOCK_OPS, Manner::Greedy);
    let agent = world.agent();
    let client = world.client();
    let socket = client.connect(vip(1).v4).unwrap();
    socket.write("send 1000\n").unwrap();
    assert_eq!(socket.read(1000).unwrap(), 1000);
    socket.close(Close::Graceful).unwrap();
    expect(&agent, vip(1).v4, Counts::done(1));
    eventually("bytes", || {
        let stats = agent.stats_of(vip(1).v4).unwrap();
        (stats.backends[0].bytes_in, stats.backends[0].bytes_out) == (1000, 10)
    });
    servers[0].refuse().unwrap();
    let refused = client.connect(vip(1).v4).unwrap_err().errno();
    assert_eq!(refused, Some(Errno::CONNREFUSED));
    expect(&agent, vip(1).v4, Counts { opened: 2, closed: 2, refused: 1, ..Counts::done(1) });
    assert!(greedy.runs() > 0);
}

/// One that runs after ours and sets its flags over them costs the kernel's reports: bytes are not known, and a refusal counts only when
/// the socket is closed, as given up. What is open, opened and closed stays exact.
#[test]
fn one_that_takes_our_events_away_costs_bytes_but_no_count() {
    let mut world = World::web(2);
    let mut servers = std::mem::take(&mut world.servers);
    let agent = world.agent();
    let greedy = Foreign::attach(world.node.cgroup(), SOCK_OPS, Manner::Greedy);
    let client = world.client();
    client.hold(50, vip(1).v4).unwrap();
    let stats = expect(&agent, vip(1).v4, Counts::open(50));
    assert_eq!(stats.active_each(), [25, 25]);
    assert_eq!(client.ask_held().unwrap().pods.values().sum::<u64>(), 50);
    client.release(20, Close::Graceful).unwrap();
    client.release(10, Close::Reset).unwrap();
    expect(&agent, vip(1).v4, Counts { active: 20, closed: 30, ..Counts::open(50) });
    client.kill().unwrap();
    expect(&agent, vip(1).v4, Counts::done(50));
    for server in &mut servers {
        server.refuse().unwrap();
    }
    let refused = world.client().connect(vip(1).v4).unwrap_err().errno();
    assert_eq!(refused, Some(Errno::CONNREFUSED));
    expect(&agent, vip(1).v4, Counts { opened: 51, closed: 51, aborted: 1, ..Counts::done(50) });
    assert!(greedy.runs() > 50);
}

#[test]
fn one_that_stands_no_other_is_named() {
    let world = World::web(1);
    let cgroup = world.node.cgroup();
    let theirs = Foreign::attach_without_link(cgroup, SENDMSG4, Company::Refused);
    let before = ids(&world);
    let mut agent = Agent::stopped(&world.node, &world.manifests, AgentOptions::default()).unwrap();
    agent.spawn().unwrap();
    assert_eq!(agent.process().unwrap().wait(PATIENCE).unwrap().code(), Some(5));
    let log = agent.log();
    assert!(log.contains("a program of somebody else for sendmsg4"), "{log}");
    assert_eq!(ids(&world), before, "what was attached before the failure is gone again");
    assert_eq!(theirs.runs(), 0);
}
