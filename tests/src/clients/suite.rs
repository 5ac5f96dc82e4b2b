//! All rows, one after the other, on one node.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    library::{LIBRARIES, Library},
    mechanism::Mechanism,
    parts::{Lacking, Missing, Part, Places},
    report::{Outcome, Report, Row},
    row::{Plan, Stage},
};
use crate::{
    agent::{Agent, AgentOptions},
    manifests::ManifestDir,
    topology::{Topology, interrupted},
};

/// What shall run.
#[derive(Clone, Debug)]
pub struct Suite {
    /// With which libraries.
    pub libraries: Vec<Library>,
    /// How long connections have to be quiet; a row for each.
    pub quiet: Vec<Duration>,
    /// How they are moved.
    pub mechanism: Mechanism,
    /// Moves in each row.
    pub moves: u64,
    /// The longest that one row moves connections.
    pub limit: Duration,
    /// What xtask could not install.
    pub missing: Vec<Missing>,
}

impl Suite {
    /// The libraries with these names, or all.
    ///
    /// # Errors
    ///
    /// A name that none has.
    pub fn choose(names: &[String]) -> Result<Vec<Library>> {
        for name in names {
            let known = LIBRARIES.iter().any(|library| library.name == name);
            ensure!(known, "there is no library {name:?}; --list names all");
        }
        let wanted = |library: &&Library| names.is_empty() || names.iter().any(|name| name == library.name);
        Ok(LIBRARIES.iter().filter(wanted).copied().collect())
    }

    /// What has to be installed for it, each once.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = self.libraries.iter().flat_map(Library::parts).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// Runs all rows. `tell` hears of each as it ends. An interrupt ends it early, with the rows so far.
    ///
    /// # Errors
    ///
    /// When not even the node or the agent can be had. What fails in a row is that row's outcome.
    pub fn run(&self, mut tell: impl FnMut(&str)) -> Result<Report> {
        let places = Places::of_workspace();
        let lacking = Lacking::find(&places, self.parts().into_iter(), &self.missing);
        let topology = Topology::new()?;
        let manifests = ManifestDir::new()?;
        let agent = Agent::with(&topology, &manifests, AgentOptions::default())?;
        let stage = Stage { topology: &topology, agent: &agent, manifests: &manifests, places: &places };
        let mut report = Report::new(self.mechanism, self.moves);
        let rows =
            self.libraries.iter().flat_map(|library| self.quiet.iter().map(move |quiet| (library, *quiet)));
        for ((library, quiet), number) in rows.zip(0..) {
            let plan =
                Plan { library, quiet, mechanism: self.mechanism, moves: self.moves, limit: self.limit };
            let begun = Instant::now();
            let outcome = match lacking.any_of(library.parts()) {
                Some(reason) => Outcome::NotRun { reason },
                None => match stage.run(plan, number) {
                    Ok(measured) => Outcome::Ran(Box::new(measured)),
                    Err(_) if interrupted() => break,
                    Err(error) => Outcome::Broken { reason: format!("{error:#}") },
                },
            };
            let row = Row::new(library, quiet, outcome, self.moves);
            tell(&format!("{}  ({:.0} s)", row.line(), begun.elapsed().as_secs_f64()));
            report.rows.push(row);
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_chosen_by_name_and_in_order() {
        let names = |chosen: Vec<Library>| chosen.iter().map(|library| library.name).collect::<Vec<_>>();
        let asked = ["redis-py", "requests"].map(str::to_owned);
        assert_eq!(names(Suite::choose(&asked).unwrap()), ["requests", "redis-py"]);
        assert_eq!(Suite::choose(&[]).unwrap().len(), LIBRARIES.len());
        assert!(Suite::choose(&["request".to_owned()]).is_err());
    }
}
