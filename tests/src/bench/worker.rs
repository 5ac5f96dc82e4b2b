//! The child processes of the benchmark: one that dials in a tight loop and times every connect(), one
//! that accepts.
//!
//! They are the benchmark's own binary, started again in a pod. A dialler reads one JSON command a line
//! and answers with one JSON line; the order of all work is thereby the parent's.

use std::{
    fs,
    hint::black_box,
    io::{self, BufRead as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with, sockopt},
    process::{getpid, setpriority_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

/// A connect that takes longer counts as slow: a lost packet costs a second, a busy machine some
/// milliseconds.
pub const SLOW: Duration = Duration::from_millis(100);

/// What a dialler can be asked for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Move to a cgroup: sockets made from now on belong to it.
    Enter(PathBuf),
    /// Connect over TCP so often, to each destination in turn, and reset each connection at once.
    Tcp {
        /// Where to.
        to: Vec<SocketAddrV4>,
        /// How often.
        count: usize,
        /// What happens between two connects.
        pause: Pause,
    },
    /// Connect UDP sockets so often; nothing is sent.
    Udp {
        /// Where to.
        to: Vec<SocketAddrV4>,
        /// How often.
        count: usize,
        /// What happens between two connects.
        pause: Pause,
    },
}

/// What happens between two connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pause {
    /// Nothing: one after the other, all caches warm. Whether the server is still awake from the last
    /// connection is a matter of microseconds.
    None,
    /// Long enough for the server to fall asleep, as servers do, so that each connect has to wake it.
    ServerSleeps,
    /// The application works through `FOREIGN` bytes of its own, so that nothing of the last connect is
    /// left in the CPU's own caches.
    ColdCaches,
}

/// More than the caches that belong to one CPU hold.
const FOREIGN: usize = 6 << 20;

/// A server needs less than a tenth of it to close a connection and sleep, on an idle machine.
const SLEEP: Duration = Duration::from_micros(100);

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Time of each successful connect() in nanoseconds.
    pub connect_ns: Vec<u64>,
    /// Time from making the socket to having closed it, of the same connects.
    pub whole_ns: Vec<u64>,
    /// Time of all of it, sockets made and closed included.
    pub total_ns: u64,
    /// Connects that took longer than [`SLOW`], failed ones included.
    pub slow: usize,
    /// Connects that failed, by what the kernel said.
    pub failed: Vec<String>,
}

/// Goes before whatever else the machine is busy with, which is not a cost of any variant. Only noise is
/// gained where we may not.
fn hurry() {
    _ = setpriority_process(Some(getpid()), -20);
}

/// Serves commands from standard input until it ends. Dials from the first CPU.
pub fn dial() -> Result<()> {
    hurry();
    confine(0)?;
    let (stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    for line in stdin.lines() {
        let answer = match serde_json::from_str(&line?)? {
            Command::Enter(cgroup) => {
                fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| cgroup.display().to_string())?;
                Answer::default()
            }
            Command::Tcp { to, count, pause } => run(&to, count, SocketType::STREAM, pause)?,
            Command::Udp { to, count, pause } => run(&to, count, SocketType::DGRAM, pause)?,
        };
        serde_json::to_writer(&mut stdout, &answer)?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    Ok(())
}

fn run(to: &[SocketAddrV4], count: usize, kind: SocketType, pause: Pause) -> Result<Answer> {
    let mut answer = Answer {
        connect_ns: Vec::with_capacity(count),
        whole_ns: Vec::with_capacity(count),
        ..Answer::default()
    };
    let mut foreign = vec![1_u64; if pause == Pause::ColdCaches { FOREIGN / 8 } else { 0 }];
    let all_begun = Instant::now();
    for addr in to.iter().cycle().take(count) {
        match pause {
            Pause::None => {}
            Pause::ServerSleeps => {
                // Not by sleeping, or the CPU would sleep too.
                let begun = Instant::now();
                while begun.elapsed() < SLEEP {
                    std::hint::spin_loop();
                }
            }
            // A word of each line, changed.
            Pause::ColdCaches => foreign.iter_mut().step_by(8).for_each(|word| *word = black_box(*word + 1)),
        }
        let begun = Instant::now();
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None).context("socket")?;
        if kind == SocketType::STREAM {
            // close() resets: no TIME_WAIT, which would use up the ports.
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        }
        let before = Instant::now();
        let result = connect(&socket, addr);
        let took = before.elapsed();
        drop(socket);
        answer.slow += usize::from(took > SLOW);
        match result {
            Ok(()) => {
                answer.connect_ns.push(took.as_nanos() as u64);
                answer.whole_ns.push(begun.elapsed().as_nanos() as u64);
            }
            Err(error) => answer.failed.push(format!("{addr}: {error}")),
        }
    }
    answer.total_ns = all_begun.elapsed().as_nanos() as u64;
    Ok(answer)
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

/// Accepts on all IPv4 addresses of these ports until it is killed, as servers do: a thread for each port,
/// asleep until a connection comes, on the second CPU. Says so on standard output once it listens.
pub fn serve(ports: &[u16]) -> Result<()> {
    hurry();
    confine(1)?;
    let listeners = ports.iter().map(|&port| listener(port)).collect::<Result<Vec<_>>>()?;
    io::stdout().write_all(b"listening\n")?;
    io::stdout().flush()?;
    thread::scope(|scope| {
        let threads: Vec<_> =
            listeners.iter().map(|listener| scope.spawn(move || accept_all(listener))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn listener(port: u16) -> Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).context("socket")?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("port {port}"))?;
    listen(&socket, 65_535)?;
    Ok(socket)
}

fn accept_all(listener: &OwnedFd) -> Result<()> {
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => drop(socket),
            // The client is gone already.
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
            Err(error) => bail!("accept: {error}"),
        }
    }
}

/// The IPv4 address of a [`SocketAddr`], which all of the benchmark's are.
pub fn v4(addr: SocketAddr) -> SocketAddrV4 {
    match addr {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(addr) => unreachable!("{addr} is not IPv4"),
    }
}
