//! The scenarios can be played, tell the arms apart, and leave nothing behind.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use balancer_tests::{
    program,
    scenarios::{
        outcome::{Arm, Cell, Run},
        report::Report,
    },
    topology::Scratch,
};

/// Enough for chance to show, and no more.
const SEEDS: &str = "4";

#[test]
fn arms_differ_as_they_should() {
    let (status, report, remains) = play(&["--only", "pool,two-to-five-nodes", "--seeds", SEEDS], |_| ());
    assert!(status.success(), "{status}");
    let report = report.unwrap();
    for arm in [Arm::Direct, Arm::ConnectOnly, Arm::Rebalancing] {
        for run in runs(&report, "pool", arm) {
            assert_eq!(run.connections, [4, 4, 4], "{arm:?}, seed {}", run.seed);
        }
    }
    for arm in [Arm::Iptables, Arm::Nftables] {
        let runs = runs(&report, "pool", arm);
        assert!(runs.iter().all(|run| run.connections.iter().sum::<u64>() == 12), "{arm:?}: {runs:?}");
    }
    for run in runs(&report, "two-to-five-nodes", Arm::ConnectOnly) {
        assert_eq!(run.extra["collisions"], 0.0, "{run:?}");
    }
    // What cannot be had here says so.
    let lacking = report.outcome("pool").unwrap().arms.iter().find(|(arm, _)| *arm == Arm::IpvsRr);
    let kernel_has = PathBuf::from("/proc/net/ip_vs").exists();
    assert!(
        kernel_has || matches!(lacking, Some((_, Cell::NotRun(why))) if why.contains("IPVS")),
        "{lacking:?}"
    );
    assert_eq!(remains, Vec::<PathBuf>::new());
}

#[test]
fn a_server_that_refuses_is_left_to_chance_or_not() {
    let (status, report, remains) = play(&["--only", "refuses", "--seeds", "1"], |_| ());
    assert!(status.success(), "{status}");
    let report = report.unwrap();
    let after_a_second = |arm| {
        let [run] = runs(&report, "refuses", arm) else { panic!("one seed") };
        run.extra["failures per 1,000 after the first second"]
    };
    let (balancer, random) = (after_a_second(Arm::ConnectOnly), after_a_second(Arm::Iptables));
    assert!(balancer < 5.0, "{balancer} connects in 1,000 failed");
    assert!(random > 100.0, "{random}: the server that refuses is not seen to");
    assert_eq!(remains, Vec::<PathBuf>::new());
}

#[test]
fn an_interrupt_leaves_nothing() {
    let (status, _, remains) = play(&["--only", "scale-up", "--seeds", "1"], |child| {
        thread::sleep(Duration::from_secs(6));
        program::interrupt(child).unwrap();
    });
    assert_eq!(status.code(), Some(130));
    assert_eq!(remains, Vec::<PathBuf>::new());
}

#[test]
fn an_unknown_name_is_refused_before_anything_is_made() {
    let (status, report, _) = play(&["--only", "scale-sideways"], |_| ());
    assert_eq!((status.code(), report), (Some(1), None));
}

/// Runs the program, and does something meanwhile: how it ended, its report, and what it left behind.
fn play(arguments: &[&str], meanwhile: impl FnOnce(&Child)) -> (ExitStatus, Option<Report>, Vec<PathBuf>) {
    let out = Scratch::files().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_scenarios"));
    command.args(arguments).arg("--out").arg(out.path()).stdout(Stdio::null());
    let (status, remains) = program::run(command, meanwhile).unwrap();
    let report = fs::read_to_string(out.path().join("results.json"));
    (status, report.ok().map(|text| Report::read(&text).unwrap()), remains)
}

/// What an arm did.
#[track_caller]
fn runs<'r>(report: &'r Report, scenario: &str, arm: Arm) -> &'r [Run] {
    let arms = &report.outcome(scenario).unwrap().arms;
    match arms.iter().find(|(its, _)| *its == arm) {
        Some((_, Cell::Ran(runs))) => runs,
        other => panic!("{scenario}, {arm:?}: {other:?}"),
    }
}
