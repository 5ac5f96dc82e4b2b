//! What xtask itself says. All of it goes to stderr, except the last line of `test`.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "this is the output of a command-line tool")]

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal},
};

/// A step that begins or a fact that was found.
pub fn say(message: impl Display) {
    eprintln!("{} {message}", paint("1;36", "xtask:"));
}

/// Something that the person should know, but that stops nothing.
pub fn warn(message: impl Display) {
    eprintln!("{} {message}", paint("1;33", "xtask: warning:"));
}

/// A command line about to run.
pub fn command(line: &str) {
    eprintln!("{}", paint("2", &format!("$ {line}")));
}

/// Why the command failed, with every cause on a line of its own.
pub fn error(error: &anyhow::Error) {
    eprintln!("{} {error}", paint("1;31", "xtask: error:"));
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}

/// Passes on a line of a child's error output.
pub fn relay(line: &str) {
    eprintln!("{line}");
}

/// A line of output proper.
pub fn print(line: impl Display) {
    println!("{line}");
}

/// Whether stderr takes colour: a terminal, and `NO_COLOR` not set.
pub fn colour() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn paint(style: &str, text: &str) -> String {
    if colour() { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}
