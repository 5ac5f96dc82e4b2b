//! `cargo xtask demo` and `cargo xtask bench`: build everything, then become the program.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    build_ebpf,
    cmd::Cmd,
    setup, workspace,
};

/// Options of `demo` and `bench`.
#[derive(clap::Args)]
// The program has the help that is worth reading.
#[command(disable_help_flag = true)]
pub struct Args {
    /// Passed on; `--help` shows what there is
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the demo.
pub fn demo(args: &Args) -> Result<ExitCode> {
    become_program("demo", setup::DEMO, Profile::Debug, args)
}

/// Runs the benchmark, with everything optimised.
pub fn bench(args: &Args) -> Result<ExitCode> {
    become_program("bench", setup::BENCH, Profile::Release, args)
}

/// Replaces this process, so that Ctrl-C and every other signal reach the program itself, which has
/// things to clean up.
fn become_program(name: &str, needs: &[setup::Program], profile: Profile, args: &Args) -> Result<ExitCode> {
    let for_help = args.args.iter().any(|arg| arg == "--help" || arg == "-h");
    if !for_help {
        let lacks = setup::lacks();
        if !lacks.is_empty() {
            let lacks: Vec<_> = lacks.iter().map(|lack| format!("\n  {lack}")).collect();
            bail!("`cargo xtask {name}` runs eBPF programs in network namespaces, but{}", lacks.concat());
        }
        setup::packages(needs)?;
    }
    build_ebpf::build()?;
    let balancer = build::host(profile)?;
    let program = balancer.with_file_name(name);
    Cmd::new(&program)
        .args(&args.args)
        .env("BALANCER_BIN", &balancer)
        .env("BALANCER_EBPF_OBJECT", workspace::object())
        .env("BALANCER_MINIMAL_OBJECT", workspace::object().with_file_name("minimal.o"))
        .exec()
}
