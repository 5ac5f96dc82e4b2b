//! What must not be moved, and is not.

use std::{
    process::{Command, Output},
    time::Duration,
};

use balancer_tests::agent::{Agent, binary};
use serde_json::Value;

use crate::{Pool, World, eventually, vip};

/// Moves at once what may be moved.
const READY: [(&str, &str); 4] = [
    ("rebalance", "idle"),
    ("rebalance-trust", "immediate"),
    ("rebalance-quiet", "200ms"),
    ("rebalance-min-age", "0s"),
];

/// `balancer rebalance now`: how many were moved, and all that was said.
fn now(agent: &Agent<'_>, max: u32) -> (u64, Value) {
    let max = max.to_string();
    let output =
        agent.cli(["rebalance", "now", "web", "-n", "default", "--max", &max, "-o", "json"]).unwrap();
    moved(&output)
}

/// What such a command says.
fn moved(output: &Output) -> (u64, Value) {
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let item = &document["items"][0];
    (item["moved"].as_u64().unwrap(), item["refused"].clone())
}

/// A pool of four that has had enough turns, all idle.
fn idle_pool(world: &World) -> Pool {
    let mut pool = Pool::open(&world.client, 4, vip());
    (0..6).for_each(|_| pool.round());
    std::thread::sleep(Duration::from_millis(400));
    pool
}

#[test]
fn what_is_idle_is_moved_on_command() {
    let world = World::new(2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = idle_pool(&world);
    let (moved, refused) = now(&agent, 2);
    assert_eq!(moved, 2, "{refused}");
    pool.round();
    assert_eq!(pool.replaced, 2);
}

/// What balancer ends by itself has done no harm, and has shown nothing either.
#[test]
fn what_is_moved_is_no_lesson() {
    let earned = [("rebalance", "idle"), ("rebalance-quiet", "500ms"), ("rebalance-min-age", "0s")];
    let world = World::new(2, &earned);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 12, vip());
    (0..6).for_each(|_| pool.round());
    let count = |what: &str| {
        let status = agent.json(["rebalance", "status", "-A"]).unwrap();
        status["items"][0]["lifecycle"][what].as_u64().unwrap()
    };
    eventually("all are offered", Duration::from_secs(20), || count("offered") == 12);
    let (moved, refused) = now(&agent, 4);
    assert_eq!(moved, 4, "{refused}");
    // The others are used again, all at once.
    pool.round();
    eventually("that is seen", Duration::from_secs(20), || count("harmless") >= 8);
    assert_eq!(count("harmless"), 8, "{}", agent.log());
}

#[test]
fn what_waits_for_an_answer_is_not() {
    let world = World::answering_after(Duration::from_secs(3), 2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let client = world.client.client().unwrap();
    let socket = client.connect(vip()).unwrap();
    // Enough turns, each answered after three seconds.
    for _ in 0..5 {
        socket.ask().unwrap();
    }
    socket.write("who\n").unwrap();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(300));
        let (moved, refused) = now(&agent, 1);
        // Not even acknowledged, where the server is slow at that, too.
        let waits = ["unanswered", "in-flight"].map(|reason| refused[reason].as_u64().unwrap_or(0));
        assert_eq!((moved, waits.iter().sum::<u64>()), (0, 1), "{refused}");
    }
}

#[test]
fn a_socket_that_two_processes_hold_is_not() {
    let world = World::new(2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let pool = idle_pool(&world);
    let socket_holder = pool.client.fork().unwrap();
    let (moved, refused) = now(&agent, 4);
    assert_eq!(moved, 0, "{refused}");
    assert_eq!(refused["shared"].as_u64(), Some(4), "{refused}");
    socket_holder.end().unwrap();
    assert_eq!(now(&agent, 4).0, 4);
}

#[test]
fn a_connection_without_enough_turns_is_not() {
    let world = World::new(2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 4, vip());
    pool.round();
    std::thread::sleep(Duration::from_millis(400));
    let (moved, refused) = now(&agent, 4);
    assert_eq!((moved, refused["few-turns"].as_u64()), (0, Some(4)), "{refused}");
    pool.close();
}

#[test]
fn a_connection_that_was_opened_before_is_not() {
    let world = World::new(2, &[]);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let pool = idle_pool(&world);
    world.annotate(&READY);
    std::thread::sleep(Duration::from_secs(1));
    let (moved, refused) = now(&agent, 4);
    assert_eq!((moved, refused["untracked"].as_u64()), (0, Some(4)), "{refused}");
    pool.close();
}

/// `balancer rebalance now` without the right to look at descriptors of others.
fn now_without_ptrace(world: &World, agent: &Agent<'_>, max: u32) -> (u64, Value) {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]).arg(binary().unwrap());
    command.arg("--pins").arg(agent.pins());
    command.args(["rebalance", "now", "web", "-n", "default", "--max", &max.to_string(), "-o", "json"]);
    moved(&world.node.host().output(command).unwrap())
}

#[test]
fn without_the_right_to_its_descriptor_the_kernel_closes_it() {
    let world = World::new(2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = idle_pool(&world);
    let (moved, refused) = now_without_ptrace(&world, &agent, 2);
    assert_eq!(moved, 2, "{refused}");
    // These see a connection that was aborted, not one that was ended.
    pool.round();
    assert_eq!(pool.replaced, 2);
}

/// The answer is here, and the application has not read it yet: the kernel would throw it away.
#[test]
fn an_answer_that_was_not_read_is_not_lost() {
    let world = World::new(2, &READY);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let client = world.client.client().unwrap();
    let socket = client.connect(vip()).unwrap();
    (0..5).for_each(|_| drop(socket.ask().unwrap()));
    socket.write("who\n").unwrap();
    std::thread::sleep(Duration::from_millis(600));
    for (moved, refused) in [now_without_ptrace(&world, &agent, 1), now(&agent, 1)] {
        assert_eq!((moved, refused["in-flight"].as_u64()), (0, Some(1)), "{refused}");
    }
}

#[test]
fn a_client_that_never_comes_back_loses_its_share_once() {
    let annotations = [&READY[..], &[("rebalance-budget", "50%")]].concat();
    let world = World::new(2, &annotations);
    world.endpoints(&[0], &[]);
    let agent = world.agent();
    let pool = Pool::open(&world.client, 10, vip());
    (0..6).for_each(|_| assert!(pool.client.ask_held().unwrap().failures.is_empty()));
    world.endpoints(&[0, 1], &[]);
    std::thread::sleep(Duration::from_secs(35));
    let held = pool.client.check_held().unwrap();
    assert!((1..=5).contains(&held.broken), "{held:?}\n{}", agent.log());
    let stats = agent.json(["rebalance", "status", "web", "-n", "default"]).unwrap();
    let lost: u64 =
        stats["items"].as_array().unwrap().iter().filter_map(|item| item["lifecycle"]["lost"].as_u64()).sum();
    assert_eq!(lost, held.broken, "{stats:#}");
}

#[test]
fn while_endpoints_come_and_go_nothing_is_moved() {
    let world = World::new(3, &READY);
    world.endpoints(&[0], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 8, vip());
    (0..6).for_each(|_| pool.round());
    for turn in 0..16 {
        world.endpoints(if turn % 2 == 0 { &[0, 1, 2] } else { &[0, 1] }, &[]);
        pool.round();
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(pool.replaced, 0, "{}", agent.log());
}

/// `balancer rebalance plan` of the Service's port for TCP and IPv4, by a process that `wrapper` starts.
fn plan(world: &World, agent: &Agent<'_>, wrapper: &[&str]) -> Value {
    let (binary, pins) = (binary().unwrap(), agent.pins());
    let words = wrapper.iter().map(std::ffi::OsStr::new).chain([binary.as_os_str()]);
    let words: Vec<_> = words.collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("--pins").arg(pins);
    command.args(["rebalance", "plan", "web", "-n", "default", "-o", "json"]);
    let output = world.node.host().output(command).unwrap();
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let items = document["items"].as_array().unwrap();
    items.iter().find(|item| item["protocol"] == "TCP" && item["family"] == "IPv4").unwrap().clone()
}

#[test]
fn a_plan_says_what_keeps_the_agent_from_moving() {
    let world =
        World::new(2, &[("rebalance", "idle"), ("rebalance-quiet", "200ms"), ("rebalance-min-age", "0s")]);
    world.endpoints(&[0], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 8, vip());
    (0..6).for_each(|_| pool.round());
    world.endpoints(&[0, 1], &[]);
    std::thread::sleep(Duration::from_secs(1));
    let refusals = |plan: &Value| {
        let offers = plan["offers"].as_array().unwrap().clone();
        offers.iter().map(|offer| offer["refusal"].clone()).collect::<Vec<_>>()
    };
    let why_not = |plan: &Value| plan["whyNot"].as_str().unwrap_or_default().to_owned();

    let here = plan(&world, &agent, &[]);
    assert_eq!((&here["moves"], refusals(&here)), (&4.into(), vec![Value::Null; 8]), "{here:#}");
    assert!(why_not(&here).contains("the record is not clean yet"), "{here:#}");
    // Where process ids mean other processes, nothing is moved.
    let elsewhere = plan(&world, &agent, &["unshare", "--pid", "--fork", "--mount-proc"]);
    assert_eq!(elsewhere["moves"], 0, "{elsewhere:#}");
    assert_eq!(refusals(&elsewhere), vec![Value::from("unreachable"); 8], "{elsewhere:#}");
    // Seven would be even; nobody begins to move one connection.
    let other = Pool::open(&world.client, 6, vip());
    let here = plan(&world, &agent, &[]);
    assert_eq!((&here["moves"], refusals(&here)), (&0.into(), Vec::new()), "{here:#}");
    assert!(why_not(&here).contains("even enough"), "{here:#}");
    assert_eq!(pool.client.check_held().unwrap().broken, 0);
    pool.close();
    other.close();
}
