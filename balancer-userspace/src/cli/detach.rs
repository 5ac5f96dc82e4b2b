//! `balancer detach`: removes from the node all that is balancer's, and nothing else.

use clap::Args;

use super::{
    context::Context,
    exit::{Exit, Failure},
    node::{DetachMode, Detachment},
    output::{Document, Format, FormatArgs, Kind, answers::detach_docs},
    term::safe,
};

/// Flags of `balancer detach`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct DetachArgs {
    /// Say what would be removed, and remove nothing
    #[arg(long, conflicts_with = "force")]
    dry_run: bool,

    /// Remove even though an agent runs; it will end with an error
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    format: FormatArgs,
}

/// Runs the command. Open connections live on: they were rewritten when they were made.
pub fn run(args: &DetachArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let (mode, removed, verb) = match (args.dry_run, args.force) {
        (true, _) => (DetachMode::DryRun, "would-remove", "would remove"),
        (false, true) => (DetachMode::RemoveUnderAgent, "removed", "removed"),
        (false, false) => (DetachMode::Remove, "removed", "removed"),
    };
    let Detachment { report, left } = context.node().detach(context.pins(), mode)?;
    // What was done is said first, and then what was not.
    let outcome = left.map_or(Ok(Exit::Ok), Err);
    let format = args.format.output;
    if matches!(format, Format::Json | Format::Yaml) {
        context.print_document(format, &Document::plain(Kind::Detach, detach_docs(&report, removed)))?;
        return outcome;
    }
    let mut out = String::new();
    for what in &report.removed {
        out.push_str(&format!("{verb} {}\n", safe(what)));
    }
    for what in &report.kept {
        out.push_str(&format!("kept {}\n", safe(what)));
    }
    if report.removed.is_empty() && outcome.is_ok() {
        out.push_str("nothing of balancer's is on this node\n");
    }
    context.print(&out)?;
    outcome
}
