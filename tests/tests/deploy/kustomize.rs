//! The kustomizations, rendered by the `kubectl` that is on this machine.

use std::{
    fs,
    process::{Command, Stdio},
};

use balancer_userspace::cli::{Cli, agent::AgentArgs};
use clap::Parser as _;
use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};

use crate::{
    agent,
    objects::{Objects, VERSION, deploy},
    rights,
};

/// What every rendering has.
const BASE: [(&str, &str); 6] = [
    ("ClusterRole", "balancer"),
    ("ClusterRoleBinding", "balancer"),
    ("DaemonSet", "balancer"),
    ("Namespace", "balancer-system"),
    ("NetworkPolicy", "nothing-but-the-host"),
    ("ServiceAccount", "balancer"),
];

/// Renders a directory below `deploy/kustomize`.
#[track_caller]
pub fn render(directory: &str) -> Objects {
    let path = deploy().join("kustomize").join(directory);
    let output = Command::new("kubectl")
        .arg("kustomize")
        .arg(&path)
        // No cluster, no configuration, and nothing of the user's.
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("kubectl does not run ({error}): cargo xtask setup installs it"));
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{directory}: {stderr}");
    Objects::parse(&stdout)
}

/// Renders an overlay: the base's objects and `more`, and the arguments of its agent.
#[track_caller]
fn overlay(name: &str, more: &[(&str, &str)]) -> (Objects, AgentArgs) {
    let objects = render(&format!("overlays/{name}"));
    let mut expect = [&BASE, more].concat();
    expect.sort_unstable();
    assert_eq!(objects.names(), expect, "{name}");
    let arguments = agent::check(&objects);
    (objects, arguments)
}

#[test]
fn the_base() {
    let objects = render("base");
    assert_eq!(objects.names(), BASE);
    let arguments = agent::check(&objects);
    assert_eq!(arguments.http.to_string(), "127.0.0.1:9990");
    let image = agent::container(&objects.daemon_set()).image.unwrap();
    assert_eq!(image, format!("balancer:{VERSION}"));
}

/// /metrics where Prometheus reaches it, and the probes there too.
#[test]
fn prometheus_operator() {
    let more = [("PrometheusRule", "balancer"), ("Service", "balancer"), ("ServiceMonitor", "balancer")];
    let (_, arguments) = overlay("prometheus-operator", &more);
    assert_eq!(arguments.http.to_string(), "192.0.2.1:9990");
}

/// The last argument of an overlay's agent; the agent's own parser has taken it by then.
#[track_caller]
fn flag(objects: &Objects) -> String {
    agent::container(&objects.daemon_set()).args.unwrap().pop().unwrap()
}

#[test]
fn observe() {
    let (objects, _) = overlay("observe", &[]);
    assert_eq!(flag(&objects), "--mode=observe");
}

#[test]
fn opt_in() {
    let (objects, _) = overlay("opt-in", &[]);
    assert_eq!(flag(&objects), "--select=annotated");
}

/// The one overlay with a right more.
#[test]
fn pod_opt_out() {
    let (objects, _) = overlay("pod-opt-out", &[]);
    assert_eq!(flag(&objects), "--watch-pods");
    let mut rights = rights::expected(&rights::BASE);
    rights.extend(rights::expected(&[("", "pods", &["list", "watch"])]));
    assert_eq!(rights::rights(&objects), rights);
}

/// The one overlay with capabilities more; without a flag more, so that nothing is moved unasked.
#[test]
fn long_lived() {
    let (objects, _) = overlay("long-lived", &[]);
    let agent = |objects: &Objects| agent::container(&objects.daemon_set());
    let added =
        |objects: &Objects| agent(objects).security_context.unwrap().capabilities.unwrap().add.unwrap();
    let base = render("base");
    assert_eq!(added(&base), ["BPF", "NET_ADMIN", "PERFMON"]);
    let more = ["SYS_PTRACE", "SYS_ADMIN", "DAC_READ_SEARCH"].map(str::to_owned);
    assert_eq!(added(&objects), [added(&base), more.to_vec()].concat());
    assert_eq!(objects.daemon_set().spec.unwrap().template.spec.unwrap().host_pid, Some(true));
    assert_eq!(agent(&objects).args, agent(&base).args);
}

/// For runtimes whose default profile refuses bpf(2): nothing else differs.
#[test]
fn cri_o() {
    let (objects, _) = overlay("cri-o", &[]);
    let profile = |objects: &Objects| {
        let context = agent::container(&objects.daemon_set()).security_context.unwrap();
        context.seccomp_profile.unwrap().type_
    };
    assert_eq!(profile(&render("base")), "RuntimeDefault");
    assert_eq!(profile(&objects), "Unconfined");
}

/// In the agent's place runs `balancer detach`, with the agent's rights, mounts and variables; then something that stays.
#[test]
fn uninstall() {
    let base = agent::container(&render("base").daemon_set());
    let objects = render("overlays/uninstall"); // not overlay("uninstall", …): no agent runs there
    assert_eq!(objects.names(), BASE);
    let spec = objects.daemon_set().spec.unwrap();
    let rolling = spec.update_strategy.unwrap().rolling_update.unwrap();
    assert_eq!(rolling.max_unavailable, Some(IntOrString::String("100%".into())));
    let pod = spec.template.spec.unwrap();
    let [detach] = <[_; 1]>::try_from(pod.init_containers.unwrap()).unwrap();
    let expect = Container {
        name: "detach".into(),
        args: Some(vec!["detach".into()]),
        ports: None,
        startup_probe: None,
        liveness_probe: None,
        readiness_probe: None,
        ..base
    };
    assert_eq!(detach, expect);
    Cli::try_parse_from(["balancer", &detach.args.unwrap()[0]]).unwrap();
    let [done] = <[_; 1]>::try_from(pod.containers).unwrap();
    assert_eq!(done.volume_mounts, None);
    assert_eq!(done.security_context.unwrap().run_as_non_root, Some(true));
}

/// An overlay that no test knows is one that nobody has rendered.
#[test]
fn every_overlay_has_its_test() {
    let known = include_str!("kustomize.rs");
    for entry in fs::read_dir(deploy().join("kustomize/overlays")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&format!("overlay(\"{name}\"")), "no test renders overlays/{name}");
    }
}
