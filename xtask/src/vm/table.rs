//! The table for people: kernels beside each other, and below it what failed and what did not run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    console::{Outcome, Test},
    results::{Plan, Row, Run, State, Verdict},
};

/// Draws it.
pub fn draw(rows: &[Row], plan: &Plan) -> String {
    let mut lines = vec![line("kernel", rows, |row| row.asked.clone())];
    lines.push(line("release", rows, |row| match &row.run {
        Run::Ran(ran) => ran.console.release.clone().unwrap_or_else(|| "did not boot".into()),
        Run::NotRun(_) => "-".into(),
    }));
    lines.push(line("accelerator", rows, |row| match &row.run {
        Run::Ran(ran) => ran.accelerator.name().into(),
        Run::NotRun(_) => "-".into(),
    }));
    lines.push(line("seconds", rows, |row| match &row.run {
        Run::Ran(ran) => ran.seconds.to_string(),
        Run::NotRun(_) => "-".into(),
    }));
    for (object, program) in programs(rows) {
        let label = format!("{object} {program} (instructions verified)");
        lines.push(line(&label, rows, |row| cell_of_program(row, &object, &program)));
    }
    for binary in plan.keys().map(|test| &test.binary).collect::<BTreeSet<_>>() {
        lines.push(line(binary, rows, |row| cell_of_tests(row, plan, binary)));
    }
    lines.push(line("in all", rows, |row| match row.state(plan) {
        State::Passed => "passed".into(),
        State::Failed => "FAILED".into(),
        State::NotRun => "not run".into(),
    }));
    let mut text = aligned(&lines);
    for row in rows {
        text.push_str(&notes(row, plan));
    }
    text
}

fn line(label: &str, rows: &[Row], cell: impl Fn(&Row) -> String) -> Vec<String> {
    [label.to_owned()].into_iter().chain(rows.iter().map(cell)).collect()
}

/// All programs that some kernel accepted, in the order of their names.
fn programs(rows: &[Row]) -> BTreeSet<(String, String)> {
    let ran = rows.iter().filter_map(|row| if let Run::Ran(ran) = &row.run { Some(ran) } else { None });
    ran.flat_map(|ran| &ran.console.programs)
        .map(|program| (program.object.clone(), program.name.clone()))
        .collect()
}

fn cell_of_program(row: &Row, object: &str, name: &str) -> String {
    let Run::Ran(ran) = &row.run else { return "not run".into() };
    let mut programs = ran.console.programs.iter();
    match programs.find(|program| program.object == object && program.name == name) {
        Some(program) => program.verified.map_or_else(|| "accepted".into(), |count| count.to_string()),
        None => "REFUSED".into(),
    }
}

fn cell_of_tests(row: &Row, plan: &Plan, binary: &str) -> String {
    let Run::Ran(ran) = &row.run else { return "not run".into() };
    let (mut passed, mut flaky, mut failed, mut lost, mut not_run) = (0, 0, 0, 0, 0);
    for (test, planned) in plan.iter().filter(|(test, _)| test.binary == binary) {
        match ran.verdict(test, planned) {
            Verdict::Ended(Outcome::Passed, _) => passed += 1,
            Verdict::Ended(Outcome::Flaky, _) => flaky += 1,
            Verdict::Ended(Outcome::Failed, _) => failed += 1,
            Verdict::Lost(_) => lost += 1,
            Verdict::NotRun(_) => not_run += 1,
        }
    }
    let counts = [
        (passed + flaky, "passed"),
        (flaky, "of them flaky"),
        (failed, "FAILED"),
        (lost, "LOST"),
        (not_run, "not run"),
    ];
    let counts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    counts.join(", ")
}

/// What is wrong with a kernel, its tests that failed, and the reasons why others did not run.
fn notes(row: &Row, plan: &Plan) -> String {
    let mut text = String::new();
    let ran = match &row.run {
        Run::NotRun(why) => return format!("{}: not run: {why}\n", row.asked),
        Run::Ran(ran) => ran,
    };
    _ = writeln!(text, "{}: {}", row.asked, ran.accelerator);
    for problem in ran.problems(plan) {
        _ = writeln!(text, "{}: PROBLEM: {problem}", row.asked);
    }
    let mut without: BTreeMap<String, usize> = BTreeMap::new();
    for (test, planned) in plan {
        let Test { binary, name } = test;
        match ran.verdict(test, planned) {
            Verdict::Ended(Outcome::Passed, _) => {}
            Verdict::Ended(Outcome::Flaky, _) => {
                _ = writeln!(text, "{}: flaky: {binary} {name}", row.asked);
            }
            Verdict::Ended(Outcome::Failed, _) => {
                _ = writeln!(text, "{}: FAILED: {binary} {name}", row.asked);
            }
            Verdict::Lost(why) => *without.entry(format!("LOST: {why}")).or_default() += 1,
            Verdict::NotRun(why) => *without.entry(format!("not run: {why}")).or_default() += 1,
        }
    }
    for (why, count) in without {
        _ = writeln!(text, "{}: tests {why} ({count})", row.asked);
    }
    text
}

/// Cells below each other, two spaces apart.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::results::tests::{GOOD, plan, row},
        *,
    };

    #[test]
    fn kernels_stand_beside_each_other_and_what_did_not_run_says_why() {
        let mut lines = GOOD;
        lines[4] = "  FAIL [  1.9s] (2/2) t::tcp two";
        lines[6] = "  Summary [  1.9s] 3 tests run: 2 passed, 1 failed, 0 skipped";
        let none = Row { asked: "5.15".into(), package: None, run: Run::NotRun("no package".into()) };
        let dead = row(&[], Some("the guest died"));
        let text = draw(&[row(&GOOD, None), row(&lines, None), dead, none], &plan());
        let expected = "\
kernel                                6.1                  6.1                            6.1                5.15
release                               did not boot         did not boot                   did not boot       -
accelerator                           emulation            emulation                      emulation          -
seconds                               1                    1                              1                  -
a.o connect4 (instructions verified)  119569               119569                         REFUSED            not run
t::tcp                                3 passed, 1 not run  2 passed, 1 FAILED, 1 not run  3 LOST, 1 not run  not run
in all                                passed               FAILED                         FAILED             not run
6.1: software emulation (no KVM)
6.1: tests not run: left out (1)
6.1: software emulation (no KVM)
6.1: FAILED: t::tcp two
6.1: tests not run: left out (1)
6.1: software emulation (no KVM)
6.1: PROBLEM: the guest died
6.1: PROBLEM: the verifier did not get to read every object
6.1: tests LOST: the guest died (3)
6.1: tests not run: left out (1)
5.15: not run: no package
";
        assert_eq!(text, expected);
    }
}
