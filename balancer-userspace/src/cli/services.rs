//! `balancer services`: the Service ports that are balanced.

use clap::Args;

use super::{
    context::Context,
    exit::{Exit, Failure},
    lifecycle,
    output::{
        Document, Format, FormatArgs, Kind,
        service::{BackendCounts, ServiceDoc},
    },
    select::Scope,
    table::{Align, Cell, Table},
    term::Ink,
    text,
};
use crate::view::ServiceView;

/// Flags of `balancer services`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServicesArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    format: FormatArgs,
}

/// Runs the command.
pub fn run(args: &ServicesArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let snapshot = context.snapshot()?;
    let selected = args.scope.select(&snapshot)?;
    let format = args.format.output;
    if matches!(format, Format::Json | Format::Yaml) {
        let items: Vec<ServiceDoc> =
            selected.services.iter().map(|service| ServiceDoc::from(*service)).collect();
        context.print_document(format, &Document::of(Kind::Services, &snapshot, items))?;
        return Ok(Exit::Ok);
    }
    context.warn(&snapshot);
    if let Some(hint) = &selected.hint {
        context.note(hint);
        return Ok(Exit::Ok);
    }
    let mut titles = vec![
        ("NAMESPACE", Align::Left),
        ("NAME", Align::Left),
        ("PORT", Align::Left),
        ("PROTOCOL", Align::Left),
        ("ADDRESS", Align::Left),
        ("ALGORITHM", Align::Left),
        ("AFFINITY", Align::Left),
    ];
    let rebalances = selected.services.iter().any(|service| service.lifecycle.is_on());
    if rebalances {
        titles.push(("REBALANCE", Align::Left));
    }
    titles.extend([("BACKENDS", Align::Left), ("ACTIVE", Align::Right)]);
    if format == Format::Wide {
        titles.extend([("PASSED", Align::Right), ("REVISION", Align::Right)]);
    }
    titles.push(("PROBLEM", Align::Left));
    let mut table = Table::new(titles);
    for service in selected.services {
        let mut row = vec![
            Cell::new(&service.namespace),
            Cell::new(&service.name),
            Cell::new(&service.port_name),
            Cell::new(service.protocol.to_string()),
            Cell::new(service.frontend.to_string()),
            Cell::new(service.algorithm.name()),
            Cell::new(service.affinity.map_or_else(String::new, text::duration)),
        ];
        if rebalances {
            row.push(lifecycle::mode_cell(&service.lifecycle));
        }
        row.extend([backends_cell(service), Cell::number(service.active())]);
        if format == Format::Wide {
            row.extend([
                Cell::bad_unless_zero(crate::evenness::total(&service.passes)),
                Cell::number(service.revision.into()),
            ]);
        }
        row.push(Cell::inked(service.problem.as_deref().unwrap_or_default(), Ink::Warn));
        table.push(row);
    }
    let mut out = String::new();
    table.render(&mut out, context.palette(), "");
    context.print(&out)?;
    Ok(Exit::Ok)
}

/// `3 ready`, `3 ready, 1 draining`, `2 terminating`, `none`.
fn backends_cell(service: &ServiceView) -> Cell {
    let counts = BackendCounts::of(service);
    let parts: Vec<String> = counts
        .by_state()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    let ink = match (counts.ready, counts.terminating) {
        (0, 0) => Ink::Bad,
        (0, _) => Ink::Warn,
        _ => Ink::Plain,
    };
    if parts.is_empty() { Cell::inked("none", ink) } else { Cell::inked(parts.join(", "), ink) }
}
