//! `cargo xtask soak`: everything at random, and what must hold meanwhile.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command-line tool")]

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use balancer_tests::{
    soak::{
        plant::Plant,
        run::{self, Options},
        worker,
    },
    topology::on_signals,
};
use clap::{Parser, Subcommand};

/// Let everything go wrong that can, at random, and check all the while that nothing is lost
///
/// Clients connect through the balancer to servers in network namespaces, while endpoints and Services change, servers, clients
/// and the agent are killed, stopped and replaced, the API server fails, and the tables are full. Needs root; removes what it
/// made. Exit code 1: something is broken, and the output says what, with the seed that repeats the same events.
#[derive(Parser)]
#[command(name = "cargo xtask soak", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    worker: Option<Worker>,

    /// How long things happen, in minutes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,

    /// What is random follows from it; without one it is random itself
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Another build of the agent, to which it is upgraded, and back; without one a copy of the same
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,

    /// Write what came of it to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Plant a bug after the first quiet point, to see that it is found
    #[arg(long, value_name = "BUG")]
    plant: Option<Plant>,
}

/// What the soak starts itself as, in a pod.
#[derive(Subcommand)]
enum Worker {
    #[command(hide = true)]
    Work,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.worker {
        Some(Worker::Work) => worker::run().map(|()| ExitCode::SUCCESS),
        None => soak(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn soak(args: &Args) -> Result<ExitCode> {
    on_signals()?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("seed {seed}, {} minutes", args.minutes);
    let options = Options {
        duration: Duration::from_secs(60 * args.minutes),
        seed,
        other: args.other.clone(),
        plant: args.plant,
        say: |line| println!("{line}"),
    };
    let outcome = run::run(&options)?;
    print!("{}", outcome.text(&format!("cargo xtask soak --minutes {} --seed {seed}", args.minutes)));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&outcome)?;
        fs::write(path, json + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(match (outcome.is_good(), outcome.interrupted && outcome.findings.is_empty()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(130),
        (false, false) => ExitCode::FAILURE,
    })
}
