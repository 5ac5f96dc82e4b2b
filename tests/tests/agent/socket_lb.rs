//! Beside another socket load balancer: Cilium's, as far as the kernel can tell, is a program of its name.

use std::{fs, net::SocketAddr, process::Stdio};

use balancer_tests::{
    peer::protocol::{Ask, LoopPlan, Until},
    topology::Scratch,
};

use crate::{
    containers::line,
    foreign::{self, INET4_CONNECT, Manner, SOCK_RELEASE, attached, effective},
    set::{PORT, Set, pinned, vip4, wait_for},
    start::Attempt,
    tables::Tables,
};

/// What the kernel keeps of `cil_sock4_connect`.
const CILIUM: &str = "cil_sock4_conne";
const CALICO: &str = "calico_connect_";

fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn it_refuses_to_start_beside_one() {
    let set = Set::new(1);
    let cgroup = set.node.cgroup().display().to_string();
    for (name, words) in [
        (CILIUM, ["Cilium's socket load balancing", "socketLB.hostNamespaceOnly=true"]),
        (CALICO, ["Calico's connect-time load balancing", "bpfConnectTimeLoadBalancing: Disabled"]),
    ] {
        let theirs = foreign::attach_as(set.node.cgroup(), name);
        for under in [
            "env",
            // Without the right to ask for a program by its id.
            "setpriv --bounding-set -all,+bpf,+net_admin,+perfmon",
        ] {
            let (code, message) = Attempt::new(&set, set.pins()).under(under).fails(&set);
            assert_eq!(code, 5, "{message}");
            assert_has(&message, &words);
            assert_has(&message, &[name, "beside connect4", &cgroup, "--beside-socket-lb"]);
        }
        assert!(!pinned(set.pins(), "").exists());
        assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 1, "only theirs");
        drop(theirs);
    }
}

#[test]
fn one_that_is_attached_further_up_is_seen() {
    let set = Set::new(1);
    let _theirs = foreign::attach_as(set.node.cgroup(), CILIUM);
    let mut attempt = Attempt::new(&set, set.pins());
    attempt.cgroup = Some(set.client.cgroup().path().to_owned());
    let (code, message) = attempt.fails(&set);
    assert_eq!(code, 5, "{message}");
    assert_has(&message, &["Cilium", CILIUM, &set.client.cgroup().path().display().to_string()]);
}

#[test]
fn it_starts_beside_one_when_told() {
    let set = Set::new(2);
    let theirs = foreign::attach_as(set.node.cgroup(), CILIUM);
    let mut agent = set.agent_with(&["--beside-socket-lb"]);
    assert_has(&agent.log(), &["Cilium's socket load balancing is at work too", CILIUM, "attached first"]);
    set.client.client().unwrap().ask(vip4(1)).unwrap();
    let check = serde_json::from_slice(&agent.cli(["check", "-o", "json"]).unwrap().stdout).unwrap();
    assert_has(&line(&check, "neighbours"), &["warning: Cilium", CILIUM, "socketLB"]);
    // A restart does not take its own programs for somebody else's.
    agent.restart().unwrap();
    assert!(!agent.log().contains("of somebody else"), "{}", agent.log());
    assert!(agent.terminate().unwrap().success());
    assert!(agent.cli(["detach"]).unwrap().status.success());
    assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 1, "only theirs");
    drop(theirs);
}

/// What the manual says of two that know the same Service.
#[test]
fn of_two_the_one_that_was_attached_first_balances() {
    let set = Set::new(3);
    let v4 = |addr: SocketAddr| match addr {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(addr) => panic!("{addr}"),
    };
    // Theirs sends everybody to the last pod, ours to the first two.
    set.backends("shop/web", 0..2);
    let theirs =
        || foreign::attach_rewriting(set.node.cgroup(), CILIUM, v4(vip4(1)), v4(set.pods[2].v4(PORT)));
    let pods = || {
        let plan = LoopPlan::tcp(vip4(1), Until::Count(20)).ask(Ask::Identity);
        let report = set.client.client().unwrap().run(plan).unwrap();
        assert_eq!(report.failed(), 0, "{report:?}");
        report.pods.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    let opened = || Tables::read(set.pins()).total(|stats| stats.opened);

    let first = theirs();
    let mut agent = set.agent_with(&["--beside-socket-lb"]);
    assert_eq!((pods(), opened()), (vec!["web-3".to_owned()], 0));
    // An upgrade keeps its place, and theirs in front.
    agent.restart().unwrap();
    assert_eq!((pods(), opened()), (vec!["web-3".to_owned()], 0));
    drop(first);
    assert_eq!((pods().len(), opened()), (2, 20));
    let _second = theirs();
    assert_eq!((pods(), opened()), (vec!["web-1".to_owned(), "web-2".to_owned()], 40));
}

#[test]
fn one_further_up_that_stands_no_other_or_would_be_overridden_is_named() {
    for (manner, words) in [
        (Manner::Alone, ["for connect4 that was attached to be the only", "one above it"]),
        (Manner::Overridable, ["would not run any more", "BPF_F_ALLOW_OVERRIDE"]),
    ] {
        let set = Set::new(1);
        let theirs = foreign::attach_without_link(set.node.cgroup(), manner);
        let below = set.client.cgroup().path().to_owned();
        let mut attempt = Attempt::new(&set, set.pins());
        attempt.cgroup = Some(below.clone());
        let (code, message) = attempt.fails(&set);
        assert_eq!(code, 5, "{message}");
        assert_has(&message, &words);
        assert_eq!(effective(&below, INET4_CONNECT), [theirs], "it runs on");
        assert!(effective(&below, SOCK_RELEASE).is_empty(), "nothing of ours is left");
    }
}

#[test]
fn the_variable_and_the_file_say_so_too() {
    let set = Set::new(1);
    let _theirs = foreign::attach_as(set.node.cgroup(), CILIUM);
    let scratch = Scratch::files().unwrap();
    let file = scratch.path().join("agent.yaml");
    fs::write(&file, "beside-socket-lb: true\n").unwrap();
    let file = file.display().to_string();
    for (variable, arguments) in [("1", vec![]), ("true", vec![]), ("", vec!["--config", &file])] {
        let attempt = Attempt::new(&set, set.pins()).arguments(&arguments);
        let mut command = attempt.command();
        if !variable.is_empty() {
            command.env("BALANCER_BESIDE_SOCKET_LB", variable);
        }
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let mut process = set.node.host().spawn(command).unwrap();
        wait_for("it starts", || {
            assert_eq!(process.exited().unwrap(), None, "{variable} {arguments:?}");
            balancer_userspace::datapath::read_lease(set.pins())
                .is_ok_and(|lease| lease != balancer_userspace::view::Lease::Never)
        });
        assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 2);
        assert!(process.terminate(balancer_tests::kernel::patience(crate::set::SOON)).unwrap().success());
        balancer_userspace::datapath::detach(
            &balancer_userspace::datapath::Pins::new(set.pins()),
            balancer_userspace::datapath::Removal::Act,
        )
        .unwrap();
    }
}

#[test]
fn one_that_comes_later_is_told_of() {
    let set = Set::new(1);
    let agent = set.agent();
    let bystander = foreign::attach_as(set.node.cgroup(), "bystander");
    let theirs = foreign::attach_as(set.node.cgroup(), CALICO);
    wait_for("it is logged", || agent.log().contains("Calico's connect-time load balancing is at work too"));
    assert_has(&agent.log(), &["program bystander", "of somebody else"]);
    let check = serde_json::from_slice(&agent.cli(["check", "-o", "json"]).unwrap().stdout).unwrap();
    assert_has(&line(&check, "neighbours"), &["warning: Calico", CALICO]);
    drop(theirs);
    let check = serde_json::from_slice(&agent.cli(["check", "-o", "json"]).unwrap().stdout).unwrap();
    assert_has(&line(&check, "neighbours"), &["ok: beside ours, no socket load balancer", "bystander"]);
    drop(bystander);
}
