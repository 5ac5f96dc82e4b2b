//! When the lane is there: it comes and goes with kube-proxy's rules, with the agent, and with the lease.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use balancer_tests::agent::{Agent, AgentOptions, binary};
use balancer_userspace::{lane, model::Family};

use super::rules::{
    FAMILIES, Tool, check, endpoints, found, no_portals, portals, run, wait_for_lane, wait_for_pods, walked,
};
use crate::set::{PORT, Set, vip4, wait_for};

fn with_lease(set: &Set, lease: u64) -> Agent<'_> {
    let options = AgentOptions {
        lease: Some(Duration::from_secs(lease)),
        pins: Some(set.pins().to_owned()),
        arguments: vec!["--express-lane".to_owned()],
        ..AgentOptions::default()
    };
    Agent::with(&set.node, &set.manifests, options).unwrap()
}

fn pods(set: &Set) -> Vec<&balancer_tests::topology::Pod> {
    set.pods.iter().collect()
}

#[test]
fn it_is_there_when_asked_for_and_gone_when_not() {
    let set = Set::new(2);
    portals(&set.node, Tool::Nft);
    let mut agent = set.agent();
    assert_eq!(check(&agent), ("ok".to_owned(), "off (--express-lane)".to_owned()));
    assert!(FAMILIES.iter().all(|family| found(&set, *family).is_none()));

    agent.kill().unwrap();
    let mut agent = set.agent_with(&["--express-lane"]);
    wait_for_pods(&set, &pods(&set), PORT);
    wait_for("the agent says so", || check(&agent).1.contains("IPv4: 2 endpoints"));
    let explained = agent.print(["explain", &vip4(1).to_string()]).unwrap();
    assert!(explained.contains("express lane: to 2 of these 2"), "{explained}");
    let explained = agent.print(["explain", &set.pods[0].v4(PORT).to_string()]).unwrap();
    assert!(explained.contains("express lane: this is a backend's own address"), "{explained}");
    let metrics = agent.http("/metrics").unwrap().1;
    for sample in [
        "balancer_express_lane_info{family=\"IPv6\",state=\"installed\"} 1",
        "balancer_express_lane_entries{family=\"IPv4\"} 2",
        "balancer_express_lane_repairs_total 0",
    ] {
        assert!(metrics.contains(sample), "{sample}: {metrics}");
    }

    // The next agent is not asked for it, and removes it.
    agent.kill().unwrap();
    assert!(found(&set, Family::V4).is_some());
    let agent = set.agent();
    assert!(FAMILIES.iter().all(|family| found(&set, *family).is_none()));
    assert!(agent.log().contains("an earlier agent's express lane"), "{}", agent.log());
}

#[test]
fn it_is_of_no_use_beside_other_modes_and_follows_a_change() {
    let set = Set::new(1);
    let agent = set.agent_with(&["--express-lane"]);
    // One family may be looked at before the other.
    let says = |what: &str| {
        wait_for(what, || {
            let (outcome, detail) = check(&agent);
            let said = outcome == "ok" && detail.contains(what) && !detail.contains("IPv");
            said && FAMILIES.iter().all(|family| found(&set, *family).is_none())
        });
    };
    says("no iptables rules");
    for tool in Tool::BOTH {
        portals(&set.node, tool);
        wait_for_pods(&set, &pods(&set), PORT);
        no_portals(&set.node, tool);
        says("no iptables rules");
    }
    portals(&set.node, Tool::Legacy);
    run(&set.node, "nft add table ip kube-proxy");
    run(&set.node, "nft add table ip6 kube-proxy");
    says("uses nftables");
    // One family may be in another mode.
    run(&set.node, "nft delete table ip kube-proxy");
    wait_for_lane(&set, Family::V4, &endpoints([set.pods[0].v4(PORT)]));
    wait_for("each family is told of", || {
        let detail = check(&agent).1;
        detail.contains("IPv4: 1 endpoints")
            && detail.contains("IPv6: not installed: kube-proxy uses nftables")
    });
    // IPVS has a chain of Services too.
    run(&set.node, "ip link add kube-ipvs0 type veth peer name ipvs-peer");
    says("uses IPVS");
}

#[test]
fn it_lapses_with_the_lease_by_itself() {
    for tool in Tool::BOTH {
        let set = Set::new(1);
        portals(&set.node, tool);
        let mut agent = with_lease(&set, 2);
        wait_for_pods(&set, &pods(&set), PORT);
        let client = set.client.client().unwrap();
        let count = || walked(&set.node, tool, Family::V4, "PREROUTING");
        client.ask(set.pods[0].v4(PORT)).unwrap();
        // It is renewed: more than one term later it holds.
        thread::sleep(Duration::from_secs(3));
        client.ask(set.pods[0].v4(PORT)).unwrap();
        assert_eq!(count(), 0, "{tool:?}");

        agent.kill().unwrap();
        let killed = Instant::now();
        client.ask(set.pods[0].v4(PORT)).unwrap();
        assert_eq!(count(), 0, "{tool:?}: it goes on until the lease lapses");
        wait_for("it lapses", || {
            client.ask(set.pods[0].v4(PORT)).unwrap();
            count() > 0
        });
        let lapsed = killed.elapsed();
        // The kernel was told at most two quarters of the term before.
        assert!((900..2200).contains(&lapsed.as_millis()), "{tool:?}: it lapsed after {lapsed:?}");
        assert!(found(&set, Family::V4).is_some_and(|found| !found.alive));
        let (outcome, detail) = check(&agent);
        assert!(outcome == "warning" && detail.contains("lapsed with the lease"), "{outcome} {detail}");

        // The next agent takes it over.
        agent.spawn().unwrap();
        agent.wait_ready().unwrap();
        wait_for_pods(&set, &pods(&set), PORT);
    }
}

#[test]
fn an_agent_that_stands_still_lets_it_lapse_and_takes_it_again() {
    let set = Set::new(1);
    portals(&set.node, Tool::Nft);
    let mut agent = with_lease(&set, 1);
    wait_for_pods(&set, &pods(&set), PORT);
    agent.process().unwrap().signal(rustix::process::Signal::STOP).unwrap();
    wait_for("it lapses", || found(&set, Family::V4).is_some_and(|found| !found.alive));
    agent.process().unwrap().signal(rustix::process::Signal::CONT).unwrap();
    wait_for_pods(&set, &pods(&set), PORT);
}

#[test]
fn an_endless_lease_keeps_it_for_an_hour_at_a_time() {
    let set = Set::new(1);
    portals(&set.node, Tool::Nft);
    let mut agent = set.agent_with(&["--express-lane", "--lease", "0"]);
    wait_for_pods(&set, &pods(&set), PORT);
    agent.kill().unwrap();
    thread::sleep(Duration::from_millis(1500));
    wait_for_pods(&set, &pods(&set), PORT);
    // An hour at a time, so that it ends although pins and agent are gone.
    let name = lane::table_name(set.pins()).unwrap();
    for family in ["ip", "ip6"] {
        let alive = run(&set.node, &format!("nft list set {family} {name} alive"));
        let hours = ["expires 59m", "expires 1h"].iter().any(|left| alive.contains(left));
        assert!(alive.contains("tcp") && hours, "{alive}");
    }
}

#[test]
fn detach_removes_it_at_once() {
    let set = Set::new(1);
    portals(&set.node, Tool::Nft);
    run(&set.node, "nft add table ip balancer-theirs");
    let mut agent = set.agent_with(&["--express-lane"]);
    wait_for_pods(&set, &pods(&set), PORT);
    agent.terminate().unwrap();
    let listed = |outcome: &str, document: &serde_json::Value| {
        let items = document["items"].as_array().unwrap();
        let tables = items.iter().filter(|item| {
            item["outcome"] == outcome && item["what"].as_str().is_some_and(|it| it.starts_with("table ip"))
        });
        tables.count()
    };
    let dry = agent.json(["detach", "--dry-run"]).unwrap();
    assert_eq!(listed("would-remove", &dry), 2, "{dry:#}");
    wait_for_pods(&set, &pods(&set), PORT);
    let done = agent.json(["detach"]).unwrap();
    assert_eq!(listed("removed", &done), 2, "{done:#}");
    let tables = run(&set.node, "nft list tables");
    assert!(tables.contains("balancer-theirs") && tables.matches("balancer").count() == 1, "{tables}");
}

#[test]
fn detach_removes_the_programs_where_it_cannot_remove_the_lane() {
    let set = Set::new(1);
    portals(&set.node, Tool::Nft);
    let mut agent = with_lease(&set, 2);
    wait_for_pods(&set, &pods(&set), PORT);
    agent.terminate().unwrap();
    let name = lane::table_name(set.pins()).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin,-sys_admin"]).arg(binary().unwrap());
    command.arg("--pins").arg(set.pins()).arg("detach");
    let output = set.node.host().output(command).unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(
        error.contains("CAP_NET_ADMIN") && error.contains(&format!("nft delete table ip {name}")),
        "{error}"
    );
    assert!(out.contains("links/") && !out.contains("table ip"), "{out}");
    assert!(!set.pins().exists(), "the pins are there");
    // It lapses by itself.
    wait_for("it lapses", || !run(&set.node, &format!("nft list set ip {name} alive")).contains("expires"));
}

#[test]
fn an_agent_that_is_detached_by_force_does_not_put_it_back() {
    let set = Set::new(1);
    portals(&set.node, Tool::Nft);
    let mut agent = set.agent_with(&["--express-lane"]);
    wait_for_pods(&set, &pods(&set), PORT);
    agent.print(["detach", "--force"]).unwrap();
    wait_for("the agent ends", || agent.process().unwrap().exited().unwrap().is_some());
    let tables = run(&set.node, "nft list tables");
    assert!(!tables.contains("balancer"), "{tables}");
}

#[test]
fn observing_changes_nothing() {
    let set = Set::new(1);
    portals(&set.node, Tool::Nft);
    let agent = set.agent_with(&["--express-lane", "--mode", "observe"]);
    wait_for("it says so", || check(&agent).1.contains("only observed"));
    assert!(FAMILIES.iter().all(|family| found(&set, *family).is_none()));
}
