//! `cargo xtask bench`: what a connect costs, beside everything else that could be done with it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command-line tool")]

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use balancer_tests::bench::{latency, programs, worker};
use clap::Parser;

/// Measure balancer against the limit, direct connects and kube-proxy's rules
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    worker: Option<Role>,
    #[arg(long)]
    latency: bool,
    #[arg(long)]
    churn: bool,
    #[arg(long)]
    propagation: bool,
    /// The minimal programs, compiled
    #[arg(long, env = "BALANCER_MINIMAL_OBJECT", default_value = "target/bpf/minimal.o")]
    minimal: PathBuf,
}

/// What the benchmark starts itself as.
#[derive(clap::Subcommand)]
enum Role {
    /// A process that the benchmark starts in a pod
    #[command(hide = true, subcommand)]
    Worker(WorkerRole),
}

#[derive(clap::Subcommand)]
enum WorkerRole {
    Dial,
    Serve { ports: Vec<u16> },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    match &args.worker {
        Some(Role::Worker(WorkerRole::Dial)) => return worker::dial(),
        Some(Role::Worker(WorkerRole::Serve { ports })) => return worker::serve(ports),
        None => {}
    }
    if std::env::args().any(|a| a == "--latency") {
        let results = latency::measure(7, 1000)?;
        for row in &results.rows {
            println!(
                "{:<28} {:>5} p50 {:>6.1} p90 {:>6.1} p99 {:>6.1} us whole {:>6.1} {:>7.0}/s ratio {:.3} ({:.3}..{:.3}) whole {:.3} ({:.3}..{:.3}) added {:.0} failed {}",
                row.variant,
                row.services,
                row.p50_ns.median / 1e3,
                row.p90_ns.median / 1e3,
                row.p99_ns.median / 1e3,
                row.whole_ns.median / 1e3,
                row.per_second.median,
                row.p50_ratio.median,
                row.p50_ratio.min,
                row.p50_ratio.max,
                row.whole_ratio.median,
                row.whole_ratio.min,
                row.whole_ratio.max,
                row.added_ns.median,
                row.failed
            );
        }
        println!("{:?}", results.missing);
        return Ok(());
    }
    let results =
        programs::measure(&args.minimal, std::env::var("ROUNDS").map_or(15, |r| r.parse().unwrap()))?;
    println!("empty {:?}", results.empty_ns);
    for row in &results.rows {
        println!(
            "{:<36} {:<12} {:>7.1} ({:.1}..{:.1})",
            row.scenario, row.program, row.ns.median, row.ns.min, row.ns.max
        );
    }
    for row in &results.shares {
        println!(
            "{:<36} {:<12} {:.2} runs {:>7.1} ({:.1}..{:.1})",
            row.scenario, row.program, row.runs, row.ns.median, row.ns.min, row.ns.max
        );
    }
    for row in &results.ratios {
        println!("{:<70} {:>7.3} ({:.3}..{:.3})", row.name, row.ratio.median, row.ratio.min, row.ratio.max);
    }
    Ok(())
}
