//! `cargo xtask bench`: what a connect costs, beside everything else that could be done with it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command-line tool")]

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_tests::{
    bench::{churn, facts::Facts, latency, load, open, programs, propagation, report::Report, worker},
    topology::on_signals,
};
use clap::{Parser, Subcommand, ValueEnum};

/// Measure balancer beside direct connects, kube-proxy's rules, and the least that its work could take
///
/// Needs root. Works in network namespaces and cgroups of its own, and removes them. Best on a machine that does
/// nothing else; a few minutes, with --quick less than two.
#[derive(Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    worker: Option<Worker>,

    /// Few rounds: less than two minutes, and more noise
    #[arg(long)]
    quick: bool,

    /// Measure this alone; can be given several times
    #[arg(long, value_name = "SECTION")]
    only: Vec<Section>,

    /// Write the results to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Exit with 1 if a target is not met
    #[arg(long)]
    strict: bool,

    /// The minimal programs, compiled
    #[arg(
        long,
        value_name = "FILE",
        env = "BALANCER_MINIMAL_OBJECT",
        default_value = "target/bpf/minimal.o"
    )]
    minimal: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Nanoseconds for a run of connect4, beside minimal programs
    Programs,
    /// Connects: direct, through balancer, through iptables and nftables
    Connects,
    /// Connects while Services, endpoints and the agent come and go
    Churn,
    /// From a manifest to the kernel's map, first sync, memory
    Propagation,
    /// 500 changes a second at an API server with 5,000 Services, for a minute
    Load,
    /// The agent while 10,000 open connections are watched, and evened out
    Open,
}

/// What the benchmark starts itself as, in a pod.
#[derive(Subcommand)]
enum Worker {
    #[command(hide = true)]
    Dial,
    #[command(hide = true)]
    Serve { ports: Vec<u16> },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.worker {
        Some(Worker::Dial) => worker::dial().map(|()| ExitCode::SUCCESS),
        Some(Worker::Serve { ports }) => worker::serve(ports).map(|()| ExitCode::SUCCESS),
        None => run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    on_signals()?;
    let begun = Instant::now();
    let mut report = Report::new(Facts::collect(), args.quick);
    let wanted = |section| args.only.is_empty() || args.only.contains(&section);
    let effort = |full, quick| if args.quick { quick } else { full };
    if wanted(Section::Programs) {
        report.programs = Some(programs::measure(&args.minimal, effort(15, 5), effort(2_000, 1_000))?);
    }
    if wanted(Section::Connects) {
        report.connects = Some(latency::measure(effort(20, 6), effort(1_000, 500))?);
    }
    if wanted(Section::Churn) {
        report.churn = Some(churn::measure(effort(200_000, 20_000), effort(100, 10))?);
    }
    if wanted(Section::Propagation) {
        report.propagation = propagation::measure(&[10, 5_000], effort(200, 50))?;
    }
    if wanted(Section::Load) {
        let duration = Duration::from_secs(if args.quick { 15 } else { 60 });
        report.load = Some(load::measure(load::Load { services: 5_000, per_second: 500, duration })?);
    }
    if wanted(Section::Open) {
        report.open = Some(open::measure(10_000, Duration::from_secs(if args.quick { 20 } else { 60 }))?);
    }
    report.judge();
    report.machine.finish();
    report.seconds = begun.elapsed().as_secs_f64();
    print!("{}", report.text());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(path, json + "\n").with_context(|| path.display().to_string())?;
    }
    let missed = report.targets.iter().any(|target| !target.met);
    Ok(if args.strict && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
