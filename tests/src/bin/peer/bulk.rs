//! Many connections: held open, or one after the other.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use balancer_tests::{
    input::Input,
    peer::protocol::{
        Ask, Close, HoldReport, Kind, LoopPlan, LoopReport, Percentiles, Request, Until, errno_name,
    },
};
use rustix::io::Errno;

use crate::sockets;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connect() that took longer is slow.
const SLOW: Duration = Duration::from_millis(100);

/// Connections held open, oldest first.
#[derive(Default)]
pub struct Held {
    open: VecDeque<OwnedFd>,
    failures: BTreeMap<String, u64>,
}

impl Held {
    /// Opens more.
    pub fn open(&mut self, count: u64, to: SocketAddr, kind: Kind) {
        for _ in 0..count {
            match connected(kind, to) {
                Ok(fd) => self.open.push_back(fd),
                Err(failure) => count_one(&mut self.failures, failure),
            }
        }
    }

    /// Asks on each who is there.
    pub fn ask(&mut self) -> BTreeMap<String, u64> {
        let mut pods = BTreeMap::new();
        for fd in &self.open {
            match sockets::ask(fd) {
                Ok(identity) => count_one(&mut pods, identity.pod),
                Err(errno) => count_one(&mut self.failures, failure("answer", errno)),
            }
        }
        pods
    }

    /// Closes the oldest.
    pub fn release(&mut self, count: u64, how: Close) -> Result<(), Errno> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.open.len());
        self.open.drain(..count).try_for_each(|fd| sockets::close(fd, how))
    }

    /// Closes those that the other side ended.
    pub fn release_broken(&mut self) -> Result<(), Errno> {
        let mut kept = VecDeque::new();
        for fd in self.open.drain(..) {
            if !sockets::is_broken(&fd)? {
                kept.push_back(fd);
            }
        }
        self.open = kept;
        Ok(())
    }

    /// How they are; failures are counted anew from here.
    pub fn report(&mut self) -> Result<HoldReport, Errno> {
        let mut broken = 0;
        for fd in &self.open {
            broken += u64::from(sockets::is_broken(fd)?);
        }
        let failures = std::mem::take(&mut self.failures);
        Ok(HoldReport { held: self.open.len() as u64, broken, failures, pods: BTreeMap::new() })
    }
}

/// A connected socket, or the step and the error.
fn connected(kind: Kind, to: SocketAddr) -> Result<OwnedFd, String> {
    let fd = sockets::open(kind).map_err(|errno| failure("socket", errno))?;
    sockets::receive_timeout(&fd, ANSWER_TIMEOUT).map_err(|errno| failure("socket", errno))?;
    sockets::dial(&fd, to).map_err(|errno| failure("connect", errno))?;
    Ok(fd)
}

/// Runs a loop until its end or a [`Request::Stop`].
pub fn run(plan: &LoopPlan, input: &mut Input) -> Result<LoopReport> {
    let mut report = LoopReport::default();
    let mut samples = Vec::new();
    let start = Instant::now();
    loop {
        let over = match plan.until {
            Until::Count(count) => report.attempts >= count,
            Until::Millis(millis) => start.elapsed() >= Duration::from_millis(millis),
            Until::Told => false,
        };
        if over || stopped(input)? {
            break;
        }
        report.attempts += 1;
        if let Err(failure) = attempt(plan, &mut report, &mut samples) {
            count_one(&mut report.failures, failure);
        }
        if plan.pause_us > 0 {
            thread::sleep(Duration::from_micros(plan.pause_us));
        }
    }
    report.elapsed_ns = nanos(start.elapsed());
    report.connect = Percentiles::of(&mut samples);
    Ok(report)
}

/// One connection from socket() to close(). Only connect() is timed.
fn attempt(plan: &LoopPlan, report: &mut LoopReport, samples: &mut Vec<u64>) -> Result<(), String> {
    let fd = sockets::open(plan.kind).map_err(|errno| failure("socket", errno))?;
    let start = Instant::now();
    let result = sockets::dial(&fd, plan.to);
    let took = start.elapsed();
    result.map_err(|errno| failure("connect", errno))?;
    samples.push(nanos(took));
    report.slow += u64::from(took > SLOW);
    if plan.ask == Ask::Identity {
        sockets::receive_timeout(&fd, ANSWER_TIMEOUT).map_err(|errno| failure("socket", errno))?;
        let identity = sockets::ask(&fd).map_err(|errno| failure("answer", errno))?;
        count_one(&mut report.pods, identity.pod);
    }
    sockets::close(fd, plan.close).map_err(|errno| failure("close", errno))
}

/// Whether a stop has arrived. The end of the input is one too: nobody waits for the report.
fn stopped(input: &mut Input) -> Result<bool> {
    if !input.wait(Some(Duration::ZERO)).context("stdin")? {
        return Ok(false);
    }
    let Some(line) = input.next_line().context("stdin")? else { return Ok(true) };
    match serde_json::from_str(&line).with_context(|| format!("request {line}"))? {
        Request::Stop => Ok(true),
        other => bail!("{other:?} while a loop runs"),
    }
}

fn failure(step: &str, errno: Errno) -> String {
    format!("{step} {}", errno_name(errno))
}

fn count_one(counts: &mut BTreeMap<String, u64>, key: String) {
    *counts.entry(key).or_default() += 1;
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
