//! The parent's side of [`super::worker`].

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{ChildStdin, ChildStdout, Command as Program, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::worker::{Answer, Asking, Command, Dial, Manner, Pause, Requests};
use crate::topology::{Pod, Process};

/// A process that dials when it is told to. Ends when dropped.
#[derive(Debug)]
pub struct Dialler {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    process: Process,
}

impl Dialler {
    /// Starts one in a pod, on the first CPU.
    pub fn start(pod: &Pod) -> Result<Self> {
        Self::on_cpu(pod, 0)
    }

    /// Starts one in a pod, on the `cpu`th CPU that may be used, or the last.
    pub fn on_cpu(pod: &Pod, cpu: usize) -> Result<Self> {
        let mut command = this_binary()?;
        command.args(["dial", &cpu.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = pod.spawn(command)?;
        let stdin = process.child().stdin.take().context("stdin of the dialler")?;
        let stdout = process.child().stdout.take().context("stdout of the dialler")?;
        Ok(Self { stdin, stdout: BufReader::new(stdout), process })
    }

    /// Moves it to a cgroup.
    pub fn enter(&mut self, cgroup: &Path) -> Result<()> {
        self.command(&Command::Enter(cgroup.to_owned())).map(drop)
    }

    /// Connects over TCP.
    pub fn tcp<A>(&mut self, to: &[A], count: usize, pause: Pause) -> Result<Answer>
    where
        A: Copy + Into<SocketAddr>,
    {
        self.command(&Command::Tcp(dial(to, count, pause)))
    }

    /// Connects UDP sockets; nothing is sent.
    pub fn udp<A>(&mut self, to: &[A], count: usize, pause: Pause) -> Result<Answer>
    where
        A: Copy + Into<SocketAddr>,
    {
        self.command(&Command::Udp(dial(to, count, pause)))
    }

    /// Asks over UDP, and is answered.
    pub fn ask<A>(&mut self, to: &[A], count: usize, pause: Pause, asking: Asking) -> Result<Answer>
    where
        A: Copy + Into<SocketAddr>,
    {
        self.command(&Command::Ask(dial(to, count, pause), asking))
    }

    /// Opens a connection; its number.
    pub fn open(&mut self, to: SocketAddr) -> Result<usize> {
        Ok(self.command(&Command::Open(to))?.opened)
    }

    /// Makes requests on an open connection.
    pub fn request(&mut self, connection: usize, requests: Requests) -> Result<Answer> {
        self.command(&Command::Use(connection, requests))
    }

    /// Carries out a command.
    pub fn command(&mut self, command: &Command) -> Result<Answer> {
        self.begin(command)?;
        self.end()
    }

    /// Gives a command, whose answer [`end`](Self::end) waits for: so that several diallers work at once.
    pub fn begin(&mut self, command: &Command) -> Result<()> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.stdin.write_all(&line).context("the dialler does not listen")
    }

    /// Waits for the answer to what was begun.
    pub fn end(&mut self) -> Result<Answer> {
        let mut answer = String::new();
        if self.stdout.read_line(&mut answer).context("answer of the dialler")? == 0 {
            bail!("the dialler ended: {:?}", self.process.exited()?);
        }
        serde_json::from_str(&answer).with_context(|| format!("answer of the dialler: {answer}"))
    }
}

/// What to dial, in turn.
pub fn dial<A: Copy + Into<SocketAddr>>(to: &[A], count: usize, pause: Pause) -> Dial {
    Dial { to: to.iter().map(|&addr| addr.into()).collect(), count, pause }
}

/// A process that accepts connections. Ends when dropped.
#[derive(Debug)]
pub struct Acceptor {
    _process: Process,
}

impl Acceptor {
    /// Starts one in a pod that closes connections at once and sends datagrams back, and waits until it listens on all
    /// ports.
    pub fn start(pod: &Pod, ports: &[u16]) -> Result<Self> {
        Self::of(pod, ports, Manner::Close)
    }

    /// The same for one that answers requests ([`Dialler::request`]).
    pub fn answering(pod: &Pod, ports: &[u16]) -> Result<Self> {
        Self::of(pod, ports, Manner::Answer)
    }

    fn of(pod: &Pod, ports: &[u16], manner: Manner) -> Result<Self> {
        let mut command = this_binary()?;
        command.arg(match manner {
            Manner::Close => "serve",
            Manner::Answer => "answer",
        });
        command.args(ports.iter().map(u16::to_string)).stdout(Stdio::piped());
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
