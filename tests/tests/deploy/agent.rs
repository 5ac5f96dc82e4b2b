//! The DaemonSet of a rendering, checked against itself and against the agent's own command line.

use std::{collections::BTreeMap, path::Path};

use balancer_userspace::cli::{Cli, Command, agent::AgentArgs, values::HttpListen};
use clap::Parser as _;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Container, PodSpec, Probe},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::objects::Objects;

/// The container that runs the agent.
#[track_caller]
pub fn container(daemon_set: &DaemonSet) -> Container {
    let containers = pod(daemon_set).containers;
    containers.into_iter().find(|container| container.name == "agent").expect("a container named agent")
}

#[track_caller]
fn pod(daemon_set: &DaemonSet) -> PodSpec {
    daemon_set.spec.clone().unwrap().template.spec.unwrap()
}

/// Checks all that holds of every rendering that runs the agent, and returns the agent's arguments.
#[track_caller]
pub fn check(objects: &Objects) -> AgentArgs {
    let daemon_set = objects.daemon_set();
    let agent = container(&daemon_set);
    selects_its_pods(&daemon_set);
    is_of_the_node(&daemon_set);
    is_confined(&agent);
    mounts_what_it_has(&daemon_set);
    for host_ip in HOST_IPS {
        is_probed(&agent, &arguments(&agent, host_ip), host_ip);
    }
    arguments(&agent, HOST_IPS[0])
}

#[track_caller]
fn selects_its_pods(daemon_set: &DaemonSet) {
    let spec = daemon_set.spec.clone().unwrap();
    let selector = spec.selector.match_labels.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    assert!(!selector.is_empty());
    for (key, value) in selector {
        assert_eq!(labels.get(&key), Some(&value), "{key}");
    }
    let update = spec.update_strategy.unwrap();
    assert_eq!(update.type_.as_deref(), Some("RollingUpdate"));
    assert_eq!(update.rolling_update.unwrap().max_unavailable, Some(IntOrString::String("10%".into())));
}

#[track_caller]
fn is_of_the_node(daemon_set: &DaemonSet) {
    let pod = pod(daemon_set);
    assert_eq!(pod.host_network, Some(true));
    // Other processes' numbers mean something in the host's PID namespace alone, and are of use to who may reach them.
    let added = container(daemon_set).security_context.unwrap().capabilities.unwrap().add.unwrap();
    let reaches = added.iter().any(|name| name == "SYS_PTRACE");
    assert_eq!((pod.host_pid, pod.host_ipc), (reaches.then_some(true), None));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    assert_eq!(pod.service_account_name.as_deref(), Some("balancer"));
    assert_eq!(pod.node_selector.unwrap(), BTreeMap::from([("kubernetes.io/os".into(), "linux".into())]));
    let tolerations = pod.tolerations.unwrap();
    // No key and no effect: every taint there is.
    assert!(
        tolerations.iter().any(|one| {
            (one.operator.as_deref(), &one.key, &one.effect) == (Some("Exists"), &None, &None)
        })
    );
}

#[track_caller]
fn is_confined(agent: &Container) {
    let context = agent.security_context.clone().unwrap();
    assert_eq!(context.privileged, None);
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(context.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    assert_eq!(agent.termination_message_policy.as_deref(), Some("FallbackToLogsOnError"));
    let resources = agent.resources.clone().unwrap();
    assert!(resources.requests.unwrap().contains_key("memory"));
    let limits = resources.limits.unwrap();
    assert!(limits.contains_key("memory") && !limits.contains_key("cpu"), "{limits:?}");
}

/// Volumes and mounts are the same set, and what the agent is told to use lies in one of them.
#[track_caller]
fn mounts_what_it_has(daemon_set: &DaemonSet) {
    let agent = container(daemon_set);
    let mounts = agent.volume_mounts.clone().unwrap();
    let mut mounted: Vec<_> = mounts.iter().map(|mount| mount.name.clone()).collect();
    let mut volumes: Vec<_> =
        pod(daemon_set).volumes.unwrap().into_iter().map(|volume| volume.name).collect();
    mounted.sort();
    volumes.sort();
    assert_eq!(mounted, volumes);
    let read_only = |path: &Path| {
        let mount = mounts.iter().find(|mount| path.starts_with(&mount.mount_path));
        mount.unwrap_or_else(|| panic!("{} is in no mount", path.display())).read_only.unwrap_or(false)
    };
    let cli = parse(&agent, HOST_IPS[0]);
    assert!(!read_only(&cli.pins), "{} cannot be written", cli.pins.display());
    let Command::Agent(arguments) = cli.command else { panic!("not the agent") };
    assert!(read_only(&arguments.cgroup.expect("--cgroup: a pod's own is a part")));
    for mount in &mounts {
        // What AppArmor's default profile for containers would deny.
        assert!(!mount.mount_path.starts_with("/sys"), "{}", mount.mount_path);
    }
}

/// Probes ask where the agent listens, as a kubelet asks: at `host`, or at the pod's address, which is the node's.
#[track_caller]
fn is_probed(agent: &Container, arguments: &AgentArgs, host_ip: &str) {
    let HttpListen::At(listen) = arguments.http else { panic!("no HTTP, no probes") };
    let port = agent.ports.clone().unwrap().remove(0);
    let number = i32::from(listen.port());
    assert_eq!((port.container_port, port.host_port), (number, Some(number)));
    let path = |probe: &Option<Probe>| {
        let get = probe.clone().expect("a probe").http_get.expect("by HTTP");
        assert_eq!(get.port, IntOrString::Int(number));
        match get.host {
            Some(host) => assert_eq!(host, listen.ip().to_string()),
            None => assert_eq!(listen.ip().to_string(), host_ip),
        }
        get.path.unwrap()
    };
    assert_eq!(path(&agent.startup_probe), "/livez");
    assert_eq!(path(&agent.liveness_probe), "/livez");
    assert_eq!(path(&agent.readiness_probe), "/readyz");
}

/// What a kubelet would put for `status.hostIP`, on one node and another.
const HOST_IPS: [&str; 2] = ["192.0.2.1", "fd00::1"];

#[track_caller]
fn arguments(agent: &Container, host_ip: &str) -> AgentArgs {
    match parse(agent, host_ip).command {
        Command::Agent(arguments) => *arguments,
        other => panic!("{other:?}"),
    }
}

/// The command line, parsed by the agent's own parser: arguments as they are, variables as the flags that they stand for.
#[track_caller]
fn parse(agent: &Container, host_ip: &str) -> Cli {
    assert_eq!(agent.command, None, "the image has its entry point");
    let mut line = vec!["balancer".to_owned()];
    let variables = variables_at(agent, host_ip);
    line.extend(agent.args.clone().unwrap().iter().map(|argument| expand(argument, &variables)));
    for (name, value) in &variables {
        let flag = name.strip_prefix("BALANCER_").map(|name| name.to_ascii_lowercase().replace('_', "-"));
        line.extend(flag.map(|flag| format!("--{flag}={value}")));
    }
    Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

/// Its variables, with what a kubelet would put for fields of the pod.
#[track_caller]
pub fn variables(agent: &Container) -> BTreeMap<String, String> {
    variables_at(agent, HOST_IPS[0])
}

#[track_caller]
fn variables_at(agent: &Container, host_ip: &str) -> BTreeMap<String, String> {
    let value = |field: &str| match field {
        "spec.nodeName" => "node-1".to_owned(),
        "status.hostIP" => host_ip.to_owned(),
        other => panic!("what is {other}?"),
    };
    let variables: BTreeMap<_, _> = agent
        .env
        .clone()
        .unwrap()
        .into_iter()
        .map(|variable| {
            let from = || variable.value_from.clone().unwrap().field_ref.unwrap().field_path;
            let value = variable.value.clone().unwrap_or_else(|| value(&from()));
            (variable.name, value)
        })
        .collect();
    assert_eq!(variables["NODE_NAME"], "node-1");
    variables
}

/// Replaces `$(NAME)` as a kubelet does; a name that is not defined would stay as it is.
#[track_caller]
fn expand(argument: &str, variables: &BTreeMap<String, String>) -> String {
    let expanded = variables
        .iter()
        .fold(argument.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value));
    assert!(!expanded.contains("$("), "{argument} names a variable that is not there");
    expanded
}
