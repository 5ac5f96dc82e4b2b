//! All outcomes in one file: written, read back and checked, and merged with those of another kernel.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    outcome::{Arm, Cell, Outcome, Run},
    words::arm_name,
};
use crate::bench::facts::Facts;

/// The version of [`Report`] that is written and read.
pub const VERSION: u32 = 1;

/// Everything that ran, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`]; raised when a field goes or changes its meaning.
    pub version: u32,
    /// When and where what is not in [`Self::others`] ran.
    pub origin: Origin,
    /// Where the rest ran.
    pub others: Vec<Guest>,
    /// What it led to.
    pub outcomes: Vec<Outcome>,
}

/// When and where scenarios ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The day, as in 2026-11-26.
    pub date: String,
    /// Abbreviated id of the commit, with a mark if there were changes on top.
    pub commit: String,
    /// The machine, its kernel among others.
    pub machine: Facts,
    /// What the runs were drawn from; a simulation may take more.
    pub seeds: Vec<u64>,
}

impl Origin {
    /// Whether this is the same but for how busy the machine was.
    fn same(&self, other: &Self) -> bool {
        let Self { date, commit, machine, seeds } = self;
        (date, commit, &machine.kernel, seeds)
            == (&other.date, &other.commit, &other.machine.kernel, &other.seeds)
    }
}

/// What was taken over from another report, or played later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// When and where it ran.
    pub origin: Origin,
    /// Which cells: name of the scenario, and arm.
    pub cells: Vec<(String, Arm)>,
}

/// Why a report cannot be used.
#[derive(Debug, Error)]
pub enum ReportError {
    /// It is not JSON, or not of this form.
    #[error("not a report of scenarios: {0}")]
    Form(#[from] serde_json::Error),
    /// It is of another version.
    #[error(
        "a report of version {found}, where version {VERSION} is read: make it anew with `cargo xtask scenarios` of \
         this commit"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// What it says of a scenario cannot be.
    #[error("scenario {scenario:?}: {what}")]
    Scenario {
        /// Name of the scenario.
        scenario: String,
        /// What is wrong with it.
        what: String,
    },
    /// What it says of an arm cannot be.
    #[error("scenario {scenario:?}, {}: {what}", arm_name(*arm))]
    Arm {
        /// Name of the scenario.
        scenario: String,
        /// The arm.
        arm: Arm,
        /// What is wrong with it.
        what: String,
    },
}

impl Report {
    /// Of what ran here.
    pub fn new(origin: Origin, outcomes: Vec<Outcome>) -> Self {
        Self { version: VERSION, origin, others: Vec::new(), outcomes }
    }

    /// Reads and checks one.
    ///
    /// # Errors
    /// If the text is of another version or form, or what it says cannot be.
    pub fn read(text: &str) -> Result<Self, ReportError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let Head { version: found } = serde_json::from_str(text)?;
        if found != VERSION {
            return Err(ReportError::Version { found });
        }
        let report: Self = serde_json::from_str(text)?;
        report.check()?;
        Ok(report)
    }

    /// As JSON, with a newline at the end.
    ///
    /// # Errors
    /// If what it says cannot be: JSON has no infinities, and what was written could not be read back.
    pub fn json(&self) -> Result<String, ReportError> {
        self.check()?;
        Ok(serde_json::to_string(self)? + "\n")
    }

    /// Notes how busy the machine was in the end, with what was played here as `origin` says, and with nothing else.
    pub fn ended(&mut self, origin: &Origin) {
        let guests = self.others.iter_mut().map(|guest| &mut guest.origin);
        for own in std::iter::once(&mut self.origin).chain(guests).filter(|own| own.same(origin)) {
            own.machine.load_after.clone_from(&origin.machine.load_after);
        }
    }

    /// Takes over what ran in `other` but not here: arms that need another kernel, and scenarios that are missing.
    /// What ran in both stays as it is here; why something did not run is asked here first.
    ///
    /// # Errors
    /// If a scenario is simulated in one of them only. Nothing has changed then.
    pub fn merge(&mut self, other: Self) -> Result<(), ReportError> {
        for outcome in &other.outcomes {
            if self.outcome(&outcome.name).is_some_and(|ours| ours.simulated != outcome.simulated) {
                let what = "simulated in one of the reports and run in the other".into();
                return Err(ReportError::Scenario { scenario: outcome.name.clone(), what });
            }
        }
        let mut taken = BTreeSet::new();
        for outcome in other.outcomes {
            let at = self.outcomes.iter().position(|ours| ours.name == outcome.name);
            let at = at.unwrap_or_else(|| {
                self.outcomes.push(Outcome { arms: Vec::new(), ..outcome.clone() });
                self.outcomes.len() - 1
            });
            let ours = &mut self.outcomes[at];
            for (arm, cell) in outcome.arms {
                let ran = matches!(cell, Cell::Ran(_));
                match ours.arms.iter_mut().find(|(ours, _)| *ours == arm) {
                    Some((_, Cell::Ran(_))) => continue,
                    Some((_, place)) if ran => *place = cell,
                    Some(_) => continue,
                    None => ours.arms.push((arm, cell)),
                }
                if ran {
                    taken.insert((outcome.name.clone(), arm));
                }
            }
            ours.arms.sort_by_key(|(arm, _)| *arm);
        }
        // What the other report had from elsewhere keeps its origin.
        let mut guests = other.others;
        for guest in &mut guests {
            guest.cells.retain(|cell| taken.remove(cell));
        }
        guests.push(Guest { origin: other.origin, cells: taken.into_iter().collect() });
        self.others.extend(guests.into_iter().filter(|guest| !guest.cells.is_empty()));
        Ok(())
    }

    /// Puts what ran just now in the place of what there was of this scenario, and notes `origin` if it is another than
    /// that of the report, as for a scenario that is played again on top of an earlier report.
    pub fn put(&mut self, outcome: Outcome, origin: &Origin) {
        for guest in &mut self.others {
            guest.cells.retain(|(scenario, _)| *scenario != outcome.name);
        }
        if !origin.same(&self.origin) {
            let ran = outcome.arms.iter().filter(|(_, cell)| matches!(cell, Cell::Ran(_)));
            let cells = ran.map(|(arm, _)| (outcome.name.clone(), *arm));
            match self.others.iter_mut().find(|guest| guest.origin.same(origin)) {
                Some(guest) => guest.cells.extend(cells),
                None => self.others.push(Guest { origin: origin.clone(), cells: cells.collect() }),
            }
        }
        self.others.retain(|guest| !guest.cells.is_empty());
        match self.outcomes.iter_mut().find(|known| known.name == outcome.name) {
            Some(known) => *known = outcome,
            None => self.outcomes.push(outcome),
        }
    }

    /// The scenario of this name.
    pub fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.name == name)
    }

    /// Drops the samples that no plot shows: those of all runs of an arm but the first. They are most of the file.
    pub fn keep_plotted_samples(&mut self) {
        for (_, cell) in self.outcomes.iter_mut().flat_map(|outcome| &mut outcome.arms) {
            if let Cell::Ran(runs) = cell {
                runs.iter_mut().skip(1).for_each(|run| run.samples = Vec::new());
            }
        }
    }

    /// Which of [`Self::others`] a cell is from; none if it ran with the rest.
    pub(super) fn guest(&self, scenario: &str, arm: Arm) -> Option<usize> {
        let of = |guest: &Guest| guest.cells.iter().any(|(name, its)| name == scenario && *its == arm);
        self.others.iter().position(of)
    }

    fn check(&self) -> Result<(), ReportError> {
        let mut names = BTreeSet::new();
        for outcome in &self.outcomes {
            let scenario = &outcome.name;
            let wrong = |what: &str| ReportError::Scenario { scenario: scenario.clone(), what: what.into() };
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if scenario.is_empty() || !scenario.chars().all(plain) {
                return Err(wrong(
                    "a name is of lower-case letters, digits and dashes: plots are named by it",
                ));
            }
            if !names.insert(scenario) {
                return Err(wrong("listed twice"));
            }
            let mut arms = BTreeSet::new();
            for (arm, cell) in &outcome.arms {
                let wrong = |what| ReportError::Arm { scenario: scenario.clone(), arm: *arm, what };
                if !arms.insert(*arm) {
                    return Err(wrong("listed twice".into()));
                }
                let Cell::Ran(runs) = cell else { continue };
                if runs.is_empty() {
                    return Err(wrong("ran, but without a single run".into()));
                }
                for run in runs {
                    check_run(run).map_err(|what| wrong(format!("seed {}: {what}", run.seed)))?;
                }
            }
        }
        Ok(())
    }
}

fn check_run(run: &Run) -> Result<(), String> {
    let figures = [("p50_us", run.p50_us), ("p99_us", run.p99_us)];
    let figures = figures.into_iter().chain(run.even_after.map(|seconds| ("even_after", seconds)));
    for (name, figure) in
        figures.chain(run.samples.iter().map(|sample| ("seconds of a sample", sample.seconds)))
    {
        if !figure.is_finite() || figure < 0.0 {
            return Err(format!("{name} is {figure}"));
        }
    }
    for (name, figure) in &run.extra {
        if !figure.is_finite() {
            return Err(format!("{name:?} is {figure}"));
        }
    }
    if run.failed > run.tried {
        return Err(format!("{} failed of {} that were tried", run.failed, run.tried));
    }
    for pair in run.samples.windows(2) {
        if pair[1].seconds < pair[0].seconds {
            return Err(format!("a sample of {} s after one of {} s", pair[1].seconds, pair[0].seconds));
        }
        if pair[1].open.len() != pair[0].open.len() {
            return Err("samples of different numbers of backends".into());
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
