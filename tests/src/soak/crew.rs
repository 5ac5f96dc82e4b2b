//! The workers of a soak, from the side of the soak.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::record::{Order, Plan, Record};
use crate::topology::{Pod, Process};

/// How long a worker may take to finish what it is at, which may be a datagram that is sent four times.
const PATIENCE: Duration = Duration::from_secs(30);

/// A worker.
struct Member {
    process: Process,
    stdin: ChildStdin,
    paused: Receiver<usize>,
}

/// All of them; they end when this is dropped.
pub struct Crew {
    members: Vec<Member>,
    records: Sender<Record>,
    /// Records that have been sent and not been judged.
    pending: Arc<AtomicU64>,
}

impl Crew {
    /// Nobody yet. What workers write down comes out at the other end.
    pub fn new() -> (Self, Receiver<Record>, Arc<AtomicU64>) {
        let (records, receiver) = channel();
        let pending = Arc::new(AtomicU64::new(0));
        (Self { members: Vec::new(), records, pending: Arc::clone(&pending) }, receiver, pending)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Starts one in a pod.
    pub fn hire(&mut self, pod: &Pod, plan: &Plan) -> Result<()> {
        let member = self.start(pod, plan)?;
        self.members.push(member);
        Ok(())
    }

    /// SIGKILL: the kernel closes all that a worker holds. Another one takes its place.
    pub fn replace(&mut self, worker: usize, pod: &Pod, plan: &Plan) -> Result<()> {
        self.members[worker].process.kill()?;
        self.members[worker] = self.start(pod, plan)?;
        Ok(())
    }

    fn start(&self, pod: &Pod, plan: &Plan) -> Result<Member> {
        // Not by its path: a build may put another program there while a soak runs.
        let mut command = Command::new("/proc/self/exe");
        command.arg("work").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = pod.spawn(command)?;
        let mut stdin = process.child().stdin.take().context("stdin of a worker")?;
        let stdout = process.child().stdout.take().context("stdout of a worker")?;
        write(&mut stdin, plan)?;
        let (say, paused) = channel();
        let (records, pending) = (self.records.clone(), Arc::clone(&self.pending));
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // The last line of a worker that was killed may be a piece of one.
                let Ok(record) =
                    line.map_err(drop).and_then(|line| serde_json::from_str(&line).map_err(drop))
                else {
                    break;
                };
                let sent = match record {
                    Record::Paused { held } => say.send(held).is_ok(),
                    record => {
                        pending.fetch_add(1, Ordering::SeqCst);
                        records.send(record).is_ok()
                    }
                };
                if !sent {
                    break;
                }
            }
        });
        Ok(Member { process, stdin, paused })
    }

    /// All stand still when this returns: how many connections they hold.
    pub fn pause(&mut self) -> Result<usize> {
        self.members.iter_mut().try_for_each(|member| write(&mut member.stdin, &Order::Pause))?;
        self.answers()
    }

    /// All close what they hold, while they stand still.
    pub fn drop_all(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| write(&mut member.stdin, &Order::Drop))?;
        self.answers().map(drop)
    }

    /// All go on.
    pub fn go(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| write(&mut member.stdin, &Order::Go))
    }

    fn answers(&mut self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        let mut held = 0;
        for (worker, member) in self.members.iter_mut().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            match member.paused.recv_timeout(left) {
                Ok(count) => held += count,
                Err(error) => bail!(
                    "worker {worker} does not answer ({error}; process {} {:?})",
                    member.process.id(),
                    member.process.exited()?
                ),
            }
        }
        Ok(held)
    }

    /// Fails if one has ended by itself.
    pub fn all_run(&mut self) -> Result<()> {
        for (worker, member) in self.members.iter_mut().enumerate() {
            if let Some(status) = member.process.exited()? {
                bail!("worker {worker} ended by itself: {status}");
            }
        }
        Ok(())
    }
}

fn write(stdin: &mut ChildStdin, line: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_vec(line).context("order")?;
    text.push(b'\n');
    stdin.write_all(&text).context("a worker does not listen")
}
