//! kube-proxy's way in, by each tool, and what the kernel says of it.

use std::{collections::BTreeSet, net::SocketAddr, process::Command};

use balancer_tests::{
    agent::Agent,
    topology::{Pod, Topology},
};
use balancer_userspace::lane::{self, Endpoint, Found};
use balancer_userspace::model::{Family, Protocol};

use crate::set::{Set, wait_for};

/// What kube-proxy calls to write its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Nft,
    Legacy,
}

impl Tool {
    pub const BOTH: [Self; 2] = [Self::Nft, Self::Legacy];

    pub const fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Nft, Family::V4) => "iptables-nft",
            (Self::Nft, Family::V6) => "ip6tables-nft",
            (Self::Legacy, Family::V4) => "iptables-legacy",
            (Self::Legacy, Family::V6) => "ip6tables-legacy",
        }
    }
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Runs a command line on the node; what it printed.
#[track_caller]
pub fn run(node: &Topology, line: &str) -> String {
    let output = node.host().output(command(line)).unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn command(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    // What stands between quotation marks is one word.
    let mut open: Option<String> = None;
    for word in words {
        let text = match open.take() {
            Some(begun) => format!("{begun} {word}"),
            None => word.to_owned(),
        };
        match text.strip_prefix('"').map(|rest| rest.strip_suffix('"')) {
            Some(Some(whole)) => _ = command.arg(whole),
            Some(None) => open = Some(text),
            None => _ = command.arg(text),
        }
    }
    command
}

/// kube-proxy's chain of Services, empty, with the jumps to it.
pub fn portals(node: &Topology, tool: Tool) {
    for family in FAMILIES {
        let tool = tool.name(family);
        run(node, &format!("{tool} -w -t nat -N KUBE-SERVICES"));
        for chain in ["PREROUTING", "OUTPUT"] {
            let comment = "-m comment --comment \"kubernetes service portals\"";
            run(node, &format!("{tool} -w -t nat -A {chain} {comment} -j KUBE-SERVICES"));
        }
    }
}

/// Removes them, as kube-proxy does when it changes its mode.
pub fn no_portals(node: &Topology, tool: Tool) {
    for family in FAMILIES {
        let tool = tool.name(family);
        for command in ["-F PREROUTING", "-F OUTPUT", "-F KUBE-SERVICES", "-X KUBE-SERVICES"] {
            run(node, &format!("{tool} -w -t nat {command}"));
        }
    }
}

/// How many connections have come by the rules of a chain that jump to Services.
pub fn walked(node: &Topology, tool: Tool, family: Family, chain: &str) -> u64 {
    let text = run(node, &format!("{} -w -t nat -L {chain} -v -x -n", tool.name(family)));
    let line = text.lines().find(|line| line.contains("KUBE-SERVICES")).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What the kernel holds.
pub fn found(set: &Set, family: Family) -> Option<Found> {
    let pins = set.pins();
    set.node.host().netns().run(|| lane::read(pins, family)).unwrap().unwrap()
}

/// The TCP endpoints at these addresses.
pub fn endpoints(addresses: impl IntoIterator<Item = SocketAddr>) -> BTreeSet<Endpoint> {
    let of = |addr: SocketAddr| Endpoint { addr: addr.ip(), protocol: Protocol::Tcp, port: addr.port() };
    addresses.into_iter().map(of).collect()
}

/// Waits until the lane holds these endpoints of a family, and holds.
#[track_caller]
pub fn wait_for_lane(set: &Set, family: Family, expect: &BTreeSet<Endpoint>) {
    wait_for(&format!("the {family} lane is {expect:?}"), || {
        found(set, family).is_some_and(|found| found.alive && found.endpoints == *expect)
    });
}

/// The same for both families of pods.
#[track_caller]
pub fn wait_for_pods(set: &Set, pods: &[&Pod], port: u16) {
    wait_for_lane(set, Family::V4, &endpoints(pods.iter().map(|pod| pod.v4(port))));
    wait_for_lane(set, Family::V6, &endpoints(pods.iter().map(|pod| pod.v6(port))));
}

/// The line of `balancer check`: outcome and detail.
#[track_caller]
pub fn check(agent: &Agent<'_>) -> (String, String) {
    let output = agent.cli(["check", "--no-probe", "-o", "json"]).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let items = document["items"].as_array().unwrap();
    let line =
        items.iter().find(|item| item["name"] == "express lane").unwrap_or_else(|| panic!("{document:#}"));
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    (text("outcome"), text("detail"))
}
