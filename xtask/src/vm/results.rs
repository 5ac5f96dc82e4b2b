//! What became of kernels and tests, for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    accelerator::Accelerator,
    console::{Console, Outcome, Test},
    kernels::Package,
};

/// Where a test was to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// On the initial file system.
    Initial,
    /// On this machine's files.
    Host,
    /// Nowhere, for this reason.
    LeftOut(&'static str),
}

/// Every test that there is.
pub type Plan = BTreeMap<Test, Planned>;

/// One kernel.
#[derive(Debug)]
pub struct Row {
    /// What was asked for.
    pub asked: String,
    /// What it stands for, if anything.
    pub package: Option<Package>,
    /// What came of it.
    pub run: Run,
}

/// What came of a kernel.
#[derive(Debug)]
pub enum Run {
    /// It could not be tried, for this reason.
    NotRun(String),
    /// It was booted.
    Ran(Box<Ran>),
}

/// A kernel that was booted.
#[derive(Debug)]
pub struct Ran {
    /// How.
    pub accelerator: Accelerator,
    /// How long the guest lived.
    pub seconds: u64,
    /// What it said.
    pub console: Console,
    /// Why it did not come to its end.
    pub broken: Option<String>,
    /// How many objects its verifier was to read.
    pub objects: usize,
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It ran.
    Ended(Outcome, f64),
    /// It did not, for this reason.
    NotRun(String),
    /// It was to run and did not, for this reason.
    Lost(String),
}

/// In all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All that was to run has passed.
    Passed,
    /// Something failed, or did not come to its end.
    Failed,
    /// Nothing was tried.
    NotRun,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotRun => "not run",
        }
    }
}

impl Ran {
    /// What became of a test that was planned so.
    pub fn verdict(&self, test: &Test, planned: &Planned) -> Verdict {
        if let Some((outcome, seconds)) = self.console.tests.get(test) {
            return Verdict::Ended(*outcome, *seconds);
        }
        match (planned, &self.console.no_host) {
            (Planned::LeftOut(why), _) => Verdict::NotRun((*why).into()),
            (Planned::Host, Some(why)) => {
                Verdict::NotRun(format!("needs programs of this machine, and {why}"))
            }
            _ => Verdict::Lost(
                self.broken.clone().unwrap_or_else(|| "nextest did not say how it ended".into()),
            ),
        }
    }

    /// What is wrong, apart from tests that failed.
    pub fn problems(&self, plan: &Plan) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.broken.clone());
        if !self.console.accepted(self.objects) {
            let refused: Vec<_> = self.console.objects.iter().filter(|(_, whole)| !whole).collect();
            problems.push(match refused.as_slice() {
                [] => "the verifier did not get to read every object".into(),
                some => {
                    let names: Vec<_> = some.iter().map(|(name, _)| name.as_str()).collect();
                    format!("the kernel refused programs of {}", names.join(", "))
                }
            });
        }
        let planned = plan.values().any(|planned| !matches!(planned, Planned::LeftOut(_)));
        if planned && self.broken.is_none() && !self.console.consistent() {
            problems.push("what nextest counted is not what it said of single tests".into());
        }
        problems
    }
}

impl Row {
    /// How it went in all.
    pub fn state(&self, plan: &Plan) -> State {
        let Run::Ran(ran) = &self.run else { return State::NotRun };
        let bad = |(test, planned)| {
            matches!(ran.verdict(test, planned), Verdict::Ended(Outcome::Failed, _) | Verdict::Lost(_))
        };
        let good = ran.problems(plan).is_empty() && !plan.iter().any(bad);
        if good { State::Passed } else { State::Failed }
    }

    fn json(&self, plan: &Plan) -> Value {
        let mut row = json!({ "asked": self.asked, "state": self.state(plan).name() });
        if let Some(package) = &self.package {
            row["package"] = package.name.as_str().into();
            row["version"] = package.version.as_str().into();
        }
        match &self.run {
            Run::NotRun(why) => row["why"] = why.as_str().into(),
            Run::Ran(ran) => {
                row["release"] = ran.console.release.clone().into();
                row["accelerator"] = ran.accelerator.name().into();
                row["accelerator_detail"] = ran.accelerator.to_string().into();
                row["seconds"] = ran.seconds.into();
                row["problems"] = ran.problems(plan).into();
                row["programs"] = ran.console.programs.iter().map(program).collect();
                row["tests"] =
                    plan.iter().map(|(name, planned)| test(name, &ran.verdict(name, planned))).collect();
            }
        }
        row
    }
}

fn program(program: &super::console::Program) -> Value {
    json!({
        "object": program.object,
        "program": program.name,
        "verified_instructions": program.verified,
        "instructions": program.translated,
        "machine_code_bytes": program.machine_code,
    })
}

fn test(test: &Test, verdict: &Verdict) -> Value {
    let mut value = json!({ "binary": test.binary, "test": test.name });
    match verdict {
        Verdict::Ended(outcome, seconds) => {
            value["outcome"] = match outcome {
                Outcome::Passed => "passed",
                Outcome::Flaky => "flaky",
                Outcome::Failed => "failed",
            }
            .into();
            value["seconds"] = (*seconds).into();
        }
        Verdict::NotRun(why) | Verdict::Lost(why) => {
            value["outcome"] = if matches!(verdict, Verdict::Lost(_)) { "lost" } else { "not run" }.into();
            value["why"] = why.as_str().into();
        }
    }
    value
}

/// All of it.
pub fn json(rows: &[Row], plan: &Plan, commit: &str) -> String {
    let kernels: Vec<_> = rows.iter().map(|row| row.json(plan)).collect();
    let document = json!({ "version": 1, "commit": commit, "kernels": kernels });
    format!("{document:#}\n")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn name(test: &str) -> Test {
        Test { binary: "t::tcp".into(), name: test.into() }
    }

    pub fn plan() -> Plan {
        [
            ("one", Planned::Initial),
            ("two", Planned::Initial),
            ("three", Planned::Host),
            ("four", Planned::LeftOut("left out")),
        ]
        .map(|(test, planned)| (name(test), planned))
        .into()
    }

    pub fn row(lines: &[&str], broken: Option<&str>) -> Row {
        let mut console = Console::default();
        lines.iter().for_each(|line| console.see(line));
        Row {
            asked: "6.1".into(),
            package: None,
            run: Run::Ran(Box::new(Ran {
                accelerator: Accelerator::Emulation("no KVM".into()),
                seconds: 1,
                console,
                broken: broken.map(str::to_owned),
                objects: 1,
            })),
        }
    }

    pub const GOOD: [&str; 7] = [
        "guest: verify a.o",
        "connect4 119569 instructions verified, 3328 in the program, 21494 bytes of machine code",
        "guest: verified 0",
        "  PASS [  1.9s] (1/2) t::tcp one",
        "  PASS [  1.9s] (2/2) t::tcp two",
        "  PASS [  1.9s] (1/1) t::tcp three",
        "  Summary [  1.9s] 3 tests run: 3 passed, 0 skipped",
    ];

    #[test]
    fn only_a_kernel_that_did_all_that_was_planned_has_passed() {
        assert_eq!(row(&GOOD, None).state(&plan()), State::Passed);
        assert_eq!(row(&GOOD, Some("it died")).state(&plan()), State::Failed);
        let verified = GOOD[..3].to_vec();
        assert_eq!(
            row(&verified, None).state(&Plan::new()),
            State::Passed,
            "only the verifier was asked for"
        );
        assert_eq!(row(&verified, None).state(&plan()), State::Failed, "no test ran");
        assert_eq!(row(&[], None).state(&Plan::new()), State::Failed, "nor did the verifier");
        for (at, instead) in [
            (2, "guest: verified 1"),
            (4, "  FAIL [  1.9s] (2/2) t::tcp two"),
            (4, "garbage"),
            (6, "  Summary [  1.9s] 3 tests run: 2 passed, 1 failed, 0 skipped"),
        ] {
            let mut lines = GOOD;
            lines[at] = instead;
            assert_eq!(row(&lines, None).state(&plan()), State::Failed, "{instead}");
        }
    }

    #[test]
    fn tests_of_a_kernel_that_cannot_reach_this_machine_are_not_run_and_not_passed() {
        let mut lines = GOOD.to_vec();
        lines[5] = "guest: no host: the kernel package has no module 9p";
        lines[6] = "  Summary [  1.9s] 2 tests run: 2 passed, 0 skipped";
        let row = row(&lines, None);
        assert_eq!(row.state(&plan()), State::Passed);
        let document: Value = serde_json::from_str(&json(&[row], &plan(), "c")).unwrap();
        let tests = document["kernels"][0]["tests"].as_array().unwrap();
        let of = |name| tests.iter().find(|test| test["test"] == name).unwrap();
        assert_eq!(of("three")["outcome"], "not run");
        assert_eq!(
            of("three")["why"],
            "needs programs of this machine, and the kernel package has no module 9p"
        );
        assert_eq!(of("four")["why"], "left out");
        assert_eq!(of("one")["outcome"], "passed");
        assert_eq!(document["kernels"][0]["programs"][0]["verified_instructions"], 119_569);
    }

    #[test]
    fn a_kernel_that_could_not_be_had_says_why() {
        let row = Row { asked: "5.15".into(), package: None, run: Run::NotRun("no package".into()) };
        assert_eq!(row.state(&plan()), State::NotRun);
        let document: Value = serde_json::from_str(&json(&[row], &plan(), "c")).unwrap();
        assert_eq!(document["kernels"][0]["state"], "not run");
        assert_eq!(document["kernels"][0]["why"], "no package");
    }
}
