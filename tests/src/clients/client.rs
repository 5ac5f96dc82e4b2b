//! The client of a row: its process, and what it says.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{library::Library, lines::Lines, parts::Places, words};
use crate::topology::{Pod, Process, interrupted};

/// How long it gets to open its connections.
const START: Duration = Duration::from_secs(40);

/// How long it gets to finish what is under way: no request is waited for longer than ten seconds.
const STOP: Duration = Duration::from_secs(20);

/// What a client shall do.
#[derive(Clone, Debug)]
pub struct Load<'r> {
    /// The Service's address and port.
    pub target: SocketAddr,
    /// How many connections it holds.
    pub connections: usize,
    /// How long each is silent between bursts.
    pub think: RangeInclusive<Duration>,
    /// How long a request takes at most.
    pub delay: Duration,
    /// The file of the authority that it trusts, for TLS.
    pub authority: Option<&'r Path>,
}

/// A client. Dropping it kills it.
#[derive(Debug)]
pub struct Client {
    process: Process,
    said: Lines,
    complaints: Lines,
}

impl Client {
    /// Starts it in a pod, and waits until each of its workers has had an answer.
    pub fn start(pod: &Pod, library: &Library, places: &Places, load: &Load<'_>) -> Result<Self> {
        let mut command = library.command(places);
        command
            .env("CLIENT_TARGET", load.target.to_string())
            .env("CLIENT_CONNECTIONS", load.connections.to_string())
            .env("CLIENT_BURST", library.burst.to_string())
            .env("CLIENT_DELAY_MS", load.delay.as_millis().to_string())
            .env("CLIENT_THINK_MIN_MS", load.think.start().as_millis().to_string())
            .env("CLIENT_THINK_MAX_MS", load.think.end().as_millis().to_string());
        match load.authority {
            Some(path) => command.env("CLIENT_CA", path),
            None => command.env_remove("CLIENT_CA"),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = pod.spawn(command)?;
        let Child { stdout, stderr, .. } = process.child();
        let said = Lines::of(stdout.take().context("stdout of the client")?);
        let complaints = Lines::of(stderr.take().context("stderr of the client")?);
        let mut client = Self { process, said, complaints };
        client.wait_answered(load.connections)?;
        Ok(client)
    }

    fn wait_answered(&mut self, workers: usize) -> Result<()> {
        let deadline = Instant::now() + START;
        // Workers begin with number 0, each with a request 0.
        while (0..workers).any(|worker| self.said.count(&format!("ok {worker}-0")) == 0) {
            self.check_runs()?;
            if interrupted() {
                bail!("interrupted");
            }
            if Instant::now() >= deadline {
                bail!("not all of {workers} workers were answered within {START:?}; {}", self.last_words());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Fails if it has ended by itself.
    pub fn check_runs(&mut self) -> Result<()> {
        match self.process.exited()? {
            None => Ok(()),
            Some(status) => bail!("the client ended by itself ({status}); {}", self.last_words()),
        }
    }

    /// Lets it finish, and returns what it has said. One that does not end is killed: what it then still waits for, it was never
    /// told the end of.
    pub fn stop(mut self) -> Result<words::Client> {
        self.check_runs()?;
        drop(self.process.child().stdin.take());
        match self.process.wait(STOP) {
            Ok(status) if !status.success() => bail!("the client ended with {status}; {}", self.last_words()),
            Ok(_) => {}
            Err(_) => drop(self.process.kill()?),
        }
        words::Client::read(&self.said.finish())
    }

    fn last_words(&self) -> String {
        format!("it said:\n{}\n{}", self.said.tail(5), self.complaints.tail(15))
    }
}
