//! Reads the test runners' last words.

use std::{fmt, ops::AddAssign};

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Succeeded.
    pub passed: u64,
    /// Failed, timed out, or could not be started.
    pub failed: u64,
    /// Ignored, filtered out, or never reached because the run was broken off.
    pub skipped: u64,
}

impl Summary {
    /// How many ran.
    pub const fn ran(self) -> u64 {
        self.passed + self.failed
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Reads nextest's summary, if this line is one:
/// `Summary [ 1.2s] 3/5 tests run: 1 passed (1 slow), 1 failed, 1 timed out, 2 skipped`.
///
/// A line that has a word which this function does not know is not a summary: better no count than a
/// wrong one.
pub fn of_nextest(line: &str) -> Option<Summary> {
    let line = plain(line);
    let (_, rest) = line.trim_start().strip_prefix("Summary [")?.split_once(']')?;
    let (run, outcomes) = rest.split_once(" run: ")?;
    let mut summary = Summary::default();
    for part in without_parentheses(outcomes).split(',') {
        let (number, what) = part.trim().split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        match what.trim() {
            "passed" => summary.passed += number,
            "failed" | "timed out" | "exec failed" => summary.failed += number,
            "skipped" => summary.skipped += number,
            _ => return None,
        }
    }
    if let Some((_, all)) = run.split_whitespace().next()?.split_once('/') {
        summary.skipped += all.parse::<u64>().ok()?.saturating_sub(summary.ran());
    }
    Some(summary)
}

/// How nextest says that a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// This attempt succeeded.
    Passed,
    /// It did not, whatever the reason.
    Failed,
}

/// Reads what nextest says of one attempt at a test, if this line says how it ended: the binary and the name of the test, and
/// the seconds that it took. `  TRY 2 PASS [   1.900s] (1/3) package::binary module::name`.
pub fn test_of_nextest(line: &str) -> Option<((String, String), Ending, f64)> {
    let line = plain(line);
    let (status, rest) = line.trim_start().split_once(" [")?;
    let (time, rest) = rest.split_once(']')?;
    let seconds = time.trim().strip_suffix('s')?.parse().ok()?;
    let ending = match status.split_whitespace().last()? {
        "PASS" | "LEAK" => Ending::Passed,
        "FAIL" | "LKFAIL" | "TIMEOUT" | "TMT" | "XFAIL" | "ABORT" => Ending::Failed,
        signal if signal.starts_with("SIG") => Ending::Failed,
        _ if status.starts_with("FLAKY ") => Ending::Passed,
        _ => return None,
    };
    let mut words = rest.split_whitespace().filter(|word| !word.starts_with('(') && !word.ends_with(')'));
    let test = (words.next()?.to_owned(), words.next()?.to_owned());
    words.next().is_none().then_some((test, ending, seconds))
}

/// Drops what stands in parentheses: it details the number before it.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0_usize;
    let mut outside = String::new();
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            c if depth == 0 => outside.push(c),
            _ => {}
        }
    }
    outside
}

/// Reads the summary of cargo's own runner, if this line is one:
/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s`.
pub fn of_libtest(line: &str) -> Option<Summary> {
    let line = plain(line);
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut summary = Summary::default();
    for part in counts.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else { continue };
        match what {
            "passed" => summary.passed = number.parse().ok()?,
            "failed" => summary.failed = number.parse().ok()?,
            "ignored" | "filtered out" => summary.skipped += number.parse::<u64>().ok()?,
            _ => {}
        }
    }
    Some(summary)
}

/// The integration tests of one package in nextest's list for people: a line with the binary, then its
/// tests indented. Such a binary is called `package::name`; `package` and `package::bin/name` hold unit
/// tests.
pub fn integration_tests(list: &str, package: &str) -> Vec<String> {
    let is_its = |binary: &str| {
        let name = binary.strip_prefix(package).and_then(|rest| rest.strip_prefix("::"));
        name.is_some_and(|name| !name.contains('/'))
    };
    let mut binary = None;
    let mut names = Vec::new();
    for line in list.lines() {
        if let Some(name) = line.strip_suffix(':') {
            binary = is_its(name).then_some(name);
        } else if let (Some(binary), Some(test)) = (binary, line.strip_prefix("    ")) {
            names.push(format!("{binary} {}", test.trim()));
        }
    }
    names
}

/// Without colours.
fn plain(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, text)| text));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, passed: u64, failed: u64, skipped: u64) {
        assert_eq!(of_nextest(line), Some(Summary { passed, failed, skipped }), "{line}");
    }

    #[test]
    fn reads_every_shape_of_nextest_s_summary() {
        check("     Summary [   0.010s] 12 tests run: 12 passed, 0 skipped", 12, 0, 0);
        check("     Summary [   0.010s] 1 test run: 1 passed, 3 skipped", 1, 0, 3);
        check(
            "     Summary [   9.010s] 9 tests run: 5 passed (2 slow, 1 leaky), 4 failed, 0 skipped",
            5,
            4,
            0,
        );
        check(
            "  Summary [  60.1s] 6 tests run: 1 passed, 1 failed, 3 timed out, 1 exec failed, 2 skipped",
            1,
            5,
            2,
        );
        check("     Summary [   0.010s] 0 tests run: 0 passed, 7 skipped", 0, 0, 7);
    }

    #[test]
    fn tests_that_an_interrupted_run_never_reached_count_as_skipped() {
        check("     Summary [   0.010s] 3/10 tests run: 2 passed, 1 failed, 4 skipped", 2, 1, 11);
    }

    #[test]
    fn reads_through_colours() {
        let line = "\x1b[31;1m     Summary\x1b[0m [   0.010s] \x1b[1m2\x1b[0m tests run: \x1b[1m1\x1b[0m \x1b[32;1mpassed\x1b[0m, \x1b[1m1\x1b[0m \x1b[31;1mfailed\x1b[0m, \x1b[1m0\x1b[0m \x1b[33;1mskipped\x1b[0m";
        check(line, 1, 1, 0);
    }

    #[test]
    fn no_count_rather_than_a_wrong_one() {
        assert_eq!(of_nextest("     Summary [   0.010s] 2 tests run: 1 passed, 1 vanished"), None);
        assert_eq!(of_nextest("        PASS [   0.010s] crate tests::one"), None);
        assert_eq!(of_libtest("running 3 tests"), None);
    }

    #[test]
    fn reads_how_a_test_ended() {
        let read = |line| test_of_nextest(line).map(|((_, name), ending, _)| (name, ending));
        let name = || "deep::two".to_owned();
        for (line, ending) in [
            ("        PASS [   0.010s] (1/2) it::udp deep::two", Ending::Passed),
            ("        PASS [   0.010s] (  1/200) it::udp deep::two", Ending::Passed),
            ("\x1b[32;1m        LEAK\x1b[0m [   0.010s] it::udp deep::two", Ending::Passed),
            ("   FLAKY 2/2 [   0.010s] (1/2) it::udp deep::two", Ending::Passed),
            ("  TRY 1 FAIL [   0.010s] (1/2) it::udp deep::two", Ending::Failed),
            ("     TIMEOUT [ 180.010s] (1/2) it::udp deep::two", Ending::Failed),
            ("     SIGSEGV [   0.010s] (1/2) it::udp deep::two", Ending::Failed),
        ] {
            assert_eq!(read(line), Some((name(), ending)), "{line}");
        }
        for no_end in [
            "        SLOW [> 60.000s] (-----) it::udp deep::two",
            " TERMINATING [>180.000s] (-----) it::udp deep::two",
            "     Summary [   0.010s] 12 tests run: 12 passed, 0 skipped",
            "       RETRY 2/2 [         ] it::udp deep::two",
            "thread 'deep::two' PASS",
        ] {
            assert_eq!(read(no_end), None, "{no_end}");
        }
    }

    #[test]
    fn reads_the_summary_of_cargo_s_runner() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; finished in 0.1s";
        assert_eq!(of_libtest(line), Some(Summary { passed: 3, failed: 1, skipped: 6 }));
    }

    #[test]
    fn adds_up_and_reads_like_a_test_runner() {
        let mut total = Summary { passed: 1, failed: 2, skipped: 3 };
        total += Summary { passed: 10, failed: 20, skipped: 30 };
        assert_eq!(total.to_string(), "11 passed, 22 failed, 33 skipped");
    }

    #[test]
    fn lists_the_integration_tests_of_one_package() {
        let list =
            "it:\n    unit\nit::udp:\n    one\n    deep::two\nit::bin/x:\n    unit\nits::tcp:\n    other\n";
        assert_eq!(integration_tests(list, "it"), ["it::udp one", "it::udp deep::two"]);
    }
}
