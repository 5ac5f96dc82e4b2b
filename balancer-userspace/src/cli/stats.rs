//! `balancer stats`: connections per backend, and how evenly they are spread.

use std::{collections::HashMap, net::SocketAddr, time::Instant};

use balancer_common::abi::{PassReason, PickReason};
use clap::Args;

use super::{
    columns::{self, Column, service_label},
    context::{Context, warning_lines},
    exit::{Exit, Failure},
    output::{Document, Format, FormatArgs, Kind, service::StatsDoc},
    select::Scope,
    table::{Align, Cell, Table},
    term::{Ink, Palette, safe},
    text,
    watch::{Frame, WatchArgs},
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
                if number > 0 && context.stdout_kind() == super::term::Output::Other {
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
            block(&mut out, service, format, rates, context.palette());
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
    palette: Palette,
) {
    palette.paint(out, Ink::Bold, &safe(&service_label(service)));
    let sum = |value: fn(&BackendView) -> u64| service.backends.iter().map(value).sum::<u64>();
    out.push_str(&format!(
        "  {} {}  {}  {} open, {} opened, {} failed\n",
        service.protocol,
        service.frontend,
        service.algorithm.name(),
        service.active(),
        sum(|backend| backend.stats.opened),
        sum(BackendView::failed),
    ));
    if let Some(problem) = &service.problem {
        line(out, palette, Ink::Warn, &format!("problem: {}", safe(problem)));
    }
    if let Some(even) = service.evenness().filter(|even| even.backends > 1) {
        let ink = if is_best(&even) { Ink::Good } else { Ink::Plain };
        line(out, palette, ink, &evenness_line(&even));
    }
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
    let columns = if format == Format::Wide { WIDE } else { NARROW };
    let mut titles = Vec::new();
    // Where weights differ, connections can only be judged beside them.
    let weights = || service.backends.iter().map(|backend| backend.weight);
    let hide_weight = format != Format::Wide && weights().min() == weights().max();
    let columns: Vec<&Column> =
        columns.iter().filter(|(title, ..)| !(hide_weight && *title == columns::WEIGHT.0)).collect();
    for (title, align, _) in &columns {
        titles.push((*title, *align));
        if *title == columns::OPENED.0 && rates.is_some() {
            titles.push(("OPENED/S", Align::Right));
        }
    }
    let mut table = Table::new(titles);
    for backend in &service.backends {
        let mut row = Vec::new();
        for (title, _, cell) in &columns {
            row.push(cell(backend));
            if let (true, Some(rates)) = (*title == columns::OPENED.0, rates) {
                let rate = rates.of(service, backend);
                row.push(Cell::new(rate.map_or_else(String::new, |rate| format!("{rate:.1}"))));
            }
        }
        table.push(row);
    }
    table.render(out, palette, "  ");
}

fn line(out: &mut String, palette: Palette, ink: Ink, text: &str) {
    out.push_str("  ");
    palette.paint(out, ink, text);
    out.push('\n');
}

fn evenness_line(even: &Evenness) -> String {
    format!(
        "evenness of {} on {}: max/mean {:.2} (best possible {:.2}), Jain's index {:.3} (best possible {:.3})",
        text::count(even.connections, "open connection", "open connections"),
        text::count(even.backends as u64, "backend", "backends"),
        even.max_over_mean,
        even.best_max_over_mean,
        even.jain,
        even.best_jain,
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

/// How many connections each backend had been sent at some instant.
struct Opened {
    at: Instant,
    counts: HashMap<(u32, u32), (SocketAddr, u64)>,
}

impl Opened {
    fn of(services: &[&ServiceView]) -> Self {
        let counts = services
            .iter()
            .flat_map(|service| service.backends.iter().map(|backend| (service.id, backend)))
            .map(|(service, backend)| ((service, backend.id), (backend.addr, backend.stats.opened)))
            .collect();
        Self { at: Instant::now(), counts }
    }
}

/// Connections per second between two instants.
#[derive(Clone, Copy)]
struct Rates<'a> {
    before: Option<&'a Opened>,
    now: &'a Opened,
}

impl Rates<'_> {
    /// `None` for a backend that is new: its id may have been another's before.
    fn of(&self, service: &ServiceView, backend: &BackendView) -> Option<f64> {
        let before = self.before?;
        let (addr, opened) = *before.counts.get(&(service.id, backend.id))?;
        let seconds = (self.now.at - before.at).as_secs_f64();
        let more = backend.stats.opened.checked_sub(opened)?;
        (addr == backend.addr && seconds > 0.0).then(|| more as f64 / seconds)
    }
}
