//! Beside another socket load balancer: Cilium's, as far as the kernel can tell, is a program of its name.

use std::{fs, process::Stdio};

use balancer_tests::topology::Scratch;

use crate::{
    containers::line,
    foreign::{self, INET4_CONNECT, attached},
    set::{Set, vip4, wait_for},
    start::Attempt,
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
        assert!(!set.pins().join("v1").exists());
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
        assert!(process.terminate(crate::set::SOON).unwrap().success());
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
