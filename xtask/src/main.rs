//! The project's own commands: `cargo xtask --help`.
//!
//! This crate builds with an older stable compiler than the rest and depends on little: it is what
//! brings the rest's toolchain to a machine that has none. Every command installs what it needs, or
//! names what it lacks and how to get it.

mod build;
mod build_ebpf;
mod cmd;
mod elf;
mod setup;
mod toolchain;
mod ui;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, test and measure balancer.
///
/// Each command first brings what it needs (the pinned toolchain, bpf-linker, system packages) or names
/// what it lacks and how to get it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install everything the other commands need: toolchain, bpf-linker, cargo-nextest, system packages
    Setup(setup::Args),
    /// Build the eBPF programs into target/bpf, check the object, and load it where the kernel lets us
    BuildEbpf(build_ebpf::Args),
    /// Build the eBPF programs, then the balancer binary that embeds them
    Build(build::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Setup(args) => setup::run(&args),
        Task::BuildEbpf(args) => build_ebpf::run(&args),
        Task::Build(args) => build::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            ui::error(&error);
            ExitCode::FAILURE
        }
    }
}
