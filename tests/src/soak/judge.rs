//! What workers wrote down, against what is known of the world and of the tables at that time.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    ledger::{Ledger, Whom, seconds},
    record::{Chosen, Goal, Record, Step},
    services::{Front, SPECS},
    tally::{Invariant, Tally},
    watcher::{History, Watcher},
};

/// How long after its removal was applied a backend may still be chosen.
pub const GRACE_NS: u64 = 50_000_000;

/// Why a connection ended that was held.
const MOVED: &str = "moved while idle";

/// Why a question on one was not answered.
const CUT: &str = "request cut by a move";

/// What a record is judged by.
pub struct Bench {
    /// What was done to the world.
    pub ledger: Arc<Ledger>,
    /// What the tables said.
    pub watcher: Arc<Watcher>,
    /// Where it is counted.
    pub tally: Arc<Tally>,
    /// What is dialled.
    pub fronts: Vec<Front>,
    /// Pods by their addresses.
    pub pods: HashMap<IpAddr, usize>,
}

/// The thread that judges, until it is dropped.
pub struct Judge {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Judge {
    /// Begins.
    pub fn start(bench: Bench, records: Receiver<Record>, pending: Arc<AtomicU64>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut waiting: VecDeque<Record> = VecDeque::new();
            while !stopped.load(Ordering::Relaxed) {
                match records.recv_timeout(Duration::from_millis(20)) {
                    Ok(record) => waiting.push_back(record),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                waiting.extend(records.try_iter());
                // Of what came later than the last reading the tables have not said anything yet.
                let history = bench.watcher.history();
                let looked = history.looked_ns();
                let mut judged = 0;
                waiting.retain(|record| {
                    let ready = record.ended_ns() < looked;
                    if ready {
                        bench.judge(record, &history);
                        judged += 1;
                    }
                    !ready
                });
                drop(history);
                pending.fetch_sub(judged, Ordering::SeqCst);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked its output has said so, and its checks are missing from the report.
            _ = thread.join();
        }
    }
}

impl Bench {
    fn judge(&self, record: &Record, history: &History) {
        match record {
            Record::Connect { goal, at, chosen, failed, .. } => {
                self.tally.client(match goal {
                    Goal::Front(_) => "connects",
                    Goal::Direct(..) => "direct connects",
                });
                if let Some(chosen) = chosen {
                    self.tally.judge(
                        Invariant::NotRemoved,
                        not_removed(history, *chosen, *at).map_err(|late| {
                            format!("{} was sent to {}, which {late}", self.goal(*goal), self.target(*chosen))
                        }),
                    );
                }
                let outcome = match failed {
                    Some((step, how)) => {
                        self.tally.client("failed connects");
                        self.failure(*goal, *chosen, [at[0], at[1], at[2]], *step, how, history)
                    }
                    None => self.success(record),
                };
                self.verdict(outcome);
            }
            Record::Ended { goal, chosen, at: [worked, seen], how } => {
                self.tally.client("held connections that ended");
                let outcome = match self.moved(*goal, how) {
                    Some(why) => Ok(Some(why.to_owned())),
                    None => self.cut(*goal, *chosen, [*worked, *seen], how, history),
                };
                self.verdict(outcome);
            }
            Record::Asked { goal, chosen, at, failed } => {
                self.tally.client("questions on held connections");
                let outcome = match failed {
                    None => Ok(None),
                    Some(how) => {
                        let outcome = self.cut(*goal, *chosen, *at, how, history);
                        outcome.or_else(|text| self.cut_by_a_move(*goal, how).ok_or(text).map(Some))
                    }
                };
                self.verdict(outcome);
            }
            Record::Paused { .. } => {}
        }
    }

    fn verdict(&self, outcome: Result<Option<String>, String>) {
        match outcome {
            Ok(None) => self.tally.checked(Invariant::NoFailure),
            Ok(Some(why)) => {
                self.tally.checked(Invariant::NoFailure);
                self.tally.excused(&why);
            }
            Err(text) => self.tally.judge(Invariant::NoFailure, Err(text)),
        }
    }

    /// Who answered is who was chosen, and the application sees what it dialled.
    fn success(&self, record: &Record) -> Result<Option<String>, String> {
        let Record::Connect { goal, chosen, answered, peer, .. } = record else { return Ok(None) };
        if let (Some(chosen), Some(answered)) = (chosen, answered)
            && chosen.target != *answered
        {
            let who = self.target(*chosen);
            return Err(format!("{}: {who} was chosen, and {answered} answered", self.goal(*goal)));
        }
        match (goal, chosen, peer) {
            (Goal::Front(_), None, _) => {
                Err(format!("{}: it was answered, and no choice is recorded", self.goal(*goal)))
            }
            (Goal::Direct(..), Some(_), _) => Err(format!("{}: it was translated", self.goal(*goal))),
            (_, _, Some(peer)) => {
                Err(format!("{}: the application saw {peer} as its peer", self.goal(*goal)))
            }
            _ => Ok(None),
        }
    }

    /// Why a connect could fail.
    fn failure(
        &self,
        goal: Goal,
        chosen: Option<Chosen>,
        [begun, returned, ended]: [u64; 3],
        step: Step,
        how: &str,
        history: &History,
    ) -> Result<Option<String>, String> {
        if let (Goal::Front(front), None) = (goal, chosen) {
            let front = self.fronts[front];
            return match pass_through(history, &front, begun, returned) {
                Some(why) => Ok(Some(why.to_owned())),
                None => match self.ledger.excuse(Whom::Service(front.service), begun, ended) {
                    Some(why) => Ok(Some(format!("Service {why}"))),
                    None => Err(format!(
                        "{}: left alone ({how}) {:.3} s ago, though the lease held and it had backends",
                        self.goal(goal),
                        seconds(history.looked_ns() - begun)
                    )),
                },
            };
        }
        let step = match step {
            Step::Connect => "connect",
            Step::Answer => "answer",
        };
        self.cut(goal, chosen, [begun, ended], &format!("{step}: {how}"), history)
    }

    /// Whether a connection may have been ended between two requests, because it was idle and should be elsewhere.
    fn moved(&self, goal: Goal, how: &str) -> Option<&'static str> {
        let Goal::Front(front) = goal else { return None };
        let moves = SPECS[self.fronts[front].service].moves;
        (moves && ["end of stream", "ECONNABORTED"].contains(&how)).then_some(MOVED)
    }

    /// What is written in the tens of microseconds between the last look and the shutdown is lost, as the manual says: that may
    /// be one request in a thousand moves, and one where there were fewer.
    fn cut_by_a_move(&self, goal: Goal, how: &str) -> Option<String> {
        self.moved(goal, how)?;
        let counts = self.tally.counts();
        let of = |why: &str| counts.excused.get(why).copied().unwrap_or(0);
        (of(CUT) <= of(MOVED) / 1000).then(|| CUT.to_owned())
    }

    /// Why a connection to a pod could fail or end.
    fn cut(
        &self,
        goal: Goal,
        chosen: Option<Chosen>,
        [from, until]: [u64; 2],
        how: &str,
        history: &History,
    ) -> Result<Option<String>, String> {
        let pod = match (goal, chosen) {
            (Goal::Direct(pod, _), _) => Some(pod),
            (_, Some(chosen)) => self.pods.get(&chosen.target.ip()).copied(),
            (_, None) => None,
        };
        let excuse = pod.and_then(|pod| self.ledger.excuse(Whom::Pod(pod), from, until));
        if let Some(why) = excuse {
            return Ok(Some(format!("pod {why}")));
        }
        if let Some(chosen) = chosen
            && history.was_unusable((chosen.backend, chosen.generation), from, until)
        {
            return Ok(Some("backend removed".to_owned()));
        }
        let to = chosen.map_or_else(String::new, |chosen| format!(" (sent to {})", self.target(chosen)));
        Err(format!(
            "{}{to}: {how}, {:.3} s after it began or worked last, and nothing was done to that pod",
            self.goal(goal),
            seconds(until - from)
        ))
    }

    fn goal(&self, goal: Goal) -> String {
        match goal {
            Goal::Front(front) => self.fronts[front].name(),
            Goal::Direct(pod, transport) => format!("pod {pod} directly by {transport:?}"),
        }
    }

    fn target(&self, chosen: Chosen) -> String {
        let pod = self.pods.get(&chosen.target.ip());
        let pod = pod.map_or_else(|| "no pod".to_owned(), |pod| format!("pod {pod}"));
        format!("{pod} at {} (backend {}, generation {})", chosen.target, chosen.backend, chosen.generation)
    }
}

/// No backend is chosen by a connect that began later than [`GRACE_NS`] after its removal was applied, and that had
/// returned before it was back; else how late it was.
pub fn not_removed(history: &History, chosen: Chosen, [begun, returned, _]: [u64; 3]) -> Result<(), String> {
    let since = history.unusable_since((chosen.backend, chosen.generation), returned);
    match since.map(|since| begun.saturating_sub(since)) {
        Some(late) if late > GRACE_NS => Err(format!("had been removed {:.1} ms before", late as f64 / 1e6)),
        _ => Ok(()),
    }
}

/// Why a connect could be left alone.
pub fn pass_through(history: &History, front: &Front, from_ns: u64, until_ns: u64) -> Option<&'static str> {
    if !history.leased(from_ns, until_ns) {
        return Some("lease lapsed");
    }
    (!history.served(&front.key(), from_ns, until_ns)).then_some("no backends")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::{services::fronts, watcher::Reading};

    const MS: u64 = 1_000_000;

    /// Readings each millisecond; what is dialled is served and leased, and the backend usable, from and to these times.
    fn history(served: [u64; 2], leased_until: u64, usable: [u64; 2]) -> History {
        let mut history = History::default();
        for ms in 1..1000 {
            let within = |[from, until]: [u64; 2]| from <= ms && ms < until;
            history.take(&Reading {
                at: (ms * MS, ms * MS + 1),
                lease_ns: leased_until * MS,
                served: if within(served) { vec![fronts()[0].key()] } else { Vec::new() },
                backends: vec![(9, 1, within(usable))],
            });
        }
        history
    }

    fn chosen() -> Chosen {
        Chosen { backend: 9, generation: 1, target: "10.244.0.3:8080".parse().unwrap() }
    }

    #[test]
    fn a_backend_that_was_removed_may_be_chosen_for_50_ms_more() {
        let history = history([0, 1000], 1000, [0, 100]);
        let at = |begun: u64, returned: u64| not_removed(&history, chosen(), [begun * MS, returned * MS, 0]);
        assert_eq!(at(90, 95), Ok(()));
        assert_eq!(at(140, 145), Ok(()));
        assert_eq!(at(160, 161), Err("had been removed 60.0 ms before".to_owned()));
    }

    #[test]
    fn one_that_may_be_back_may_be_chosen() {
        let mut history = history([0, 1000], 1000, [0, 100]);
        history.take(&Reading {
            at: (1000 * MS, 1001 * MS),
            backends: vec![(9, 1, true)],
            ..Reading::default()
        });
        let at = [990 * MS, 1000 * MS, 0];
        assert_eq!(not_removed(&history, chosen(), at), Ok(()));
        assert!(not_removed(&history, chosen(), [990 * MS, 998 * MS, 0]).is_err());
    }

    #[test]
    fn being_left_alone_takes_a_reason() {
        let history = history([100, 200], 150, [0, 1000]);
        let why = |from: u64, until: u64| pass_through(&history, &fronts()[0], from * MS, until * MS);
        assert_eq!(why(50, 51), Some("no backends"));
        assert_eq!(why(99, 110), Some("no backends"));
        assert_eq!(why(110, 120), None, "this is a finding");
        assert_eq!(why(140, 151), Some("lease lapsed"));
        assert_eq!(pass_through(&history, &fronts()[1], 110 * MS, 120 * MS), Some("no backends"));
    }
}
