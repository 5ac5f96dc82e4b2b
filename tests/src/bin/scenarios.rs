//! `cargo xtask scenarios`: known situations with long-lived connections, in every arm.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command-line tool")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use balancer_tests::{
    bench::facts::Facts,
    scenarios::{
        list,
        outcome::{Arm, Cell},
        process,
        report::{Origin, Report},
        run,
        simulation::Simulation,
    },
    topology::{interrupted, on_signals},
};
use clap::{Parser, Subcommand};

/// Play the situations that people have with long-lived connections, with each way to choose a server
///
/// Needs root. Works in network namespaces and cgroups of its own, and removes them. With all seeds and scenarios it takes about
/// three quarters of an hour. Writes tables, plots and results.json; what could not be had here is named there as not run.
#[derive(Parser)]
#[command(name = "cargo xtask scenarios", args_conflicts_with_subcommands = true, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    worker: Option<Worker>,

    /// How often each is played in each arm
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,

    /// These scenarios alone; --list names them
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    only: Vec<String>,

    /// These arms alone: direct, iptables, nftables, ipvs-rr, ipvs-lc, ipvs-sed, ipvs-sh, connect-only, rebalancing
    #[arg(long, value_name = "ARM", value_delimiter = ',', num_args = 1.., value_parser = parse_arm)]
    arms: Vec<Arm>,

    /// Where README.md, results.json and the plots are written
    #[arg(long, value_name = "DIR", env = "BALANCER_OUT", default_value = "target/scenarios")]
    out: PathBuf,

    /// Begin with the results of an earlier run, a results.json; only what --only names is played again
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// Take what did not run here from another results.json, such as one of a kernel with IPVS; can be given several times
    #[arg(long, value_name = "FILE")]
    merge: Vec<PathBuf>,

    /// Name the scenarios, and end
    #[arg(long)]
    list: bool,
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
    list::arm(name).ok_or_else(|| "no such arm: --help names them".into())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.worker {
        Some(Worker::Serve) => process::serve(),
        Some(Worker::Client) => process::client(),
        None if args.list => {
            names().iter().for_each(|(name, title)| println!("{name:<20} {title}"));
            Ok(())
        }
        None => play(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // As a shell says that Ctrl-C ended it.
            if interrupted() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

/// All names and titles, simulated ones last.
fn names() -> Vec<(String, String)> {
    let run = list::all().into_iter().map(|scenario| (scenario.name.to_owned(), scenario.title.to_owned()));
    run.chain(Simulation::all().map(|simulation| (simulation.name(), simulation.title()))).collect()
}

fn play(args: &Args) -> Result<()> {
    let names = names();
    for name in &args.only {
        let known = names.iter().any(|(known, _)| known == name);
        ensure!(known, "there is no scenario {name:?}: --list names them");
    }
    let merged: Vec<Report> = args.merge.iter().map(|file| read(file)).collect::<Result<_>>()?;
    let earlier = args.from.as_deref().map(read).transpose()?;
    on_signals()?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let all = args.only.is_empty() && earlier.is_none();
    let wanted = |name: &str| all || args.only.iter().any(|only| only == name);
    let seeds: Vec<u64> = (1..=args.seeds).collect();
    let mut origin =
        Origin { date: date(), commit: commit(), machine: Facts::collect(), seeds: seeds.clone() };
    let mut report = earlier.unwrap_or_else(|| Report::new(origin.clone(), Vec::new()));
    let arms = if args.arms.is_empty() { run::ARMS.to_vec() } else { args.arms.clone() };
    for scenario in list::all().into_iter().filter(|scenario| wanted(scenario.name)) {
        let outcome = run::play(&scenario, &arms, args.seeds, &|what| eprintln!("scenarios: {what}"));
        report.put(outcome.with_context(|| scenario.name)?, &origin);
        report.keep_plotted_samples();
        // What has been played is not lost with what comes.
        write(args, &report)?;
    }
    for simulation in Simulation::all().filter(|simulation| wanted(&simulation.name())) {
        report.put(simulation.play(&seeds), &origin);
    }
    if names.iter().any(|(name, _)| wanted(name)) {
        origin.machine.finish();
        report.ended(&origin);
    }
    for other in merged {
        report.merge(other)?;
    }
    report.outcomes.sort_by_key(|outcome| names.iter().position(|(name, _)| *name == outcome.name));
    write(args, &report)?;
    print!("{}", report.text());
    println!("\nTables, plots and results.json are in {}", args.out.display());
    let cells = report.outcomes.iter().flat_map(|outcome| &outcome.arms);
    let ran = cells.filter(|(_, cell)| matches!(cell, Cell::Ran(_))).count();
    ensure!(ran > 0, "nothing of what was asked for could run here");
    Ok(())
}

fn read(file: &Path) -> Result<Report> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Report::read(&text).with_context(|| file.display().to_string())
}

fn write(args: &Args, report: &Report) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = args.out.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    put("results.json", report.json()?)?;
    put("README.md", report.markdown("."))?;
    for (name, plot) in report.plots()? {
        let name = Path::new(&name).file_name().with_context(|| format!("name of the plot {name}"))?;
        put(&name.to_string_lossy(), plot)?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a report says its day")]
fn date() -> String {
    jiff::Timestamp::now().to_string().chars().take_while(|c| *c != 'T').collect()
}

/// The commit that this was built from, as far as git tells.
fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or_else(|| "unknown".into(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}
