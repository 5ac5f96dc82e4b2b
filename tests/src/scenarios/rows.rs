//! The rows of a scenario's table: what each arm did, beside what was possible and what chance would have done.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    measures::{Measures, Median},
    outcome::{Arm, Cell, Outcome, Run},
    run::EVEN,
    words::{self, Detail, NOTHING, grouped, short},
};

/// Columns of [`Row`].
pub(super) const COLUMNS: [&str; 10] = [
    "max/mean",
    "CV",
    "Jain, connections",
    "Jain, requests",
    "unused",
    "s to ≤ 1.1",
    "moves",
    "failed / tried",
    "p50, µs",
    "p99, µs",
];

/// One line of a table.
pub(super) struct Row {
    /// Who chose, or beside what it stands.
    pub label: Label,
    /// A cell for each of [`COLUMNS`]; the reason where it did not run.
    pub cells: Result<[String; 10], String>,
}

/// What a row is about.
pub(super) enum Label {
    /// An arm.
    Arm(Arm),
    /// What is possible, and what chance gives.
    Words(String),
}

/// All rows of a scenario.
pub(super) fn rows(outcome: &Outcome, detail: Detail) -> Vec<Row> {
    let mut rows: Vec<Row> = outcome
        .arms
        .iter()
        .map(|(arm, cell)| Row {
            label: Label::Arm(*arm),
            cells: match cell {
                Cell::Ran(runs) => Ok(of_runs(runs, outcome.change.is_some(), detail)),
                Cell::NotRun(reason) => Err(reason.clone()),
            },
        })
        .collect();
    rows.extend(yardsticks(outcome));
    rows
}

fn of_runs(runs: &[Run], has_change: bool, detail: Detail) -> [String; 10] {
    let connections: Vec<Measures> = runs.iter().filter_map(|run| Measures::of(&run.connections)).collect();
    let requests: Vec<Measures> = runs.iter().filter_map(|run| Measures::of(&run.requests)).collect();
    let of = |measures: &[Measures], digits, figure: fn(&Measures) -> f64| {
        words::median(Median::of(measures.iter().map(figure)), digits, detail)
    };
    let each =
        |digits, figure: fn(&Run) -> f64| words::median(Median::of(runs.iter().map(figure)), digits, detail);
    let even_after = Median::censored(runs.iter().map(|run| run.even_after)).filter(|_| has_change);
    let (failed, tried) = tried(runs);
    let asked = runs.iter().any(|run| run.p50_us > 0.0);
    let latency = |figure: fn(&Run) -> f64| if asked { each(0, figure) } else { NOTHING.into() };
    [
        of(&connections, 2, |measures| measures.max_over_mean),
        of(&connections, 2, |measures| measures.cv),
        of(&connections, 3, |measures| measures.jain),
        of(&requests, 3, |measures| measures.jain),
        words::count(Median::of(connections.iter().map(|measures| measures.unused)), detail),
        words::median(even_after, 1, detail),
        words::count(Median::of(runs.iter().map(|run| run.moves as f64)), detail),
        if tried == 0 { NOTHING.into() } else { format!("{} / {}", grouped(failed), grouped(tried)) },
        latency(|run| run.p50_us),
        latency(|run| run.p99_us),
    ]
}

/// Failed, and tried, in all runs together.
pub(super) fn tried(runs: &[Run]) -> (u64, u64) {
    runs.iter().fold((0, 0), |(failed, tried), run| (failed + run.failed, tried + run.tried))
}

/// The rows to compare with, for the numbers of connections and backends that most runs ended with.
fn yardsticks(outcome: &Outcome) -> Vec<Row> {
    let Some((total, backends)) = usual(outcome, |run| &run.connections) else { return Vec::new() };
    let requests =
        usual(outcome, |run| &run.requests).and_then(|(total, backends)| Measures::best(total, backends));
    let cells = |of: Measures, requests: String, even: String| {
        Ok([
            format!("{:.2}", of.max_over_mean),
            format!("{:.2}", of.cv),
            format!("{:.3}", of.jain),
            requests,
            short(of.unused),
            even,
            NOTHING.into(),
            NOTHING.into(),
            NOTHING.into(),
            NOTHING.into(),
        ])
    };
    let label = |what| Label::Words(format!("{what}, {} on {backends}", grouped(total)));
    let mut rows = Vec::new();
    if let Some(best) = Measures::best(total, backends) {
        let impossible = outcome.change.is_some() && best.max_over_mean > EVEN;
        let even = if impossible { "not possible" } else { NOTHING };
        let requests = requests.map_or(NOTHING.into(), |best| format!("{:.3}", best.jain));
        rows.push(Row { label: label("best possible"), cells: cells(best, requests, even.into()) });
    }
    if let Some(random) = Measures::at_random(total, backends) {
        let cells = cells(random, NOTHING.into(), NOTHING.into());
        rows.push(Row { label: label("expected at random"), cells });
    }
    rows
}

/// The total, and the number of backends, that most runs of all arms had; the larger of those equally frequent. Arms
/// and seeds differ in it where connections failed for good.
pub(super) fn usual(outcome: &Outcome, counts: fn(&Run) -> &Vec<u64>) -> Option<(u64, usize)> {
    let mut frequent: BTreeMap<(u64, usize), usize> = BTreeMap::new();
    for run in runs(outcome) {
        let counts = counts(run);
        *frequent.entry((counts.iter().sum(), counts.len())).or_default() += 1;
    }
    frequent.retain(|&(total, backends), _| total > 0 && backends > 0);
    frequent.into_iter().max_by_key(|&(key, times)| (times, key)).map(|(key, _)| key)
}

fn runs(outcome: &Outcome) -> impl Iterator<Item = &Run> {
    outcome.arms.iter().flat_map(|(_, cell)| match cell {
        Cell::Ran(runs) => runs.as_slice(),
        Cell::NotRun(_) => &[],
    })
}

/// The figures of one scenario alone: their names, and a line of them for each arm that ran.
pub(super) fn extras(outcome: &Outcome, detail: Detail) -> (Vec<String>, Vec<(Arm, Vec<String>)>) {
    let names: BTreeSet<&String> = runs(outcome).flat_map(|run| run.extra.keys()).collect();
    let lines = outcome.arms.iter().filter_map(|(arm, cell)| {
        let Cell::Ran(runs) = cell else { return None };
        Some((*arm, names.iter().map(|&name| extra(runs, name, detail)).collect()))
    });
    (names.iter().map(|&name| name.clone()).collect(), lines.collect())
}

/// The median, and the mean where that differs: a figure that is 0 in most runs is not 0. They are counts, and written
/// down only where there was something to count: a run without it has 0.
fn extra(runs: &[Run], name: &str, detail: Detail) -> String {
    let values: Vec<f64> = runs.iter().map(|run| run.extra.get(name).copied().unwrap_or(0.0)).collect();
    let Some(median) = Median::of(values.iter().copied()) else { return NOTHING.into() };
    let digits = if values.iter().all(|value| value.fract() == 0.0) { 0 } else { 2 };
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let mut text = words::median(Some(median), digits, detail);
    if (mean - median.value).abs() > 0.005 * median.value.abs().max(1.0) {
        text.push_str(&format!(", mean {}", short(mean)));
    }
    text
}
