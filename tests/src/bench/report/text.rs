//! All results, as tables for people.

use std::fmt::Write as _;

use super::{
    super::{churn, load, numbers::Spread, open, programs, propagation, table::table},
    Report, wide,
};

impl Report {
    /// Tables.
    pub fn text(&self) -> String {
        let mut text = self.machine.line() + "\n";
        if self.quick {
            text.push_str("Short run (--quick): few rounds, much noise.\n");
        }
        text.push_str("Figures are medians of rounds, with (lowest..highest).\n");
        let sections = [
            self.programs.as_ref().map(programs_text),
            self.connects.as_ref().map(|results| wide::latency("Connects", results)),
            self.ipv6.as_ref().map(|results| wide::latency("Connects over IPv6", results)),
            self.udp.as_ref().map(|results| wide::latency("Questions over UDP", results)),
            self.established.as_ref().map(wide::established),
            self.contention.as_ref().map(wide::contention),
            self.memory.as_ref().map(wide::memory),
            self.lane.as_ref().map(wide::lane),
            self.churn.as_ref().map(churn_text),
            (!self.propagation.is_empty()).then(|| propagation_text(&self.propagation)),
            (!self.load.is_empty()).then(|| load_text(&self.load)),
            self.open.as_ref().map(open_text),
            Some(self.targets_text()),
            self.comparison.as_ref().map(wide::comparison),
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
pub(super) fn short(number: f64) -> String {
    if number == number.trunc() && number.abs() < 1e15 {
        format!("{number:.0}")
    } else if number.abs() < 10.0 {
        format!("{number:.3}")
    } else {
        format!("{number:.1}")
    }
}

pub(super) fn spread(value: &Spread, unit: f64, digits: usize) -> String {
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

fn load_text(outcomes: &[load::Outcome]) -> String {
    let rows = outcomes.iter().map(|outcome| {
        [
            outcome.services.to_string(),
            outcome.endpoints.to_string(),
            short(outcome.changes_per_second),
            short(outcome.median_ms),
            short(outcome.p99_ms),
            short(outcome.max_ms),
            short(outcome.cores),
            spread(&outcome.cpu_us_per_change, 1.0, 0),
            short(outcome.rss_mib),
        ]
    });
    let head = [
        "Services",
        "endpoints",
        "changes/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "cores",
        "CPU us per change",
        "RSS MiB",
    ];
    format!("Changes at an API server: from a slice to the kernel\n{}", table(head, rows))
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
