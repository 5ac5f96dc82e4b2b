//! `cargo xtask lint`: format, clippy and documentation, without a warning.

use std::process::ExitCode;

use anyhow::Result;

use crate::{build_ebpf, docs, setup, toolchain::cargo, ui};

/// Checks everything that needs no test to run.
pub fn run() -> Result<ExitCode> {
    setup::toolchain()?;
    cargo("fmt")?.args(["--all", "--check"]).run()?;
    // The agent embeds the object: nothing that depends on it can be checked before it is built.
    build_ebpf::build()?;
    cargo("clippy")?
        .args(["--workspace", "--exclude", "balancer-ebpf", "--all-targets", "--", "--deny", "warnings"])
        .run()?;
    build_ebpf::cross("clippy")?.args(["--profile", "bpf", "--", "--deny", "warnings"]).run()?;
    docs::rustdoc()?;
    ui::say("no format, lint or documentation problem");
    Ok(ExitCode::SUCCESS)
}
