//! `cargo xtask demo`, `bench`, `scenarios` and `soak`: build everything, then become the program.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    build_ebpf,
    cmd::Cmd,
    setup, workspace,
};

/// Options of `demo`, `bench`, `scenarios`, `soak` and `clients`.
#[derive(clap::Args)]
// The program has the help that is worth reading.
#[command(disable_help_flag = true)]
pub struct Args {
    /// Passed on; `--help` shows what there is
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

impl Args {
    /// Whether the program will do no more than print.
    pub fn only_print(&self) -> bool {
        self.args.iter().any(|arg| matches!(arg.as_str(), "--help" | "-h" | "--list"))
    }
}

/// Runs the demo.
pub fn demo(args: &Args) -> Result<ExitCode> {
    ready("demo", setup::DEMO, Profile::Debug, args)?.command().args(&args.args).exec()
}

/// Runs the benchmark, with everything optimised.
pub fn bench(args: &Args) -> Result<ExitCode> {
    ready("bench", setup::BENCH, Profile::Release, args)?.command().args(&args.args).exec()
}

/// Plays the scenarios, with everything optimised.
pub fn scenarios(args: &Args) -> Result<ExitCode> {
    ready("scenarios", setup::BENCH, Profile::Release, args)?.command().args(&args.args).exec()
}

/// Runs the soak, unoptimised unless told otherwise.
pub fn soak(mut args: Args) -> Result<ExitCode> {
    let all = args.args.len();
    args.args.retain(|arg| arg != "--release");
    let profile = if args.args.len() < all { Profile::Release } else { Profile::Debug };
    ready("soak", setup::DEMO, profile, &args)?.command().args(&args.args).exec()
}

/// A program of `tests`, built.
pub struct Ready {
    program: PathBuf,
    balancer: PathBuf,
}

impl Ready {
    /// It, about to run. It replaces this process ([`Cmd::exec`]), so that Ctrl-C and every other signal
    /// reach the program itself, which has things to clean up.
    pub fn command(&self) -> Cmd {
        Cmd::new(&self.program)
            .env("BALANCER_BIN", &self.balancer)
            .env("BALANCER_EBPF_OBJECT", workspace::object())
            .env("BALANCER_MINIMAL_OBJECT", workspace::object().with_file_name("minimal.o"))
            .env("BALANCER_BENCH_JSON", workspace::target().join("bench/last.json"))
    }
}

/// Brings what a program needs, and builds it.
///
/// # Errors
/// When it could not run here, with all that is missing; when it cannot be built.
pub fn ready(name: &str, needs: &[setup::Program], profile: Profile, args: &Args) -> Result<Ready> {
    if !args.only_print() {
        let lacks = setup::lacks();
        if !lacks.is_empty() {
            let lacks: Vec<_> = lacks.iter().map(|lack| format!("\n  {lack}")).collect();
            bail!("`cargo xtask {name}` runs eBPF programs in network namespaces, but{}", lacks.concat());
        }
        setup::packages(needs)?;
    }
    build_ebpf::build()?;
    let balancer = match profile {
        Profile::Debug => build::host(profile)?,
        // With what it starts itself.
        Profile::Release => build::only(profile, &["balancer", "peer", name])?,
    };
    Ok(Ready { program: balancer.with_file_name(name), balancer })
}
