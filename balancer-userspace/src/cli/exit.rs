//! Exit codes and the failures that lead to them: the one place where they are defined.

use std::{
    fmt::Display,
    process::{ExitCode, Termination},
};

use super::term::safe;

/// How a command ended. The numbers are part of the command line's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command did what it was asked for. A closed output pipe counts as this: the reader had enough.
    Ok = 0,
    /// It ran, and the answer is bad news: a check failed, or no such Service exists.
    Problem = 1,
    /// The command line, its environment or the configuration file is wrong.
    Usage = 2,
    /// balancer is not installed here: there are no pinned maps to read.
    NotInstalled = 3,
    /// The kernel or a file asks for more rights than the caller has.
    NoPermission = 4,
    /// Something else failed; the message says what.
    Failed = 5,
    /// Another agent runs on this node already.
    AlreadyRunning = 6,
}

/// What `--help` and the manual page say of exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done; also when the reader closed the pipe
  1  the answer is bad news: a check failed, or no such Service exists
  2  the command line, its environment or the configuration file is wrong
  3  balancer is not installed here: there are no pinned maps
  4  no permission (reading maps takes root, or CAP_BPF and access to the pins)
  5  something else failed; the message says what
  6  another agent runs on this node already";

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Why a command did not do what it was asked for: what the user reads, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The message, its causes below it. It names the thing and the remedy.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure of a given kind.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// What the user reads: the message and its causes, but for those whose text stands in it already.
    /// Safe for a terminal, and of several lines only where a cause is (what the verifier says of a program).
    pub fn text(&self) -> String {
        let mut text = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if text.is_empty() {
                text = cause;
            } else if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        text.lines().map(safe).collect::<Vec<_>>().join("\n")
    }

    /// A wrong command line or configuration.
    pub fn usage(message: impl Display) -> Self {
        Self { exit: Exit::Usage, error: anyhow::anyhow!("{message}") }
    }

    /// Bad news: the command ran.
    pub fn problem(message: impl Display) -> Self {
        Self { exit: Exit::Problem, error: anyhow::anyhow!("{message}") }
    }
}

/// Anything that has no exit code of its own is [`Exit::Failed`].
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no\u{1b}[2J route");
        let own = anyhow::Error::from(cause).context("cannot reach it");
        assert_eq!(Failure::from(own).text(), "cannot reach it: no\\u{1b}[2J route");
        let error = crate::source::SourceError::Directory {
            path: "/m".into(),
            source: std::io::Error::other("it is on fire\nand wet"),
        };
        let text = Failure::new(Exit::Usage, error).text();
        assert_eq!(text, "cannot read manifests directory /m: it is on fire\nand wet");
    }

    #[test]
    fn the_help_text_lists_every_code() {
        let listed: Vec<u8> = EXIT_CODES
            .lines()
            .filter_map(|line| line.strip_prefix("  ")?.split("  ").next()?.parse().ok())
            .collect();
        let all = [
            Exit::Ok,
            Exit::Problem,
            Exit::Usage,
            Exit::NotInstalled,
            Exit::NoPermission,
            Exit::Failed,
            Exit::AlreadyRunning,
        ];
        assert_eq!(listed, all.map(|exit| exit as u8));
    }
}
