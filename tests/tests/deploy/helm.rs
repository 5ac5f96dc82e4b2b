//! The chart, rendered by the libraries that Helm is made of (`tests/helm/render.go`): Debian has no Helm.

use std::{
    fs,
    process::{Command, Output},
};

use balancer_tests::topology::Scratch;
use serde_json::{Value, json};

use crate::{
    agent, kustomize,
    objects::{Objects, VERSION, deploy},
    rights,
};

/// Renders the chart with values laid over its own.
fn template(values: &Value) -> Output {
    let files = Scratch::files().unwrap();
    let path = files.path().join("values.yaml");
    // JSON is YAML.
    fs::write(&path, values.to_string()).unwrap();
    Command::new("go")
        .args(["run", concat!(env!("CARGO_MANIFEST_DIR"), "/helm/render.go")])
        .arg(deploy().canonicalize().unwrap().join("helm/balancer"))
        .arg("balancer-system")
        .arg(path)
        // Debian's libraries, and nothing from a network.
        .envs([
            ("GO111MODULE", "off"),
            ("GOPATH", "/usr/share/gocode"),
            ("GOFLAGS", ""),
            ("GOTOOLCHAIN", "local"),
        ])
        .output()
        .expect("go: cargo xtask setup installs it")
}

#[track_caller]
fn render(values: &Value) -> Objects {
    let output = template(values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Objects::parse(&String::from_utf8(output.stdout).unwrap())
}

/// Without the labels that Helm's own conventions ask for, and without the Namespace, which Helm makes itself.
fn bare(objects: Objects) -> Objects {
    let name_alone = |labels: &mut Value| {
        labels.as_object_mut().unwrap().retain(|label, _| label == "app.kubernetes.io/name");
    };
    objects.filter_map(|kind, mut object| {
        name_alone(object.pointer_mut("/metadata/labels").unwrap());
        if let Some(labels) = object.pointer_mut("/spec/template/metadata/labels") {
            name_alone(labels);
        }
        (kind != "Namespace").then_some(object)
    })
}

#[test]
fn with_its_own_values_it_is_the_kustomization() {
    assert_eq!(bare(render(&json!({}))), bare(kustomize::render("base")));
}

#[test]
fn for_prometheus_it_is_the_overlay() {
    let values = json!({"prometheus": {"serviceMonitor": {"enabled": true}, "rule": {"enabled": true}}});
    assert_eq!(bare(render(&values)), bare(kustomize::render("overlays/prometheus-operator")));
}

#[test]
fn its_values_reach_the_agent() {
    let objects = render(&json!({
        "image": {"repository": "registry.example.com/balancer", "tag": "1.2.3"},
        "agent": {
            "algorithm": "round-robin", "lease": "2m", "logFormat": "json", "logLevel": "warn",
            "extraArgs": ["--max-backends=1000", "--zone=zone-1"],
        },
        "longLived": {"rebalance": "dry-run"},
        "port": 9991,
        "seccompProfile": {"type": "Unconfined"},
        "imagePullSecrets": [{"name": "key"}],
    }));
    let arguments = agent::check(&objects);
    assert_eq!(arguments.algorithm.name(), "round-robin");
    assert_eq!(arguments.lease.duration().unwrap().as_secs(), 120);
    assert_eq!((arguments.max_backends, arguments.zone.as_deref()), (1000, Some("zone-1")));
    assert_eq!(arguments.http.to_string(), "127.0.0.1:9991");
    let agent = agent::container(&objects.daemon_set());
    assert!(agent.args.unwrap().contains(&"--rebalance=dry-run".to_owned()));
    assert_eq!(agent.image.as_deref(), Some("registry.example.com/balancer:1.2.3"));
    assert_eq!(agent.security_context.unwrap().seccomp_profile.unwrap().type_, "Unconfined");
    assert_eq!(rights::rights(&objects), rights::expected(&rights::BASE));
}

#[test]
fn what_it_balances_and_whether_is_a_value() {
    for (values, overlay) in [
        (json!({"agent": {"mode": "observe"}}), "observe"),
        (json!({"agent": {"select": "annotated"}}), "opt-in"),
        (json!({"podOptOut": true}), "pod-opt-out"),
        (json!({"longLived": {"enabled": true}}), "long-lived"),
    ] {
        let expect = kustomize::render(&format!("overlays/{overlay}"));
        assert_eq!(bare(render(&values)), bare(expect), "{overlay}");
    }
}

/// Applied over what Helm made, the overlay `uninstall` would leave the agent running: kubectl takes away only what it has
/// itself applied, and containers are merged by name. They have the same objects, so one goes before the other comes.
#[test]
fn its_release_goes_before_the_overlay_that_detaches() {
    let overlay = kustomize::render("overlays/uninstall");
    let known = overlay.names();
    for object in render(&json!({})).names() {
        assert!(known.contains(&object), "{object:?} would outlive the overlay");
    }
    let manual = fs::read_to_string(deploy().join("../docs/install.md")).unwrap();
    let (_, after) = manual.split_once("```sh\nhelm uninstall balancer").expect("it says how");
    let steps = ["wait --for=delete pod", "apply -k", "rollout status", "delete -k"];
    let (block, _) = after.split_once("```").unwrap();
    let places: Vec<_> = steps.iter().map(|step| block.find(step).expect(step)).collect();
    assert!(places.is_sorted(), "{block}");
}

#[test]
fn its_schema_refuses_what_the_agent_would() {
    for (values, names) in [
        (json!({"agnet": {}}), "agnet"),
        (json!({"agent": {"algorithm": "fastest"}}), "agent.algorithm"),
        (json!({"agent": {"mode": "watch"}}), "agent.mode"),
        (json!({"agent": {"lease": "soon"}}), "agent.lease"),
        (json!({"agent": {"extraArgs": ["no-flag"]}}), "agent.extraArgs"),
        (json!({"longLived": {"rebalance": true}}), "longLived.rebalance"),
        (json!({"port": 99_999}), "port"),
        (json!({"image": {"repository": ""}}), "image.repository"),
    ] {
        let output = template(&values);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(names), "{values}: {error}");
    }
}

#[test]
fn its_versions_are_those_of_the_workspace() {
    let chart = fs::read_to_string(deploy().join("helm/balancer/Chart.yaml")).unwrap();
    for key in ["version", "appVersion"] {
        assert!(chart.lines().any(|line| line == format!("{key}: {VERSION}")), "{key} is not {VERSION}");
    }
}
