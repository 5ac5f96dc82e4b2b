//! Whole command lines against what they print.

use std::{io, path::Path};

use balancer_common::abi::Refusal;

use super::{
    Streams,
    agent::AgentArgs,
    exit::{Exit, Failure},
    fixture,
    node::{DetachMode, Detachment, Node, SelfProbe},
    run,
    term::Output,
};
use crate::{
    model::Frontend,
    view::{CheckReport, Connection, Explanation, Lease, Liveness, MovedView, PlanView, Snapshot},
};

mod rebalance;

/// A node whose maps hold [`fixture::snapshot`].
struct Fake(Snapshot);

impl Node for Fake {
    fn agent(&self, _: &Path, _: &AgentArgs) -> Result<(), Failure> {
        Ok(())
    }
    fn snapshot(&self, pins: &Path) -> Result<Snapshot, Failure> {
        match pins.to_str() {
            Some("/none") => {
                Err(Failure::new(Exit::NotInstalled, anyhow::anyhow!("nothing is pinned in /none")))
            }
            _ => Ok(self.0.clone()),
        }
    }
    fn connections(&self, _: &Path, _: &Snapshot) -> Result<Vec<Connection>, Failure> {
        Ok(fixture::connections())
    }
    fn explain(&self, _: &Path, _: &Snapshot, dialled: &[Frontend]) -> Result<Vec<Explanation>, Failure> {
        Ok(dialled.iter().map(|frontend| fixture::explanation(*frontend)).collect())
    }
    fn rebalance_plan(&self, _: &Path, _: &Snapshot, services: &[u32]) -> Result<Vec<PlanView>, Failure> {
        Ok(fixture::plans(services))
    }
    /// Moves all that is asked for, but no more than three, and refuses one.
    fn rebalance_now(&self, _: &Path, _: &Snapshot, service: u32, max: u32) -> Result<MovedView, Failure> {
        match service {
            77 => Err(Failure::problem("the agent is not running: start it, for it keeps the record")),
            _ => {
                Ok(MovedView { moved: max.min(3), refused: [(Refusal::Busy, 2), (Refusal::Young, 1)].into() })
            }
        }
    }
    fn check(&self, _: &Path, probe: SelfProbe) -> Result<CheckReport, Failure> {
        Ok(fixture::check(probe))
    }
    fn probe(&self, _: &Path) -> Result<String, Failure> {
        Ok("works".to_owned())
    }

    fn detach(&self, _: &Path, mode: DetachMode) -> Result<Detachment, Failure> {
        match mode {
            DetachMode::Remove => {
                Err(Failure::new(Exit::AlreadyRunning, anyhow::anyhow!("agent 4242 runs; stop it first")))
            }
            DetachMode::DryRun | DetachMode::RemoveUnderAgent => {
                Ok(Detachment { report: fixture::detached(), left: None })
            }
        }
    }
}

/// Runs a command line on `snapshot`; gives exit code, standard output and standard error.
fn on(snapshot: Snapshot, line: &str) -> (Exit, String, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let argv = std::iter::once("balancer").chain(line.split_whitespace()).map(Into::into).collect();
    let node = Fake(snapshot);
    let streams = Streams {
        stdout: &mut stdout,
        stderr: &mut stderr,
        stdout_kind: Output::Other,
        stderr_kind: Output::Other,
    };
    let exit = run(argv, &node, streams);
    (exit, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Compares all that a command line prints with its golden file.
#[track_caller]
fn check(name: &str, line: &str) {
    check_on(fixture::snapshot(), name, line);
}

#[track_caller]
fn check_on(snapshot: Snapshot, name: &str, line: &str) {
    let (exit, stdout, stderr) = on(snapshot, line);
    for text in [&stdout, &stderr] {
        assert!(text.lines().all(|line| !line.ends_with(' ')), "a line ends with a blank:\n{text}");
    }
    let text = format!("$ balancer {line}\n{stdout}--- stderr, exit {}\n{stderr}", exit as u8);
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn stats() {
    check("stats", "stats");
    check("stats-wide", "stats -o wide -A");
    check("stats-json", "stats web -o json");
    check("stats-yaml", "stats shop/api -o yaml");
    check("stats-colour", "stats --color always");
}

#[test]
fn services_and_backends() {
    check("services", "services -A");
    check("services-wide", "services -o wide");
    check("services-json", "services shop/api -o json");
    check("backends", "backends -A");
    check("backends-wide", "backends --node node-b -o wide");
    check("backends-json", "backends dns -o json");
}

#[test]
fn connections() {
    check("connections", "connections");
    check("connections-wide", "connections web --removed -o wide");
    check("connections-json", "connections web --pid 99 -o json");
    let (exit, stdout, stderr) = on(fixture::snapshot(), "connections -n shop");
    assert_eq!((exit, stdout.as_str(), stderr.as_str()), (Exit::Ok, "", "no open connection matches\n"));
}

#[test]
fn explanations() {
    check("explain", "explain web");
    check("explain-wide", "explain 10.96.0.1 -o wide");
    check("explain-json", "explain web:http -o json");
    check("explain-pass", "explain 192.0.2.1:443");
    check("explain-udp", "explain 10.96.0.10:53");
    let (exit, stdout, stderr) = on(fixture::snapshot(), "explain 192.0.2.1");
    assert_eq!((exit, stdout.as_str()), (Exit::Ok, ""));
    assert!(
        stderr.starts_with("no Service port that is balanced here has the address 192.0.2.1"),
        "{stderr}"
    );
}

#[test]
fn reports() {
    check("check", "check");
    check("check-json", "check --no-probe -o json");
    check("detach", "detach");
    check("detach-dry-run", "detach --dry-run");
    check("detach-json", "detach --force -o json");
}

#[test]
fn names_that_do_not_exist_are_bad_news() {
    #[track_caller]
    fn fails(line: &str, exit: Exit, message: &str) {
        let (code, stdout, stderr) = on(fixture::snapshot(), line);
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (exit, "", message), "{line}");
    }
    fails(
        "stats wbe",
        Exit::Problem,
        "balancer: no Service wbe is balanced in namespace default; did you mean web?\n",
    );
    fails(
        "stats api",
        Exit::Problem,
        "balancer: no Service api is balanced in namespace default; there is one in namespace shop\n",
    );
    fails(
        "services web:81",
        Exit::Problem,
        "balancer: Service web in namespace default has no port 81; it has http\n",
    );
    fails(
        "stats -n shop default/web",
        Exit::Usage,
        "balancer: -n shop contradicts the namespace in default/web: name one of them\n",
    );
    fails("stats --pins /none", Exit::NotInstalled, "balancer: nothing is pinned in /none\n");
    fails(
        "backends -n nowhere",
        Exit::Ok,
        "no Service is balanced in namespace nowhere; 4 Service ports are in others (-A shows all)\n",
    );
}

#[test]
fn one_service_is_found_by_every_spelling() {
    for line in [
        "stats web",
        "stats web:http",
        "stats web:80",
        "stats default/web",
        "stats -A web",
        "stats -n default web",
    ] {
        let (exit, stdout, _) = on(fixture::snapshot(), line);
        assert_eq!(exit, Exit::Ok, "{line}");
        assert!(stdout.starts_with("default/web:http  TCP 10.96.0.1:80"), "{line}: {stdout}");
        assert_eq!(stdout.matches("evenness").count(), 1, "{line}");
    }
}

#[test]
fn a_wrong_command_line_is_told_on_standard_error() {
    for line in [
        "",
        "stats -o xml",
        "stats a/b/c",
        "frobnicate",
        "stats --count 2",
        "stats -n a -A",
        "stats --watch=0",
    ] {
        let (exit, stdout, stderr) = on(fixture::snapshot(), line);
        assert_eq!((exit, stdout.as_str()), (Exit::Usage, ""), "{line}");
        assert!(stderr.contains("Usage") || stderr.contains("--help"), "{line}: {stderr}");
    }
}

#[test]
fn help_is_output() {
    let (exit, stdout, stderr) = on(fixture::snapshot(), "--help");
    assert_eq!((exit, stderr.as_str()), (Exit::Ok, ""));
    assert!(stdout.contains("Exit codes:"), "{stdout}");
    let (exit, stdout, _) = on(fixture::snapshot(), "--version");
    assert_eq!((exit, stdout.as_str()), (Exit::Ok, "balancer 0.1.0\n"));
}

#[test]
fn a_dead_agent_is_told_beside_its_tables() {
    let mut snapshot = fixture::snapshot();
    snapshot.agent.liveness = Liveness::Dead;
    snapshot.agent.lease = Lease::Lapsed(std::time::Duration::from_secs(75));
    snapshot.agent.synced = None;
    let (exit, stdout, stderr) = on(snapshot.clone(), "stats");
    assert_eq!(exit, Exit::Ok);
    assert_eq!(stdout, on(fixture::snapshot(), "stats").1, "the table is the same");
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
    assert!(stderr.starts_with("warning: the agent is not running; connects are left alone"), "{stderr}");
    let (_, stdout, stderr) = on(snapshot, "stats -o json");
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document["warnings"][1]["code"], "lease-lapsed");
    assert_eq!(document["agent"]["lease"]["lapsedSeconds"], 75.0);
    assert_eq!(stderr, "", "the document says it");
}

#[test]
fn watching_repeats_the_table_with_rates() {
    let (exit, stdout, stderr) = on(fixture::snapshot(), "stats web --watch=0.1 --count 2");
    assert_eq!((exit, stderr.as_str()), (Exit::Ok, ""));
    let frames: Vec<&str> = stdout.split("\n\n").collect();
    assert_eq!(frames.len(), 2, "{stdout}");
    assert!(frames[0].contains("OPENED/S"), "{stdout}");
    assert!(!frames[0].contains("  0.0  "), "the first frame knows no rate: {stdout}");
    assert!(frames[1].contains("  0.0  "), "{stdout}");
    let (_, stdout, _) = on(fixture::snapshot(), "stats web -o json --watch=0.1 --count 3");
    assert_eq!(stdout.lines().count(), 3);
    for line in stdout.lines() {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"], "Stats");
    }
}

/// A pipe whose reader is gone.
struct Closed;

impl io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A full disk.
struct Full;

impl io::Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_ends_quietly_and_a_full_disk_does_not() {
    let go = |stdout: &mut dyn io::Write, line: &str| {
        let mut stderr = Vec::new();
        let argv = line.split_whitespace().map(Into::into).collect();
        let node = Fake(fixture::snapshot());
        let streams =
            Streams { stdout, stderr: &mut stderr, stdout_kind: Output::Other, stderr_kind: Output::Other };
        let exit = run(argv, &node, streams);
        (exit, String::from_utf8(stderr).unwrap())
    };
    for line in
        ["balancer stats", "balancer stats --watch=0.1", "balancer --help", "balancer completions bash"]
    {
        assert_eq!(go(&mut Closed, line), (Exit::Ok, String::new()), "{line}");
    }
    let (exit, stderr) = go(&mut Full, "balancer stats");
    assert_eq!(exit, Exit::Failed);
    assert!(stderr.starts_with("balancer: cannot write to standard output: "), "{stderr}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (exit, stdout, _) = on(fixture::snapshot(), &format!("completions {shell}"));
        assert_eq!(exit, Exit::Ok);
        assert!(stdout.contains("metrics-max-series"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("new/man1");
    let (exit, _, stderr) = on(fixture::snapshot(), &format!("man --dir {}", pages.display()));
    assert_eq!((exit, stderr.as_str()), (Exit::Ok, ""));
    for command in super::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let page = std::fs::read_to_string(pages.join(format!("balancer-{}.1", command.get_name()))).unwrap();
        assert!(page.contains("balancer"), "{}", command.get_name());
    }
    assert!(std::fs::read_to_string(pages.join("balancer.1")).unwrap().contains("Exit codes"));
}

#[test]
fn the_command_line_is_consistent() {
    super::command().debug_assert();
}

#[test]
fn yaml_says_what_json_says() {
    let mut snapshot = fixture::snapshot();
    for (service, text) in
        snapshot.services.iter_mut().zip(["off", "0x1f", "a: b # c", "\u{1b}[2J\n- \"x\" \u{202e}"])
    {
        service.problem = Some(text.to_owned());
    }
    for line in [
        "stats -A",
        "services -A",
        "connections",
        "explain web",
        "rebalance status -A",
        "rebalance plan web",
        "rebalance now web --max 2",
        "check",
        "detach --dry-run",
    ] {
        let (_, json, _) = on(snapshot.clone(), &format!("{line} -o json"));
        let (_, yaml, _) = on(snapshot.clone(), &format!("{line} -o yaml"));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let yaml: serde_json::Value =
            serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
        assert_eq!(json, yaml, "{line}");
    }
}

/// Every object key in a document, at any depth.
fn keys(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

#[test]
fn every_field_of_every_document_is_documented() {
    let manual = include_str!("../../../docs/output.md");
    let mut fields = std::collections::BTreeSet::new();
    for line in [
        "stats -A",
        "services -A",
        "backends -A",
        "connections",
        "explain web",
        "rebalance status -A",
        "rebalance plan web",
        "rebalance now web --max 2",
        "check",
        "detach --dry-run",
    ] {
        let (_, stdout, _) = on(fixture::snapshot(), &format!("{line} -o json"));
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let kind = document["kind"].as_str().unwrap();
        assert!(manual.contains(&format!("\n## {kind}\n")), "docs/output.md has no section {kind}");
        keys(&document, &mut fields);
    }
    for field in fields {
        assert!(manual.contains(&format!("`{field}`")), "docs/output.md does not mention {field}");
    }
}

#[test]
fn the_manual_and_the_help_agree_on_exit_codes() {
    let manual = include_str!("../../../docs/output.md");
    for line in super::exit::EXIT_CODES.lines().skip(1) {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        assert!(manual.contains(&format!("| {code} | {meaning} |")), "docs/output.md lacks: {line}");
    }
}
