//! A report as Markdown: a summary, then a section for each scenario.

use std::collections::BTreeSet;

use super::{
    measures::{Measures, Median},
    outcome::{Arm, Cell, Outcome},
    plot,
    report::{Origin, Report},
    rows::{self, COLUMNS, Label},
    simulation::{self, Point},
    words::{self, Detail, NOTHING, arm_name, grouped},
};

const LEGEND: &str = "\
Every figure is the median over the runs, with the interval that holds the true median with 95% confidence (between two \
of the values, without assumptions on how they are distributed): `1.25 (1.20..1.50)`. The interval is left out where both \
its ends are the median, and is `(–)` where fewer than 6 runs leave none. *max/mean*: the largest number of connections \
on a backend over the mean of all; 1 is even. *CV*: standard deviation over mean; 0 is even. *Jain*: Jain's index; 1 is even, \
1/n is everything on one of n. *unused*: backends without a connection. *s to ≤ 1.1*: seconds from the change that \
made it uneven until max/mean of connections was at most 1.1 and stayed so; a run in which that never happened counts as longer than \
any other. *moves*: connections that were ended in order to be opened elsewhere. *failed / tried*: requests and connects, of all runs \
together. *p50*, *p99*: what a request took. *best possible* is what whole connections allow, *expected at random* what \
choosing a backend at random for each connection gives on average.
";

impl Report {
    /// As Markdown. `plots` is where the files of [`Report::plots`] are, as seen from the document.
    pub fn markdown(&self, plots: &str) -> String {
        let mut text = format!("# Scenarios\n\n{}\n\n", origin(&self.origin));
        for (index, guest) in self.others.iter().enumerate() {
            text.push_str(&format!("{}: {}\n\n", mark(index), origin(&guest.origin)));
        }
        text.push_str(LEGEND);
        text.push_str(&self.summary());
        for outcome in &self.outcomes {
            text.push_str(&format!("\n## {}: {}\n\n{}\n", outcome.name, outcome.title, outcome.story));
            if let Some(change) = &outcome.change {
                text.push_str(&format!("\nTimes count from: {change}.\n"));
            }
            text.push_str(&if outcome.simulated && simulation::points(outcome).len() > 1 {
                simulated(outcome)
            } else {
                self.section(outcome)
            });
            if plot::kind(outcome).is_some() {
                let path = format!("{plots}/{}.svg", outcome.name);
                text.push_str(&format!("\n![{}]({path})\n", plot::caption(outcome)));
            }
        }
        text
    }

    /// Median max/mean, and failures, of every scenario that ran with sockets, in every arm.
    fn summary(&self) -> String {
        let outcomes: Vec<&Outcome> = self.outcomes.iter().filter(|outcome| !outcome.simulated).collect();
        if outcomes.is_empty() {
            return String::new();
        }
        let arms: BTreeSet<Arm> =
            outcomes.iter().flat_map(|outcome| outcome.arms.iter().map(|(arm, _)| *arm)).collect();
        let head = ["scenario".to_owned(), "best possible".to_owned(), "at random".to_owned()];
        let head = head.into_iter().chain(arms.iter().map(|&arm| arm_name(arm).to_owned()));
        let lines = outcomes.iter().map(|outcome| {
            let usual = rows::usual(outcome, |run| &run.connections);
            let of = |measures: fn(u64, usize) -> Option<Measures>| {
                let measures = usual.and_then(|(total, backends)| measures(total, backends));
                measures.map_or(NOTHING.into(), |measures| format!("{:.2}", measures.max_over_mean))
            };
            let head = [format!("[{0}](#{0}-{1})", outcome.name, anchor(&outcome.title))];
            let arms = arms.iter().map(|arm| {
                let cell = outcome.arms.iter().find(|(its, _)| its == arm).map(|(_, cell)| cell);
                cell.map_or(NOTHING.into(), |cell| brief(cell) + &self.mark(&outcome.name, *arm))
            });
            let yardsticks = [of(Measures::best), of(Measures::at_random)];
            head.into_iter().chain(yardsticks).chain(arms).collect()
        });
        let table = table(head.collect(), lines);
        format!(
            "\n## Summary\n\nMedian max/mean of connections at the end, and how many requests and connects failed in all runs together, if any did.\n\n{table}"
        )
    }

    fn section(&self, outcome: &Outcome) -> String {
        let head = ["arm", "runs"].into_iter().chain(COLUMNS).map(str::to_owned).collect();
        let mut reasons = String::new();
        let rows = rows::rows(outcome, Detail::Full);
        let lines: Vec<Vec<String>> = rows
            .into_iter()
            .map(|row| {
                let (label, runs) = match row.label {
                    Label::Arm(arm) => {
                        let name = format!("{}{}", arm_name(arm), self.mark(&outcome.name, arm));
                        (name, runs(outcome, arm).to_string())
                    }
                    Label::Words(words) => (format!("*{words}*"), NOTHING.into()),
                };
                let cells = row.cells.unwrap_or_else(|reason| {
                    reasons.push_str(&format!("- {label} was not run: {reason}\n"));
                    std::array::from_fn(|column| if column == 0 { "not run".into() } else { String::new() })
                });
                [label, runs].into_iter().chain(cells).collect()
            })
            .collect();
        let mut text = format!("\n{}", table(head, lines));
        if !reasons.is_empty() {
            text.push_str(&format!("\n{reasons}"));
        }
        let (names, lines) = rows::extras(outcome, Detail::Full);
        if !names.is_empty() {
            let head = std::iter::once("arm".to_owned()).chain(names).collect();
            let lines = lines.into_iter().map(|(arm, cells)| {
                std::iter::once(arm_name(arm).to_owned()).chain(cells).collect::<Vec<_>>()
            });
            text.push_str(&format!("\n{}", table(head, lines)));
        }
        text
    }

    /// The mark of a cell that ran elsewhere.
    fn mark(&self, scenario: &str, arm: Arm) -> String {
        self.guest(scenario, arm).map(|guest| format!(" {}", mark(guest))).unwrap_or_default()
    }
}

fn origin(origin: &Origin) -> String {
    let Origin { date, commit, machine, seeds } = origin;
    let seeds = match seeds.as_slice() {
        [] => "no seeds".into(),
        [one] => format!("seed {one}"),
        [first, .., last] => format!("{} seeds ({first} to {last})", seeds.len()),
    };
    format!("{date}, commit {commit}, {seeds}. {}.", machine.line())
}

fn mark(guest: usize) -> char {
    ['¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'].get(guest).copied().unwrap_or('⁺')
}

fn runs(outcome: &Outcome, arm: Arm) -> usize {
    outcome.arms.iter().map(|(its, cell)| if *its == arm { ran(cell) } else { 0 }).sum()
}

fn ran(cell: &Cell) -> usize {
    match cell {
        Cell::Ran(runs) => runs.len(),
        Cell::NotRun(_) => 0,
    }
}

fn brief(cell: &Cell) -> String {
    let Cell::Ran(runs) = cell else { return "not run".into() };
    let measures = runs.iter().filter_map(|run| Measures::of(&run.connections));
    let max = words::median(Median::of(measures.map(|measures| measures.max_over_mean)), 2, Detail::Brief);
    match rows::tried(runs) {
        (0, _) => max,
        (failed, _) => format!("{max}, {} failed", grouped(failed)),
    }
}

/// A table for each number of connections per node: max/mean by number of nodes, and how many backends are unused.
fn simulated(outcome: &Outcome) -> String {
    let points = simulation::points(outcome);
    let arms: Vec<(Arm, &Cell)> =
        outcome.arms.iter().filter(|(_, cell)| ran(cell) > 0).map(|(arm, cell)| (*arm, cell)).collect();
    let mut text = String::from(
        "\nmax/mean of the connections of all nodes together; unused backends behind the semicolon.\n\n",
    );
    for (arm, cell) in &outcome.arms {
        if let Cell::NotRun(reason) = cell {
            text.push_str(&format!("- {} was not simulated: {reason}\n", arm_name(*arm)));
        }
    }
    for k in points.iter().map(|point| point.k).collect::<BTreeSet<u64>>() {
        let head = ["nodes", "best possible", "at random"].map(str::to_owned).into_iter();
        let head = head.chain(arms.iter().map(|(arm, _)| arm_name(*arm).to_owned())).collect();
        let lines = points.iter().filter(|point| point.k == k).map(|point| {
            let backends = rows::usual(outcome, |run| &run.connections).map_or(0, |(_, backends)| backends);
            let total = k * point.nodes;
            let of = |measures: Option<Measures>| {
                measures.map_or(NOTHING.into(), |measures| {
                    format!("{:.2}; {}", measures.max_over_mean, words::short(measures.unused))
                })
            };
            let yardsticks = [
                point.nodes.to_string(),
                of(Measures::best(total, backends)),
                of(Measures::at_random(total, backends)),
            ];
            let arms = arms.iter().map(|(_, cell)| at_point(cell, *point));
            yardsticks.into_iter().chain(arms).collect::<Vec<_>>()
        });
        let plural = if k == 1 { "connection" } else { "connections" };
        text.push_str(&format!("\n### {}: {k} {plural} per node\n\n{}", outcome.name, table(head, lines)));
    }
    text
}

fn at_point(cell: &Cell, point: Point) -> String {
    let measures: Vec<Measures> =
        simulation::at(cell, point).filter_map(|run| Measures::of(&run.connections)).collect();
    let of = |figure: fn(&Measures) -> f64| Median::of(measures.iter().map(figure));
    let max = words::median(of(|measures| measures.max_over_mean), 2, Detail::Full);
    format!("{max}; {}", words::count(of(|measures| measures.unused), Detail::Brief))
}

fn table(head: Vec<String>, lines: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> =
            cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|---|{}\n", "--:|".repeat(head.len() - 1));
    let lines: String = lines.into_iter().map(|cells| line(&cells)).collect();
    line(&head) + &rule + &lines
}

/// The anchor that code hosts make of a heading.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
#[path = "markdown_tests.rs"]
mod tests;
