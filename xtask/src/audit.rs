//! `cargo xtask audit`: what third-party crates bring with them, by the rules of `deny.toml`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::{cmd::Cmd, setup, toolchain, ui, workspace};

/// Options of `audit`.
#[derive(clap::Args)]
pub struct Args {
    /// A clone of the RustSec advisory database, where it cannot be fetched from here
    #[arg(long, value_name = "DIR")]
    advisory_db: Option<PathBuf>,
    /// Succeed though a check could not run; it is still named
    #[arg(long)]
    allow_not_run: bool,
}

/// The workspaces: each has a lock file of its own.
const WORKSPACES: [&str; 3] = ["Cargo.toml", "fuzz/Cargo.toml", "tests/clients/reqwest/Cargo.toml"];

/// The checks that need nothing but the crates.
const LOCAL: [&str; 3] = ["licenses", "bans", "sources"];

/// What cargo-deny calls its clone of the advisory database, below the directory that it is told of.
const DATABASE: &str = "advisory-db-3157b0e258782691";

/// The exit code where something could not be checked, as of `test`.
const NOT_RUN: u8 = 3;

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    Failed,
    /// It did not run, for this reason.
    NotRun(String),
}

impl Outcome {
    /// Of cargo-deny's last line, which names each check and how it went; otherwise of its first complaint.
    fn of(check: &str, output: &str) -> Self {
        let summary = output.lines().rev().find(|line| line.contains(" ok") || line.contains(" FAILED"));
        let verdict = summary
            .into_iter()
            .flat_map(|line| line.split(", "))
            .find_map(|part| part.trim().strip_prefix(check));
        match verdict.map(str::trim) {
            Some("ok") => Self::Ok,
            Some("FAILED") => Self::Failed,
            _ => {
                let complaint = output.lines().find_map(|line| Some(line.split_once("[ERROR]")?.1.trim()));
                let fatal = output.lines().find(|line| line.starts_with("fatal:"));
                let reason = [complaint, fatal].into_iter().flatten().collect::<Vec<_>>().join("; ");
                Self::NotRun(if reason.is_empty() {
                    "cargo-deny said nothing of it".to_owned()
                } else {
                    reason
                })
            }
        }
    }

    fn line(&self, check: &str, workspace: &str) -> String {
        let outcome = match self {
            Self::Ok => "ok".to_owned(),
            Self::Failed => "FAILED".to_owned(),
            Self::NotRun(reason) => format!("NOT RUN: {reason}"),
        };
        format!("{check:<11} {workspace:<34} {outcome}")
    }
}

/// Runs every check on every workspace, and prints a table.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::toolchain()?;
    setup::deny()?;
    let rules = rules(args.advisory_db.as_deref())?;
    let mut rows = Vec::new();
    for manifest in WORKSPACES {
        let output = deny(manifest, &workspace::root().join("deny.toml"), &LOCAL, &[])?;
        rows.extend(LOCAL.map(|check| (check, manifest, Outcome::of(check, &output))));
        let offline: &[&str] = if args.advisory_db.is_some() { &["--offline"] } else { &[] };
        let output = deny(manifest, &rules, &["advisories"], offline)?;
        rows.push(("advisories", manifest, Outcome::of("advisories", &output)));
    }
    if let Some(date) = args.advisory_db.as_deref().and_then(date) {
        ui::print(format_args!("advisories as of {date}"));
    }
    for (check, manifest, outcome) in &rows {
        ui::print(outcome.line(check, manifest));
    }
    Ok(verdict(rows.iter().map(|(_, _, outcome)| outcome), args))
}

fn verdict<'a>(outcomes: impl Iterator<Item = &'a Outcome> + Clone, args: &Args) -> ExitCode {
    if outcomes.clone().any(|outcome| *outcome == Outcome::Failed) {
        return ExitCode::FAILURE;
    }
    let left_out = outcomes.clone().filter(|outcome| matches!(outcome, Outcome::NotRun(_))).count();
    if left_out == 0 {
        return ExitCode::SUCCESS;
    }
    ui::warn(format_args!("{left_out} checks did not run: nothing is known of what they look for"));
    if args.allow_not_run { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUN) }
}

/// Runs checks on one workspace; what cargo-deny says is shown and returned.
fn deny(manifest: &str, rules: &Path, checks: &[&str], options: &[&str]) -> Result<String> {
    // Not through cargo: its own options come before the word `check`.
    let command = toolchain::clean(Cmd::new(workspace::tools().join("bin/cargo-deny")))
        .quiet_env("PATH", toolchain::path()?)
        .quiet_env("RUSTUP_TOOLCHAIN", toolchain::TOOLCHAIN)
        .args(["--locked", "--manifest-path", manifest])
        .args(options)
        .arg("--config")
        .arg(rules)
        .args(["check", "--hide-inclusion-graph"])
        .args(checks);
    ui::command(&command.line());
    let output = command.capture()?;
    let streams = [output.stderr, output.stdout].map(|stream| String::from_utf8_lossy(&stream).into_owned());
    let words = streams.concat();
    words.lines().for_each(ui::relay);
    Ok(plain(&words))
}

/// Text without its colours.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

/// The rules, with the place of the database where one was named.
fn rules(database: Option<&Path>) -> Result<PathBuf> {
    let rules = workspace::root().join("deny.toml");
    let Some(database) = database else { return Ok(rules) };
    if !database.join("crates").is_dir() {
        bail!("{} is no clone of the advisory database: it has no directory `crates`", database.display());
    }
    let dir = workspace::target().join("audit");
    let link = dir.join("databases").join(DATABASE);
    fs::create_dir_all(dir.join("databases")).context("cannot make target/audit")?;
    // Left by an earlier run; another thing of this name makes the next line fail.
    let _ = fs::remove_file(&link);
    symlink(fs::canonicalize(database)?, &link).context("cannot link the advisory database")?;
    let place = format!("[advisories]\ndb-path = {:?}", dir.join("databases"));
    let text = fs::read_to_string(&rules).context("cannot read deny.toml")?;
    let own = dir.join("deny.toml");
    fs::write(&own, text.replacen("[advisories]", &place, 1)).context("cannot write below target/audit")?;
    Ok(own)
}

/// When a clone was last changed.
fn date(database: &Path) -> Option<String> {
    let output = Cmd::new("git").arg("-C").arg(database).args(["log", "-1", "--format=%cs"]).output();
    output.ok().map(|date| date.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_how_each_check_went() {
        let output =
            "warning[duplicate]: found 2 duplicate entries\n\nbans ok, licenses FAILED, sources ok\n";
        assert_eq!(Outcome::of("bans", output), Outcome::Ok);
        assert_eq!(Outcome::of("licenses", output), Outcome::Failed);
        assert_eq!(Outcome::of("advisories", "advisories ok\n"), Outcome::Ok);
    }

    #[test]
    fn what_did_not_run_never_looks_well() {
        let output = "2026-11-26 [ERROR] failed to fetch advisory database\nfatal: unable to access\n";
        let outcome = Outcome::of("advisories", output);
        let expect = "failed to fetch advisory database; fatal: unable to access";
        assert_eq!(outcome, Outcome::NotRun(expect.to_owned()));
        assert!(outcome.line("advisories", "Cargo.toml").contains("NOT RUN: failed to fetch"));
        assert!(matches!(Outcome::of("advisories", ""), Outcome::NotRun(_)));
        // Of another check nothing follows.
        assert!(matches!(Outcome::of("advisories", "bans ok, licenses ok, sources ok"), Outcome::NotRun(_)));
    }

    #[test]
    fn a_check_that_did_not_run_is_an_exit_code_of_its_own() {
        let code = |outcomes: &[Outcome], allow_not_run| {
            let args = Args { advisory_db: None, allow_not_run };
            format!("{:?}", verdict(outcomes.iter(), &args))
        };
        let not_run = || Outcome::NotRun("no network".to_owned());
        let exit = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(&[Outcome::Ok], false), exit(0));
        assert_eq!(code(&[Outcome::Ok, not_run()], false), exit(3));
        assert_eq!(code(&[Outcome::Ok, not_run()], true), exit(0));
        assert_eq!(code(&[not_run(), Outcome::Failed], true), exit(1));
    }

    #[test]
    fn colours_are_taken_out() {
        assert_eq!(plain("\u{1b}[1mbans \u{1b}[32mok\u{1b}[0m, x"), "bans ok, x");
    }
}
