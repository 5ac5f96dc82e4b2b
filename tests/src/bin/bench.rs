//! `cargo xtask bench`: what a connect costs, beside everything else that could be done with it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command-line tool")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_tests::{
    bench::{
        baseline::Baseline,
        churn, contention, established,
        facts::Facts,
        lane,
        latency::{self, Plan},
        load, memory, open, programs, propagation,
        report::Report,
        worker,
    },
    topology::on_signals,
};
use clap::{Parser, Subcommand, ValueEnum};

/// Measure balancer beside direct connects, kube-proxy's rules, and the least that its work could take
///
/// Needs root. Works in network namespaces and cgroups of its own, and removes them. Best on a machine that does
/// nothing else. Takes up to half an hour, with --quick less than three minutes.
///
/// All figures are written to a file as well (--json). With --baseline they are held against those of such a file:
/// every one is named that is worse by over 10%, and by more than the rounds of the two runs differ among themselves.
#[derive(Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    worker: Option<Worker>,

    /// Few rounds, and no iptables or nftables rules for more than 5,000 Services: less than three minutes, more noise
    #[arg(long)]
    quick: bool,

    /// Measure this alone; can be given several times
    #[arg(long, value_name = "SECTION")]
    only: Vec<Section>,

    /// Where the results are written, as JSON
    #[arg(
        long,
        value_name = "FILE",
        env = "BALANCER_BENCH_JSON",
        default_value = "target/bench/last.json",
        hide_env = true
    )]
    json: PathBuf,

    /// Compare with the results of an earlier run, and name what has become worse
    ///
    /// Of a run on another machine, with another kernel or another kind of build, ratios alone are compared.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,

    /// Exit with 1 if a target is not met, or something is worse than in the baseline
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
    /// Connects: direct, through balancer, through iptables and nftables, with 1 to 30,000 Services
    Connects,
    /// The same over IPv6
    Ipv6,
    /// Questions and answers over UDP, as a resolver's, each on a socket of its own
    Udp,
    /// Bytes and requests on open connections, and what they cost
    Established,
    /// Connects of one and of all processors to one Service
    Contention,
    /// What the kernel's maps take
    Memory,
    /// Connects beside iptables, with the express lane and without
    Lane,
    /// Connects while Services, endpoints and the agent come and go
    Churn,
    /// From a manifest to the kernel's map, first sync, memory
    Propagation,
    /// 500 changes a second at an API server with 5,000 and 30,000 Services, for a minute each
    Load,
    /// The agent while 10,000 open connections are watched, and evened out
    Open,
}

/// What the benchmark starts itself as, in a pod.
#[derive(Subcommand)]
enum Worker {
    #[command(hide = true)]
    Dial { cpu: usize },
    #[command(hide = true)]
    Serve { ports: Vec<u16> },
    #[command(hide = true)]
    Answer { ports: Vec<u16> },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.worker {
        Some(Worker::Dial { cpu }) => worker::dial(*cpu).map(|()| ExitCode::SUCCESS),
        Some(Worker::Serve { ports }) => {
            worker::serve(ports, worker::Manner::Close).map(|()| ExitCode::SUCCESS)
        }
        Some(Worker::Answer { ports }) => {
            worker::serve(ports, worker::Manner::Answer).map(|()| ExitCode::SUCCESS)
        }
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
    // Before minutes of work: it may be of no use.
    let baseline = args.baseline.as_deref().map(Baseline::read).transpose()?;
    let mut report = Report::new(Facts::collect(), args.quick);
    measure(args, &mut report)?;
    report.machine.finish();
    report.judge(baseline.as_ref());
    report.seconds = begun.elapsed().as_secs_f64();
    print!("{}", report.text());
    write(&report, &args.json)?;
    Ok(if args.strict && report.is_bad() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let wanted = |section| args.only.is_empty() || args.only.contains(&section);
    let effort = |full, quick| if args.quick { quick } else { full };
    let plan = |plan: Plan, rules_up_to| if args.quick { plan.short(rules_up_to) } else { plan };
    if wanted(Section::Programs) {
        report.programs = Some(programs::measure(&args.minimal, effort(15, 5), effort(2_000, 1_000))?);
    }
    if wanted(Section::Connects) {
        report.connects =
            Some(latency::measure(plan(Plan::connects(&[1, 1_000, 5_000, 10_000, 30_000]), 5_000))?);
    }
    if wanted(Section::Ipv6) {
        report.ipv6 = Some(latency::measure(plan(Plan::ipv6(&[1_000, 5_000]), 1_000))?);
    }
    if wanted(Section::Udp) {
        report.udp = Some(latency::measure(plan(Plan::questions(&[1_000, 5_000]), 1_000))?);
    }
    if wanted(Section::Established) {
        report.established = Some(established::measure(effort(20, 8), effort(4_000, 1_000))?);
    }
    if wanted(Section::Contention) {
        report.contention = Some(contention::measure(effort(20, 8), effort(20_000, 10_000))?);
    }
    if wanted(Section::Memory) {
        report.memory = Some(memory::measure(1_000)?);
    }
    if wanted(Section::Lane) {
        report.lane = Some(lane::measure(effort(20, 6), effort(1_000, 500))?);
    }
    if wanted(Section::Churn) {
        report.churn = Some(churn::measure(effort(200_000, 20_000), effort(100, 10))?);
    }
    if wanted(Section::Propagation) {
        let sizes: &[usize] = if args.quick { &[10, 5_000] } else { &[10, 5_000, 10_000, 30_000] };
        report.propagation = propagation::measure(sizes, effort(200, 50))?;
    }
    if wanted(Section::Load) {
        let duration = Duration::from_secs(if args.quick { 15 } else { 60 });
        let sizes: &[u16] = if args.quick { &[5_000] } else { &[5_000, 30_000] };
        for &services in sizes {
            report.load.push(load::measure(load::Load { services, per_second: 500, duration })?);
        }
    }
    if wanted(Section::Open) {
        report.open = Some(open::measure(10_000, Duration::from_secs(if args.quick { 10 } else { 60 }))?);
    }
    Ok(())
}

/// Keeps the results, also for a later `--baseline`.
fn write(report: &Report, path: &Path) -> Result<()> {
    let what = || format!("results cannot be written to {}", path.display());
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).with_context(what)?;
    }
    fs::write(path, serde_json::to_string_pretty(report)? + "\n").with_context(what)?;
    println!("All figures: {}", path.display());
    Ok(())
}
