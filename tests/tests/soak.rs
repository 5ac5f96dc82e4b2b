//! A minute of the soak loses nothing, bugs that are planted are found, and an interrupt leaves nothing behind.

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
fn a_minute_loses_nothing() {
    let run = run(&["--minutes", "1"], |_| ());
    assert!(run.status.success(), "{}\n{}", run.why(), run.text);
    for (invariant, checks) in run.json["counts"]["checks"].as_object().unwrap() {
        assert!(checks.as_u64() > Some(0), "{invariant} was never checked\n{}", run.text);
    }
    assert_eq!(run.json["counts"]["checks"].as_object().unwrap().len(), 7, "{}", run.text);
    assert!(run.json["counts"]["clients"]["connects"].as_u64() > Some(1_000), "{}", run.text);
    assert_eq!(run.left, Vec::<PathBuf>::new());
}

#[test]
fn a_count_of_a_connection_that_is_none() {
    finds("active", "active-is-open");
}

#[test]
fn a_close_that_was_never_counted() {
    finds("opened", "opened-closed");
}

#[test]
fn a_removed_backend_that_is_still_chosen() {
    finds("stale", "not-removed");
}

#[test]
fn connects_to_where_nobody_listens() {
    finds("port", "no-failure");
}

#[test]
fn a_pin_that_is_left() {
    finds("pin", "no-leak");
}

#[test]
fn an_id_that_is_never_freed() {
    finds("id", "no-leak");
}

#[test]
fn an_interrupt_leaves_nothing() {
    let interrupt = |child: &Child| {
        thread::sleep(Duration::from_secs(8));
        program::interrupt(child).unwrap();
    };
    let run = run(&["--minutes", "5"], interrupt);
    assert_eq!(run.status.code(), Some(130), "{}", run.text);
    assert!(run.text.contains("interrupted; everything is removed"), "{}", run.text);
    assert_eq!(run.left, Vec::<PathBuf>::new());
}

/// The soak ends with this invariant broken, and says how to repeat it.
#[track_caller]
fn finds(plant: &str, invariant: &str) {
    let run = run(&["--minutes", "2", "--seed", "7", "--plant", plant], |_| ());
    assert_eq!(run.status.code(), Some(1), "{}", run.text);
    let findings = run.json["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["invariant"] == invariant), "{}", run.text);
    assert!(run.text.contains("cargo xtask soak --minutes 2 --seed 7"), "{}", run.text);
    assert!(run.text.contains("planted: "), "{}", run.text);
    assert_eq!(run.left, Vec::<PathBuf>::new());
}

struct Run {
    status: ExitStatus,
    text: String,
    json: Value,
    /// What of its making is still there.
    left: Vec<PathBuf>,
}

impl Run {
    /// What went wrong, in a few lines: the whole output is long, and what prints it may cut it.
    fn why(&self) -> String {
        let of = |key: &str| self.json.get(key).map(Value::to_string).unwrap_or_default();
        format!("{}: findings {}, error {}, left {}", self.status, of("findings"), of("error"), of("left"))
    }
}

/// Runs the soak to its end.
#[track_caller]
fn run(arguments: &[&str], meanwhile: impl FnOnce(&Child)) -> Run {
    let scratch = Scratch::files().unwrap();
    let (json, text) = (scratch.path().join("json"), scratch.path().join("text"));
    let out = fs::File::create(&text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_soak"));
    command.stdout(out.try_clone().unwrap()).stderr(out);
    command.args(arguments).arg("--json").arg(&json);
    let (status, left) = program::run(command, meanwhile).unwrap();
    let text = fs::read_to_string(&text).unwrap();
    let json = fs::read(&json).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    Run { status, text, json, left }
}
