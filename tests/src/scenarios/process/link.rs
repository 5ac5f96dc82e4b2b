//! The parent's side of the processes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use super::{ClientCommand, ClientPlan, ClientReport, Served, ServerCommand, ServerPlan};
use crate::topology::{Pod, Process};

/// Lines of standard input, read by a thread that sleeps in between.
pub(super) fn lines() -> mpsc::UnboundedReceiver<String> {
    let (tell, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A child and its two pipes.
#[derive(Debug)]
struct Link {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    process: Process,
}

impl Link {
    fn start(pod: &Pod, role: &str, plan: &impl Serialize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("path of this program")?);
        command.arg(role).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = pod.spawn(command)?;
        let stdin = process.child().stdin.take().context("stdin")?;
        let stdout = process.child().stdout.take().context("stdout")?;
        let mut link = Self { stdin, stdout: BufReader::new(stdout), process };
        link.tell(plan)?;
        Ok(link)
    }

    fn tell(&mut self, what: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.stdin.write_all(&line).context("the process does not listen")
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut answer = String::new();
        let read = self.stdout.read_line(&mut answer).context("answer")?;
        ensure!(read > 0, "the process ended: {:?}", self.process.exited()?);
        serde_json::from_str(&answer).with_context(|| format!("answer: {answer}"))
    }
}

/// A server. Killed when dropped.
#[derive(Debug)]
pub struct Server(Link);

impl Server {
    /// Starts one in a pod and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(pod: &Pod, plan: &ServerPlan) -> Result<Self> {
        let mut link = Link::start(pod, "serve", plan)?;
        link.hear::<Served>().with_context(|| format!("the server in {}", pod.name()))?;
        Ok(Self(link))
    }

    /// What it has open and has answered.
    ///
    /// # Errors
    /// When it has ended.
    pub fn stats(&mut self) -> Result<Served> {
        self.ask(ServerCommand::Stats)
    }

    /// From now on it refuses connections.
    ///
    /// # Errors
    /// When it has ended.
    pub fn refuse(&mut self) -> Result<Served> {
        self.ask(ServerCommand::Refuse)
    }

    /// It ends in order; what it has answered in all.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn end(mut self) -> Result<Served> {
        self.ask(ServerCommand::End)
    }

    fn ask(&mut self, command: ServerCommand) -> Result<Served> {
        self.0.tell(&command)?;
        self.0.hear()
    }
}

/// A client. Killed when dropped.
#[derive(Debug)]
pub struct Client(Link);

impl Client {
    /// Starts one in a pod.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(pod: &Pod, plan: &ClientPlan) -> Result<Self> {
        Link::start(pod, "client", plan).map(Self)
    }

    /// Waits until each of its connections has had an answer.
    ///
    /// # Errors
    /// When it has ended.
    pub fn wait_ready(&mut self) -> Result<()> {
        let word: String = self.0.hear()?;
        ensure!(word == "ready", "the client said {word}");
        Ok(())
    }

    /// From now on new connections go to these.
    ///
    /// # Errors
    /// When it has ended.
    pub fn targets(&mut self, targets: Vec<SocketAddr>) -> Result<()> {
        self.0.tell(&ClientCommand::Targets(targets))
    }

    /// What is counted "since the mark" begins here.
    ///
    /// # Errors
    /// When it has ended.
    pub fn mark(&mut self) -> Result<()> {
        self.0.tell(&ClientCommand::Mark)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it has ended by itself.
    pub fn end(mut self) -> Result<ClientReport> {
        self.0.tell(&ClientCommand::End)?;
        self.0.hear()
    }
}
