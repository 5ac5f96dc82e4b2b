//! A report for the terminal: the tables of the Markdown, with fewer intervals.

use super::{
    outcome::Outcome,
    report::Report,
    rows::{self, COLUMNS, Label},
    simulation,
    words::{Detail, arm_name},
};
use crate::bench::table::table;

impl Report {
    /// As tables for a terminal: medians alone. Simulated scenarios are named only; their tables are in the Markdown.
    pub fn text(&self) -> String {
        let mut text = format!("{}\nFigures are medians over the runs.\n", self.origin.machine.line());
        for outcome in &self.outcomes {
            text.push_str(&format!("\n{}: {}\n", outcome.name, outcome.title));
            if simulation::points(outcome).len() > 1 {
                text.push_str("simulated: see the Markdown and the plot\n");
            } else {
                text.push_str(&section(outcome));
            }
        }
        text
    }
}

fn section(outcome: &Outcome) -> String {
    let [max, cv, jain, jain_requests, unused, even, moves, failed, p50, p99] = COLUMNS;
    let mut reasons = String::new();
    let mut lines = Vec::new();
    for row in rows::rows(outcome, Detail::Brief) {
        let label = match row.label {
            Label::Arm(arm) => arm_name(arm).to_owned(),
            Label::Words(words) => words,
        };
        match row.cells {
            Ok([a, b, c, d, e, f, g, h, i, j]) => lines.push([label, a, b, c, d, e, f, g, h, i, j]),
            Err(reason) => reasons.push_str(&format!("{label}: not run: {reason}\n")),
        }
    }
    let head = ["arm", max, cv, jain, jain_requests, unused, even, moves, failed, p50, p99];
    let mut text = table(head, lines) + &reasons;
    let (names, lines) = rows::extras(outcome, Detail::Brief);
    for (place, name) in names.iter().enumerate() {
        let values: Vec<String> =
            lines.iter().map(|(arm, cells)| format!("{} {}", arm_name(*arm), cells[place])).collect();
        text.push_str(&format!("{name}: {}\n", values.join("; ")));
    }
    text
}
