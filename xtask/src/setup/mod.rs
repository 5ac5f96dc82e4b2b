//! `cargo xtask setup`: brings what the other commands need. Each of them also brings its own part.

mod host;
mod packages;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{
    cmd::{is_executable, on_path},
    toolchain::{BPF_LINKER, COMPONENTS, DENY, NEXTEST, NEXTEST_OLDEST, TOOLCHAIN, cargo, rustup},
    ui, workspace,
};

pub use host::{Lack, lacks};
pub use packages::{
    BENCH, CLIENTS, CLIENTS_GO, CLIENTS_JAVA, CLIENTS_NODE, CLIENTS_NPM, CLIENTS_POSTGRES, CLIENTS_PYTHON,
    CLIENTS_REDIS, DEMO, IMAGE, Program, TEST, VM, packages, update_lists,
};

/// What a part of setup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing was missing.
    Present,
    /// It had to be installed.
    Installed,
}

/// Brings everything, and says what was there and what was not. Running it again changes nothing.
pub fn run() -> Result<ExitCode> {
    let tools = workspace::shown(&workspace::tools());
    tell(toolchain()?, &format!("Rust {TOOLCHAIN} with {}", COMPONENTS.join(", ")));
    tell(compiler()?, "a C compiler");
    tell(bpf_linker()?, &format!("bpf-linker {BPF_LINKER} in {tools}/bin"));
    tell(nextest()?, "cargo-nextest");
    let all = packages::all();
    let found = packages(&all);
    if let Ok(found) = found {
        tell(found, &format!("system programs {}", packages::names(&all)));
    }
    crate::clients::bring_short();
    host::report();
    found?;
    ui::say("ready: try `cargo xtask demo`, then `cargo xtask test`");
    Ok(ExitCode::SUCCESS)
}

fn tell(found: Found, what: &str) {
    match found {
        Found::Present => ui::say(format_args!("{what}: already there")),
        Found::Installed => ui::say(format_args!("{what}: installed")),
    }
}

/// Brings the pinned toolchain.
///
/// # Errors
/// When rustup is missing or fails.
pub fn toolchain() -> Result<Found> {
    let listed = rustup()?.args(["component", "list", "--installed", "--toolchain", TOOLCHAIN]).output();
    if listed.is_ok_and(|list| has_components(&list)) {
        return Ok(Found::Present);
    }
    ui::say(format_args!("installing Rust {TOOLCHAIN} with {}", COMPONENTS.join(", ")));
    let install = rustup()?
        .args(["toolchain", "install", TOOLCHAIN, "--profile", "minimal", "--no-self-update"])
        .args(COMPONENTS.iter().flat_map(|component| ["--component", component]));
    install.run().with_context(|| format!("Rust {TOOLCHAIN} could not be installed"))?;
    Ok(Found::Installed)
}

/// Whether rustup's list holds every component: some carry the target behind their name.
fn has_components(list: &str) -> bool {
    COMPONENTS.iter().all(|component| {
        list.lines().any(|line| {
            line.trim().strip_prefix(component).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    })
}

/// Finds a C compiler: rustc links with it, and one dependency of the agent has C in it.
fn compiler() -> Result<Found> {
    if !on_path("cc") {
        bail!(
            "there is no C compiler (cc): install gcc or clang, for example `apt-get install gcc libc6-dev`"
        );
    }
    Ok(Found::Present)
}

/// Brings bpf-linker into `.tools`.
///
/// # Errors
/// When cargo cannot install it.
pub fn bpf_linker() -> Result<Found> {
    let path = workspace::tools().join("bin/bpf-linker");
    let is = |version: String| version.split_whitespace().any(|word| word == BPF_LINKER);
    if is_executable(&path) && crate::cmd::Cmd::new(&path).arg("--version").output().is_ok_and(is) {
        return Ok(Found::Present);
    }
    install("bpf-linker", BPF_LINKER, &[])
}

/// Brings cargo-nextest, unless there is one already that is new enough.
///
/// # Errors
/// When cargo cannot install it.
pub fn nextest() -> Result<Found> {
    let installed = cargo("nextest")?.arg("--version").output().ok();
    let version = installed.as_deref().and_then(|text| text.split_whitespace().nth(1)).and_then(version);
    if version >= version_of_oldest() {
        return Ok(Found::Present);
    }
    // Without what it updates itself with.
    install("cargo-nextest", NEXTEST, &["--no-default-features"])
}

/// Brings cargo-deny into `.tools`.
///
/// # Errors
/// When cargo cannot install it.
pub fn deny() -> Result<Found> {
    let path = workspace::tools().join("bin/cargo-deny");
    let is = |version: String| version.split_whitespace().any(|word| word == DENY);
    if is_executable(&path) && crate::cmd::Cmd::new(&path).arg("--version").output().is_ok_and(is) {
        return Ok(Found::Present);
    }
    install("cargo-deny", DENY, &[])
}

fn version_of_oldest() -> Option<[u32; 3]> {
    version(NEXTEST_OLDEST)
}

fn version(text: &str) -> Option<[u32; 3]> {
    let mut numbers = text.split(['.', '-', '+']).map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?])
}

/// Builds a tool quickly rather than to be quick: its own work is small beside cargo's and LLVM's, and on
/// two processors this saves more than five minutes of the first `cargo xtask test`.
fn install(package: &str, version: &str, features: &[&str]) -> Result<Found> {
    let tools = workspace::tools();
    ui::say(format_args!("building {package} {version} into {}/bin", workspace::shown(&tools)));
    cargo("install")?
        .args([package, "--version", version, "--locked", "--force"])
        .args(features)
        .arg("--root")
        .arg(&tools)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .run()
        .with_context(|| format!("{package} could not be installed"))?;
    Ok(Found::Installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_counts_with_or_without_its_target() {
        let list =
            "cargo-x86_64-unknown-linux-gnu\nclippy-x86_64-unknown-linux-gnu\nrust-src\nrustfmt-x86_64";
        assert!(has_components(list));
        assert!(!has_components(&list.replace("rust-src", "rust-std")));
        assert!(!has_components(&list.replace("clippy-", "clippyish-")));
        assert!(!has_components(""));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version("0.9.143") > version("0.9.91"));
        assert!(version("0.10.0-rc.1") > version("0.9.143"));
        assert_eq!(version("nightly"), None);
        assert!(version("nightly") < version_of_oldest(), "an unreadable version is too old");
        assert!(version_of_oldest().is_some() && version(NEXTEST) >= version_of_oldest());
    }
}
