//! `balancer detach`: all that is ours, and nothing else.

use std::{fs, path::PathBuf};

use balancer_tests::peer::protocol::Close;

use crate::{
    foreign::{self, INET4_CONNECT, MapType, SOCK_RELEASE, attached},
    set::{Set, pinned, vip4},
    tables::{Tables, settle},
};

/// Links and maps of one installation.
const PINS: usize = 10 + 17;

/// Everything below a directory, directories left out.
fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn everything_of_ours_goes_and_nothing_else() {
    let set = Set::new(2);
    let mut agent = set.agent();
    let client = set.client.client().unwrap();
    client.hold(4, vip4(1)).unwrap();
    // Beside ours: a program on the same hook, pins of others in our directories.
    let neighbour = foreign::attach(set.node.cgroup());
    let map = foreign::map(MapType::Array, 4, 4, 1);
    let theirs = [set.pins().join("theirs"), pinned(set.pins(), "links/theirs")];
    foreign::pin(&map, &theirs[0]);
    foreign::pin(&neighbour, &theirs[1]);
    assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 2);
    assert_eq!(files(set.pins()).len(), PINS + 2);

    assert!(agent.terminate().unwrap().success());
    let log = agent.log();
    assert!(log.contains("the programs stay and balance on for 60 s"), "{log}");
    let command = format!("balancer detach --pins {}", set.pins().display());
    assert!(log.contains(&command), "{log}");
    client.ask(vip4(1)).unwrap();

    let dry = agent.json(["detach", "--dry-run"]).unwrap();
    let outcomes = |document: &serde_json::Value, outcome: &str| {
        document["items"].as_array().unwrap().iter().filter(|item| item["outcome"] == outcome).count()
    };
    assert_eq!((outcomes(&dry, "would-remove"), outcomes(&dry, "kept")), (PINS, 2), "{dry:#}");
    assert_eq!(files(set.pins()).len(), PINS + 2, "a dry run removed something");
    client.ask(vip4(1)).unwrap();

    let done = agent.json(["detach"]).unwrap();
    assert_eq!((outcomes(&done, "removed"), outcomes(&done, "kept")), (PINS, 2), "{done:#}");
    assert_eq!(files(set.pins()), theirs);
    assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 1, "the neighbour's program");
    assert_eq!(attached(set.node.cgroup(), SOCK_RELEASE), 0);
    // What is open lives on; what is new is nobody's business.
    assert_eq!(client.ask_held().unwrap().broken, 0);
    assert!(client.ask(vip4(1)).is_err());
    client.release(4, Close::Graceful).unwrap();

    // Twice: nothing is left to do.
    let again = agent.cli(["detach"]).unwrap();
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && text.contains("nothing of balancer's is on this node"), "{again:?}");
    assert_eq!(files(set.pins()), theirs);
    for path in &theirs {
        fs::remove_file(path).unwrap();
    }
    // And a new agent begins from nothing.
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    let tables = settle(set.pins(), set.expect("shop/web", 1, 0..2));
    assert_eq!(tables.total(|stats| stats.opened), 0);
    client.ask(vip4(1)).unwrap();
}

#[test]
fn without_neighbours_no_trace_is_left() {
    let set = Set::new(1);
    let mut agent = set.agent();
    agent.kill().unwrap();
    assert!(agent.cli(["detach"]).unwrap().status.success());
    assert!(!set.pins().exists());
    assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 0);
    for command in [&["detach"][..], &["detach", "--dry-run"], &["detach", "--force"], &["stats", "-A"]] {
        let output = agent.cli(command).unwrap();
        assert_eq!(output.status.code(), Some(3), "{command:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("not installed on this node") && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn a_running_agent_is_not_pulled_from_under() {
    let set = Set::new(2);
    let mut agent = set.agent();
    let client = set.client.client().unwrap();
    let output = agent.cli(["detach"]).unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("--force") && text.contains(&set.pins().display().to_string()), "{text}");
    assert!(agent.cli(["detach", "--dry-run"]).unwrap().status.success());
    client.ask(vip4(1)).unwrap();
    assert_eq!(Tables::read(set.pins()).total(|stats| stats.opened), 1);
    assert_eq!(agent.http("/readyz").unwrap().0, 200);

    let output = agent.cli(["detach", "--force"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!set.pins().exists());
    assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 0);
    // As the help says: the agent ends, with an error that says why.
    let status = agent.process().unwrap().wait(balancer_tests::kernel::patience(crate::set::SOON)).unwrap();
    assert_eq!(status.code(), Some(5), "{}", agent.log());
    assert!(agent.log().contains("detach"), "{}", agent.log());
}
