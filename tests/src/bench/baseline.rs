//! Comparison with an earlier run: what has become worse by more than noise.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    figures::{Basis, Better, Figure},
    report::VERSION,
};

/// A figure may be so many times as bad as it was.
pub const TOLERATED: f64 = 1.1;

/// What is read of an earlier run.
#[derive(Clone, Debug, Deserialize)]
pub struct Baseline {
    /// Where it ran.
    pub machine: Machine,
    /// What it measured.
    pub figures: Vec<Figure>,
}

/// What makes times comparable. A machine is the same if all of this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// Model of the first CPU.
    pub cpu: String,
    /// CPUs that may be used.
    pub cpus: usize,
    /// `release` or `debug`.
    pub build: String,
}

/// The two runs beside each other.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Of the earlier run.
    pub machine: Machine,
    /// Whether the machine, its kernel and the kind of build are the same. If not, ratios alone are compared: times, rates
    /// and sizes would compare the machines.
    pub same_machine: bool,
    /// Figures that were compared.
    pub compared: usize,
    /// Figures of the earlier run that this one did not measure.
    pub not_measured: Vec<String>,
    /// What became worse by over 10%, and by more than the rounds of the two runs differ among themselves.
    pub regressions: Vec<Regression>,
}

/// A figure that became worse.
#[derive(Clone, Debug, Serialize)]
pub struct Regression {
    /// Which.
    pub name: String,
    /// What it is in; empty for ratios.
    pub unit: String,
    /// What it was.
    pub before: super::numbers::Spread,
    /// What it is.
    pub now: super::numbers::Spread,
    /// How many times as bad: above [`TOLERATED`].
    pub worse: f64,
}

impl Baseline {
    /// Reads what `cargo xtask bench` wrote.
    ///
    /// # Errors
    /// When there is no such file, it is something else, or of another version.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| {
            format!("cannot read {name} for --baseline: it takes a file that an earlier run wrote (--json)")
        })?;
        Self::parse(&text).with_context(|| format!("{name} is of no use for --baseline"))
    }

    fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(text)
            .context("it is no report of `cargo xtask bench`: JSON with a `version`")?;
        if version != VERSION {
            bail!(
                "it is a report of version {version}, and this program reads version {VERSION}: write it anew \
                 by a run of what it is to be compared with"
            );
        }
        serde_json::from_str(text).context("it is a report with parts missing")
    }

    /// Holds figures against it.
    pub fn compare(&self, machine: &Machine, figures: &[Figure]) -> Comparison {
        let same_machine = &self.machine == machine;
        let mut comparison = Comparison {
            machine: self.machine.clone(),
            same_machine,
            compared: 0,
            not_measured: Vec::new(),
            regressions: Vec::new(),
        };
        for before in &self.figures {
            let Some(now) = figures.iter().find(|figure| figure.name == before.name) else {
                comparison.not_measured.push(before.name.clone());
                continue;
            };
            if before.basis == Basis::Absolute && !same_machine {
                continue;
            }
            comparison.compared += 1;
            comparison.regressions.extend(regression(before, now));
        }
        comparison.regressions.sort_by(|a, b| b.worse.total_cmp(&a.worse));
        comparison
    }
}

/// Whether a figure is worse by over 10%, and no round of it is as good as some round was before.
fn regression(before: &Figure, now: &Figure) -> Option<Regression> {
    let (old, new) = (before.value, now.value);
    let (worse, apart) = match before.better {
        Better::Lower => (times(new.median, old.median), new.min > old.max),
        Better::Higher => (times(old.median, new.median), new.max < old.min),
    };
    // A hair above is what dividing makes of exactly 10%.
    (worse > TOLERATED + 1e-9 && apart).then(|| Regression {
        name: before.name.clone(),
        unit: before.unit.clone(),
        before: old,
        now: new,
        worse,
    })
}

/// How many times `of` is in `what`. More than nothing is any number of times nothing.
fn times(what: f64, of: f64) -> f64 {
    if of > 0.0 {
        what / of
    } else if what > 0.0 {
        f64::MAX
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::{super::numbers::Spread, *};

    fn machine(kernel: &str) -> Machine {
        let text = |text: &str| text.to_owned();
        Machine {
            kernel: text(kernel),
            architecture: text("x86_64"),
            cpu: text("cpu"),
            cpus: 2,
            build: text("release"),
        }
    }

    fn figure(better: Better, basis: Basis, [min, median, max]: [f64; 3]) -> Figure {
        Figure { name: "f".into(), unit: String::new(), better, basis, value: Spread { median, min, max } }
    }

    fn compare(before: Figure, now: Figure, kernel: &str) -> Comparison {
        let baseline = Baseline { machine: machine("6.18"), figures: vec![before] };
        baseline.compare(&machine(kernel), &[now])
    }

    fn is_named(better: Better, before: [f64; 3], now: [f64; 3]) -> bool {
        let of = |values| figure(better, Basis::Ratio, values);
        let comparison = compare(of(before), of(now), "6.18");
        assert_eq!(comparison.compared, 1);
        !comparison.regressions.is_empty()
    }

    #[test]
    fn ten_percent_are_let_pass_and_more_is_named() {
        assert!(!is_named(Better::Lower, [1.0; 3], [1.1; 3]), "exactly 10%");
        assert!(is_named(Better::Lower, [1.0; 3], [1.101; 3]));
        assert!(!is_named(Better::Lower, [1.0; 3], [0.5; 3]), "better");
        assert!(!is_named(Better::Higher, [1.1; 3], [1.0; 3]), "exactly 10%");
        assert!(is_named(Better::Higher, [1.101; 3], [1.0; 3]));
        assert!(!is_named(Better::Higher, [1.0; 3], [2.0; 3]), "better");
    }

    #[test]
    fn what_is_within_the_spread_of_either_run_is_noise() {
        assert!(is_named(Better::Lower, [0.9, 1.0, 1.2], [1.21, 1.3, 1.4]));
        assert!(!is_named(Better::Lower, [0.9, 1.0, 1.2], [1.2, 1.3, 1.4]), "they touch");
        assert!(!is_named(Better::Lower, [0.9, 1.0, 1.5], [1.21, 1.3, 1.4]), "it was so bad before");
        assert!(!is_named(Better::Lower, [1.0; 3], [0.99, 2.0, 3.0]), "it is so good at times");
        assert!(is_named(Better::Higher, [1.2, 1.3, 1.4], [0.9, 1.0, 1.19]));
        assert!(!is_named(Better::Higher, [1.2, 1.3, 1.4], [0.9, 1.0, 1.2]), "they touch");
    }

    #[test]
    fn nothing_that_becomes_something_is_named_and_nothing_that_stays_is_not() {
        assert!(is_named(Better::Lower, [0.0; 3], [1.0; 3]));
        assert!(!is_named(Better::Lower, [0.0; 3], [0.0; 3]));
        assert!(is_named(Better::Higher, [1.0; 3], [0.0; 3]));
    }

    #[test]
    fn times_are_compared_on_the_same_machine_only() {
        let of = |basis, value| figure(Better::Lower, basis, [value; 3]);
        let same = compare(of(Basis::Absolute, 1.0), of(Basis::Absolute, 2.0), "6.18");
        assert_eq!((same.same_machine, same.compared, same.regressions.len()), (true, 1, 1));
        let other = compare(of(Basis::Absolute, 1.0), of(Basis::Absolute, 2.0), "6.19");
        assert_eq!((other.same_machine, other.compared, other.regressions.len()), (false, 0, 0));
        let ratio = compare(of(Basis::Ratio, 1.0), of(Basis::Ratio, 2.0), "6.19");
        assert_eq!((ratio.compared, ratio.regressions.len()), (1, 1));
    }

    #[test]
    fn what_was_not_measured_again_is_said() {
        let baseline = Baseline {
            machine: machine("6.18"),
            figures: vec![figure(Better::Lower, Basis::Ratio, [1.0; 3])],
        };
        let comparison = baseline.compare(&machine("6.18"), &[]);
        assert_eq!((comparison.compared, comparison.not_measured), (0, vec!["f".to_owned()]));
    }

    #[test]
    fn the_worst_is_named_first() {
        let of = |name: &str, value| Figure {
            name: name.into(),
            ..figure(Better::Lower, Basis::Ratio, [value; 3])
        };
        let baseline = Baseline { machine: machine("6.18"), figures: vec![of("a", 1.0), of("b", 1.0)] };
        let comparison = baseline.compare(&machine("6.18"), &[of("a", 1.5), of("b", 2.0)]);
        let names: Vec<_> =
            comparison.regressions.iter().map(|regression| regression.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
    }

    #[test]
    fn files_that_are_something_else_are_refused() {
        let said = |text: &str| format!("{:#}", Baseline::parse(text).unwrap_err());
        assert!(said("not json").contains("no report of `cargo xtask bench`"));
        assert!(said("{\"a\": 1}").contains("no report of `cargo xtask bench`"));
        let old = said("{\"version\": 1, \"machine\": {}}");
        assert!(old.contains("version 1") && old.contains(&format!("version {VERSION}")), "{old}");
        assert!(said(&format!("{{\"version\": {VERSION}}}")).contains("parts missing"));
        let missing = format!("{:#}", Baseline::read(Path::new("/nowhere/last.json")).unwrap_err());
        assert!(missing.contains("/nowhere/last.json") && missing.contains("--json"), "{missing}");
    }
}
