//! The capabilities in the DaemonSet are the minimal set: the agent works with them, and without any one of them it says which.

use std::{fs, thread, time::Duration};

use balancer_tests::{agent::Agent, topology::service_v4};

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
    let text = String::from_utf8(agent.cli(["check", "--no-probe"]).unwrap().stdout).unwrap();
    assert!(text.contains("no iptables rules here"), "{text}");
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
        let client = node.client.client().unwrap();
        client.hold(1, Node::frontend()).unwrap();
        for _ in 0..6 {
            assert!(client.ask_held().unwrap().failures.is_empty());
        }
        thread::sleep(Duration::from_millis(400));
        let document = agent.json(["rebalance", "now", "shop/web", "--max", "1"]).unwrap();
        assert_eq!(document["items"][0]["moved"], expect, "{kustomization}: {document}");
        assert_eq!(client.check_held().unwrap().broken, expect);
    }
}
