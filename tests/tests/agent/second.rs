//! A second agent on the same node.

use std::{fs, time::Duration};

use crate::{
    set::{Set, vip4, without_end},
    tables::{Tables, settle},
};

#[test]
fn a_second_agent_is_refused_and_the_first_unharmed() {
    let set = Set::new(2);
    let mut first = set.agent();
    let before = settle(set.pins(), set.expect("shop/web", 1, 0..2));
    let client = set.client.client().unwrap();
    let running = client.start(without_end(vip4(1))).unwrap();

    // Whatever else it is told.
    for arguments in [&[][..], &["--max-services", "32", "--lease", "0"]] {
        let mut second = set.stopped(arguments);
        second.spawn().unwrap();
        let status = second.process().unwrap().wait(Duration::from_secs(20)).unwrap();
        assert_eq!(status.code(), Some(6), "{}", second.log());
        let log = second.log();
        let message = log.lines().find(|line| line.starts_with("balancer: ")).unwrap();
        let pid = format!("process {} ", first.process().unwrap().id());
        for expected in ["another agent runs on this node", &pid, "node node-1", "manifests in "] {
            assert!(message.contains(expected), "{expected:?} is not in: {message}");
        }
    }

    assert_eq!(first.http("/readyz").unwrap().0, 200);
    let control = first.json(["stats", "-A"]).unwrap();
    assert_eq!(control["agent"]["pid"], first.process().unwrap().id());
    assert_eq!(control["agent"]["lease"]["state"], "valid");
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    let after = Tables::read(set.pins());
    assert_eq!((after.ids(), after.total(|stats| stats.opened)), (before.ids(), report.attempts));
    // It still follows its source.
    set.backends("shop/web", 0..1);
    settle(set.pins(), set.expect("shop/web", 1, 0..1));

    // The lock goes with the process, however it ends.
    first.kill().unwrap();
    let mut second = set.stopped(&[]);
    second.spawn().unwrap();
    second.wait_ready().unwrap();
    assert!(fs::metadata(set.pins()).is_ok());
    client.ask(vip4(1)).unwrap();
}
