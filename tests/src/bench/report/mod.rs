//! All results, as tables for people and as JSON.

mod text;
mod wide;

use serde::Serialize;

use super::{
    baseline::{Baseline, Comparison},
    churn, contention, established,
    facts::Facts,
    figures::{self, Figure},
    lane, latency, load, memory, open, programs, propagation,
    targets::{self, Target},
};

/// Of [`Report`]; raised when a field goes or changes its meaning.
pub const VERSION: u32 = 2;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`VERSION`].
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
    /// The same over IPv6.
    pub ipv6: Option<latency::Results>,
    /// What a question over UDP takes, with its answer.
    pub udp: Option<latency::Results>,
    /// What connections cost once they are open.
    pub established: Option<established::Results>,
    /// Connects of several processors at once.
    pub contention: Option<contention::Results>,
    /// What the maps take.
    pub memory: Option<memory::Results>,
    /// Connects beside iptables rules, with the express lane and without.
    pub lane: Option<lane::Results>,
    /// Connects while everything changes.
    pub churn: Option<churn::Results>,
    /// The agent.
    pub propagation: Vec<propagation::Row>,
    /// The agent at an API server where much changes.
    pub load: Vec<load::Outcome>,
    /// Connections that are open.
    pub open: Option<open::Outcome>,
    /// What should be reached, and what was.
    pub targets: Vec<Target>,
    /// The figures above that runs are compared by.
    pub figures: Vec<Figure>,
    /// What became worse since an earlier run.
    pub comparison: Option<Comparison>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(machine: Facts, quick: bool) -> Self {
        Self {
            version: VERSION,
            machine,
            quick,
            seconds: 0.0,
            programs: None,
            connects: None,
            ipv6: None,
            udp: None,
            established: None,
            contention: None,
            memory: None,
            lane: None,
            churn: None,
            propagation: Vec::new(),
            load: Vec::new(),
            open: None,
            targets: Vec::new(),
            figures: Vec::new(),
            comparison: None,
        }
    }

    /// Holds the results against the targets, and against an earlier run.
    pub fn judge(&mut self, baseline: Option<&Baseline>) {
        self.figures = figures::of(self);
        self.comparison = baseline.map(|baseline| baseline.compare(&self.machine.machine(), &self.figures));
        self.targets = [
            self.programs.as_ref().map(targets::programs),
            self.connects.as_ref().map(targets::latency),
            self.lane.as_ref().map(targets::lane),
            self.churn.as_ref().map(targets::churn),
            Some(targets::propagation(&self.propagation)),
            self.established.as_ref().map(targets::established),
            self.load.first().map(targets::load),
            self.open.as_ref().map(targets::open),
        ]
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    }

    /// Whether a target was missed, or something became worse.
    pub fn is_bad(&self) -> bool {
        self.targets.iter().any(|target| !target.met)
            || self.comparison.as_ref().is_some_and(|comparison| !comparison.regressions.is_empty())
    }
}

/// What the names of actions say, for figures and tables: connects need no word.
pub const fn questions_name(action: &str) -> &'static str {
    match action.as_bytes() {
        b"connected" => "connected socket, ",
        b"unconnected" => "unconnected socket, ",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::numbers::Spread, *};

    fn established() -> established::Results {
        let one = Spread::single(1.0);
        let row = |variant, ratio| established::Row {
            variant,
            gib_per_second: one,
            gib_ratio: Spread::single(ratio),
            cpu_s_per_gib: one,
            cpu_ratio: Spread { median: f64::NAN, ..one },
            requests_per_second: one,
            requests_ratio: one,
            request_cpu_ns: one,
            request_cpu_ratio: one,
            runs_per_request: 0.0,
            program_ns_per_request: 0.0,
        };
        established::Results {
            rounds: 1,
            bytes: 1,
            requests: 1,
            rows: vec![row("direct", 1.0), row("balancer", 1.0)],
        }
    }

    fn judged(change: impl Fn(&mut Report), baseline: Option<&Baseline>) -> Report {
        let mut report = Report::new(Facts::collect(), true);
        report.established = Some(established());
        change(&mut report);
        report.judge(baseline);
        report
    }

    #[test]
    fn a_report_that_was_written_is_a_baseline_of_the_next() {
        let first = judged(|_| {}, None);
        assert!(!first.is_bad(), "{:?}", first.targets);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_string_pretty(&first).unwrap()).unwrap();
        let baseline = Baseline::read(file.path()).unwrap();

        let same = judged(|_| {}, Some(&baseline));
        let comparison = same.comparison.as_ref().unwrap();
        assert!(comparison.same_machine && comparison.compared == first.figures.len() && !same.is_bad());
        assert!(same.text().contains("none is worse by over 10%"));

        let halve = |report: &mut Report| {
            report.established.as_mut().unwrap().rows[1].gib_ratio = Spread::single(0.5);
        };
        let worse = judged(halve, Some(&baseline));
        let names: Vec<_> =
            worse.comparison.as_ref().unwrap().regressions.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["established: bytes per second / direct (balancer)"]);
        assert!(worse.is_bad() && worse.text().contains(names[0]));
    }

    #[test]
    fn a_program_that_runs_for_a_request_misses_the_target() {
        let report =
            judged(|report| report.established.as_mut().unwrap().rows[1].runs_per_request = 0.5, None);
        assert!(report.is_bad() && report.text().contains("NOT MET"));
    }
}
