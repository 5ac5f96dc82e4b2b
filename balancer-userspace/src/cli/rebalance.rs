//! `balancer rebalance`: whether open connections are moved to even out, which would be, and moving some.

use balancer_common::abi::Refusal;
use clap::{Args, Subcommand};

use super::{
    columns::service_label,
    context::Context,
    exit::{Exit, Failure},
    lifecycle,
    output::{
        Document, Format, FormatArgs, Kind,
        lifecycle::{MovedDoc, PlanDoc, StatusDoc},
    },
    plan,
    select::{Namespaces, Scope, ServiceQuery},
    table::{Align, Cell, Table},
    term::{Ink, safe},
    text,
};
use crate::{
    evenness::Evenness,
    model::Protocol,
    view::{MovedView, ServiceView},
};

/// Flags of `balancer rebalance`.
#[derive(Args, Clone, Debug)]
pub struct RebalanceArgs {
    #[command(subcommand)]
    what: What,
}

/// What to do about open connections.
#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Show for which Services connections are moved, how that goes, and why it does not
    Status(QuestionArgs),
    /// Say which connections would be moved now, and why the others would not; nothing is moved
    Plan(QuestionArgs),
    /// Move idle connections of a Service now: from where too many are first, then those idle longest
    ///
    /// All TCP ports and address families of the Service are tried, in their order, unless SERVICE names a port;
    /// --max is for all of them together. What was tried and not moved is counted by reason, and is no failure.
    Now(NowArgs),
}

/// Flags of `balancer rebalance status` and `plan`.
#[derive(Args, Clone, Debug)]
struct QuestionArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    format: FormatArgs,
}

/// Flags of `balancer rebalance now`.
#[derive(Args, Clone, Debug)]
struct NowArgs {
    /// Service: NAME, NAMESPACE/NAME or NAME:PORT, the port by name or number
    #[arg(value_name = "SERVICE")]
    service: ServiceQuery,

    /// Namespace of the Service [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Move at most N connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,

    #[command(flatten)]
    format: FormatArgs,
}

/// What to do where nothing is asked to be moved.
const REMEDY: &str = "the annotation balancer.dev/rebalance (dry-run or idle) on a Service asks for it";

/// Runs the command.
pub fn run(args: &RebalanceArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    match &args.what {
        What::Status(args) => status(args, context),
        What::Plan(args) => plan(args, context),
        What::Now(args) => now(args, context),
    }
}

/// The Service ports that are meant: those that are named, else those whose connections are moved.
fn concerned<'a>(scope: &Scope, services: Vec<&'a ServiceView>) -> Vec<&'a ServiceView> {
    let all = scope.names_a_service();
    services.into_iter().filter(|service| all || service.lifecycle.is_on()).collect()
}

fn status(args: &QuestionArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let snapshot = context.snapshot()?;
    let selected = args.scope.select(&snapshot)?;
    let services = concerned(&args.scope, selected.services);
    let format = args.format.output;
    if matches!(format, Format::Json | Format::Yaml) {
        let items = services.iter().map(|service| StatusDoc::from(*service)).collect();
        context.print_document(format, &Document::of(Kind::RebalanceStatus, &snapshot, items))?;
        return Ok(Exit::Ok);
    }
    context.warn(&snapshot);
    if services.is_empty() {
        let none = format!("no connection of any Service in question is moved; {REMEDY}");
        context.note(selected.hint.as_deref().unwrap_or(&none));
        return Ok(Exit::Ok);
    }
    let mut out = String::new();
    status_table(&services, format).render(&mut out, context.palette(), "");
    context.print(&out)?;
    Ok(Exit::Ok)
}

fn status_table(services: &[&ServiceView], format: Format) -> Table {
    let wide = format == Format::Wide;
    let right = |title| (title, Align::Right);
    let left = |title| (title, Align::Left);
    let mut titles = vec![left("SERVICE")];
    if wide {
        titles.extend([left("PROTOCOL"), left("ADDRESS")]);
    }
    titles.extend([left("MODE"), left("TRUST"), left("STATE"), right("QUIET")]);
    if wide {
        titles.extend([right("CONFIGURED"), right("MIN-AGE"), right("BUDGET"), right("PUSHES")]);
    }
    titles.extend(["OFFERED", "HARMLESS", "HARMFUL", "MOVED", "RECONNECTED", "LOST"].map(right));
    titles.extend(["DRAINED", "CLOSED", "MAX/MEAN", "BEST"].map(right));
    titles.push(left("REFUSED"));
    let mut table = Table::new(titles);
    for service in services {
        let lifecycle = &service.lifecycle;
        let mut row = vec![Cell::new(service_label(service))];
        if wide {
            row.extend([Cell::new(service.protocol.to_string()), Cell::new(service.frontend.to_string())]);
        }
        row.extend([
            Cell::new(lifecycle::mode(lifecycle).unwrap_or_else(|| lifecycle.mode.name().to_owned())),
            Cell::new(lifecycle::trust(lifecycle)),
            lifecycle::activity(service),
            Cell::new(text::duration(lifecycle.quiet)),
        ]);
        if wide {
            row.extend([
                Cell::new(text::duration(lifecycle.configured_quiet)),
                Cell::new(text::duration(lifecycle.min_age)),
                Cell::new(format!("{}%", lifecycle.budget_percent)),
                Cell::number(lifecycle.pushes),
            ]);
        }
        let even = service.evenness();
        let measure = |value: fn(&Evenness) -> f64| {
            Cell::new(even.as_ref().map(value).map_or_else(String::new, |value| format!("{value:.2}")))
        };
        row.extend([
            Cell::number(lifecycle.offered),
            Cell::number(lifecycle.harmless),
            Cell::bad_unless_zero(lifecycle.harmful),
            Cell::number(lifecycle.moved),
            Cell::number(lifecycle.reconnected),
            Cell::bad_unless_zero(lifecycle.lost),
            Cell::number(lifecycle.drained),
            Cell::number(lifecycle.destroyed),
            measure(|even| even.max_over_mean),
            measure(|even| even.best_max_over_mean),
            Cell::new(lifecycle::refusals(lifecycle, if wide { Refusal::ALL.len() } else { 2 })),
        ]);
        table.push(row);
    }
    table
}

fn plan(args: &QuestionArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let snapshot = context.snapshot()?;
    let selected = args.scope.select(&snapshot)?;
    let services = concerned(&args.scope, selected.services);
    let ids: Vec<u32> = services.iter().map(|service| service.id).collect();
    let plans = context.node().rebalance_plan(context.pins(), &snapshot, &ids)?;
    let of = |id: u32| services.iter().find(|service| service.id == id);
    let format = args.format.output;
    if matches!(format, Format::Json | Format::Yaml) {
        let items = plans.iter().filter_map(|plan| Some(PlanDoc::new(of(plan.service)?, plan))).collect();
        context.print_document(format, &Document::of(Kind::RebalancePlan, &snapshot, items))?;
        return Ok(Exit::Ok);
    }
    context.warn(&snapshot);
    if services.is_empty() {
        let none = format!("no connection of any Service in question is moved; {REMEDY}");
        context.note(selected.hint.as_deref().unwrap_or(&none));
        return Ok(Exit::Ok);
    }
    let mut out = String::new();
    for plan in &plans {
        let Some(service) = of(plan.service) else { continue };
        if !out.is_empty() {
            out.push('\n');
        }
        plan::show(&mut out, service, plan, format, context.palette());
    }
    context.print(&out)?;
    Ok(Exit::Ok)
}

fn now(args: &NowArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let snapshot = context.snapshot()?;
    let scope = Scope::new(Some(args.service.clone()), Namespaces::one(args.namespace.clone()));
    let mut services = scope.select(&snapshot)?.services;
    services.retain(|service| service.protocol == Protocol::Tcp);
    if services.is_empty() {
        return Err(Failure::problem(format!(
            "{} has no TCP port, and only TCP connections are moved: name another Service or port",
            args.service
        )));
    }
    let mut room = args.max;
    let mut done: Vec<(&ServiceView, MovedView)> = Vec::new();
    let mut failure = None;
    for service in services {
        if room == 0 {
            break;
        }
        match context.node().rebalance_now(context.pins(), &snapshot, service.id, room) {
            Ok(moved) => {
                room = room.saturating_sub(moved.moved);
                done.push((service, moved));
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let format = args.format.output;
    // What was done is told even where the rest failed.
    if failure.is_none() || !done.is_empty() {
        if matches!(format, Format::Json | Format::Yaml) {
            let items = done.iter().map(|(service, moved)| MovedDoc::new(service, moved)).collect();
            context.print_document(format, &Document::of(Kind::RebalanceMoved, &snapshot, items))?;
        } else {
            context.warn(&snapshot);
            let text = moved_text(&done, context);
            context.print(&text)?;
        }
    }
    failure.map_or(Ok(Exit::Ok), Err)
}

/// A title for each Service port, and a line for each reason.
fn moved_text(done: &[(&ServiceView, MovedView)], context: &Context<'_>) -> String {
    let mut out = String::new();
    for (service, moved) in done {
        context.palette().paint(&mut out, Ink::Bold, &safe(&service_label(service)));
        let count = text::count(moved.moved.into(), "connection", "connections");
        out.push_str(&format!("  {}  {count} moved\n", service.frontend));
        for (refusal, count) in &moved.refused {
            let clause = lifecycle::refusal_clause(*refusal);
            out.push_str(&format!("  {count} not moved ({}): {clause}\n", refusal.name()));
        }
    }
    out
}
