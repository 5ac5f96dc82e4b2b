//! The child processes of the benchmark: one that dials in a tight loop and times every connect(), one
//! that accepts and answers.
//!
//! They are the benchmark's own binary, started again in a pod. A dialler reads one JSON command a line
//! and answers with one JSON line; the order of all work is thereby the parent's.

mod connects;
mod datagrams;
mod serve;
mod streams;

use std::{
    fs,
    io::{self, BufRead as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    net::{AddressFamily, SocketType},
    process::{getpid, setpriority_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

pub use self::{
    datagrams::MESSAGE,
    serve::{Manner, serve},
};

/// A connect that takes longer counts as slow: a lost packet costs a second, a busy machine some
/// milliseconds.
pub const SLOW: Duration = Duration::from_millis(100);

/// What a dialler can be asked for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Move to a cgroup: sockets made from now on belong to it.
    Enter(PathBuf),
    /// Connect over TCP so often, to each destination in turn, and reset each connection at once.
    Tcp(Dial),
    /// Connect UDP sockets so often; nothing is sent.
    Udp(Dial),
    /// Ask and be answered so often over UDP, as resolvers do: each time a socket of its own.
    Ask(Dial, Asking),
    /// Connect over TCP and keep the connection: the answer's `opened` is its number.
    Open(SocketAddr),
    /// Make requests on the connection of this number.
    Use(usize, Requests),
}

/// Sockets, one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dial {
    /// Where to.
    pub to: Vec<SocketAddr>,
    /// How often.
    pub count: usize,
    /// What happens between two.
    pub pause: Pause,
}

/// How a question is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asking {
    /// On a socket that is connected first.
    Connected,
    /// By sendto(), and answered into recvfrom().
    Unconnected,
}

/// Requests on one connection, each answered before the next.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Requests {
    /// How many.
    pub count: usize,
    /// Bytes of each.
    pub size: usize,
    /// Bytes of each answer.
    pub answer: usize,
}

/// What happens between two connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pause {
    /// Nothing: one after the other, all caches warm. Whether the server is still awake from the last
    /// connection is a matter of microseconds.
    None,
    /// Long enough for the server to fall asleep, as servers do, so that each connect has to wake it.
    ServerSleeps,
    /// The application works through some mebibytes of its own, so that nothing of the last connect is
    /// left in the CPU's own caches.
    ColdCaches,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Time of each successful connect() in nanoseconds; with [`Command::Ask`] from before the question to the answer.
    pub connect_ns: Vec<u64>,
    /// Time from making the socket to having closed it, of the same connects.
    pub whole_ns: Vec<u64>,
    /// Time of all of it, sockets made and closed included.
    pub total_ns: u64,
    /// Processor time of the dialler and, for requests, of who answered them.
    pub cpu_ns: u64,
    /// Connects that took longer than [`SLOW`], failed ones included.
    pub slow: usize,
    /// The number of the connection that was opened.
    pub opened: usize,
    /// Connects that failed, by what the kernel said.
    pub failed: Vec<String>,
}

/// Goes before whatever else the machine is busy with, which is not a cost of any variant. Only noise is
/// gained where we may not.
fn hurry() {
    _ = setpriority_process(Some(getpid()), -20);
}

/// Serves commands from standard input until it ends. Dials from one CPU: the `cpu`th that it may use.
pub fn dial(cpu: usize) -> Result<()> {
    hurry();
    confine(cpu)?;
    let (stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    let mut streams = streams::Streams::default();
    for line in stdin.lines() {
        let answer = match serde_json::from_str(&line?)? {
            Command::Enter(cgroup) => {
                fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| cgroup.display().to_string())?;
                Answer::default()
            }
            Command::Tcp(dial) => connects::run(&dial, SocketType::STREAM)?,
            Command::Udp(dial) => connects::run(&dial, SocketType::DGRAM)?,
            Command::Ask(dial, asking) => datagrams::run(&dial, asking)?,
            Command::Open(to) => streams.open(to)?,
            Command::Use(number, requests) => streams.request(number, requests)?,
        };
        serde_json::to_writer(&mut stdout, &answer)?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    Ok(())
}

const fn family(addr: &SocketAddr) -> AddressFamily {
    match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

/// CPUs that this process may use.
pub fn cpus() -> Result<usize> {
    let may = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| may.is_set(cpu)).count())
}

/// Confines this thread, and those that it starts, to one CPU: the `index`th that it may use, or the last.
fn confine(index: usize) -> Result<()> {
    let may = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| may.is_set(cpu));
    let last = cpus.clone().next_back();
    let cpu = cpus.nth(index).or(last).context("no CPU to run on")?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).with_context(|| format!("CPU {cpu}"))
}
