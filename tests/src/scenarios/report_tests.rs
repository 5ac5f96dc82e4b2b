//! Reports that are read back, refused, and merged.

use super::{super::fixture, *};

#[test]
fn a_report_survives_its_file() {
    let report = fixture::report();
    assert_eq!(Report::read(&report.json().unwrap()).unwrap(), report);
}

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let error = Report::read(text).expect_err("it is no report").to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn another_version_is_named_and_what_to_do() {
    refused(r#"{"version": 7, "whatever": []}"#, &["version 7", "version 1", "cargo xtask scenarios"]);
    refused("[1, 2", &["not a report"]);
    refused(r#"{"outcomes": []}"#, &["not a report", "version"]);
    refused(r#"{"version": 1, "outcomes": []}"#, &["not a report", "origin"]);
}

#[track_caller]
fn impossible(change: impl FnOnce(&mut Outcome), words: &[&str]) {
    let mut report = fixture::report();
    change(&mut report.outcomes[0]);
    let error = report.json().expect_err("it cannot be").to_string();
    for word in words.iter().chain(&["scale-up"]) {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

fn runs(outcome: &mut Outcome) -> &mut Vec<Run> {
    match &mut outcome.arms[0].1 {
        Cell::Ran(runs) => runs,
        Cell::NotRun(reason) => panic!("{reason}"),
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    impossible(|outcome| runs(outcome)[2].p50_us = f64::NAN, &["direct", "seed 3", "p50_us is NaN"]);
    impossible(|outcome| runs(outcome)[0].even_after = Some(-1.0), &["direct", "even_after is -1"]);
    impossible(|outcome| runs(outcome)[0].failed = 7000, &["7000 failed of 6000"]);
    impossible(|outcome| runs(outcome)[0].samples.swap(3, 4), &["a sample of 3 s after one of 4 s"]);
    impossible(|outcome| runs(outcome).clear(), &["without a single run"]);
    impossible(|outcome| outcome.arms[1].0 = Arm::Direct, &["direct", "twice"]);
    impossible(
        |outcome| {
            runs(outcome)[0].extra.insert("x".into(), f64::INFINITY);
        },
        &["\"x\" is inf"],
    );
    let mut report = fixture::report();
    report.outcomes[0].name = "../scale up".into();
    assert!(report.json().expect_err("no name of a file").to_string().contains("lower-case"));
    report.outcomes[0].name = "five-on-two".into();
    assert!(report.json().expect_err("two of a name").to_string().contains("twice"));
}

/// What a machine with IPVS adds: the arm that is missing in the fixture, and one that is not.
fn with_ipvs() -> Report {
    let cell = |counts: &[u64]| Cell::Ran((1..=7).map(|seed| fixture::run(seed, counts)).collect());
    let mut outcome = fixture::scale_up();
    outcome.arms = vec![
        (Arm::IpvsRr, cell(&[20, 20, 20, 0, 0, 0])),
        (Arm::IpvsLc, Cell::NotRun("not asked for".into())),
        (Arm::ConnectOnly, cell(&[60, 0, 0, 0, 0, 0])),
    ];
    let alone = Outcome { name: "alone".into(), ..fixture::five_on_two() };
    Report::new(fixture::origin("6.12.1"), vec![outcome, alone])
}

#[test]
fn what_did_not_run_here_is_taken_from_there() {
    let mut report = fixture::report();
    report.merge(with_ipvs()).unwrap();
    let outcome = report.outcome("scale-up").unwrap();
    let arms: Vec<Arm> = outcome.arms.iter().map(|(arm, _)| *arm).collect();
    assert_eq!(
        arms,
        [
            Arm::Direct,
            Arm::Iptables,
            Arm::Nftables,
            Arm::IpvsRr,
            Arm::IpvsLc,
            Arm::ConnectOnly,
            Arm::Rebalancing
        ]
    );
    let cell = |arm| &outcome.arms.iter().find(|(its, _)| *its == arm).unwrap().1;
    assert!(matches!(cell(Arm::IpvsRr), Cell::Ran(runs) if runs.len() == 7));
    assert!(matches!(cell(Arm::IpvsLc), Cell::NotRun(reason) if reason == "not asked for"));
    // What ran here stays.
    assert!(matches!(cell(Arm::ConnectOnly), Cell::Ran(runs) if runs[0].connections[0] == 20));
    assert_eq!(report.others.len(), 1);
    assert_eq!(report.others[0].origin.machine.kernel, "6.12.1");
    assert_eq!(report.guest("scale-up", Arm::IpvsRr), Some(0));
    assert_eq!(report.guest("scale-up", Arm::ConnectOnly), None);
    assert_eq!(report.guest("scale-up", Arm::IpvsLc), None);
    // A scenario that is missing here comes whole.
    assert_eq!(report.outcome("alone").unwrap().arms.len(), 2);
    assert_eq!(report.guest("alone", Arm::Iptables), Some(0));
    assert_eq!(Report::read(&report.json().unwrap()).unwrap(), report);
}

#[test]
fn what_was_merged_keeps_its_origin_when_merged_again() {
    let mut there = Report::new(fixture::origin("5.15.0"), vec![fixture::five_on_two()]);
    there.merge(with_ipvs()).unwrap();
    let mut report = Report::new(fixture::origin("6.18.44"), Vec::new());
    report.merge(there).unwrap();
    let kernel = |scenario: &str, arm| {
        let guest = report.guest(scenario, arm).expect("nothing ran here");
        report.others[guest].origin.machine.kernel.as_str()
    };
    assert_eq!(kernel("scale-up", Arm::IpvsRr), "6.12.1");
    assert_eq!(kernel("alone", Arm::ConnectOnly), "6.12.1");
    assert_eq!(kernel("five-on-two", Arm::ConnectOnly), "5.15.0");
}

#[test]
fn merging_twice_changes_nothing_more() {
    let mut report = fixture::report();
    report.merge(with_ipvs()).unwrap();
    let once = report.clone();
    report.merge(with_ipvs()).unwrap();
    assert_eq!(report, once);
}

#[test]
fn what_is_played_again_on_top_says_when() {
    let mut report = fixture::report();
    report.merge(with_ipvs()).unwrap();
    let again = Outcome { arms: vec![fixture::five_on_two().arms.swap_remove(1)], ..fixture::scale_up() };
    // By the same build, on the same day: nothing to say, and nothing left of what was taken over.
    let mut origin = fixture::origin("6.18.44");
    origin.machine.load_after = "9.00 9.00 9.00".into();
    report.put(again.clone(), &origin);
    assert_eq!(report.outcome("scale-up"), Some(&again));
    assert_eq!(report.guest("scale-up", Arm::ConnectOnly), None);
    assert_eq!(report.guest("scale-up", Arm::IpvsRr), None);
    assert_eq!(report.guest("alone", Arm::Iptables), Some(0));
    // By another.
    origin.commit = "4567def".into();
    report.put(again, &origin);
    report.put(Outcome { name: "new".into(), ..fixture::five_on_two() }, &origin);
    for (scenario, arm) in [("scale-up", Arm::ConnectOnly), ("new", Arm::Iptables)] {
        let guest = report.guest(scenario, arm).expect("it is of another commit");
        assert_eq!(report.others[guest].origin.commit, "4567def");
    }
    assert_eq!(report.others.len(), 2);
    assert_eq!(report.guest("five-on-two", Arm::Iptables), None);
    // How busy the machine was then is noted with what was played then.
    let first = report.origin.clone();
    origin.machine.load_after = "5.00 5.00 5.00".into();
    report.ended(&origin);
    let guest = report.guest("new", Arm::Iptables).expect("it is of another commit");
    assert_eq!(report.others[guest].origin, origin);
    assert_eq!(report.origin, first);
}

#[test]
fn a_simulation_does_not_stand_in_for_a_run() {
    let mut report = fixture::report();
    let before = report.clone();
    let mut other = with_ipvs();
    other.outcomes[0].simulated = true;
    other.outcomes.reverse();
    let error = report.merge(other).expect_err("they are not the same").to_string();
    assert!(error.contains("scale-up") && error.contains("simulated"), "{error}");
    assert_eq!(report, before);
}

#[test]
fn only_samples_that_are_drawn_are_kept() {
    let mut report = fixture::report();
    let plots = report.plots().unwrap();
    report.keep_plotted_samples();
    assert_eq!(report.plots().unwrap(), plots);
    let kept = report.outcomes[0].arms.iter().filter_map(|(_, cell)| match cell {
        Cell::Ran(runs) => Some(runs.iter().filter(|run| !run.samples.is_empty()).count()),
        Cell::NotRun(_) => None,
    });
    assert!(kept.max() == Some(1));
}
