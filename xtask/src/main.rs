//! The project's own commands: `cargo xtask --help`.
//!
//! This crate builds with an older stable compiler than the rest and depends on little: it is what
//! brings the rest's toolchain to a machine that has none. Every command installs what it needs, or
//! names what it lacks and how to get it.

mod audit;
mod build;
mod build_ebpf;
mod ci;
mod clients;
mod cmd;
mod docs;
mod elf;
mod fuzz;
mod image;
mod interrupt;
mod lint;
mod run_bin;
mod setup;
mod summary;
mod test;
mod toolchain;
mod ui;
mod vm;
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
    Setup,
    /// Build the eBPF programs into target/bpf, check the objects, and load them where the kernel lets us
    BuildEbpf(build_ebpf::Args),
    /// Build the eBPF programs, then the balancer binary that embeds them
    Build(build::Args),
    /// Build a static binary, and an image with nothing else in it, below target/image
    ///
    /// Brings buildah and musl-gcc with apt-get, and the musl target with rustup.
    Image(image::Args),
    /// Watch the balancer at work in network namespaces of its own (needs root)
    Demo(run_bin::Args),
    /// Run every test: unit, property and golden tests, doc tests, then those in the kernel (need root)
    ///
    /// The last line is the count of all. Exit code 0: all passed; 1: some failed; 3: some could not run
    /// here, for want of root or eBPF, and --unprivileged was not given.
    Test(test::Args),
    /// Check format, lints and documentation
    Lint,
    /// Do all that a change has to pass: lint, then test
    Ci(test::Args),
    /// Measure connects through the balancer beside direct ones, iptables and nftables (needs root)
    Bench(run_bin::Args),
    /// Play the situations that people have with long-lived connections, with each way to choose a server (needs root)
    Scenarios(run_bin::Args),
    /// Move idle connections of real client libraries, and count the requests that were hurt (needs root)
    ///
    /// Brings Python packages with pip, Node.js packages with npm, and the rest with apt-get; what cannot be
    /// had is a row that says so.
    Clients(run_bin::Args),
    /// Let everything go wrong at random, from a seed, and check all the while that nothing is lost (needs root)
    ///
    /// With --release the agent is optimised, which takes some minutes more to build.
    Soak(run_bin::Args),
    /// Verify the programs and run the tests in the kernel under Debian's other kernels, in guests
    ///
    /// Guests run with KVM where that works, else in emulation. Brings qemu-system-x86, busybox-static, musl-tools and programs
    /// that the tests run with apt-get; downloads the kernels into the user's cache, and installs none. The last lines are a
    /// table of kernels and tests; target/vm/results.json has all of it. Exit code 0: all that ran has passed; 1: something
    /// failed; 3: a kernel that was named could not run.
    Vm(vm::Args),
    /// Feed a fuzz target with inputs that reach ever more of it (needs a C++ compiler)
    Fuzz(fuzz::Args),
    /// Check third-party crates: licences, bans, sources and security advisories (cargo-deny)
    ///
    /// Exit code 0: all is well; 1: something is not; 3: a check could not run, as where the database of advisories is out
    /// of reach, and --allow-not-run was not given.
    Audit(audit::Args),
    /// Write the crates' reference, man pages and shell completions below target
    Docs,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Setup => setup::run(),
        Task::BuildEbpf(args) => build_ebpf::run(&args),
        Task::Build(args) => build::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Demo(args) => run_bin::demo(&args),
        Task::Test(args) => test::run(&args),
        Task::Lint => lint::run(),
        Task::Ci(args) => ci::run(&args),
        Task::Bench(args) => run_bin::bench(&args),
        Task::Scenarios(args) => run_bin::scenarios(&args),
        Task::Clients(args) => clients::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Soak(args) => run_bin::soak(args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Audit(args) => audit::run(&args),
        Task::Docs => docs::run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            ui::error(&error);
            ExitCode::FAILURE
        }
    }
}
