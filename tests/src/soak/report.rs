//! What came of a soak, for people and as JSON.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use serde::Serialize;

use super::tally::{Counts, Finding, Invariant};

/// All of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What the dice fell by.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// What kept the soak itself from going on.
    pub error: Option<String>,
    /// What was counted.
    pub counts: Counts,
    /// What is broken.
    pub findings: Vec<Finding>,
    /// The last events.
    pub events: Vec<String>,
    /// The ends of the logs of both builds of the agent.
    pub agent_log: [Vec<String>; 2],
    /// How often an agent was started.
    pub agent_starts: u64,
    /// The longest time between two readings of the tables.
    pub slowest_reading_ms: f64,
    /// Readings of the tables.
    pub readings: u64,
    /// Namespaces, cgroups, pins and files that it left behind.
    pub left: Vec<PathBuf>,
}

impl Outcome {
    /// Whether nothing is broken, and it came to its end.
    pub fn is_good(&self) -> bool {
        self.findings.is_empty() && self.error.is_none() && self.left.is_empty() && !self.interrupted
    }

    /// As a person reads it; `again` is the command that repeats it.
    pub fn text(&self, again: &str) -> String {
        let mut text = String::new();
        self.write(&mut text, again);
        text
    }

    fn write(&self, text: &mut String, again: &str) {
        // Writing to a string cannot fail.
        let events: u64 = self.counts.events.values().sum();
        _ = writeln!(
            text,
            "\n{:.0} s, {events} events, {} starts of the agent, tables read {} times, at most {:.0} ms apart\n",
            self.seconds, self.agent_starts, self.readings, self.slowest_reading_ms
        );
        table(text, "events", &self.counts.events);
        table(text, "clients", &self.counts.clients);
        table(text, "failures and ends that were to be expected", &self.counts.excused);
        let checks = Invariant::ALL
            .into_iter()
            .map(|it| (it.name().to_owned(), self.counts.checks.get(&it).copied().unwrap_or(0)));
        table(text, "checks", &checks.collect());
        for path in &self.left {
            _ = writeln!(text, "LEFT BEHIND  {}", path.display());
        }
        if !self.findings.is_empty() || self.error.is_some() {
            _ = writeln!(text, "what happened last");
            self.events.iter().for_each(|event| _ = writeln!(text, "  {event}"));
            for (build, log) in ["first", "second"].into_iter().zip(&self.agent_log) {
                _ = writeln!(text, "\nthe log of the agent's {build} build ends with");
                log.iter().for_each(|line| _ = writeln!(text, "  {line}"));
            }
            _ = writeln!(text);
        }
        for finding in &self.findings {
            _ = writeln!(text, "BROKEN  {}: {}", finding.invariant.name(), finding.text);
        }
        if let Some(error) = &self.error {
            _ = writeln!(text, "FAILED  {error}");
        }
        let verdict = match (self.is_good(), self.interrupted) {
            (true, _) => "nothing was lost",
            (false, true) => "interrupted; everything is removed",
            (false, false) => "broken",
        };
        _ = writeln!(text, "{verdict}; seed {}: {again}", self.seed);
    }
}

fn table(text: &mut String, title: &str, counts: &BTreeMap<String, u64>) {
    _ = writeln!(text, "{title}");
    for (name, count) in counts {
        _ = writeln!(text, "  {count:>9}  {name}");
    }
    _ = writeln!(text);
}
