//! The client suite can tell harm from none, and leaves nothing behind. What it needs, `cargo xtask test` installs.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    thread,
    time::Duration,
};

use balancer_tests::{program, topology::Scratch};
use serde_json::Value;

#[test]
fn destroying_connections_in_use_is_seen_as_harm() {
    let arguments = ["--mechanism", "ss-kill-ungated", "--only", "requests,redis-py", "--moves", "24"];
    let (status, results, remains) = run(&[&arguments[..], &["--quiet", "500ms"]].concat(), |_| ());
    assert_eq!(status.code(), Some(1), "{results:#}");
    let [requests, redis] = &results["rows"].as_array().unwrap()[..] else { panic!("{results:#}") };
    assert!(requests["tally"]["ambiguous"].as_u64() > Some(0), "{requests:#}");
    // This library sends again what was not answered.
    assert!(redis["tally"]["twice"].as_u64() > Some(0), "{redis:#}");
    for row in [requests, redis] {
        assert_eq!((&row["verdict"], &row["moves"]), (&"hurt".into(), &24.into()), "{row:#}");
        assert_eq!((&row["tally"]["lost"], &row["tally"]["strays"]), (&0.into(), &0.into()), "{row:#}");
    }
    assert_eq!(remains, Vec::<PathBuf>::new());
}

/// Every library of `--short`: a minute.
#[test]
fn moving_idle_connections_hurts_no_request() {
    let (status, results, remains) = run(&["--short", "--seconds", "30"], |_| ());
    let rows = results["rows"].as_array().unwrap();
    assert!(rows.len() >= 4, "{results:#}");
    for row in rows {
        assert_eq!(row["outcome"], "ran", "{row:#}");
        let tally = &row["tally"];
        for harm in ["errors", "twice", "lost", "strays"] {
            assert_eq!(tally[harm], 0, "{harm}: {row:#}");
        }
        assert!(tally["requests"].as_u64() > Some(0) && row["moves"].as_u64() > Some(0), "{row:#}");
    }
    // 3: a machine that is busy with something else may not get to all of the moves.
    assert!(matches!(status.code(), Some(0 | 3)), "{status}");
    assert_eq!(remains, Vec::<PathBuf>::new());
}

#[test]
fn an_interrupt_leaves_nothing() {
    let arguments = ["--mechanism", "ss-kill-ungated", "--only", "node-http", "--moves", "1000"];
    let (status, _, remains) = run(&arguments, |suite| {
        thread::sleep(Duration::from_secs(4));
        program::interrupt(suite).unwrap();
    });
    assert_eq!(status.code(), Some(130));
    assert_eq!(remains, Vec::<PathBuf>::new());
}

/// Runs the suite to its end: its exit status, what it wrote as JSON, and what of its making is still there. `meanwhile` runs
/// once it has begun.
fn run(arguments: &[&str], meanwhile: impl FnOnce(&Child)) -> (ExitStatus, Value, Vec<PathBuf>) {
    let scratch = Scratch::files().unwrap();
    let json = scratch.path().join("results.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clients"));
    command.args(arguments).arg("--json").arg(&json);
    let (status, remains) = program::run(command, meanwhile).unwrap();
    let results = fs::read(&json).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    (status, results, remains)
}
