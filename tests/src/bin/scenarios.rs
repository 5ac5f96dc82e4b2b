//! `cargo xtask scenarios`: known situations with long-lived connections, in every arm.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command-line tool")]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use balancer_tests::{
    scenarios::{list, outcome::Arm, process, run},
    topology::on_signals,
};
use clap::{Parser, Subcommand};

/// Play the situations that people have with long-lived connections, with each way to choose a server
///
/// Needs root. Works in network namespaces and cgroups of its own, and removes them.
#[derive(Parser)]
#[command(name = "cargo xtask scenarios", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    worker: Option<Worker>,

    /// How often each is played in each arm
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,

    /// These scenarios alone; can be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// These arms alone
    #[arg(long, value_name = "ARM", value_delimiter = ',', value_parser = parse_arm)]
    arms: Vec<Arm>,
}

/// What the program starts itself as, in a pod.
#[derive(Clone, Copy, Subcommand)]
enum Worker {
    #[command(hide = true)]
    Serve,
    #[command(hide = true)]
    Client,
}

fn parse_arm(name: &str) -> Result<Arm, String> {
    list::arm(name).ok_or_else(|| "no such arm".into())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.worker {
        Some(Worker::Serve) => process::serve().map(|()| ExitCode::SUCCESS),
        Some(Worker::Client) => process::client().map(|()| ExitCode::SUCCESS),
        None => play(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn play(args: &Args) -> Result<ExitCode> {
    on_signals()?;
    let arms = if args.arms.is_empty() { run::ARMS.to_vec() } else { args.arms.clone() };
    let mut outcomes = Vec::new();
    for scenario in list::all() {
        if !args.only.is_empty() && !args.only.iter().any(|name| name == scenario.name) {
            continue;
        }
        let outcome = run::play(&scenario, &arms, args.seeds, &|what| eprintln!("scenarios: {what}"));
        outcomes.push(outcome.with_context(|| scenario.name)?);
    }
    println!("{}", serde_json::to_string(&outcomes)?);
    Ok(ExitCode::SUCCESS)
}
