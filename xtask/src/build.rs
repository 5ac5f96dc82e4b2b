//! `cargo xtask build`: the programs, then the binary that embeds them.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{build_ebpf, toolchain::cargo, ui, workspace};

/// Options of `build`.
#[derive(clap::Args)]
pub struct Args {
    /// Build with optimisations, into target/release
    #[arg(long)]
    release: bool,
}

/// How to compile.
#[derive(Clone, Copy)]
pub enum Profile {
    /// Quick to build.
    Debug,
    /// Optimised.
    Release,
}

impl Profile {
    /// What cargo is told.
    pub const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }

    /// The directory below `target`.
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds and says where the binary is.
pub fn run(args: &Args) -> Result<ExitCode> {
    let binary = build(if args.release { Profile::Release } else { Profile::Debug })?;
    ui::say(format_args!("built {}", workspace::shown(&binary)));
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs, then the binary; returns the binary's path.
fn build(profile: Profile) -> Result<PathBuf> {
    build_ebpf::build()?;
    match profile {
        Profile::Debug => host(profile),
        Profile::Release => only(profile, &["balancer"]),
    }
}

/// Builds what runs on this machine: the binary, and the programs around it (the demo, the benchmark and
/// what the tests start). The object must be there already. Returns the path of the binary; the
/// others lie beside it.
///
/// One choice of packages, here and in the tests: cargo then resolves the same features for all and
/// builds nothing twice. xtask is left out because it is running, built by another compiler.
///
/// # Errors
/// When something does not compile.
pub fn host(profile: Profile) -> Result<PathBuf> {
    bins(profile, &["--bins".into()])
}

/// Like [`host`], these programs alone: each that is optimised is optimised as a whole, which takes minutes.
///
/// # Errors
/// When something does not compile.
pub fn only(profile: Profile, names: &[&str]) -> Result<PathBuf> {
    let choice: Vec<String> = names.iter().map(|name| format!("--bin={name}")).collect();
    bins(profile, &choice)
}

fn bins(profile: Profile, choice: &[String]) -> Result<PathBuf> {
    cargo("build")?
        .args(["--workspace", "--exclude", "balancer-ebpf", "--exclude", "xtask"])
        .args(choice)
        .args(profile.flags())
        .run()?;
    Ok(workspace::target().join(profile.dir()).join("balancer"))
}
