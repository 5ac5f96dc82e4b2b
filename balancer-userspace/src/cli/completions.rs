//! `balancer completions`: scripts for shells.

use clap::Args;
use clap_complete::Shell;

use super::{
    context::Context,
    exit::{Exit, Failure},
};

/// Flags of `balancer completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &CompletionsArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let mut command = super::command();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "balancer", &mut script);
    context.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
