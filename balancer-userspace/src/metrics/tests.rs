//! The exposition of hand-made snapshots.

use std::{collections::BTreeSet, time::Duration};

use balancer_common::abi::BackendState;

use super::{AgentMetrics, EventKind, Outcome, render};
use crate::{
    cli::fixture,
    view::{BackendView, Lease, Snapshot},
};

fn text(snapshot: Snapshot, max_series: u32) -> String {
    render(&AgentMetrics::default(), snapshot, max_series).unwrap()
}

/// Samples without comments.
fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

/// Samples of Services and backends.
fn series(text: &str) -> usize {
    let of = |line: &&&str| {
        ["service", "backend", "rebalance", "drained", "closed"]
            .iter()
            .any(|subject| line.starts_with(&format!("balancer_{subject}_")))
    };
    samples(text).iter().filter(of).count()
}

#[track_caller]
fn value<'a>(text: &'a str, start: &str) -> &'a str {
    let found: Vec<&str> = samples(text).into_iter().filter(|line| line.starts_with(start)).collect();
    assert_eq!(found.len(), 1, "samples that start with {start:?}: {found:?}");
    found[0].rsplit_once(' ').unwrap().1
}

#[test]
fn the_exposition_of_a_node() {
    let text = text(fixture::snapshot(), 20_000);
    // The agent's own instruments come first, in the order of a hash map.
    let maps = &text[text.find("# HELP balancer_agent ").unwrap()..];
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("metrics", maps);
    });
}

#[test]
fn instruments_count_what_the_agent_tells_them() {
    let agent = AgentMetrics::default();
    let start = render(&agent, fixture::snapshot(), 0).unwrap();
    assert_eq!(value(&start, "balancer_applies_total{outcome=\"failed\"}"), "0", "there from the start");
    agent.event(EventKind::Slice);
    agent.event(EventKind::Slice);
    agent.event(EventKind::ServiceGone);
    agent.source_errors(1);
    agent.applied(Outcome::Ok, Duration::from_micros(350), 12);
    agent.applied(Outcome::Failed, Duration::from_secs(9), 3);
    agent.programmed(Duration::from_millis(18));
    agent.lease_renewed(Outcome::Ok);
    let text = render(&agent, fixture::snapshot(), 0).unwrap();
    for (sample, expect) in [
        ("balancer_source_events_total{kind=\"slice\"}", "2"),
        ("balancer_source_events_total{kind=\"service-gone\"}", "1"),
        ("balancer_source_errors_total", "1"),
        ("balancer_applies_total{outcome=\"ok\"}", "1"),
        ("balancer_applies_total{outcome=\"failed\"}", "1"),
        ("balancer_port_changes_total", "15"),
        ("balancer_lease_renewals_total{outcome=\"ok\"}", "1"),
        ("balancer_apply_duration_seconds_count", "1"),
        ("balancer_apply_duration_seconds_bucket{le=\"0.00032\"}", "0"),
        ("balancer_apply_duration_seconds_bucket{le=\"0.00064\"}", "1"),
        ("balancer_programming_duration_seconds_sum", "0.018"),
    ] {
        assert_eq!(value(&text, sample), expect, "{sample}");
    }
}

#[test]
fn no_sample_appears_twice_and_every_family_is_one_block() {
    let text = text(fixture::snapshot(), 20_000);
    assert!(text.ends_with("# EOF\n"));
    let mut seen = BTreeSet::new();
    for sample in samples(&text) {
        assert!(seen.insert(sample.rsplit_once(' ').unwrap().0.to_owned()), "twice: {sample}");
    }
    let mut families = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(families.insert(line.to_owned()), "two blocks of {line}");
    }
}

#[test]
fn hostile_labels_are_escaped() {
    let mut snapshot = fixture::snapshot();
    snapshot.services.truncate(1);
    snapshot.services[0].name = "a\"} 1\nbalancer_fake 7\n\\".into();
    snapshot.services[0].backends[0].pod = "\u{1b}[2J,x=\"y\"".into();
    let text = text(snapshot, 20_000);
    assert!(!text.lines().any(|line| line.starts_with("balancer_fake")), "{text}");
    assert!(text.contains(r#"service="a\"} 1\nbalancer_fake 7\n\\","#), "{text}");
    assert!(text.contains("pod=\"\u{1b}[2J,x=\\\"y\\\"\","), "{text}");
    for line in samples(&text) {
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap_or_else(|_| panic!("no value: {line}"));
    }
}

#[test]
fn the_bound_holds_and_what_is_left_out_is_counted() {
    let snapshot = || {
        let mut snapshot = fixture::snapshot();
        let health = snapshot.services[2].backends[1].health;
        let again = BackendView { id: 77, health, ..snapshot.services[2].backends[0].clone() };
        snapshot.services[2].backends.insert(1, again);
        snapshot
    };
    let all = text(snapshot(), 20_000);
    let total = series(&all);
    assert_eq!(value(&all, "balancer_metrics_series_left_out{dialled=\"true\"}"), "0");
    for limit in 0..=u32::try_from(total).unwrap() {
        let text = text(snapshot(), limit);
        let left_out: usize = ["true", "false"]
            .map(|dialled| format!("balancer_metrics_series_left_out{{dialled=\"{dialled}\"}}"))
            .map(|start| value(&text, &start).parse::<usize>().unwrap())
            .iter()
            .sum();
        assert!(series(&text) <= limit as usize, "{} series at a limit of {limit}", series(&text));
        assert_eq!(series(&text) + left_out, total, "at a limit of {limit}");
        let of = |name: &str| samples(&text).iter().filter(|line| line.starts_with(name)).count();
        assert_eq!(
            of("balancer_backend_connections{"),
            of("balancer_backend_closed_total{"),
            "whole backends"
        );
    }
}

#[test]
fn services_that_were_dialled_come_first() {
    let mut snapshot = fixture::snapshot();
    snapshot.services.insert(0, fixture::service(9, "a", "idle", "", "10.96.0.50:80"));
    let limited = text(snapshot, 36);
    assert!(limited.contains("service=\"dns\"") && !limited.contains("service=\"idle\""), "{limited}");
    assert_eq!(value(&limited, "balancer_metrics_series_left_out{dialled=\"false\"}"), "14");
}

#[test]
fn a_service_without_ready_backends_is_no_problem() {
    let mut snapshot = fixture::snapshot();
    let problems = |snapshot: &Snapshot| text(snapshot.clone(), 0);
    assert_eq!(value(&problems(&snapshot), "balancer_services_with_problems"), "1");
    for service in snapshot.services.iter_mut().filter(|service| service.problem.is_none()) {
        service.problem = Some("no ready endpoints on this node (internalTrafficPolicy: Local)".into());
    }
    assert_eq!(value(&problems(&snapshot), "balancer_services_with_problems"), "1");
}

#[test]
fn a_backend_that_came_back_is_one_series() {
    let mut snapshot = fixture::snapshot();
    let web = &mut snapshot.services[2].backends;
    let again = BackendView { id: 77, state: BackendState::Removed, ..web[0].clone() };
    web.insert(1, again);
    let other_pod = BackendView { id: 78, pod: "web-other".into(), ..web[0].clone() };
    web.insert(2, other_pod);
    let text = text(snapshot, 20_000);
    let of = |pod: &str| {
        format!(
            "balancer_backend_connections{{namespace=\"default\",service=\"web\",port=\"80\",port_name=\"http\",protocol=\"TCP\",family=\"IPv4\",backend=\"10.244.0.5:8080\",pod=\"{pod}\""
        )
    };
    assert_eq!(value(&text, &of("web-5")), "8");
    assert_eq!(value(&text, &of("web-other")), "4");
    assert_eq!(value(&text, &of("web-5").replace("connections", "usable")), "1");
}

#[test]
fn a_backend_that_is_gone_leaves_nothing_behind() {
    let agent = AgentMetrics::default();
    let before = render(&agent, fixture::snapshot(), 20_000).unwrap();
    assert!(before.contains("10.244.0.7:8080"));
    let mut snapshot = fixture::snapshot();
    snapshot.services[2].backends.remove(2);
    let after = render(&agent, snapshot, 20_000).unwrap();
    assert!(!after.contains("10.244.0.7:8080"));
}

#[test]
fn the_lease_is_a_number_that_an_alert_can_compare() {
    let with = |lease| {
        let mut snapshot = fixture::snapshot();
        snapshot.agent.lease = lease;
        text(snapshot, 0)
    };
    assert_eq!(
        value(&with(Lease::Lapsed(Duration::from_secs(3))), "balancer_lease_remaining_seconds"),
        "-3.0"
    );
    assert_eq!(value(&with(Lease::Never), "balancer_lease_remaining_seconds"), "0.0");
    assert!(!with(Lease::Endless).contains("balancer_lease_remaining"));
}

#[test]
fn every_metric_is_documented() {
    let manual = include_str!("../../../docs/metrics.md");
    let agent = AgentMetrics::default();
    agent.event(EventKind::List);
    let text = render(&agent, fixture::snapshot(), 20_000).unwrap();
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = name.split_once(' ').unwrap();
        let name = match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        };
        assert!(manual.contains(&format!("`{name}`")), "docs/metrics.md does not mention {name}");
    }
    for name in manual.split('`').filter(|word| word.starts_with("balancer_") && !word.contains([' ', '{'])) {
        let family = name.trim_end_matches("_total").trim_end_matches("_info");
        assert!(
            text.contains(&format!("# TYPE {family} ")),
            "docs/metrics.md mentions {name}, which is not served"
        );
    }
}
