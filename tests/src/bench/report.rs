//! All results, as tables for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    churn,
    facts::Facts,
    latency, load,
    numbers::Spread,
    open, programs, propagation,
    table::table,
    targets::{self, Target},
};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of this structure; raised when a field goes or changes its meaning.
    pub version: u32,
    /// Where it was measured.
    pub machine: Facts,
    /// Whether it was the short run.
    pub quick: bool,
    /// Seconds that it took.
    pub seconds: f64,
    /// What a run of a program costs.
    pub programs: Option<programs::Results>,
    /// What a connect takes.
    pub connects: Option<latency::Results>,
    /// Connects while everything changes.
    pub churn: Option<churn::Results>,
    /// The agent.
    pub propagation: Vec<propagation::Row>,
    /// The agent at an API server where much changes.
    pub load: Option<load::Outcome>,
    /// Connections that are open.
    pub open: Option<open::Outcome>,
    /// What should be reached, and what was.
    pub targets: Vec<Target>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(machine: Facts, quick: bool) -> Self {
        Self {
            version: 1,
            machine,
            quick,
            seconds: 0.0,
            programs: None,
            connects: None,
            churn: None,
            propagation: Vec::new(),
            load: None,
            open: None,
            targets: Vec::new(),
        }
    }

    /// Holds the results against the targets.
    pub fn judge(&mut self) {
        self.targets = [
            self.programs.as_ref().map(targets::programs),
            self.connects.as_ref().map(targets::latency),
            self.churn.as_ref().map(targets::churn),
            Some(targets::propagation(&self.propagation)),
            self.load.as_ref().map(targets::load),
            self.open.as_ref().map(targets::open),
        ]
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    }

    /// Tables.
    pub fn text(&self) -> String {
        let mut text = self.machine.line() + "\n";
        if self.quick {
            text.push_str("Short run (--quick): few rounds, much noise.\n");
        }
        text.push_str("Figures are medians of rounds, with (lowest..highest).\n");
        let sections = [
            self.programs.as_ref().map(programs_text),
            self.connects.as_ref().map(connects_text),
            self.churn.as_ref().map(churn_text),
            (!self.propagation.is_empty()).then(|| propagation_text(&self.propagation)),
            self.load.as_ref().map(load_text),
            self.open.as_ref().map(open_text),
            Some(self.targets_text()),
        ];
        for section in sections.into_iter().flatten() {
            text.push('\n');
            text.push_str(&section);
        }
        // Writing to a string cannot fail.
        _ = writeln!(text, "\nTook {:.0} s.", self.seconds);
        text
    }

    fn targets_text(&self) -> String {
        let rows = self.targets.iter().map(|target| {
            let with_unit = |number: f64| format!("{} {}", short(number), target.unit).trim_end().to_owned();
            [
                target.what.clone(),
                with_unit(target.measured),
                with_unit(target.limit),
                if target.met { "met" } else { "NOT MET" }.to_owned(),
            ]
        });
        format!("Targets\n{}", table(["what", "measured", "at most", ""], rows))
    }
}

/// As many digits as mean something.
fn short(number: f64) -> String {
    if number == number.trunc() && number.abs() < 1e15 {
        format!("{number:.0}")
    } else if number.abs() < 10.0 {
        format!("{number:.3}")
    } else {
        format!("{number:.1}")
    }
}

fn spread(value: &Spread, unit: f64, digits: usize) -> String {
    let Spread { median, min, max } = *value;
    format!("{:.digits$} ({:.digits$}..{:.digits$})", median / unit, min / unit, max / unit)
}

fn programs_text(results: &programs::Results) -> String {
    let rows = results.rows.iter().map(|row| {
        [
            row.scenario.to_owned(),
            spread(&row.real_ns, 1.0, 0),
            spread(&row.state_ns, 1.0, 0),
            spread(&row.with_state, 1.0, 2),
            spread(&row.real_choice_ns, 1.0, 0),
            spread(&row.choice_ns, 1.0, 0),
            spread(&row.choice, 1.0, 2),
        ]
    });
    let head = ["nanoseconds for a run", "connect4", "minimal", "ratio", "choice", "minimal choice", "ratio"];
    let mut text = format!(
        "Programs: {} rounds of {} connects; less the empty program's {:.0} ns ({:.0} with cold caches)\n{}",
        results.rounds,
        results.runs,
        results.empty_ns.median,
        results.empty_cold_ns.median,
        table(head, rows)
    );
    let rows = results
        .growth
        .iter()
        .map(|growth| [growth.how.to_owned(), spread(&growth.real, 1.0, 2), spread(&growth.minimal, 1.0, 2)]);
    text.push('\n');
    text.push_str(&table(["100,000 backends / 10", "connect4", "minimal"], rows));
    let rows = results.shares.iter().map(|share| {
        [
            share.scenario.to_owned(),
            share.program.clone(),
            format!("{:.2}", share.runs),
            spread(&share.ns, 1.0, 0),
        ]
    });
    text.push('\n');
    text.push_str(&table(["all programs, for each connection", "program", "runs", "ns together"], rows));
    text
}

fn connects_text(results: &latency::Results) -> String {
    let rows = results.rows.iter().map(|row| {
        [
            row.variant.clone(),
            if row.services == 0 { "-".into() } else { row.services.to_string() },
            spread(&row.p50_ns, 1e3, 1),
            format!("{:.1}", row.p90_ns.median / 1e3),
            format!("{:.1}", row.p99_ns.median / 1e3),
            spread(&row.p50_ratio, 1.0, 3),
            spread(&row.added_ns, 1e3, 2),
            format!("{:.1}", row.whole_ns.median / 1e3),
            spread(&row.whole_ratio, 1.0, 3),
            format!("{:.0}", row.per_second.median),
            row.failed.to_string(),
        ]
    });
    let head = [
        "connect(), microseconds",
        "Services",
        "p50",
        "p90",
        "p99",
        "p50 / direct",
        "added",
        "open+close p50",
        "/ direct",
        "per second",
        "failed",
    ];
    let mut text = format!(
        "Connects: {} rounds of {}; the server asleep on another CPU; per second: without a pause\n{}",
        results.rounds,
        results.connects,
        table(head, rows)
    );
    for missing in &results.missing {
        _ = writeln!(text, "not measured: {missing}");
    }
    text
}

fn churn_text(results: &churn::Results) -> String {
    let rows = results.rows.iter().map(|row| {
        [
            row.disturbance.to_owned(),
            row.connects.to_string(),
            row.changes.to_string(),
            row.restarts.to_string(),
            row.failed.to_string(),
            row.slow.to_string(),
            format!("{:.2}", row.slowest_ms),
        ]
    });
    let head = ["connects while", "connects", "changes", "restarts", "failed", "> 100 ms", "slowest ms"];
    let mut text = format!(
        "Churn\n{}counted afterwards: {} opened, {} still active, {} not closed\n",
        table(head, rows),
        results.opened,
        results.active,
        results.unclosed
    );
    for error in results.rows.iter().flat_map(|row| &row.errors) {
        _ = writeln!(text, "failed: {error}");
    }
    text
}

fn load_text(outcome: &load::Outcome) -> String {
    let columns = ["changes/s", "p50 ms", "p99 ms", "max ms", "cores", "RSS MiB"];
    let figures = [
        outcome.changes_per_second,
        outcome.median_ms,
        outcome.p99_ms,
        outcome.max_ms,
        outcome.cores,
        outcome.rss_mib,
    ];
    format!(
        "Changes at an API server, {} Services, {} endpoints: from a slice to the kernel\n{}",
        outcome.services,
        outcome.endpoints,
        table(columns, [figures.map(short)].into_iter())
    )
}

fn open_text(outcome: &open::Outcome) -> String {
    let columns = ["watching: cores", "moving: cores", "moved", "RSS MiB"];
    let figures = [outcome.watching_cores, outcome.moving_cores, outcome.moved as f64, outcome.rss_mib];
    format!(
        "The agent with {} open connections, {:.0} s each\n{}",
        outcome.connections,
        outcome.seconds,
        table(columns, [figures.map(short)].into_iter())
    )
}

fn propagation_text(rows: &[propagation::Row]) -> String {
    let number = |number: f64| format!("{number:.2}");
    let rows = rows.iter().map(|row| {
        [
            row.services.to_string(),
            row.endpoints.to_string(),
            row.changes.to_string(),
            number(row.median_ms),
            number(row.p99_ms),
            number(row.max_ms),
            row.first_sync_ms.map_or_else(|| "?".into(), |ms| format!("{ms:.0}")),
            format!("{:.0}", row.ready_ms),
            format!("{:.1}", row.rss_mib),
            format!("{:.1}", row.anonymous_mib),
            format!("{:.1}", row.peak_mib),
        ]
    });
    let head = [
        "Services",
        "endpoints",
        "changes",
        "median ms",
        "p99 ms",
        "max ms",
        "first sync ms",
        "ready ms",
        "RSS MiB",
        "anonymous",
        "peak",
    ];
    format!("Agent: from a manifest to the kernel's map\n{}", table(head, rows))
}
