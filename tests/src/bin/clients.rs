//! `cargo xtask clients`: whether client libraries survive that their idle connections are moved.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command-line tool")]

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use balancer_tests::{
    clients::{
        library::LIBRARIES,
        mechanism::Mechanism,
        parts::Missing,
        report::{Report, Verdict},
        suite::Suite,
    },
    topology::{interrupted, on_signals},
};
use balancer_userspace::cli::values::parse_duration;
use clap::Parser;

/// Move idle connections of real client libraries, and count the requests that were hurt
///
/// Needs root. Works in network namespaces and cgroups of its own, and removes them. Prints a table; exit code 0: no request was
/// hurt; 1: some were; 3: none was, but a row did not run or moved too little to tell.
#[derive(Parser)]
#[command(name = "cargo xtask clients")]
struct Args {
    /// Moves in each row [default: 200, with --short 20]
    #[arg(long, value_name = "N")]
    moves: Option<u64>,

    /// These libraries alone; can be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1.., conflicts_with = "short")]
    only: Vec<String>,

    /// How long connections have to be quiet, a row for each [default: 500ms,2s, with --short 500ms]
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = parse_duration)]
    quiet: Vec<Duration>,

    /// A few libraries and moves, in about a minute
    #[arg(long)]
    short: bool,

    /// The longest that one row moves connections
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// What is done to the connections
    #[arg(long, value_enum, default_value = "rebalance-now")]
    mechanism: Mechanism,

    /// Name the libraries, and end
    #[arg(long)]
    list: bool,

    /// Where the results are written as JSON
    #[arg(long, value_name = "FILE", default_value = "target/clients/results.json")]
    json: PathBuf,

    /// Name what has to be installed, and end
    #[arg(long, hide = true)]
    parts: bool,

    /// What could not be installed, and why
    #[arg(long, hide = true, value_name = "PART=REASON")]
    missing: Vec<Missing>,
}

fn main() -> ExitCode {
    run(Args::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: Args) -> Result<ExitCode> {
    if args.list {
        for library in LIBRARIES {
            println!("{}{}", library.name, if library.short { "  (--short)" } else { "" });
        }
        return Ok(ExitCode::SUCCESS);
    }
    let json = args.json.clone();
    let only_parts = args.parts;
    let suite = suite(args)?;
    if only_parts {
        suite.parts().iter().for_each(|part| println!("{part}"));
        return Ok(ExitCode::SUCCESS);
    }
    on_signals()?;
    let ran = suite.run(|line| eprintln!("{line}"));
    if interrupted() {
        eprintln!("interrupted; everything is removed");
    }
    let report = match ran {
        Err(_) if interrupted() => return Ok(ExitCode::from(130)),
        ran => ran?,
    };
    print!("{}", report.table());
    write(&json, &report)?;
    Ok(exit_code(&report))
}

fn suite(args: Args) -> Result<Suite> {
    let mut libraries = Suite::choose(&args.only)?;
    let (mut moves, mut quiet) = (200, vec![Duration::from_millis(500), Duration::from_secs(2)]);
    if args.short {
        libraries.retain(|library| library.short);
        moves = 20;
        quiet.truncate(1);
    }
    if !args.quiet.is_empty() {
        quiet = args.quiet;
    }
    Ok(Suite {
        libraries,
        quiet,
        mechanism: args.mechanism,
        moves: args.moves.unwrap_or(moves),
        limit: Duration::from_secs(args.seconds.into()),
        missing: args.missing,
    })
}

fn write(path: &PathBuf, report: &Report) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let json = serde_json::to_string_pretty(report)?;
    fs::write(path, json + "\n").with_context(|| path.display().to_string())
}

fn exit_code(report: &Report) -> ExitCode {
    if report.any(Verdict::Hurt) {
        ExitCode::FAILURE
    } else if interrupted() {
        ExitCode::from(130)
    } else if report.any(Verdict::NotRun) || report.any(Verdict::TooFew) {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    }
}
