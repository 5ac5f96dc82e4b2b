//! The command line: a file per subcommand that parses, asks the [`Node`] and prints. No logic of balancing is here.
//!
//! Parsing comes first and acting later; nothing is printed before all that it needs was read. Output goes to standard
//! output in one write, warnings and errors to standard error. Exit codes are those of [`Exit`].

pub mod agent;
pub mod backends;
pub mod check;
mod columns;
pub mod completions;
pub mod config;
pub mod connections;
mod context;
pub mod detach;
pub mod exit;
pub mod explain;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod golden;
mod lifecycle;
pub mod man;
#[cfg(test)]
mod manual;
pub mod nearest;
pub mod node;
pub mod output;
mod plan;
mod rates;
pub mod rebalance;
pub mod select;
pub mod services;
mod sparkline;
pub mod stats;
pub mod table;
pub mod term;
pub mod text;
pub mod values;
pub mod warnings;
pub mod watch;

use std::{ffi::OsString, io::IsTerminal as _, path::PathBuf};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::{
    agent::AgentArgs,
    config::ConfigError,
    context::{ClosedPipe, Context},
    exit::{EXIT_CODES, Exit, Failure},
    node::Node,
    term::{ColorChoice, Output},
};
use crate::logging;

/// Balances connections to Kubernetes Services where they are made: in the node's sockets
#[derive(Debug, Parser)]
#[command(name = "balancer", version, after_help = EXIT_CODES, max_term_width = 100, subcommand_required = true)]
pub struct Cli {
    /// Directory on a BPF file system that everything is pinned under
    #[arg(
        long,
        env = "BALANCER_PINS",
        value_name = "DIR",
        global = true,
        default_value = "/sys/fs/bpf/balancer"
    )]
    pub pins: PathBuf,

    /// When to colour the output
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto", display_order = 901)]
    pub color: ColorChoice,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node: keep the kernel's tables in step with Services and their endpoints
    Agent(Box<AgentArgs>),
    /// Show connections per backend, and how evenly they are spread
    Stats(stats::StatsArgs),
    /// List the Service ports that are balanced
    Services(services::ServicesArgs),
    /// List the backends of Service ports
    Backends(backends::BackendsArgs),
    /// List the open connections that were balanced, with the processes that hold them
    Connections(connections::ConnectionsArgs),
    /// Say what a connect from here to an address or a Service would do, and why
    Explain(explain::ExplainArgs),
    /// Show whether open connections are moved to even out, say what would be moved, or move some
    Rebalance(rebalance::RebalanceArgs),
    /// Check that all is right on this node: kernel, mounts, attachment, lease, tables and a real connect
    Check(check::CheckArgs),
    /// Remove all that is balancer's from this node; open connections live on
    Detach(detach::DetachArgs),
    /// Make the self-probe's connects from this process
    #[command(hide = true)]
    Probe,
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    Man(man::ManArgs),
}

/// The command line as clap sees it, for completions, manual pages and parsing alike.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    // In a pod the kubelet's downward API usually provides NODE_NAME; balancer's own variable beats it.
    let has = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if has("NODE_NAME") && !has("BALANCER_NODE") {
        command = command.mut_subcommand("agent", |agent| agent.mut_arg("node", |arg| arg.env("NODE_NAME")));
    }
    hide_env_values(command)
}

/// Help and manual pages must not depend on, or give away, what the environment holds.
fn hide_env_values(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(hide_env_values)
}

/// Runs the process's command line on a node.
pub fn main(node: &dyn Node) -> Exit {
    let kind = |is_terminal| if is_terminal { Output::Terminal } else { Output::Other };
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let streams = Streams {
        stdout_kind: kind(stdout.is_terminal()),
        stderr_kind: kind(stderr.is_terminal()),
        stdout: &mut stdout,
        stderr: &mut stderr,
    };
    run(std::env::args_os().collect(), node, streams)
}

/// Where a command writes.
pub struct Streams<'a> {
    /// For what was asked for.
    pub stdout: &'a mut dyn std::io::Write,
    /// For warnings and errors.
    pub stderr: &'a mut dyn std::io::Write,
    /// What `stdout` leads to.
    pub stdout_kind: Output,
    /// What `stderr` leads to.
    pub stderr_kind: Output,
}

/// Runs a command line, program name first.
pub fn run<'a>(argv: Vec<OsString>, node: &'a dyn Node, streams: Streams<'a>) -> Exit {
    let matches = match config::parse(command(), "agent", &argv) {
        Ok(matches) => matches,
        Err(ConfigError::Arguments(error)) => return clap_says(&error, streams),
        Err(ConfigError::File(failure)) => return explain_failure(&failure, streams.stderr),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return clap_says(&error, streams),
    };
    let mut context = Context::new(node, &cli, streams);
    match dispatch(cli.command, &mut context) {
        Ok(exit) => exit,
        Err(failure) => explain_failure(&failure, context.stderr()),
    }
}

fn dispatch(command: Command, context: &mut Context<'_>) -> Result<Exit, Failure> {
    match command {
        Command::Agent(args) => {
            args.source()?;
            logging::init(args.log_format, args.log_level.as_deref())
                .map_err(|error| Failure::new(Exit::Usage, error))?;
            context.node().agent(context.pins(), &args)?;
            Ok(Exit::Ok)
        }
        Command::Stats(args) => stats::run(&args, context),
        Command::Services(args) => services::run(&args, context),
        Command::Backends(args) => backends::run(&args, context),
        Command::Connections(args) => connections::run(&args, context),
        Command::Explain(args) => explain::run(&args, context),
        Command::Rebalance(args) => rebalance::run(&args, context),
        Command::Check(args) => check::run(&args, context),
        Command::Detach(args) => detach::run(&args, context),
        Command::Probe => {
            let outcome = context.node().probe(context.pins())?;
            context.print(&format!("{outcome}\n"))?;
            Ok(Exit::Ok)
        }
        Command::Completions(args) => completions::run(&args, context),
        Command::Man(args) => man::run(&args, context),
    }
}

/// Prints clap's own message: an error, or the help or version that was asked for.
fn clap_says(error: &clap::Error, streams: Streams<'_>) -> Exit {
    let (out, kind, exit) = if error.use_stderr() {
        (streams.stderr, streams.stderr_kind, Exit::Usage)
    } else {
        (streams.stdout, streams.stdout_kind, Exit::Ok)
    };
    let text = error.render();
    // A reader that is gone needs no help.
    let _ = match ColorChoice::Auto.palette(kind) {
        term::Palette::Colour => write!(out, "{}", text.ansi()),
        term::Palette::Plain => write!(out, "{text}"),
    };
    exit
}

fn explain_failure(failure: &Failure, stderr: &mut dyn std::io::Write) -> Exit {
    if failure.error.is::<ClosedPipe>() {
        return Exit::Ok;
    }
    // There is nobody left to tell when even this fails.
    let _ = writeln!(stderr, "balancer: {}", failure.text());
    failure.exit
}
