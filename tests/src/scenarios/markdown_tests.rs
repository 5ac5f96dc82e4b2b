//! Tables as they are read.

use super::{super::fixture, *};

/// The line of `text` that begins with `start`, its cells.
#[track_caller]
fn line(text: &str, start: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(&format!("| {start} |")));
    let line = line.unwrap_or_else(|| panic!("no line of {start:?} in\n{text}"));
    line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
}

fn section(name: &str) -> String {
    let text = fixture::report().markdown("scenarios");
    let (_, rest) = text.split_once(&format!("\n## {name}: ")).expect("there is a section");
    rest.split("\n## ").next().expect("split never gives nothing").to_owned()
}

#[test]
fn an_arm_is_a_row_of_medians_with_intervals() {
    let text = section("scale-up");
    assert_eq!(
        line(&text, "balancer, rebalancing"),
        [
            "balancer, rebalancing",
            "7",
            "1.00",
            "0.00",
            "1.000",
            "1.000",
            "0",
            "34.0 (31.0..never), never in 1 of 7",
            "30",
            "0 / 42,000",
            "214 (211..217)",
            "1904 (1901..1907)"
        ]
    );
    let stuck = line(&text, "direct");
    assert_eq!(&stuck[2..8], ["2.00", "1.00", "0.500", "0.500", "3", "never (7 of 7)"]);
}

#[test]
fn too_few_runs_have_no_interval() {
    let cells = line(&section("scale-up"), "iptables");
    assert_eq!(cells[1], "1");
    assert_eq!(cells[2], "2.50 (–)");
    assert_eq!(cells[9], "3 / 6,000");
}

#[test]
fn what_was_not_run_says_so_and_why() {
    let text = section("scale-up");
    assert_eq!(line(&text, "IPVS rr")[2], "not run");
    assert!(text.contains("- IPVS rr was not run: no module ip_vs | in this kernel\n"), "{text}");
}

#[test]
fn the_possible_and_the_accidental_stand_below() {
    let text = section("five-on-two");
    let best = line(&text, "*best possible, 5 on 2*");
    assert_eq!(&best[2..7], ["1.20", "0.20", "0.962", "1.000", "0"]);
    let random = line(&text, "*expected at random, 5 on 2*");
    assert!(random[2].starts_with("1.3") && random[5] == "–" && random[6] == "0.06", "{random:?}");
}

#[test]
fn a_time_to_even_is_given_only_where_something_made_it_uneven() {
    assert_eq!(line(&section("five-on-two"), "iptables")[7], "–");
    let mut report = fixture::report();
    report.outcomes[1].change = Some("a client more".into());
    let text = report.markdown("scenarios");
    assert!(text.contains("Times count from: a client more."));
    assert_eq!(line(&text, "*best possible, 5 on 2*")[7], "not possible");
}

#[test]
fn figures_of_one_scenario_have_a_table() {
    let text = section("scale-up");
    let (_, extras) = text.split_once("| arm | held requests |").expect("a second table");
    assert_eq!(line(extras, "balancer, rebalancing")[1], "0 (0..1), mean 0.14");
    assert_eq!(line(extras, "direct")[1], "0");
}

#[test]
fn the_summary_has_every_scenario_and_failures() {
    let text = fixture::report().markdown("scenarios");
    let row = line(&text, "[scale-up](#scale-up-3---6-servers-under-60-held-connections)");
    assert_eq!(row[1], "1.00");
    assert_eq!(&row[3..], ["2.00", "2.50, 3 failed", "2.00", "not run", "2.00", "1.00"]);
    assert!(text.contains("2026-11-26, commit 0123abc, 7 seeds (1 to 7). Linux 6.18.44"));
}

#[test]
fn plots_are_shown_where_there_is_one() {
    let text = fixture::report().markdown("pictures");
    assert!(text.contains("](pictures/scale-up.svg)"));
    assert!(!text.contains("five-on-two.svg"));
}

#[test]
fn what_ran_elsewhere_is_marked() {
    let mut report = fixture::report();
    let mut other = fixture::scale_up();
    other.arms = vec![(
        Arm::IpvsRr,
        Cell::Ran((1..=7).map(|seed| fixture::run(seed, &[20, 20, 20, 0, 0, 0])).collect()),
    )];
    report.merge(Report::new(fixture::origin("6.12.1"), vec![other])).unwrap();
    let text = report.markdown("scenarios");
    assert!(text.contains("¹: 2026-11-26, commit 0123abc, 7 seeds (1 to 7). Linux 6.12.1"), "{text}");
    assert_eq!(line(&text, "IPVS rr ¹")[2], "2.00");
    assert!(line(&text, "[scale-up](#scale-up-3---6-servers-under-60-held-connections)")[6].ends_with(" ¹"));
}

#[test]
fn a_simulation_is_a_table_for_each_number_of_connections() {
    let outcome = simulation::by_size(5, simulation::Names::Random, &[1, 2, 3, 4, 5, 6]);
    let report = Report::new(fixture::origin("6.18.44"), vec![outcome, simulation::two_nodes()]);
    let text = report.markdown("scenarios");
    let (_, rest) = text.split_once("### nodes-5-random-names: 10 connections per node").expect("a table");
    let (_, nodes) = rest.split_once('\n').expect("more lines");
    let cells = line(nodes, "1");
    assert_eq!(cells[1], "1.00; 0");
    assert!(cells.iter().skip(3).any(|cell| cell == "1.00; 0"), "{cells:?}");
    assert!(text.contains("- nftables was not simulated: "));
    let (_, pairs) = text.split_once("## two-nodes: ").expect("a section");
    assert!(line(pairs, "IPVS rr").iter().any(|cell| cell == "5.00"));
    assert!(!text.contains("## Summary"), "nothing ran with sockets");
}

#[test]
fn the_terminal_shows_the_same_without_intervals() {
    let text = fixture::report().text();
    let row = text.lines().find(|line| line.starts_with("balancer, rebalancing")).expect("a row");
    assert!(row.contains("34.0, never in 1 of 7") && !row.contains(".."), "{row}");
    assert!(text.contains("IPVS rr: not run: no module ip_vs"));
    assert!(text.contains("held requests: direct 0; "));
}
