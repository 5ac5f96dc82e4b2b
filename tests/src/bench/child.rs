//! The parent's side of [`super::worker`].

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddrV4,
    path::Path,
    process::{ChildStdin, ChildStdout, Command as Program, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::worker::{Answer, Command, Pause};
use crate::topology::{Pod, Process};

/// A process that dials when it is told to. Ends when dropped.
#[derive(Debug)]
pub struct Dialler {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    process: Process,
}

impl Dialler {
    /// Starts one in a pod.
    pub fn start(pod: &Pod) -> Result<Self> {
        let mut command = this_binary()?;
        command.arg("dial").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = pod.spawn(command)?;
        let stdin = process.child().stdin.take().context("stdin of the dialler")?;
        let stdout = process.child().stdout.take().context("stdout of the dialler")?;
        Ok(Self { stdin, stdout: BufReader::new(stdout), process })
    }

    /// Moves it to a cgroup.
    pub fn enter(&mut self, cgroup: &Path) -> Result<()> {
        self.ask(&Command::Enter(cgroup.to_owned())).map(drop)
    }

    /// Connects over TCP.
    pub fn tcp(&mut self, to: &[SocketAddrV4], count: usize, pause: Pause) -> Result<Answer> {
        self.ask(&Command::Tcp { to: to.to_vec(), count, pause })
    }

    /// Connects UDP sockets.
    pub fn udp(&mut self, to: &[SocketAddrV4], count: usize, pause: Pause) -> Result<Answer> {
        self.ask(&Command::Udp { to: to.to_vec(), count, pause })
    }

    fn ask(&mut self, command: &Command) -> Result<Answer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.stdin.write_all(&line).context("the dialler does not listen")?;
        let mut answer = String::new();
        if self.stdout.read_line(&mut answer).context("answer of the dialler")? == 0 {
            bail!("the dialler ended: {:?}", self.process.exited()?);
        }
        serde_json::from_str(&answer).with_context(|| format!("answer of the dialler: {answer}"))
    }
}

/// A process that accepts connections. Ends when dropped.
#[derive(Debug)]
pub struct Acceptor {
    _process: Process,
}

impl Acceptor {
    /// Starts one in a pod and waits until it listens on all ports.
    pub fn start(pod: &Pod, ports: &[u16]) -> Result<Self> {
        let mut command = this_binary()?;
        command.arg("serve").args(ports.iter().map(u16::to_string)).stdout(Stdio::piped());
        let mut process = pod.spawn(command)?;
        let stdout = process.child().stdout.take().context("stdout of the server")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("the server's first line")?;
        if line != "listening\n" {
            bail!("the server in {} did not start: {:?}", pod.name(), process.exited()?);
        }
        Ok(Self { _process: process })
    }
}

fn this_binary() -> Result<Program> {
    Ok(Program::new(std::env::current_exe().context("path of this program")?))
}
