//! The table for people and the document for programs.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{
    library::{Library, ServerKind},
    mechanism::Mechanism,
    quantiles::Quantiles,
    row::Measured,
};

/// All rows of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How connections were moved.
    pub mechanism: Mechanism,
    /// How many moves each row was to make.
    pub wanted_moves: u64,
    /// One for each library and quiet time.
    pub rows: Vec<Row>,
}

/// A library with a quiet time.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The library's name in the suite.
    pub name: &'static str,
    /// What it speaks.
    pub protocol: &'static str,
    /// Milliseconds.
    pub quiet_ms: u64,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Its verdict.
    pub verdict: Verdict,
}

/// What came of a row.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// Something that it needs is not installed.
    NotRun {
        /// What, and why.
        reason: String,
    },
    /// It was begun, and could not be carried to its end.
    Broken {
        /// Why.
        reason: String,
    },
    /// It ran.
    Ran(Box<Measured>),
}

/// What a row says of its library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As many moves as were wanted, and no request was hurt.
    Clean,
    /// A request was hurt.
    Hurt,
    /// No request was hurt, but there were too few moves to tell, or none, or they did not make connections even.
    TooFew,
    /// It did not run here, or not to its end.
    NotRun,
}

impl Outcome {
    fn verdict(&self, wanted_moves: u64) -> Verdict {
        match self {
            Self::NotRun { .. } | Self::Broken { .. } => Verdict::NotRun,
            Self::Ran(measured) if !measured.tally.is_clean() => Verdict::Hurt,
            Self::Ran(measured) => match &measured.even {
                Some(even) if even.after.is_some() && measured.moves > 0 => Verdict::Clean,
                None if measured.moves >= wanted_moves.max(1) => Verdict::Clean,
                Some(_) | None => Verdict::TooFew,
            },
        }
    }
}

impl Row {
    /// Judges an outcome.
    pub fn new(library: &Library, quiet: Duration, outcome: Outcome, wanted_moves: u64) -> Self {
        let protocol = match library.server {
            ServerKind::Http => "HTTP/1.1",
            ServerKind::Https => "HTTP/1.1, TLS 1.3",
            ServerKind::Grpc => "gRPC, unary",
            ServerKind::Redis => "Redis",
            ServerKind::Postgres => "PostgreSQL",
        };
        let verdict = outcome.verdict(wanted_moves);
        let quiet_ms = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
        Self { name: library.name, protocol, quiet_ms, outcome, verdict }
    }

    /// It in one line, for whoever watches.
    pub fn line(&self) -> String {
        let head = format!("{} {}: ", self.name, self.quiet());
        match &self.outcome {
            Outcome::NotRun { reason } => format!("{head}not run: {reason}"),
            Outcome::Broken { reason } => format!("{head}broke off: {reason}"),
            Outcome::Ran(measured) => {
                let tally = &measured.tally;
                format!(
                    "{head}{} requests, {} moves, {} errors ({} ambiguous), {} run twice, {} lost: {}",
                    tally.requests,
                    measured.moves,
                    tally.errors,
                    tally.ambiguous,
                    tally.twice,
                    tally.lost,
                    self.result()
                )
            }
        }
    }

    fn quiet(&self) -> String {
        match self.quiet_ms {
            ms if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
            ms => format!("{ms} ms"),
        }
    }

    fn result(&self) -> String {
        match (&self.outcome, self.verdict) {
            (Outcome::NotRun { reason }, _) => format!("not run: {}", first_line(reason)),
            (Outcome::Broken { reason }, _) => format!("broke off: {}", first_line(reason)),
            (Outcome::Ran(measured), Verdict::Clean) => {
                match measured.even.as_ref().and_then(|even| even.after) {
                    Some(seconds) => format!("no request hurt, even after {seconds:.0} s"),
                    None => "no request hurt".into(),
                }
            }
            (Outcome::Ran(measured), _) if measured.tally.strays > 0 => {
                format!("**not to be trusted**: {} executions that nobody sent", measured.tally.strays)
            }
            (_, Verdict::Hurt) => "**hurt**".into(),
            (Outcome::Ran(measured), Verdict::TooFew | Verdict::NotRun) => match &measured.even {
                Some(even) => format!("not even: {:?}, {:.2} of the mean", even.spread, even.max_over_mean),
                None => "too few moves".into(),
            },
        }
    }

    fn cells(&self) -> [String; 10] {
        let head = [self.protocol.to_owned(), self.quiet()];
        let (library, numbers) = match &self.outcome {
            Outcome::NotRun { .. } | Outcome::Broken { .. } => {
                (self.name.to_owned(), [const { String::new() }; 6])
            }
            Outcome::Ran(measured) => {
                let tally = &measured.tally;
                let errors = format!("{} ({})", tally.errors, tally.ambiguous);
                let reconnected = measured.reconnected.map_or_else(String::new, span);
                let counts = [measured.moves, tally.requests, tally.twice, tally.lost].map(|n| n.to_string());
                let [moves, requests, twice, lost] = counts;
                (measured.library.clone(), [moves, requests, errors, twice, lost, reconnected])
            }
        };
        let [protocol, quiet] = head;
        let [moves, requests, errors, twice, lost, reconnected] = numbers;
        let result = self.result().replace('|', "\\|");
        [library, protocol, quiet, moves, requests, errors, twice, lost, reconnected, result]
    }
}

/// A cell is of one line; all of a reason is in the document.
fn first_line(reason: &str) -> &str {
    reason.lines().next().unwrap_or_default()
}

fn span(times: Quantiles) -> String {
    format!("{:.1} / {:.1} s", times.p50 / 1e3, times.p99 / 1e3)
}

impl Report {
    /// Without rows.
    pub fn new(mechanism: Mechanism, wanted_moves: u64) -> Self {
        Self { mechanism, wanted_moves, rows: Vec::new() }
    }

    /// Whether a row has this verdict.
    pub fn any(&self, verdict: Verdict) -> bool {
        self.rows.iter().any(|row| row.verdict == verdict)
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let head = [
            "library",
            "protocol",
            "quiet",
            "moves",
            "requests",
            "errors (ambiguous)",
            "run twice",
            "lost",
            "reconnected after, p50 / p99",
            "result",
        ];
        let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
        for row in &self.rows {
            // Writing to a string cannot fail.
            _ = writeln!(text, "| {} |", row.cells().join(" | "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{join::Tally, library::LIBRARIES, row::Evenness},
        *,
    };

    fn row(moves: u64, tally: Tally) -> Row {
        let times = Quantiles { count: 2, p50: 640.0, p99: 1_200.0, max: 1_200.0 };
        let measured = Measured {
            library: "requests 2.34.2".into(),
            moves,
            refused: BTreeMap::new(),
            tally,
            reconnected: Some(times),
            not_reconnected: 0,
            took: None,
            seconds: 50.0,
            even: None,
        };
        Row::new(&LIBRARIES[0], Duration::from_millis(500), Outcome::Ran(Box::new(measured)), 200)
    }

    #[test]
    fn a_row_is_clean_only_with_all_of_its_moves_and_no_harm() {
        let clean = Tally { requests: 900, ..Tally::default() };
        assert_eq!(row(200, clean.clone()).verdict, Verdict::Clean);
        assert_eq!(row(199, clean.clone()).verdict, Verdict::TooFew);
        assert_eq!(row(0, clean.clone()).verdict, Verdict::TooFew);
        for harm in [
            Tally { errors: 1, ..clean.clone() },
            Tally { twice: 1, ..clean.clone() },
            Tally { lost: 1, ..clean.clone() },
            Tally { strays: 1, ..clean.clone() },
            Tally::default(),
        ] {
            assert_eq!(row(10, harm).verdict, Verdict::Hurt);
        }
        let Row { outcome, .. } = row(0, clean);
        assert_eq!(outcome.verdict(0), Verdict::TooFew, "nothing was tried, even if nothing was wanted");
        let broken = Outcome::Broken { reason: String::new() };
        assert_eq!(broken.verdict(0), Verdict::NotRun);
    }

    #[test]
    fn where_evenness_is_the_aim_it_counts() {
        let judge = |after: Option<f64>, errors| {
            let tally = Tally { requests: 900, errors, ..Tally::default() };
            let Outcome::Ran(mut measured) = row(27, tally).outcome else { unreachable!() };
            measured.even = Some(Evenness { after, max_over_mean: 1.25, spread: vec![5, 3] });
            let row = Row::new(&LIBRARIES[0], Duration::from_millis(500), Outcome::Ran(measured), u64::MAX);
            (row.verdict, row.result())
        };
        assert_eq!(judge(Some(83.2), 0), (Verdict::Clean, "no request hurt, even after 83 s".into()));
        assert_eq!(judge(None, 0), (Verdict::TooFew, "not even: [5, 3], 1.25 of the mean".into()));
        assert_eq!(judge(Some(83.2), 1), (Verdict::Hurt, "**hurt**".into()));
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let mut report = Report::new(Mechanism::RebalanceNow, 200);
        report.rows.push(row(200, Tally { requests: 900, ..Tally::default() }));
        report.rows.push(row(200, Tally { requests: 900, errors: 3, ambiguous: 2, ..Tally::default() }));
        let reason = "a | b\nand more".to_owned();
        report.rows.push(Row::new(&LIBRARIES[1], Duration::from_secs(2), Outcome::NotRun { reason }, 200));
        let expected = "\
| library | protocol | quiet | moves | requests | errors (ambiguous) | run twice | lost | reconnected after, p50 / p99 | result |
|---|---|---|---|---|---|---|---|---|---|
| requests 2.34.2 | HTTP/1.1 | 500 ms | 200 | 900 | 0 (0) | 0 | 0 | 0.6 / 1.2 s | no request hurt |
| requests 2.34.2 | HTTP/1.1 | 500 ms | 200 | 900 | 3 (2) | 0 | 0 | 0.6 / 1.2 s | **hurt** |
| requests-https | HTTP/1.1, TLS 1.3 | 2 s |  |  |  |  |  |  | not run: a \\| b |
";
        assert_eq!(report.table(), expected);
        assert!(report.any(Verdict::NotRun) && !report.any(Verdict::TooFew));
    }

    #[test]
    fn the_document_tells_the_outcomes_apart() {
        let json = serde_json::to_value(row(7, Tally::default())).unwrap();
        assert_eq!(
            (&json["outcome"], &json["moves"], &json["verdict"]),
            (&"ran".into(), &7.into(), &"hurt".into())
        );
    }
}
