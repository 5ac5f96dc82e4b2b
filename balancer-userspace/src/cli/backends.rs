//! `balancer backends`: the backends of Service ports, one a line.

use clap::Args;

use super::{
    columns::{self, Column, service_label},
    context::Context,
    exit::{Exit, Failure},
    lifecycle,
    output::{Document, Format, FormatArgs, Kind, service::BackendItem},
    select::Scope,
    table::{Align, Cell, Table},
};
use crate::view::{BackendView, ServiceView};

/// Flags of `balancer backends`.
#[derive(Args, Clone, Debug, Default)]
pub struct BackendsArgs {
    #[command(flatten)]
    scope: Scope,

    /// Backends on this node alone
    #[arg(long, value_name = "NODE")]
    node: Option<String>,

    /// Backends in this zone alone
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,

    #[command(flatten)]
    format: FormatArgs,
}

const NARROW: &[Column] = &[
    columns::BACKEND,
    columns::POD,
    columns::NODE,
    columns::STATE,
    columns::WEIGHT,
    columns::ACTIVE,
    columns::OPENED,
    columns::FAILED,
];

const WIDE: &[Column] = &[
    columns::BACKEND,
    columns::POD,
    columns::NODE,
    columns::ZONE,
    columns::STATE,
    columns::WEIGHT,
    columns::ACTIVE,
    columns::OPENED,
    columns::ESTABLISHED,
    columns::FAILED,
    columns::CLOSED,
    columns::P50,
    columns::P99,
];

/// Runs the command.
pub fn run(args: &BackendsArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let snapshot = context.snapshot()?;
    let selected = args.scope.select(&snapshot)?;
    let wanted = |backend: &BackendView| {
        args.node.as_deref().is_none_or(|node| node == &*backend.node)
            && args.zone.as_deref().is_none_or(|zone| zone == &*backend.zone)
    };
    let backends: Vec<(&ServiceView, &BackendView)> = selected
        .services
        .iter()
        .flat_map(|service| service.backends.iter().map(move |backend| (*service, backend)))
        .filter(|(_, backend)| wanted(backend))
        .collect();
    let format = args.format.output;
    if matches!(format, Format::Json | Format::Yaml) {
        let items = backends.iter().map(|(service, backend)| BackendItem::new(service, backend)).collect();
        context.print_document(format, &Document::of(Kind::Backends, &snapshot, items))?;
        return Ok(Exit::Ok);
    }
    context.warn(&snapshot);
    if backends.is_empty() {
        context.note(selected.hint.as_deref().unwrap_or("no backend matches"));
        return Ok(Exit::Ok);
    }
    let columns = if format == Format::Wide { WIDE } else { NARROW };
    let mut titles = vec![("SERVICE", Align::Left)];
    let rebalances = backends.iter().any(|(service, _)| service.lifecycle.is_on());
    if rebalances {
        titles.push(("REBALANCE", Align::Left));
    }
    titles.extend(columns.iter().map(|(title, align, _)| (*title, *align)));
    let mut table = Table::new(titles);
    for (service, backend) in backends {
        let mut row = vec![Cell::new(service_label(service))];
        if rebalances {
            row.push(lifecycle::mode_cell(&service.lifecycle));
        }
        row.extend(columns.iter().map(|(_, _, cell)| cell(backend)));
        table.push(row);
    }
    let mut out = String::new();
    table.render(&mut out, context.palette(), "");
    context.print(&out)?;
    Ok(Exit::Ok)
}
