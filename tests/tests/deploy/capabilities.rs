//! The capabilities in the DaemonSet are the minimal set: the agent works with them, and without any one of them it says which.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    agent::{Agent, binary},
    peer::Client,
    topology::service_v4,
};

use crate::{agent, kustomize::render, node::Node};

/// What the manifest adds, as the kernel counts it (`include/uapi/linux/capability.h`).
const NUMBERS: [(&str, u32); 3] = [("NET_ADMIN", 12), ("PERFMON", 38), ("BPF", 39)];

/// The names in the manifest, without `CAP_`.
fn of_the_manifest() -> Vec<String> {
    of("base")
}

fn of(kustomization: &str) -> Vec<String> {
    let agent = agent::container(&render(kustomization).daemon_set());
    agent.security_context.unwrap().capabilities.unwrap().add.unwrap()
}

/// A command that runs another one as a kubelet would run a container of root's with these capabilities.
fn with(names: &[String]) -> String {
    let set: String = names.iter().map(|name| format!(",+{}", name.to_ascii_lowercase())).collect();
    format!("setpriv --no-new-privs --inh-caps=-all --bounding-set=-all{set}")
}

#[test]
fn those_of_the_manifest_are_enough() {
    let node = Node::new();
    let names = of_the_manifest();
    let mut agent = node.agent(&with(&names));
    agent.options_mut().environment.push(("BALANCER_EXPRESS_LANE".to_owned(), "true".to_owned()));
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();

    let status = fs::read_to_string(format!("/proc/{}/status", agent.process().unwrap().id())).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let expect = names.iter().map(|name| {
        let known = NUMBERS.iter().find(|(known, _)| known == name);
        1_u64 << known.unwrap_or_else(|| panic!("{name} has no number here")).1
    });
    let expect: u64 = expect.sum();
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(field(set), 16).unwrap(), expect, "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");

    let client = node.client.client().unwrap();
    for _ in 0..10 {
        client.ask(Node::frontend()).unwrap();
    }
    let opened = |agent: &Agent<'_>| -> u64 {
        let stats = agent.stats_of(Node::frontend()).unwrap();
        stats.backends.iter().map(|backend| backend.opened).sum()
    };
    assert_eq!(opened(&agent), 10, "translated and counted");
    // It sees that there are no rules to pass by, which takes looking at them.
    // It is written down once a second.
    let says = || String::from_utf8(agent.cli(["check", "--no-probe"]).unwrap().stdout).unwrap();
    let seen = (0..30).any(|_| {
        thread::sleep(Duration::from_millis(100));
        says().contains("no iptables rules here")
    });
    assert!(seen, "{}", says());
    // The next version of it, with as little: it takes over.
    assert!(agent.terminate().unwrap().success());
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    client.ask(Node::frontend()).unwrap();
    assert_eq!(opened(&agent), 11);

    // What `kubectl exec` into the agent's container does. Only `connections` wants more, and says so.
    let works = |arguments: &[&str]| {
        let output = agent.cli(arguments).unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for arguments in
        [&["stats", "-A"][..], &["services", "-A"], &["backends", "-A"], &["explain", "shop/web"], &["check"]]
    {
        works(arguments);
    }
    let lacks = works(&["connections", "-A"]);
    assert!(lacks.contains("may be incomplete") && lacks.contains("CAP_SYS_ADMIN"), "{lacks}");
    // What the kustomization `uninstall` does.
    assert!(agent.terminate().unwrap().success());
    let removed = agent.print(["detach"]).unwrap();
    assert!(removed.contains("removed"), "{removed}");
    let code = agent.cli(["stats"]).unwrap().status.code();
    assert_eq!(code, Some(3), "exit code 3: not installed");
}

#[test]
fn none_of_them_can_be_left_out() {
    let node = Node::new();
    let names = of_the_manifest();
    for missing in &names {
        let rest: Vec<String> = names.iter().filter(|name| *name != missing).cloned().collect();
        let mut agent = node.agent(&with(&rest));
        agent.spawn().unwrap();
        let status = agent.process().unwrap().wait(Duration::from_secs(20)).unwrap();
        assert_eq!(status.code(), Some(4), "without {missing}: {}", agent.log());
        assert!(
            agent.log().contains(&format!("missing CAP_{missing}:")),
            "without {missing}: {}",
            agent.log()
        );
    }
}

/// A client that holds a connection which has gone back and forth often enough to be moved.
fn holding_one(node: &Node) -> Client {
    let client = node.client.client().unwrap();
    client.hold(1, Node::frontend()).unwrap();
    for _ in 0..6 {
        assert!(client.ask_held().unwrap().failures.is_empty());
    }
    client
}

/// With those of the overlay an idle connection of a pod is moved; without them it is left alone.
#[test]
fn what_the_overlay_adds_reaches_the_sockets_of_pods() {
    let node = Node::new();
    let service = node.manifests.service("shop/web").cluster_ip(service_v4(1)).port(80);
    let service = service
        .annotation("balancer.dev/rebalance", "idle")
        .annotation("balancer.dev/rebalance-trust", "immediate")
        .annotation("balancer.dev/rebalance-quiet", "200ms")
        .annotation("balancer.dev/rebalance-min-age", "0s");
    service.write().unwrap();
    for (kustomization, expect) in [("overlays/long-lived", 1), ("base", 0)] {
        let mut agent = node.agent(&with(&of(kustomization)));
        agent.spawn().unwrap();
        agent.wait_ready().unwrap();
        let client = holding_one(&node);
        thread::sleep(Duration::from_millis(400));
        let document = agent.json(["rebalance", "now", "shop/web", "--max", "1"]).unwrap();
        assert_eq!(document["items"][0]["moved"], expect, "{kustomization}: {document}");
        assert_eq!(client.check_held().unwrap().broken, expect);
    }
}

/// Each of those that the overlay adds, left out: connections of pods are then not watched, so that no Service earns the trust
/// that moving takes; and none is moved through its descriptor, which `docs/long-lived.md` says for what reason.
#[test]
fn none_of_those_of_the_overlay_can_be_left_out() {
    let node = Node::new();
    let service = node.manifests.service("shop/web").cluster_ip(service_v4(1)).port(80);
    let service = service
        .annotation("balancer.dev/rebalance", "idle")
        .annotation("balancer.dev/rebalance-quiet", "200ms")
        .annotation("balancer.dev/rebalance-min-age", "0s");
    service.write().unwrap();
    let all = of("overlays/long-lived");
    let added: Vec<String> = all.iter().filter(|name| !of_the_manifest().contains(name)).cloned().collect();
    assert_eq!(added, ["SYS_PTRACE", "SYS_ADMIN", "DAC_READ_SEARCH"]);
    for missing in [None].into_iter().chain(added.iter().map(Some)) {
        let rest: Vec<String> = all.iter().filter(|name| Some(*name) != missing).cloned().collect();
        let mut agent = node.agent(&with(&rest));
        agent.spawn().unwrap();
        agent.wait_ready().unwrap();
        let client = holding_one(&node);
        let status = || agent.json(["rebalance", "status", "shop/web"]).unwrap()["items"][0].clone();
        let offered_of = |item: &serde_json::Value| item["lifecycle"]["offered"].as_u64().unwrap();
        let before = offered_of(&status());
        // Connections are listed every five seconds at least.
        let patience = Duration::from_secs(if missing.is_none() { 30 } else { 7 });
        let end = Instant::now() + patience;
        while offered_of(&status()) == before && Instant::now() < end {
            thread::sleep(Duration::from_millis(200));
        }
        let offered = offered_of(&status()) - before;
        assert_eq!(offered > 0, missing.is_none(), "without {missing:?}: {offered} were watched");

        assert!(client.ask_held().unwrap().failures.is_empty());
        thread::sleep(Duration::from_millis(400));
        let item = agent.json(["rebalance", "now", "shop/web", "--max", "1"]).unwrap()["items"][0].clone();
        let outcome = (item["moved"].as_u64().unwrap(), item["refused"]["shared"].as_u64());
        let expect = match missing.map(String::as_str) {
            None => (1, None),
            // Who holds it is not known: the kernel closes it, and the application is told that it was aborted.
            Some("SYS_PTRACE") => (1, None),
            // It is not even seen.
            Some("SYS_ADMIN") => (0, None),
            // Who else holds it cannot be told.
            Some("DAC_READ_SEARCH") => (0, Some(1)),
            Some(other) => panic!("{other} is not known here"),
        };
        assert_eq!(outcome, expect, "without {missing:?}: {item}");
        let check = agent.print(["check"]).unwrap();
        let named = missing.is_none_or(|missing| check.contains(&format!("CAP_{missing}")));
        assert!(named, "without {missing:?}: {check}");
    }
}

/// Reading the tables takes root's pins and CAP_BPF, of which Linux asks less since 5.19; nobody else may, and nothing more is
/// needed.
#[test]
fn commands_need_no_more_than_they_use() {
    let node = Node::new();
    let mut agent = node.agent(&with(&of_the_manifest()));
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    let run = |names: &[&str], user: &str, arguments: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (wrapper, words) = (with(&names), arguments.join(" "));
        let (binary, pins) = (binary().unwrap(), agent.pins());
        let line = format!("exec {wrapper} {user} {} --pins {} {words}", binary.display(), pins.display());
        let mut command = Command::new("sh");
        command.arg("-c").arg(line);
        node.topology.host().output(command).unwrap()
    };
    let readers: [&[&str]; 6] = [
        &["stats", "-A"],
        &["services", "-A"],
        &["backends", "-A"],
        &["explain", "shop/web"],
        &["rebalance", "status", "-A"],
        &["rebalance", "plan", "shop/web"],
    ];
    let nobody = "--reuid=65534 --regid=65534 --clear-groups";
    for arguments in readers {
        let output = run(&["BPF"], "", arguments);
        assert!(output.status.success(), "{arguments:?} with CAP_BPF alone: {output:?}");
        let output = run(&[], nobody, arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && words.contains("takes root"),
            "{arguments:?} by anybody: {output:?}"
        );
    }
}
