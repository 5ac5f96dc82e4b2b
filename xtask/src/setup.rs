//! `cargo xtask setup`
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{
    cmd::is_executable,
    toolchain::{BPF_LINKER, COMPONENTS, TOOLCHAIN, cargo, rustup},
    ui, workspace,
};

/// Options of `setup`.
#[derive(clap::Args)]
pub struct Args {}

/// Brings everything.
pub fn run(_args: &Args) -> Result<ExitCode> {
    toolchain()?;
    bpf_linker()?;
    Ok(ExitCode::SUCCESS)
}

/// The pinned toolchain.
pub fn toolchain() -> Result<()> {
    let installed = rustup()?.args(["component", "list", "--installed", "--toolchain", TOOLCHAIN]).output();
    let complete = installed.is_ok_and(|list| {
        COMPONENTS.iter().all(|component| {
            list.lines().any(|line| line == *component || line.starts_with(&format!("{component}-")))
        })
    });
    if complete {
        return Ok(());
    }
    ui::say(format_args!("installing Rust {TOOLCHAIN} with {}", COMPONENTS.join(", ")));
    let mut install =
        rustup()?.args(["toolchain", "install", TOOLCHAIN, "--profile", "minimal", "--no-self-update"]);
    for component in COMPONENTS {
        install = install.args(["--component", component]);
    }
    install.run().with_context(|| format!("Rust {TOOLCHAIN} could not be installed"))
}

/// bpf-linker in `.tools`.
pub fn bpf_linker() -> Result<()> {
    if is_executable(&workspace::tools().join("bin/bpf-linker")) {
        return Ok(());
    }
    cargo("install")?
        .args(["bpf-linker", "--version", BPF_LINKER, "--locked", "--root"])
        .arg(workspace::tools())
        .run()
}
