//! `balancer stats`: connections per backend, and how evenly they are spread.

use balancer_common::abi::{HISTORY, PassReason, PickReason};
use clap::Args;

use super::{
    columns::{self, Column, service_label},
    context::{Context, warning_lines},
    exit::{Exit, Failure},
    lifecycle,
    output::{Document, Format, FormatArgs, Kind, stats::StatsDoc},
    plan::measures,
    rates::{Opened, Rates},
    select::Scope,
    sparkline::Scale,
    table::{Align, Cell, Table},
    term::{Ink, Output, Palette, safe},
    text,
    watch::{Frame, WatchArgs, screen_columns},
};
use crate::{
    evenness::Evenness,
    view::{BackendView, ServiceView},
};

/// Flags of `balancer stats`.
#[derive(Args, Clone, Debug, Default)]
pub struct StatsArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

const NARROW: &[Column] = &[
    columns::BACKEND,
    columns::POD,
    columns::STATE,
    columns::WEIGHT,
    columns::ACTIVE,
    columns::OPENED,
    columns::FAILED,
    columns::CLOSED,
    columns::P50,
    columns::P99,
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
    columns::REFUSED,
    columns::TIMED_OUT,
    columns::UNREACHABLE,
    columns::ABORTED,
    columns::CLOSED,
    columns::P50,
    columns::P99,
    columns::BYTES_IN,
    columns::BYTES_OUT,
    columns::RETRANSMITS,
];

/// Runs the command.
pub fn run(args: &StatsArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let mut before: Option<Opened> = None;
    args.watch.run(context, |context, frame| {
        let snapshot = context.snapshot()?;
        let selected = args.scope.select(&snapshot)?;
        let format = args.format.output;
        if matches!(format, Format::Json | Format::Yaml) {
            let items: Vec<StatsDoc> =
                selected.services.iter().map(|service| StatsDoc::from(*service)).collect();
            let document = Document::of(Kind::Stats, &snapshot, items);
            return match (format, frame) {
                (Format::Yaml, _) => document.yaml(),
                (_, Frame::Single) => document.json(),
                (_, Frame::Watched { .. }) => document.json_line(),
            };
        }
        let mut out = String::new();
        match frame {
            Frame::Single => context.warn(&snapshot),
            Frame::Watched { number, interval } => {
                if number > 0 && context.stdout_kind() == Output::Other {
                    out.push('\n');
                }
                #[expect(clippy::disallowed_methods, reason = "shown to a person")]
                let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ");
                let title =
                    format!("{now}  node {}  every {}", safe(&snapshot.agent.node), text::duration(interval));
                context.palette().paint(&mut out, Ink::Dim, &title);
                out.push('\n');
                out.push_str(&warning_lines(&snapshot, context.palette()));
            }
        }
        match (&selected.hint, frame) {
            (Some(hint), Frame::Single) => context.note(hint),
            (Some(hint), Frame::Watched { .. }) => out.push_str(&format!("{hint}\n")),
            (None, _) => {}
        }
        let now = Opened::of(&selected.services);
        let rates = match frame {
            Frame::Single => None,
            Frame::Watched { .. } => Some(Rates { before: before.as_ref(), now: &now }),
        };
        for (index, service) in selected.services.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            let room = match context.stdout_kind() {
                Output::Terminal => screen_columns(),
                Output::Other => None,
            };
            block(&mut out, service, format, rates, room, context.palette());
        }
        before = Some(now);
        Ok(out)
    })?;
    Ok(Exit::Ok)
}

/// One Service port: a title, what there is to say of it, and its backends.
fn block(
    out: &mut String,
    service: &ServiceView,
    format: Format,
    rates: Option<Rates<'_>>,
    room: Option<usize>,
    palette: Palette,
) {
    palette.paint(out, Ink::Bold, &safe(&service_label(service)));
    let sum = |value: fn(&BackendView) -> u64| service.backends.iter().map(value).sum::<u64>();
    out.push_str(&format!(
        "  {} {}  {}{}  {} open, {} opened, {} failed\n",
        service.protocol,
        service.frontend,
        service.algorithm.name(),
        lifecycle::mode(&service.lifecycle).map_or_else(String::new, |mode| format!("  rebalance {mode}")),
        service.active(),
        sum(|backend| backend.stats.opened),
        sum(BackendView::failed),
    ));
    if let Some(problem) = &service.problem {
        line(out, palette, Ink::Warn, &format!("problem: {}", safe(problem)));
    }
    open_connections(out, service, palette);
    if format == Format::Wide {
        let picks = reasons(PickReason::ALL.map(PickReason::name), service.picks);
        line(out, palette, Ink::Plain, &format!("picked by: {}", picks.as_deref().unwrap_or("nothing yet")));
    }
    if let Some(passes) = reasons(PassReason::ALL.map(PassReason::name), service.passes) {
        line(out, palette, Ink::Warn, &format!("passed through: {passes}"));
    }
    if service.flow_evictions > 0 {
        let text = format!("forgotten by UDP sockets with too many peers: {}", service.flow_evictions);
        line(out, palette, Ink::Plain, &text);
    }
    if service.backends.is_empty() {
        line(out, palette, Ink::Warn, "no backends: connects are passed through");
        return;
    }
    let samples = if format == Format::Wide { HISTORY } else { RECENT };
    let mut text = backends(service, format, rates, Scale::of(service, samples), palette);
    // A line that wraps is worse than a column that is not there.
    if room.is_some_and(|room| table_width(service, format, rates, samples) > room) {
        text = backends(service, format, rates, None, palette);
    }
    out.push_str(&text);
}

/// How many samples the ordinary table shows: two minutes.
const RECENT: usize = 12;

/// How many characters the lines of the table of backends have at most.
fn table_width(service: &ServiceView, format: Format, rates: Option<Rates<'_>>, samples: usize) -> usize {
    let plain = backends(service, format, rates, Scale::of(service, samples), Palette::Plain);
    plain.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// The table of backends, with the last samples of each where there is a scale for them.
fn backends(
    service: &ServiceView,
    format: Format,
    rates: Option<Rates<'_>>,
    scale: Option<Scale>,
    palette: Palette,
) -> String {
    let columns = if format == Format::Wide { WIDE } else { NARROW };
    let mut titles = Vec::new();
    // Where weights differ, connections can only be judged beside them.
    let weights = || service.backends.iter().map(|backend| backend.weight);
    let hide_weight = format != Format::Wide && weights().min() == weights().max();
    let columns: Vec<&Column> =
        columns.iter().filter(|(title, ..)| !(hide_weight && *title == columns::WEIGHT.0)).collect();
    for (title, align, _) in &columns {
        titles.push((*title, *align));
        if *title == columns::ACTIVE.0 && scale.is_some() {
            titles.push(("HISTORY", Align::Right));
        }
        if *title == columns::OPENED.0 && rates.is_some() {
            titles.push(("OPENED/S", Align::Right));
        }
    }
    let mut table = Table::new(titles);
    for backend in &service.backends {
        let mut row = Vec::new();
        for (title, _, cell) in &columns {
            row.push(cell(backend));
            if let (true, Some(scale)) = (*title == columns::ACTIVE.0, scale) {
                row.push(Cell::new(scale.draw(&backend.history.samples())));
            }
            if let (true, Some(rates)) = (*title == columns::OPENED.0, rates) {
                let rate = rates.of(service, backend);
                row.push(Cell::new(rate.map_or_else(String::new, |rate| format!("{rate:.1}"))));
            }
        }
        table.push(row);
    }
    let mut out = String::new();
    table.render(&mut out, palette, "  ");
    out
}

/// How evenly they are spread, how that went, and what was done about it.
fn open_connections(out: &mut String, service: &ServiceView, palette: Palette) {
    if let Some(even) = service.evenness().filter(|even| even.backends > 1) {
        let ink = if is_best(&even) { Ink::Good } else { Ink::Plain };
        line(out, palette, ink, &evenness_line(&even));
        let max = |even: &Evenness| format!("{:.2}", even.max_over_mean);
        let before = service.evenness_a_minute_ago().filter(|before| max(before) != max(&even));
        if let Some(before) = before {
            let text =
                format!("max/mean of these backends: {} a minute ago, {} now", max(&before), max(&even));
            line(out, palette, Ink::Plain, &text);
        }
    }
    if let Some(moves) = lifecycle::moves(&service.lifecycle) {
        line(out, palette, Ink::Plain, &moves);
    }
    if let Some(why) = lifecycle::stopped(&service.lifecycle) {
        line(out, palette, Ink::Warn, &format!("no connection is moved any more: {why}"));
    }
}

fn line(out: &mut String, palette: Palette, ink: Ink, text: &str) {
    out.push_str("  ");
    palette.paint(out, ink, text);
    out.push('\n');
}

fn evenness_line(even: &Evenness) -> String {
    format!(
        "evenness of {} on {}: {}",
        text::count(even.connections, "open connection", "open connections"),
        text::count(even.backends as u64, "backend", "backends"),
        measures(even),
    )
}

/// Whether the spread is as even as whole connections allow, by either measure.
fn is_best(even: &Evenness) -> bool {
    even.max_over_mean <= even.best_max_over_mean + 1e-9 || even.jain >= even.best_jain - 1e-9
}

/// `a 3, b 1`, without those that are 0; `None` where all are.
fn reasons<const N: usize>(names: [&str; N], counts: [u64; N]) -> Option<String> {
    let parts: Vec<String> = names
        .iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
