//! Child processes: every one is printed before it runs, and its failure names it.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{ui, workspace};

/// A command in the root of the workspace.
pub struct Cmd {
    inner: Command,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
}

impl Cmd {
    /// A command that inherits the environment and the standard streams.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = Command::new(program.as_ref());
        inner.current_dir(workspace::root());
        Self { inner, program: program.as_ref().to_owned(), args: Vec::new(), env: Vec::new() }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg.as_ref());
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable, and shows it as part of the command line.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value.as_ref());
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets a variable that a person who repeats the command need not know.
    pub fn quiet_env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value.as_ref());
        self
    }

    /// Removes a variable.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.inner.env_remove(name.as_ref());
        self
    }

    /// Runs it in another directory than the root of the workspace.
    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Gives it nothing to read, so that it leaves a terminal alone.
    pub fn no_stdin(mut self) -> Self {
        self.inner.stdin(Stdio::null());
        self
    }

    /// Runs it and fails unless it succeeds.
    pub fn run(self) -> Result<()> {
        let line = self.line();
        let status = self.status()?;
        check(status, &line)
    }

    /// Runs it and returns how it ended, whatever that is.
    pub fn status(mut self) -> Result<ExitStatus> {
        let line = self.line();
        ui::command(&line);
        self.inner.status().with_context(|| format!("`{line}` could not be started"))
    }

    /// Turns this process into it. Returns only where that fails.
    pub fn exec<T>(mut self) -> Result<T> {
        use std::os::unix::process::CommandExt;
        let line = self.line();
        ui::command(&line);
        let error = self.inner.exec();
        Err(error).with_context(|| format!("`{line}` could not be started"))
    }

    /// Runs it silently and returns its standard output; fails unless it succeeds, with what it wrote to
    /// standard error.
    pub fn output(self) -> Result<String> {
        let line = self.line();
        let output = self.capture()?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`{line}` failed with {}: {}", ending(output.status), stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it silently and returns what it wrote and how it ended, whatever that is.
    pub fn capture(mut self) -> Result<Output> {
        let line = self.line();
        self.inner.stdin(Stdio::null()).output().with_context(|| format!("`{line}` could not be started"))
    }

    /// Runs it, passing on one of its streams line by line to stderr and to `see`.
    pub fn tee(mut self, stream: Stream, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
        let line = self.line();
        ui::command(&line);
        match stream {
            Stream::Stdout => self.inner.stdout(Stdio::piped()),
            Stream::Stderr => self.inner.stderr(Stdio::piped()),
        };
        let mut child = self.inner.spawn().with_context(|| format!("`{line}` could not be started"))?;
        let pipe: Box<dyn std::io::Read> = match stream {
            Stream::Stdout => Box::new(child.stdout.take().context("no pipe")?),
            Stream::Stderr => Box::new(child.stderr.take().context("no pipe")?),
        };
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if reader.read_until(b'\n', &mut bytes).with_context(|| format!("reading from `{line}`"))? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end_matches(['\n', '\r']);
            ui::relay(text);
            see(text);
        }
        child.wait().with_context(|| format!("waiting for `{line}`"))
    }

    /// The command line as a person would type it.
    pub fn line(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.env {
            let _ = write!(line, "{name}={} ", quoted(value));
        }
        line.push_str(&quoted(&self.program));
        for arg in &self.args {
            let _ = write!(line, " {}", quoted(arg));
        }
        line
    }
}

/// Which stream of a child [`Cmd::tee`] reads.
#[derive(Clone, Copy)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Fails unless `status` is success, naming the command.
pub fn check(status: ExitStatus, line: &str) -> Result<()> {
    if !status.success() {
        bail!("`{line}` failed with {}", ending(status));
    }
    Ok(())
}

/// Whether a program of this name is on `PATH`, or where the system keeps its own tools.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| is_executable(&dir.join(program)))
}

/// Whether there is a file that may be run.
pub fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// A word as a shell reads it.
pub fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let cmd =
            Cmd::new("cargo").arg("build").arg("two words").arg("it's").env("A", "x y").quiet_env("B", "z");
        assert_eq!(cmd.line(), r"A='x y' cargo build 'two words' 'it'\''s'");
    }

    #[test]
    fn a_failure_names_the_command_and_its_exit_code() {
        let error = Cmd::new("sh").args(["-c", "exit 7"]).run().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 7'` failed with exit code 7");
        let error = Cmd::new("sh").args(["-c", "kill -9 $$"]).run().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'kill -9 $$'` failed with signal 9");
        let error = Cmd::new("/nonexistent").run().unwrap_err();
        assert_eq!(error.to_string(), "`/nonexistent` could not be started");
    }

    #[test]
    fn tee_sees_the_stream_it_was_asked_for() {
        let mut seen = Vec::new();
        let script = Cmd::new("sh").args(["-c", "echo one >&2; echo two; printf three >&2"]);
        let status = script.tee(Stream::Stderr, |line| seen.push(line.to_owned())).unwrap();
        assert!(status.success());
        assert_eq!(seen, ["one", "three"]);
    }
}
