//! Alerts and the dashboard: their metrics exist, their expressions parse, every alert fires for what it is for, and none
//! fires on a node where all is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use balancer_tests::topology::Scratch;
use serde_json::{Value, json};

use crate::{
    kustomize::render,
    monitoring::{PrometheusRule, Rule, ServiceMonitor},
    objects::deploy,
};

/// The manual of metrics; `metrics::tests` in the agent proves its names.
const MANUAL: &str = include_str!("../../../docs/metrics.md");
/// An exposition with every Service and backend series that there is.
const EXPOSITION: &str = include_str!("../../../balancer-userspace/src/metrics/snapshots/metrics.snap");
const TROUBLESHOOTING: &str = include_str!("../../../docs/troubleshooting.md");

fn rules() -> Vec<Rule> {
    let rule: PrometheusRule = render("overlays/prometheus-operator").get("PrometheusRule", "balancer");
    let [group] = <[_; 1]>::try_from(rule.spec.groups).unwrap();
    group.rules
}

/// Names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("balancer_")).collect()
}

#[track_caller]
fn exist(expression: &str) {
    let known: BTreeSet<&str> = MANUAL.split('`').filter(|word| word.starts_with("balancer_")).collect();
    for name in names(expression) {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let found = known.contains(name) || histogram.is_some_and(|name| known.contains(name));
        assert!(found, "docs/metrics.md has no {name}, in {expression}");
    }
}

/// Runs promtool in a directory of its own.
#[track_caller]
fn promtool(arguments: &[&str], files: &[(&str, &Value)]) {
    let directory = Scratch::files().unwrap();
    for (name, content) in files {
        // JSON is YAML.
        fs::write(directory.path().join(name), content.to_string()).unwrap();
    }
    let output = Command::new("promtool").args(arguments).current_dir(directory.path()).output();
    let output = output.expect("promtool: cargo xtask setup installs it");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A file of rules that promtool reads.
fn rule_file(rules: &[Rule]) -> Value {
    let rules: Vec<Value> = rules.iter().map(|rule| serde_json::to_value(rule).unwrap()).collect();
    json!({"groups": [{"name": "balancer", "rules": rules}]})
}

#[test]
fn the_monitor_finds_the_agents() {
    let objects = render("overlays/prometheus-operator");
    let monitor: ServiceMonitor = objects.get("ServiceMonitor", "balancer");
    let service: k8s_openapi::api::core::v1::Service = objects.get("Service", "balancer");
    let spec = service.spec.unwrap();
    assert_eq!(monitor.metadata.namespace, service.metadata.namespace);
    let labels = service.metadata.labels.unwrap();
    assert!(monitor.spec.selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let pods = objects.daemon_set().spec.unwrap().template.metadata.unwrap().labels.unwrap();
    assert!(spec.selector.unwrap().iter().all(|(key, value)| pods.get(key) == Some(value)));
    assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
    let [endpoint] = <[_; 1]>::try_from(monitor.spec.endpoints).unwrap();
    assert!(spec.ports.unwrap().iter().any(|port| port.name.as_ref() == Some(&endpoint.port)));
    assert!(endpoint.honor_labels, "the metrics' own namespace, service and pod would be renamed");
}

#[test]
fn alerts_are_of_metrics_that_exist_and_name_a_remedy() {
    let rules = rules();
    for rule in &rules {
        exist(&rule.expr);
        assert!(rule.annotations["description"].contains("Remedy: "), "{}", rule.alert);
        assert!(!rule.annotations["summary"].is_empty());
        assert!(["info", "warning"].contains(&rule.labels["severity"].as_str()), "{}", rule.alert);
        let (file, anchor) = rule.annotations["manual"].split_once('#').unwrap();
        assert_eq!(file, "docs/troubleshooting.md");
        assert!(anchors(TROUBLESHOOTING).contains(anchor), "{}: {file} has no #{anchor}", rule.alert);
    }
    promtool(&["check", "rules", "rules.yml"], &[("rules.yml", &rule_file(&rules))]);
}

/// What headings of a manual can be linked by.
fn anchors(manual: &str) -> BTreeSet<String> {
    let headings = manual.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        text.chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_alert_fires_for_its_cause_and_none_without() {
    const BACKEND: &str = r#"namespace="shop",service="web",port="80",family="IPv4",protocol="TCP""#;
    let rules = rules();
    let of = |a: &str, b: &str| format!(r#"{a}{{{b}}}"#);
    let backend = |metric: &str, n: u32| {
        of(metric, &format!(r#"instance="n",{BACKEND},pod="web-{n}",backend="10.0.0.{n}:80""#))
    };
    let failed = |n: u32| {
        of(
            "balancer_backend_failed_total",
            &format!(r#"instance="n",{BACKEND},pod="web-{n}",backend="10.0.0.{n}:80",reason="refused""#),
        )
    };
    let passed = of(
        "balancer_service_pass_throughs_total",
        r#"instance="n",namespace="shop",service="web",reason="no-socket-state""#,
    );
    // A series, its values on a node where all is well, and on one where nothing is.
    let series = [
        (of("up", r#"job="balancer",instance="n""#), "1x60", "0x60"),
        (of("balancer_lease_remaining_seconds", r#"instance="n""#), "55x60", "0x60"),
        (of("balancer_synced", r#"instance="n""#), "1x60", "0x60"),
        (of("balancer_source_contact_age_seconds", r#"instance="n""#), "60x60", "400x60"),
        (of("balancer_map_entries", r#"instance="n",map="backends""#), "70x60", "90x60"),
        (of("balancer_map_capacity", r#"instance="n",map="backends""#), "100x60", "100x60"),
        (of("balancer_map_entries", r#"instance="n",map="clients""#), "100x60", "100x60"),
        (of("balancer_map_capacity", r#"instance="n",map="clients""#), "100x60", "100x60"),
        (of("balancer_applies_total", r#"instance="n",outcome="failed""#), "0x60", "0+1x60"),
        (passed, "0x60", "0+60x60"),
        (backend("balancer_backend_connections", 1), "20x60", "100x60"),
        (backend("balancer_backend_connections", 2), "15x60", "5x60"),
        (backend("balancer_backend_connections", 3), "15x60", "5x60"),
        // Gone, with connections left: its load is nobody's fault.
        (backend("balancer_backend_connections", 4), "900x60", "0x60"),
        (backend("balancer_backend_usable", 1), "1x60", "1x60"),
        (backend("balancer_backend_usable", 2), "1x60", "1x60"),
        (backend("balancer_backend_usable", 3), "1x60", "1x60"),
        (backend("balancer_backend_usable", 4), "0x60", "0x60"),
        (backend("balancer_backend_opened_total", 1), "0+600x60", "0+600x60"),
        (failed(1), "0+6x60", "0+300x60"),
        (of("balancer_rebalance_stopped", &format!(r#"instance="n",{BACKEND}"#)), "0x60", "1x60"),
        (backend("balancer_backend_ejected", 1), "0 1 0x60", "1 1 1 0 1 1 1 0 1x60"),
        (of("balancer_services_with_problems", r#"instance="n""#), "0x60", "1x60"),
        (of("balancer_skipped_objects", r#"instance="n""#), "0x60", "0x60"),
    ];
    let labels = labels();
    for (series, ..) in &series {
        let (name, rest) = series.split_once('{').unwrap();
        exist(name);
        let Some(known) = labels.get(name) else { continue };
        for pair in rest.trim_end_matches('}').split(',') {
            let label = pair.split_once('=').unwrap().0;
            assert!(label == "instance" || known.contains(label), "{name} has no label {label}");
        }
    }

    let input = |well: bool| -> Vec<Value> {
        let each = series.iter();
        each.map(|(series, good, bad)| json!({"series": series, "values": if well { good } else { bad }}))
            .collect()
    };
    let query = r#"count by (alertname) (ALERTS{alertstate="firing"})"#;
    let firing: Vec<Value> = rules
        .iter()
        .map(|rule| json!({"labels": format!(r#"{{alertname="{}"}}"#, rule.alert), "value": 1}))
        .collect();
    let test = |well: bool, samples: &[Value]| {
        json!({
            "interval": "1m",
            "input_series": input(well),
            "promql_expr_test": [{"expr": query, "eval_time": "50m", "exp_samples": samples}],
        })
    };
    let tests = json!({
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [test(true, &[]), test(false, &firing)],
    });
    promtool(&["test", "rules", "tests.yml"], &[("rules.yml", &rule_file(&rules)), ("tests.yml", &tests)]);
}

/// Labels of every metric in the exposition.
fn labels() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut labels: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in EXPOSITION.lines().filter(|line| line.starts_with("balancer_")) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let pairs = rest.split_once('}').unwrap().0.split("\",");
        labels.entry(name).or_default().extend(pairs.map(|pair| pair.split_once('=').unwrap().0));
    }
    labels
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let text = fs::read_to_string(deploy().join("grafana/balancer.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let variables: Vec<&Value> = dashboard["templating"]["list"].as_array().unwrap().iter().collect();
    for variable in &variables {
        exist(variable["definition"].as_str().unwrap_or_default());
    }
    let mut ids = BTreeSet::new();
    let mut recorded = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels with one id");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            exist(expression);
            for word in expression.split('$').skip(1) {
                let name: String = word.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = variables.iter().any(|variable| variable["name"] == name.as_str());
                assert!(known || name == "__rate_interval", "${name} in {expression}");
            }
            let expression = expression.replace("$__rate_interval", "5m");
            recorded.push(json!({"record": format!("panel:{}", recorded.len()), "expr": expression}));
        }
    }
    assert!(recorded.len() > 15);
    let file = json!({"groups": [{"name": "dashboard", "rules": recorded}]});
    promtool(&["check", "rules", "--lint=none", "panels.yml"], &[("panels.yml", &file)]);
}
