//! The agent ends and comes back, in every way there is, while connects run: nobody notices.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use aya::programs::{
    links::{FdLink, PinnedLink},
    loaded_programs,
};
use balancer_tests::peer::protocol::Close;
use balancer_userspace::datapath::{Pins, Sizes, attachments, detached_since, install};

use crate::{
    set::{Set, vip4, wait_for, without_end},
    tables::{Tables, settle},
};

/// How a run of the agent ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Term,
    Kill,
}

#[test]
fn twenty_restarts_in_a_row_are_not_noticed() {
    const HELD: u64 = 30;
    let set = Set::new(3);
    let mut agent = set.agent();
    let (long, short) = (set.client.client().unwrap(), set.client.client().unwrap());
    assert_eq!(long.hold(HELD, vip4(1)).unwrap().failures.len(), 0);
    let before = settle(set.pins(), set.expect("shop/web", 1, 0..3));

    let running = short.start(without_end(vip4(1))).unwrap();
    let mut opened = before.total(|stats| stats.opened);
    for round in 0..20 {
        let end = if round % 2 == 0 { End::Term } else { End::Kill };
        match end {
            End::Term => assert!(agent.terminate().unwrap().success()),
            End::Kill => agent.kill().unwrap(),
        }
        // Every other one comes back with other programs.
        agent.options_mut().arguments =
            if round % 4 < 2 { vec!["--log-level".into(), "warn".into()] } else { Vec::new() };
        agent.spawn().unwrap();
        agent.wait_ready().unwrap();
        let after = Tables::read(set.pins());
        assert_eq!(after.ids(), before.ids(), "{end:?} in round {round}");
        let now = after.total(|stats| stats.opened);
        assert!(now > opened, "{end:?} in round {round}: {opened} connects, then {now}");
        opened = now;
    }
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");

    // To the last one: what was counted is what was done.
    wait_for("all short connections are counted as closed", || {
        let tables = Tables::read(set.pins());
        tables.total(|stats| stats.active) == HELD
    });
    let tables = settle(set.pins(), set.expect("shop/web", 1, 0..3));
    assert_eq!(tables.total(|stats| stats.opened), HELD + report.attempts);
    assert_eq!(tables.total(|stats| stats.established), HELD + report.attempts);
    assert_eq!(tables.total(|stats| stats.closed), report.attempts);
    assert_eq!(tables.slots, before.slots);
    assert_eq!(long.ask_held().unwrap().broken, 0);
    long.release(HELD, Close::Graceful).unwrap();
    wait_for("held connections are counted down", || {
        Tables::read(set.pins()).total(|stats| stats.active) == 0
    });
}

#[test]
fn an_upgrade_puts_other_programs_behind_the_same_links() {
    let set = Set::new(2);
    let mut agent = set.agent_with(&["--log-level", "error"]);
    let before = links(set.pins());
    let client = set.client.client().unwrap();
    let running = client.start(without_end(vip4(1))).unwrap();

    agent.terminate().unwrap();
    agent.options_mut().arguments = vec!["--log-level".into(), "debug".into()];
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    let after = links(set.pins());
    assert!(agent.log().contains("10 of them took over"), "{}", agent.log());
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((old.name, old.link), (new.name, new.link), "the link was made anew");
        assert_ne!(old.program, new.program, "{} still has its old program", old.name);
    }
    // Those that log have their log lines now.
    let size = |links: &[Link]| links.iter().map(|link| u64::from(link.size)).sum::<u64>();
    assert!(size(&after) > size(&before), "{before:?} {after:?}");
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert_eq!(Tables::read(set.pins()).total(|stats| stats.opened), report.attempts);
}

/// An agent may be told of another cgroup, and a cgroup may be removed and made anew.
#[test]
fn another_cgroup_than_before_is_attached_to() {
    let set = Set::new(1);
    let agent = set.agent();
    drop(agent);
    let (pins, home) = (Pins::new(set.pins()), set.node.cgroup().to_owned());
    let elsewhere = home.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let id = |cgroup: &Path| fs::metadata(cgroup).unwrap().ino();
    let attached = || attachments(&pins).into_iter().map(|(_, cgroup)| cgroup).collect::<Vec<_>>();
    let sizes = Sizes { services: 16_384, backends: 65_536, slots: 262_144, clients: 65_536 };

    for cgroup in [&home, &elsewhere] {
        install(&pins, cgroup, &sizes, 0).unwrap();
        assert_eq!(attached(), vec![Some(id(cgroup)); 10]);
    }
    let was = id(&elsewhere);
    assert_eq!(detached_since(&pins, was), None);
    fs::remove_dir(&elsewhere).unwrap();
    let lost =
        || detached_since(&pins, was).is_some_and(|what| what.contains("cgroup is gone: sock_release"));
    wait_for("the links have lost their cgroup", lost);
    assert_eq!(install(&pins, &home, &sizes, 0).unwrap().replaced, 10);
    assert_eq!(attached(), vec![Some(id(&home)); 10]);
    assert_eq!(fs::read_dir(pins.link("tcp").parent().unwrap()).unwrap().count(), 10, "nothing is left over");
}

/// What is behind a pinned link.
#[derive(Debug)]
struct Link {
    name: &'static str,
    link: u32,
    program: u32,
    /// Bytes of the program as the kernel holds it.
    size: u32,
}

fn links(pins: &Path) -> Vec<Link> {
    let pins = Pins::new(pins);
    let sizes: Vec<(u32, u32)> = loaded_programs()
        // Programs of others come and go meanwhile.
        .filter_map(Result::ok)
        .map(|program| (program.id(), program.size_translated().unwrap_or(0)))
        .collect();
    let link = |name| {
        let info = FdLink::from(PinnedLink::from_pin(pins.link(name)).unwrap()).info().unwrap();
        let size = sizes.iter().find(|(id, _)| *id == info.program_id()).map_or(0, |(_, size)| *size);
        Link { name, link: info.id(), program: info.program_id(), size }
    };
    attachments(&pins).into_iter().map(|(name, _)| link(name)).collect()
}
