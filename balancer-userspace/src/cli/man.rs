//! `balancer man`: manual pages, one for each subcommand.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::{
    context::Context,
    exit::{Exit, Failure},
};

/// Flags of `balancer man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Directory to write the pages into; made if it does not exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Runs the command.
pub fn run(args: &ManArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    clap_mangen::generate_to(super::command().disable_help_subcommand(true), &args.dir)
        .with_context(|| format!("cannot write manual pages into {}", args.dir.display()))?;
    context.print(&format!("manual pages are in {}\n", args.dir.display()))?;
    Ok(Exit::Ok)
}
