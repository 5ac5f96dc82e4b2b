//! `cargo xtask clients`: brings real client libraries and servers, then becomes the program that tries them.
//!
//! Each library's part is brought by itself, and only where it is asked for: one that cannot be had is a row
//! of the table that says why, and no reason to try none.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{
    build::Profile,
    cmd::Cmd,
    run_bin::{self, Args},
    setup::{self, CLIENTS, Program, packages},
    toolchain::cargo,
    ui, workspace,
};

/// What the short suite needs, which the tests run.
const SHORT: [&str; 3] = ["python", "node", "redis"];

/// Runs the suite.
pub fn run(args: &Args) -> Result<ExitCode> {
    let ready = run_bin::ready("clients", CLIENTS, Profile::Debug, args)?;
    if args.only_print() {
        return ready.command().args(&args.args).exec();
    }
    // The program knows which library needs what.
    let parts = ready.command().args(&args.args).arg("--parts").output()?;
    let mut command = ready.command().args(&args.args);
    for (part, error) in bring_all(parts.lines()) {
        command = command.arg("--missing").arg(format!("{part}={error:#}"));
    }
    command.exec()
}

/// Brings what the tests need of it. A test that lacks a part fails, and says which.
pub fn bring_short() {
    bring_all(SHORT.into_iter());
}

/// Brings parts, and returns those that could not be had.
fn bring_all<'p>(parts: impl Iterator<Item = &'p str>) -> Vec<(&'p str, anyhow::Error)> {
    let mut missing = Vec::new();
    for part in parts {
        if let Err(error) = bring(part) {
            ui::warn(format_args!("{part} is not to be had here: {error:#}"));
            missing.push((part, error));
        }
    }
    missing
}

/// Brings a part. `tests/src/clients/parts.rs` has the same names, and looks at the same places.
fn bring(part: &str) -> Result<()> {
    match part {
        "python" => python(),
        "node" => system(setup::CLIENTS_NODE),
        "undici" => undici(),
        "java" => java(),
        "go" => go(),
        "reqwest" => reqwest(),
        "redis" => system(setup::CLIENTS_REDIS),
        "postgres" => system(setup::CLIENTS_POSTGRES),
        _ => bail!("there is no part {part:?}"),
    }
}

fn system(programs: &[Program]) -> Result<()> {
    packages(programs).map(drop)
}

/// A virtual environment with exactly what is named.
fn python() -> Result<()> {
    system(setup::CLIENTS_PYTHON)?;
    let (venv, wanted) = (tools()?.join("venv"), source("python/requirements.txt"));
    let installed = venv.join("requirements.txt");
    if same(&wanted, &installed) {
        return Ok(());
    }
    if venv.exists() {
        fs::remove_dir_all(&venv).with_context(|| venv.display().to_string())?;
    }
    Cmd::new("python3").args(["-m", "venv"]).arg(&venv).run()?;
    // Wheels alone: what would have to be compiled here takes longer than anybody waits.
    Cmd::new(venv.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--requirement"])
        .arg(&wanted)
        .run()?;
    copy(&wanted, &installed)
}

/// `node_modules` as the lock file has it.
fn undici() -> Result<()> {
    system(setup::CLIENTS_NPM)?;
    let dir = tools()?.join("node");
    let (wanted, installed) = (source("node/package-lock.json"), dir.join("package-lock.json"));
    if same(&wanted, &installed) && dir.join("node_modules/undici").is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    copy(&source("node/package.json"), &dir.join("package.json"))?;
    copy(&wanted, &installed)?;
    Cmd::new("npm").args(["ci", "--no-audit", "--no-fund", "--prefix"]).arg(&dir).run()
}

fn java() -> Result<()> {
    system(setup::CLIENTS_JAVA)?;
    Cmd::new("javac").arg("-d").arg(tools()?.join("java")).arg(source("java/Client.java")).run()
}

fn go() -> Result<()> {
    system(setup::CLIENTS_GO)?;
    Cmd::new("go").args(["build", "-o"]).arg(tools()?.join("go-client")).arg(source("go/main.go")).run()
}

/// A project of its own: nothing that balancer is built of depends on a second HTTP client.
fn reqwest() -> Result<()> {
    cargo("build")?
        .arg("--manifest-path")
        .arg(source("reqwest/Cargo.toml"))
        .arg("--locked")
        .arg("--target-dir")
        .arg(tools()?.join("reqwest"))
        .run()
}

fn source(path: &str) -> PathBuf {
    workspace::root().join("tests/clients").join(path)
}

/// Where everything is installed.
fn tools() -> Result<PathBuf> {
    let dir = workspace::tools().join("clients");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

fn same(one: &PathBuf, other: &PathBuf) -> bool {
    fs::read(one).is_ok_and(|one| fs::read(other).is_ok_and(|other| one == other))
}

fn copy(from: &PathBuf, to: &PathBuf) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("{} to {}", from.display(), to.display()))
}
