//! A plan of `balancer rebalance plan`, for people.

use super::{
    columns::service_label,
    lifecycle,
    output::Format,
    table::{Align, Cell, Table},
    term::{Ink, Palette, safe},
    text,
};
use crate::{
    evenness::Evenness,
    view::{OfferView, PlanView, Process, ServiceView},
};

/// How many connections the ordinary table lists.
const SHOWN: usize = 20;

/// A title, what would become of the spread, the fuller backends and their connections.
pub fn show(out: &mut String, service: &ServiceView, plan: &PlanView, format: Format, palette: Palette) {
    palette.paint(out, Ink::Bold, &safe(&service_label(service)));
    out.push_str(&format!(
        "  {} {}  rebalance {}  {} would be moved\n",
        service.protocol,
        service.frontend,
        lifecycle::mode(&service.lifecycle).unwrap_or_else(|| service.lifecycle.mode.name().to_owned()),
        text::count(plan.moves.into(), "connection", "connections"),
    ));
    if let Some(why_not) = &plan.why_not {
        out.push_str("  ");
        palette.paint(out, Ink::Warn, &format!("nothing is moved: {}", safe(why_not)));
        out.push('\n');
    }
    for (when, even) in [("now", &plan.now), ("after that", &plan.after)] {
        if let Some(even) = even {
            out.push_str(&format!("  {when}: {}\n", measures(even)));
        }
    }
    if !plan.from.is_empty() {
        let titles = [("BACKEND", Align::Left), ("ACTIVE", Align::Right), ("EVEN", Align::Right)];
        let mut table = Table::new([&titles[..], &[("EXCESS", Align::Right)]].concat());
        for full in &plan.from {
            table.push(vec![
                Cell::new(full.backend.to_string()),
                Cell::number(full.active),
                Cell::new(format!("{:.1}", full.share)),
                Cell::number(full.excess),
            ]);
        }
        table.render(out, palette, "  ");
    }
    if plan.offers.is_empty() {
        return;
    }
    let shown = if format == Format::Wide { plan.offers.len() } else { SHOWN };
    offers_table(plan.offers.iter().take(shown)).render(out, palette, "  ");
    if let Some(more) = plan.offers.len().checked_sub(shown).filter(|more| *more > 0) {
        out.push_str(&format!("  ({more} more; -o wide lists all)\n"));
    }
}

/// max/mean and Jain's index, each beside the best possible.
pub fn measures(even: &Evenness) -> String {
    format!(
        "max/mean {:.2} (best possible {:.2}), Jain's index {:.3} (best possible {:.3})",
        even.max_over_mean, even.best_max_over_mean, even.jain, even.best_jain,
    )
}

fn offers_table<'a>(offers: impl Iterator<Item = &'a OfferView>) -> Table {
    let mut table = Table::new(vec![
        ("PROCESS", Align::Left),
        ("LOCAL", Align::Left),
        ("BACKEND", Align::Left),
        ("AGE", Align::Right),
        ("IDLE", Align::Right),
        ("VERDICT", Align::Left),
    ]);
    for offer in offers {
        let process = |process: &Process| format!("{}[{}]", process.comm, process.pid);
        let length = |time: Option<std::time::Duration>| time.map_or_else(String::new, text::duration);
        let verdict = match offer.verdict {
            Ok(()) => Cell::inked("may be moved", Ink::Good),
            Err(refusal) => Cell::new(format!("{}: {}", refusal.name(), lifecycle::refusal_clause(refusal))),
        };
        table.push(vec![
            Cell::new(offer.process.as_ref().map_or_else(String::new, process)),
            Cell::new(offer.local.map_or_else(String::new, |local| local.to_string())),
            Cell::new(offer.backend.to_string()),
            Cell::new(length(offer.age)),
            Cell::new(length(offer.idle)),
            verdict,
        ]);
    }
    table
}
