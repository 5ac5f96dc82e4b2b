//! What a guest's console says.

use std::collections::BTreeMap;

use crate::summary::{self, Summary};

/// A test: its binary, as nextest calls it, and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// Such as `balancer-tests::sockets`.
    pub binary: String,
    /// Such as `limits::a_full_table`.
    pub name: String,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At the first attempt.
    Passed,
    /// At a later one.
    Flaky,
    /// At none.
    Failed,
}

/// What a kernel's verifier says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The object that it is part of, without its directory.
    pub object: String,
    /// Its name.
    pub name: String,
    /// How many instructions the verifier looked at; absent where the kernel does not say.
    pub verified: Option<u64>,
    /// How many it has, once translated.
    pub translated: Option<u64>,
    /// How many bytes of machine code.
    pub machine_code: Option<u64>,
}

/// What was read so far.
#[derive(Debug, Default)]
pub struct Console {
    /// The kernel's own name, once its first process runs.
    pub release: Option<String>,
    /// The programs that it accepted.
    pub programs: Vec<Program>,
    /// Objects, and whether all of each one's programs were accepted.
    pub objects: Vec<(String, bool)>,
    /// Tests that ended, and after how many seconds.
    pub tests: BTreeMap<Test, (Outcome, f64)>,
    /// What nextest counted.
    pub counted: Summary,
    /// Why this machine's files could not be reached.
    pub no_host: Option<String>,
    /// Why the first process gave up.
    pub gave_up: Option<String>,
    /// How the program ended that was to be run.
    pub exit: Option<i32>,
    /// Whether the guest came to its end, and what it leaves behind is on its disk.
    pub done: bool,
    /// The object that the verifier is at.
    object: Option<String>,
}

/// What lines begin with that xtask's own scripts write.
const OURS: &str = "guest: ";

impl Console {
    /// Reads one line.
    pub fn see(&mut self, line: &str) {
        if let Some(words) = line.strip_prefix(OURS) {
            self.see_ours(words);
        } else if let Some(object) = &self.object {
            self.programs.extend(program(object, line));
        } else if let Some((test, outcome, seconds)) = summary::test_of_nextest(line) {
            let (binary, name) = test;
            let test = Test { binary, name };
            let failed_before = self.tests.get(&test).is_some_and(|(before, _)| *before != Outcome::Passed);
            let outcome = match (outcome, failed_before) {
                (summary::Ending::Failed, _) => Outcome::Failed,
                (summary::Ending::Passed, true) => Outcome::Flaky,
                (summary::Ending::Passed, false) => Outcome::Passed,
            };
            self.tests.insert(test, (outcome, seconds));
        } else if let Some(summary) = summary::of_nextest(line) {
            self.counted += summary;
        }
    }

    fn see_ours(&mut self, words: &str) {
        let (first, rest) = words.split_once(' ').unwrap_or((words, ""));
        match first {
            "release" => self.release = Some(rest.to_owned()),
            "verify" => self.object = Some(rest.to_owned()),
            "verified" => {
                if let Some(object) = self.object.take() {
                    self.objects.push((object, rest == "0"));
                }
            }
            "exit" => self.exit = rest.parse().ok(),
            "done" => self.done = true,
            "no" => self.no_host = rest.strip_prefix("host: ").map(str::to_owned),
            "gave" => self.gave_up = rest.strip_prefix("up: ").map(str::to_owned),
            _ => {}
        }
    }

    /// Whether every program of so many objects was accepted.
    pub fn accepted(&self, objects: usize) -> bool {
        self.objects.len() == objects && objects > 0 && self.objects.iter().all(|(_, whole)| *whole)
    }

    /// Whether the lines of the tests and what nextest counted agree. A line that was not understood, or that another broke
    /// up, must not be the one that failed.
    pub fn consistent(&self) -> bool {
        let failed = self.tests.values().filter(|(outcome, _)| *outcome == Outcome::Failed).count() as u64;
        self.counted.failed == failed && self.counted.ran() == self.tests.len() as u64
    }
}

/// Reads what `verify-object` says of a program.
fn program(object: &str, line: &str) -> Option<Program> {
    let (name, numbers) = line.trim().split_once(' ')?;
    let before = |what: &str| {
        let part = numbers.split(',').find_map(|part| part.trim().strip_suffix(what))?;
        part.split_whitespace().next_back()?.parse().ok()
    };
    numbers.contains(" instructions verified").then(|| Program {
        object: object.to_owned(),
        name: name.to_owned(),
        verified: before("instructions verified"),
        translated: before("in the program"),
        machine_code: before("bytes of machine code"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIED: &str =
        "connect4          119569 instructions verified,  3328 in the program,  21494 bytes of machine code";

    fn seen(lines: &[&str]) -> Console {
        let mut console = Console::default();
        lines.iter().for_each(|line| console.see(line));
        console
    }

    fn test(name: &str) -> Test {
        Test { binary: "balancer-tests::tcp".into(), name: name.into() }
    }

    #[test]
    fn programs_count_between_our_own_lines_only() {
        let console = seen(&[VERIFIED, "guest: verify balancer.o", VERIFIED, "guest: verified 0", VERIFIED]);
        let expected = Program {
            object: "balancer.o".into(),
            name: "connect4".into(),
            verified: Some(119_569),
            translated: Some(3328),
            machine_code: Some(21_494),
        };
        assert_eq!(console.programs, [expected]);
        assert!(console.accepted(1) && !console.accepted(2), "of two objects only one was seen");
    }

    #[test]
    fn a_count_that_the_kernel_does_not_tell_is_none() {
        let line = "sockops ? instructions verified, 12 in the program, 34 bytes of machine code";
        let console = seen(&["guest: verify a.o", line, "guest: verified 0"]);
        assert_eq!((console.programs[0].verified, console.programs[0].machine_code), (None, Some(34)));
    }

    #[test]
    fn an_object_is_accepted_only_when_its_verification_ended_well() {
        assert!(!seen(&["guest: verify a.o", VERIFIED]).accepted(1), "the guest died");
        assert!(!seen(&["guest: verify a.o", VERIFIED, "guest: verified 1"]).accepted(1));
        assert!(!seen(&["guest: verified 0"]).accepted(1));
        assert!(!seen(&[]).accepted(0));
    }

    #[test]
    fn a_test_that_passes_later_is_flaky_and_one_that_never_does_has_failed() {
        let console = seen(&[
            "        PASS [   1.900s] (1/3) balancer-tests::tcp one",
            "  TRY 1 FAIL [   2.000s] (2/3) balancer-tests::tcp two",
            "  TRY 2 PASS [   3.000s] (2/3) balancer-tests::tcp two",
            "        SLOW [> 60.000s] (---) balancer-tests::tcp three",
            "  TRY 1 FAIL [  61.000s] (3/3) balancer-tests::tcp three",
            " TRY 2 SIGABRT [  1.000s] (3/3) balancer-tests::tcp three",
            "     Summary [   9.0s] 3 tests run: 2 passed (1 slow, 1 flaky), 1 failed, 0 skipped",
            "   FLAKY 2/2 [   3.000s] (2/3) balancer-tests::tcp two",
            " TRY 2 SIGABRT [  1.000s] (3/3) balancer-tests::tcp three",
        ]);
        assert_eq!(console.tests[&test("one")], (Outcome::Passed, 1.9));
        assert_eq!(console.tests[&test("two")].0, Outcome::Flaky);
        assert_eq!(console.tests[&test("three")].0, Outcome::Failed);
        assert!(console.consistent());
    }

    #[test]
    fn a_count_that_the_lines_do_not_bear_out_is_noticed() {
        let summary = "     Summary [   9.0s] 2 tests run: 1 passed, 1 failed, 0 skipped";
        let pass = "        PASS [   1.900s] (1/2) balancer-tests::tcp one";
        assert!(!seen(&[pass, summary]).consistent());
        assert!(!seen(&[pass]).consistent(), "nextest did not come to its end");
    }
}
