//! The unit for nodes without Kubernetes.

use std::fs;

use balancer_userspace::cli::Cli;
use clap::Parser as _;

use crate::{agent, kustomize::render, objects::deploy};

#[test]
fn the_unit_runs_the_agent_as_the_daemon_set_does() {
    let unit = fs::read_to_string(deploy().join("systemd/balancer.service")).unwrap();
    let value = |key: &str| {
        let mut found = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let value = found.next().unwrap_or_else(|| panic!("no {key}="));
        assert_eq!(found.next(), None, "{key} twice");
        value
    };
    Cli::try_parse_from(value("ExecStart").split_whitespace()).unwrap();
    let agent = agent::container(&render("base").daemon_set());
    let context = agent.security_context.unwrap();
    let capabilities: Vec<String> =
        context.capabilities.unwrap().add.unwrap().iter().map(|name| format!("CAP_{name}")).collect();
    let mut bounds: Vec<&str> = value("CapabilityBoundingSet").split_whitespace().collect();
    bounds.sort_unstable();
    assert_eq!(bounds, capabilities);
    assert_eq!(value("NoNewPrivileges"), "yes");
}
