//! The demo is a promise to whoever tries balancer first: its claims hold, and it leaves nothing behind.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

use balancer_tests::{agent, kernel::require_kernel, topology::remains_of};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn every_claim_holds_and_nothing_is_left() {
    let (status, text, left) = run(|_| ());
    assert!(status.success(), "{status}:\n{text}");
    assert!(text.matches("\n  holds  ").count() > 15, "{text}");
    assert!(!text.contains("FAILS"), "{text}");
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn an_interrupt_leaves_nothing() {
    for (signal, after) in [(Signal::INT, 0), (Signal::TERM, 2000), (Signal::INT, 4000)] {
        let (status, text, left) = run(|pid| {
            thread::sleep(Duration::from_millis(after));
            kill_process(pid, signal).unwrap();
        });
        assert_eq!(status.code(), Some(130), "{text}");
        assert!(text.contains("interrupted; everything is removed"), "{text}");
        assert_eq!(left, Vec::<PathBuf>::new(), "{signal:?} after {after} ms");
    }
}

/// Runs the demo to its end: its exit status, what it printed, and what of its making is still there. `meanwhile` runs once it
/// has begun, from when on it handles signals.
fn run(meanwhile: impl FnOnce(Pid)) -> (ExitStatus, String, Vec<PathBuf>) {
    require_kernel();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.env("BALANCER_BIN", agent::binary().unwrap());
    let mut demo = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    // Closes this end of the pipe, which would otherwise never end.
    drop(command);
    let mut text = vec![0];
    reader.read_exact(&mut text).unwrap();
    meanwhile(Pid::from_child(&demo));
    reader.read_to_end(&mut text).unwrap();
    let status = demo.wait().unwrap();
    (status, String::from_utf8(text).unwrap(), remains_of(demo.id()).unwrap())
}
