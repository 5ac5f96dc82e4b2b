//! `balancer check`: whether all is right on this node.

use clap::Args;

use super::{
    context::Context,
    exit::{Exit, Failure},
    node::SelfProbe,
    output::{
        Document, Format, FormatArgs, Kind,
        answers::{CheckDoc, outcome_name},
    },
    table::{Align, Cell, Table},
    term::{Ink, Palette, safe},
};
use crate::view::{CheckReport, Outcome};

/// Flags of `balancer check`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct CheckArgs {
    /// Only look: make no connection
    #[arg(long)]
    no_probe: bool,

    #[command(flatten)]
    format: FormatArgs,
}

/// Runs the command. [`Exit::Problem`] where a check failed; warnings are no failure.
pub fn run(args: &CheckArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let probe = if args.no_probe { SelfProbe::Omit } else { SelfProbe::Connect };
    let report = context.node().check(context.pins(), probe)?;
    match args.format.output {
        format @ (Format::Json | Format::Yaml) => {
            let items = report.items.iter().map(CheckDoc::from).collect();
            context.print_document(format, &Document::plain(Kind::Check, items))?;
        }
        Format::Table | Format::Wide => {
            let text = show(&report, context.palette());
            context.print(&text)?;
        }
    }
    Ok(match report.worst() {
        Outcome::Ok | Outcome::Skipped | Outcome::Warning => Exit::Ok,
        Outcome::Failed => Exit::Problem,
    })
}

const fn ink(outcome: Outcome) -> Ink {
    match outcome {
        Outcome::Ok => Ink::Good,
        Outcome::Skipped => Ink::Dim,
        Outcome::Warning => Ink::Warn,
        Outcome::Failed => Ink::Bad,
    }
}

fn show(report: &CheckReport, palette: Palette) -> String {
    let titles = [("CHECK", Align::Left), ("OUTCOME", Align::Left), ("DETAIL", Align::Left)];
    let mut table = Table::new(titles.to_vec());
    for item in &report.items {
        table.push(vec![
            Cell::new(&item.name),
            Cell::inked(outcome_name(item.outcome), ink(item.outcome)),
            Cell::new(&item.detail),
        ]);
    }
    let mut out = String::new();
    table.render(&mut out, palette, "");
    let remedies: Vec<_> = report.items.iter().filter(|item| !item.remedy.is_empty()).collect();
    if !remedies.is_empty() {
        out.push_str("\nWhat to do:\n");
        for item in remedies {
            out.push_str("  ");
            palette.paint(&mut out, ink(item.outcome), &safe(&item.name));
            out.push_str(&format!(": {}\n", safe(&item.remedy)));
        }
    }
    let counts: Vec<String> = [Outcome::Failed, Outcome::Warning, Outcome::Skipped, Outcome::Ok]
        .into_iter()
        .map(|outcome| (report.count(outcome), outcome))
        .filter(|(count, _)| *count > 0)
        .map(|(count, outcome)| {
            let plural = if outcome == Outcome::Warning && count > 1 { "s" } else { "" };
            format!("{count} {}{plural}", outcome_name(outcome))
        })
        .collect();
    out.push('\n');
    palette.paint(&mut out, ink(report.worst()), &counts.join(", "));
    out.push('\n');
    out
}
