//! The agent is killed at random moments while the tables change heavily, and recovers every time.

use std::{thread, time::Duration};

use balancer_common::abi::FIRST_BACKEND;
use balancer_userspace::datapath::{Access, Maps, Pins};

use crate::{
    set::{Set, vip4, without_end},
    tables::{Expected, Tables, reach, settle},
};

/// Services that change.
const SERVICES: u16 = 24;
/// The number of the first of them; 1 is the one that stays as it is.
const FIRST: u16 = 10;
const ROUNDS: usize = 12;

/// Numbers that are the same in every run: a failure can be looked into.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Writes another version of Service `n`, or takes it away; returns what should be served of it.
fn change(set: &Set, n: u16, dice: &mut Dice) -> Vec<Expected> {
    let name = format!("storm/s{n}");
    if dice.roll(5) == 0 {
        set.manifests.remove_service(&name).unwrap();
        return Vec::new();
    }
    let algorithm = ["least-connections", "round-robin", "source-hash"][dice.roll(3) as usize];
    let vip = vip4(n);
    set.manifests.service(&name).cluster_ip(vip.ip()).port(vip.port()).algorithm(algorithm).write().unwrap();
    // Addresses that nobody has: nobody dials these Services.
    let backends: Vec<std::net::SocketAddr> = (0..dice.roll(40))
        .map(|_| ([10, 244, 200, dice.roll(60) as u8].into(), 8080))
        .map(|(addr, port): (std::net::IpAddr, u16)| (addr, port).into())
        .collect();
    set.manifests.addresses(&name, 8080, backends.iter().map(std::net::SocketAddr::ip)).unwrap();
    vec![Expected::new(&name, vip, backends)]
}

#[test]
fn killed_at_any_moment_it_recovers_and_leaks_nothing() {
    let set = Set::new(3);
    let mut agent =
        set.agent_with(&["--max-services", "64", "--max-backends", "2048", "--max-slots", "65536"]);
    let client = set.client.client().unwrap();
    let stays = settle(set.pins(), set.expect("shop/web", 1, 0..3));
    let running = client.start(without_end(vip4(1))).unwrap();
    let mut dice = Dice(1);
    let mut cut_short = 0;
    for round in 0..ROUNDS {
        let mut expected: Vec<Expected> = set.expect("shop/web", 1, 0..3).into();
        for n in FIRST..FIRST + SERVICES {
            expected.extend(change(&set, n, &mut dice));
        }
        thread::sleep(Duration::from_micros(dice.roll(12_000)));
        agent.kill().unwrap();
        if Tables::read(set.pins()).serves() != expected.iter().cloned().collect() {
            cut_short += 1;
        }
        agent.spawn().unwrap();
        agent.wait_ready().unwrap();
        let tables = reach(set.pins(), expected);
        for (place, id) in stays.ids() {
            assert_eq!(tables.ids().get(&place), Some(&id), "round {round}: {place:?}");
        }
    }
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(
        cut_short >= ROUNDS / 4,
        "only {cut_short} of {ROUNDS} kills came before the tables were in step"
    );
    assert_eq!(Tables::read(set.pins()).total(|stats| stats.opened), report.attempts);

    // All of it goes, and what was used is free again.
    for n in FIRST..FIRST + SERVICES {
        set.manifests.remove_service(&format!("storm/s{n}")).unwrap();
        set.manifests.remove_slices(&format!("storm/s{n}")).unwrap();
    }
    let tables = settle(set.pins(), set.expect("shop/web", 1, 0..3));
    assert_eq!((tables.slots, tables.services.len()), (stays.slots, stays.services.len()));
    drop(agent);
    // A last look at what only a reader of all entries would see.
    let maps = Maps::open(&Pins::new(set.pins()), Access::Read).unwrap();
    let used = maps.backends.iter().skip(FIRST_BACKEND as usize).filter(|(_, backend)| backend.state != 0);
    assert_eq!(used.count(), 6);
    assert_eq!(maps.frontends().unwrap().len(), 2 + 2, "the self-probe's, and those of the Service");
}

#[test]
fn one_agent_reuses_what_it_frees() {
    let set = Set::new(2);
    let sizes = ["--max-services", "16", "--max-backends", "32", "--max-slots", "64"];
    let agent = set.agent_with(&sizes);
    let name = "storm/s10";
    const COUNT: u8 = 12;
    // Each round takes more than half of all slots, and nearly half of the backends.
    for round in 0..6_u8 {
        let vip = vip4(10 + u16::from(round % 3));
        set.manifests.service(name).cluster_ip(vip.ip()).port(vip.port()).write().unwrap();
        let addr = |n: u8| std::net::IpAddr::from([10, 244, 201, round * COUNT + n]);
        set.manifests.addresses(name, 8080, (0..COUNT).map(addr)).unwrap();
        let expected = Expected::new(name, vip, (0..COUNT).map(|n| (addr(n), 8080).into()));
        settle(set.pins(), set.expect("shop/web", 1, 0..2).into_iter().chain([expected]));
        let problems = agent.json(["services", "-A"]).unwrap();
        assert!(
            problems["items"].as_array().unwrap().iter().all(|it| it["problem"].is_null()),
            "{problems:#}"
        );
    }
}
