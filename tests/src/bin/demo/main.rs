//! `cargo xtask demo`: a client and five backends in network namespaces, real connections through a Service address, and the agent
//! that spreads them, while backends come, go and die.
//!
//! Ends with what the run showed, computed from what the clients and servers saw and from what balancer counted. Fails when one of
//! these does not hold. Removes all that it made, whatever happens; what a killed run left is removed by the next.

mod keep;
mod screen;
mod stage;
mod story;
mod verdicts;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use balancer_tests::topology::{interrupted, on_signals};
use clap::Parser;

use self::{screen::Screen, stage::Stage, verdicts::Verdicts};

/// Shows balancer at work on real connections, without a cluster.
#[derive(Parser)]
struct Arguments {
    /// Leave everything running at the end, until Ctrl-C, with commands to try.
    #[arg(long)]
    keep: bool,

    /// Directory of the Service and the EndpointSlice to begin with.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/demo"))]
    manifests: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut screen = Screen::new();
    match show(&arguments, &mut screen) {
        Ok(verdicts) if verdicts.all_hold() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(_) if interrupted() => {
            screen.say("interrupted; everything is removed");
            ExitCode::from(130)
        }
        Err(error) => {
            screen.complain(&format!("the demo could not go on: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn show(arguments: &Arguments, screen: &mut Screen) -> Result<Verdicts> {
    on_signals()?;
    screen.title("Setting up: a node, a client and five backends in network namespaces");
    let set = stage::Set::build(&arguments.manifests)?;
    let mut verdicts = Verdicts::default();
    let mut stage = Stage::open(&set, screen)?;
    story::tell(&mut stage, screen, &mut verdicts)?;
    screen.title("What this run showed");
    screen.say(&verdicts.text());
    if arguments.keep {
        keep::keep(&mut stage, screen)?;
    }
    Ok(verdicts)
}

/// Fails once a signal asked this program to end.
fn check_interrupt() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}
