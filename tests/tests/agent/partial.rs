//! Nothing is removed on the word of a source that could not be read whole.

use std::{fs, thread, time::Duration};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::{
    set::{Set, vip4, wait_for},
    tables::{Tables, reach, settle},
};

/// Long enough for an agent to do what it should not: a round of its housekeeping.
const A_WHILE: Duration = Duration::from_millis(1300);

const WEB: &str = "shop/web";
const MALFORMED: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web\nspec: [";

/// Two Services, and a file name of the second one's.
fn two() -> Set {
    let set = Set::new(4);
    set.service("shop/api", 2);
    set.backends("shop/api", 0..2);
    set
}

#[test]
fn what_was_good_stays_while_it_is_malformed() {
    let set = two();
    let agent = set.agent();
    let both = || set.expect(WEB, 1, 0..4).into_iter().chain(set.expect("shop/api", 2, 0..2));
    let before = settle(set.pins(), both());
    let client = set.client.client().unwrap();
    for file in ["shop.api.service.yaml", "shop.api-ipv4.slice.yaml"] {
        let good = fs::read_to_string(set.manifests.path().join(file)).unwrap();
        set.manifests.put(file, MALFORMED).unwrap();
        wait_for("it is noticed", || {
            agent.log().contains(&format!("WARN  source::manifests::worker: {file}"))
        });
        thread::sleep(A_WHILE);
        assert_eq!(settle(set.pins(), both()).ids(), before.ids());
        client.ask(vip4(2)).unwrap();
        // Visible where people look.
        let skipped = agent.json(["services", "-A"]).unwrap();
        assert_eq!(skipped["agent"]["skippedObjects"], 1, "{skipped:#}");
        assert!(
            agent.http("/metrics").unwrap().1.contains("balancer_skipped_objects 1\n"),
            "not in the metrics"
        );
        // Everything else is still followed.
        set.backends(WEB, 1..4);
        reach(set.pins(), set.expect(WEB, 1, 1..4).into_iter().chain(set.expect("shop/api", 2, 0..2)));
        set.backends(WEB, 0..4);
        // Mended.
        set.manifests.put(file, &good).unwrap();
        wait_for("it is not skipped any more", || {
            agent.json(["services", "-A"]).unwrap()["agent"]["skippedObjects"] == 0
        });
        reach(set.pins(), both());
    }
    set.backends("shop/api", 1..3);
    reach(set.pins(), set.expect(WEB, 1, 0..4).into_iter().chain(set.expect("shop/api", 2, 1..3)));
}

#[test]
fn a_file_that_is_malformed_at_the_start_removes_nothing() {
    let set = two();
    let mut agent = set.agent();
    let both = || set.expect(WEB, 1, 0..4).into_iter().chain(set.expect("shop/api", 2, 0..2));
    let before = settle(set.pins(), both());
    for file in ["shop.api.service.yaml", "shop.api-ipv6.slice.yaml", "shop.web-ipv4.slice.yaml"] {
        agent.kill().unwrap();
        let good = fs::read_to_string(set.manifests.path().join(file)).unwrap();
        set.manifests.put(file, MALFORMED).unwrap();
        agent.spawn().unwrap();
        agent.wait_ready().unwrap();
        thread::sleep(A_WHILE);
        assert_eq!(settle(set.pins(), both()).ids(), before.ids(), "{file}");
        set.manifests.put(file, &good).unwrap();
        wait_for("it is mended", || agent.log().contains(&format!("{file}: nothing is wrong")));
        assert_eq!(settle(set.pins(), both()).ids(), before.ids(), "{file}");
    }
    // Read whole: what is not there any more is removed, also over a restart.
    agent.kill().unwrap();
    set.manifests.remove_service("shop/api").unwrap();
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    settle(set.pins(), set.expect(WEB, 1, 0..4));
}

#[test]
fn a_file_that_cannot_be_read_at_the_start_removes_nothing() {
    let set = two();
    let mut agent = set.agent();
    let both = || set.expect(WEB, 1, 0..4).into_iter().chain(set.expect("shop/api", 2, 0..2));
    let before = settle(set.pins(), both());
    agent.kill().unwrap();
    let path = set.manifests.path().join("shop.api.service.yaml");
    let good = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    // What does not depend on it goes on.
    set.backends(WEB, 0..4);
    thread::sleep(A_WHILE);
    assert_eq!(settle(set.pins(), both()).ids(), before.ids());
    assert!(agent.log().contains("shop/api: kept as it was"), "{}", agent.log());
    fs::remove_file(&path).unwrap();
    set.manifests.put("shop.api.service.yaml", &good).unwrap();
    wait_for("it is mended", || agent.log().contains("shop.api.service.yaml: nothing is wrong"));
    set.backends("shop/api", 2..4);
    let after =
        settle(set.pins(), set.expect(WEB, 1, 0..4).into_iter().chain(set.expect("shop/api", 2, 2..4)));
    assert_eq!(after.served, before.served);
}

#[test]
fn tables_of_a_dead_agent_that_were_damaged_are_mended() {
    use balancer_common::abi::{Service, Slot};
    use balancer_userspace::datapath::{Access, Maps, Pins};

    let set = two();
    let mut agent = set.agent();
    let both = || set.expect(WEB, 1, 0..4).into_iter().chain(set.expect("shop/api", 2, 0..2));
    let before = settle(set.pins(), both());
    let client = set.client.client().unwrap();
    let web = before.served[&vip4(1)];
    let backend = before.backend(vip4(1), set.pods[0].v4(crate::set::PORT)).id;
    type Damage = (&'static str, Box<dyn Fn(&mut Maps)>);
    // What an agent that died between two writes may leave, and worse.
    let damages: Vec<Damage> = vec![
        (
            "no frontend",
            Box::new(move |maps| {
                let frontend = maps.services.get(web).unwrap().frontend;
                maps.remove_frontend(&frontend).unwrap();
            }),
        ),
        ("no name of the Service", Box::new(move |maps| maps.remove_service_meta(web).unwrap())),
        ("no name of a backend", Box::new(move |maps| maps.remove_backend_meta(backend).unwrap())),
        (
            "slots of nobody",
            Box::new(move |maps| {
                let base = maps.services.get(web).unwrap().slots.base();
                maps.slots.set(base, &Slot { backend: 0, weight: 1 });
            }),
        ),
        ("no Service", Box::new(move |maps| maps.services.set(web, &Service::default()))),
        (
            "a Service with the slots of another",
            Box::new(move |maps| {
                let other = maps.service_metas().unwrap().into_iter().find(|(id, _)| *id != web).unwrap().0;
                let slots = maps.services.get(other).unwrap().slots;
                maps.services.set(web, &Service { slots, ..maps.services.get(web).unwrap() });
            }),
        ),
    ];
    for (what, damage) in damages {
        agent.kill().unwrap();
        damage(&mut Maps::open(&Pins::new(set.pins()), Access::Write).unwrap());
        agent.spawn().unwrap();
        agent.wait_ready().unwrap();
        reach(set.pins(), both());
        client.ask(vip4(1)).unwrap_or_else(|error| panic!("after damage {what:?}: {error}"));
    }
    let tables = settle(set.pins(), both());
    assert_eq!(tables.slots, before.slots);
    assert_eq!(Tables::read(set.pins()).services.len(), before.services.len());
}
