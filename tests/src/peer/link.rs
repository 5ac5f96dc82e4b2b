//! The line to a peer process.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use rustix::io::Errno;
use serde::{Serialize, de::DeserializeOwned};

use super::protocol::errno_name;
use crate::topology::{Pod, Process};

/// Where a peer's failures come from.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The system call failed, as the application would see it.
    #[error("{call}: {}", errno_name(*.errno))]
    Errno {
        /// Which call.
        call: &'static str,
        /// With what.
        errno: Errno,
    },
    /// The peer process itself failed or is gone.
    #[error(transparent)]
    Peer(#[from] anyhow::Error),
}

impl CallError {
    /// The error number of the system call, if one failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Errno { errno, .. } => Some(*errno),
            Self::Peer(_) => None,
        }
    }
}

/// Where the `peer` binary is: beside the running test, or where BALANCER_PEER says.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("BALANCER_PEER") {
        return Ok(path.into());
    }
    let here = std::env::current_exe().context("path of this program")?;
    // target/debug/deps/test-1234 or target/debug/demo
    let found = here.ancestors().skip(1).take(2).map(|dir| dir.join("peer")).find(|path| path.is_file());
    found.with_context(|| {
        format!("no `peer` near {}: build it with cargo build -p balancer-tests --bins", here.display())
    })
}

/// A running peer process.
#[derive(Debug)]
pub(super) struct Link {
    process: Process,
    stdin: ChildStdin,
    lines: Receiver<String>,
    name: String,
}

impl Link {
    /// Starts `peer` with arguments in a pod.
    pub(super) fn start(pod: &Pod, arguments: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = pod.spawn(command)?;
        let stdin = process.child().stdin.take().context("stdin of peer")?;
        let stdout = process.child().stdout.take().context("stdout of peer")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { process, stdin, lines, name: pod.name().to_owned() })
    }

    /// Sends one document.
    pub(super) fn send(&mut self, request: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(request).context("request")?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).with_context(|| format!("peer in {} is gone", self.name))
    }

    /// Receives one document.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, timeout: Duration) -> anyhow::Result<T> {
        let line = self.lines.recv_timeout(timeout).map_err(|error| {
            let status = self.process.exited().ok().flatten();
            let status = status.map_or_else(|| "it runs".to_owned(), |status| format!("it ended: {status}"));
            anyhow!("no answer from the peer in {} ({error} after {timeout:?}; {status})", self.name)
        })?;
        serde_json::from_str(&line).with_context(|| format!("peer in {} said {line}", self.name))
    }

    /// The process.
    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
