//! The pinned tables, read every few milliseconds: from when to when was what certain.
//!
//! A span begins after the reading that first saw it and ends before the one that saw it last, so that within it the
//! tables said so at every instant that was looked at. What is not within a span is not known.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use balancer_common::abi::{Backend, BackendState, FrontendKey};
use balancer_userspace::datapath::{Access, Maps, Pins, boot_ns};

/// Time between two readings.
const EVERY: Duration = Duration::from_millis(2);

/// For how long what is over is remembered.
const KEPT_NS: u64 = 60_000_000_000;

/// Readings between two clean-ups.
const CLEAN: u64 = 4096;

/// From when to when something was seen at every reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    from_ns: u64,
    until_ns: u64,
}

/// A backend for good: its id and generation.
pub type BackendKey = (u32, u32);

/// What one reading found.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// When it began and ended.
    pub at: (u64, u64),
    /// When the lease ends.
    pub lease_ns: u64,
    /// What is dialled and has backends.
    pub served: Vec<FrontendKey>,
    /// Backends by id: generation, and whether it may be chosen.
    pub backends: Vec<(u32, u32, bool)>,
}

/// What was certain when.
#[derive(Debug, Default)]
pub struct History {
    readings: u64,
    looked_ns: u64,
    leases: Vec<(u64, u64)>,
    served: HashMap<FrontendKey, Vec<Span>>,
    unusable: HashMap<BackendKey, Vec<Span>>,
    generations: HashMap<u32, u32>,
}

impl History {
    /// Takes a reading in.
    pub fn take(&mut self, reading: &Reading) {
        let (begun, ended) = reading.at;
        let before = self.looked_ns;
        self.readings += 1;
        if self.leases.last().is_none_or(|(_, lease)| *lease != reading.lease_ns) {
            self.leases.push((ended, reading.lease_ns));
        }
        for key in &reading.served {
            extend(self.served.entry(*key).or_default(), before, begun, ended);
        }
        for &(id, generation, usable) in &reading.backends {
            match self.generations.insert(id, generation) {
                // The id was handed out again: whoever had it has gone for good.
                Some(old) if old != generation => {
                    let spans = self.unusable.entry((id, old)).or_default();
                    extend(spans, before, begun, ended);
                    if let Some(last) = spans.last_mut() {
                        last.until_ns = u64::MAX;
                    }
                }
                _ => {}
            }
            if !usable {
                extend(self.unusable.entry((id, generation)).or_default(), before, begun, ended);
            }
        }
        self.looked_ns = begun;
        if self.readings.is_multiple_of(CLEAN) {
            self.forget(begun.saturating_sub(KEPT_NS));
        }
    }

    fn forget(&mut self, before_ns: u64) {
        let keep = |spans: &mut Vec<Span>| {
            let over = |span: &Span| match span.until_ns {
                u64::MAX => span.from_ns < before_ns,
                until => until < before_ns,
            };
            spans.retain(|span| !over(span));
            !spans.is_empty()
        };
        self.served.retain(|_, spans| keep(spans));
        self.unusable.retain(|_, spans| keep(spans));
        // The last one from before is still in force after.
        let old = self.leases.iter().rposition(|(from, _)| *from < before_ns).unwrap_or(0);
        self.leases.drain(..old);
    }

    /// When the last reading began: of what came later nothing is known yet.
    pub const fn looked_ns(&self) -> u64 {
        self.looked_ns
    }

    /// How often the tables were read.
    pub const fn readings(&self) -> u64 {
        self.readings
    }

    /// Whether the lease certainly held from one instant to another.
    pub fn leased(&self, from_ns: u64, until_ns: u64) -> bool {
        let in_force = self.leases.iter().rev().find(|(seen, _)| *seen <= from_ns);
        in_force.is_some_and(|(_, lease)| *lease > until_ns)
    }

    /// Whether something that is dialled certainly had backends from one instant to another.
    pub fn served(&self, key: &FrontendKey, from_ns: u64, until_ns: u64) -> bool {
        let spans = self.served.get(key).map_or(&[][..], Vec::as_slice);
        spans.iter().any(|span| span.from_ns <= from_ns && until_ns <= span.until_ns)
    }

    /// Since when a backend could certainly not be chosen, of the time in which it still could not at `at_ns`.
    pub fn unusable_since(&self, backend: BackendKey, at_ns: u64) -> Option<u64> {
        let spans = self.unusable.get(&backend).map_or(&[][..], Vec::as_slice);
        spans.iter().find(|span| span.from_ns <= at_ns && at_ns <= span.until_ns).map(|span| span.from_ns)
    }

    /// Whether a backend could not be chosen at any time between two instants, as far as was seen.
    pub fn was_unusable(&self, backend: BackendKey, from_ns: u64, until_ns: u64) -> bool {
        let spans = self.unusable.get(&backend).map_or(&[][..], Vec::as_slice);
        spans.iter().any(|span| span.from_ns <= until_ns && from_ns <= span.until_ns)
    }
}

/// Makes the last span longer if it reaches the reading before, else begins another.
fn extend(spans: &mut Vec<Span>, before_ns: u64, begun_ns: u64, ended_ns: u64) {
    match spans.last_mut() {
        // The first reading of a span leaves it empty: `until` before `from`.
        Some(last) if last.until_ns == before_ns => last.until_ns = begun_ns,
        Some(last) if last.until_ns == u64::MAX => {}
        _ => spans.push(Span { from_ns: ended_ns, until_ns: begun_ns }),
    }
}

/// The thread that reads, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
    slowest_ns: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins to read what is pinned.
    pub fn start(pins: PathBuf) -> Result<Self> {
        let maps = Maps::open(&Pins::new(pins), Access::Read).context("tables")?;
        let history = Arc::new(Mutex::new(History::default()));
        let (stop, slowest_ns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (into, stopped, slowest) = (Arc::clone(&history), Arc::clone(&stop), Arc::clone(&slowest_ns));
        let thread = thread::spawn(move || {
            let mut last = boot_ns();
            while !stopped.load(Ordering::Relaxed) {
                let reading = read(&maps);
                slowest.fetch_max(reading.at.1.saturating_sub(last), Ordering::Relaxed);
                last = reading.at.0;
                lock(&into).take(&reading);
                thread::sleep(EVERY);
            }
        });
        Ok(Self { history, stop, slowest_ns, thread: Some(thread) })
    }

    /// What it has seen.
    pub fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// The longest time between two readings.
    pub fn slowest(&self) -> Duration {
        Duration::from_nanos(self.slowest_ns.load(Ordering::Relaxed))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics; if it did, its output has said so.
            _ = thread.join();
        }
    }
}

fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(maps: &Maps) -> Reading {
    let begun = boot_ns();
    let lease_ns = maps.control().lease_expires_ns;
    let served =
        maps.services.iter().filter(|(_, it)| !it.slots.is_empty()).map(|(_, it)| it.frontend).collect();
    // An id that was never handed out is no backend.
    let used = |(id, it): (u32, Backend)| {
        let usable = BackendState::from_u16(it.state).is_usable();
        (it.generation != 0).then_some((id, it.generation, usable))
    };
    let backends = maps.backends.iter().filter_map(used).collect();
    Reading { at: (begun, boot_ns()), lease_ns, served, backends }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings take a unit and are ten apart.
    fn history(readings: &[(u64, bool, u32, bool)]) -> History {
        let mut history = History::default();
        for (n, &(lease_ns, served, generation, usable)) in readings.iter().enumerate() {
            let at = 10 * (n as u64 + 1);
            let served = if served { vec![FrontendKey::default()] } else { Vec::new() };
            let backends = vec![(7, generation, usable)];
            history.take(&Reading { at: (at, at + 1), lease_ns, served, backends });
        }
        history
    }

    #[test]
    fn a_lease_holds_until_it_ends_whatever_comes_later() {
        let history = history(&[(25, true, 1, true), (25, true, 1, true), (99, true, 1, true)]);
        assert!(history.leased(11, 24));
        assert!(!history.leased(11, 25), "it ends then");
        assert!(!history.leased(24, 26), "the renewal was seen at 31");
        assert!(history.leased(31, 98));
        assert!(!history.leased(10, 12), "nothing had been seen");
    }

    #[test]
    fn it_is_served_between_two_readings_that_say_so() {
        let key = FrontendKey::default();
        let history =
            history(&[(0, false, 1, true), (0, true, 1, true), (0, true, 1, true), (0, false, 1, true)]);
        assert!(history.served(&key, 21, 30));
        assert!(!history.served(&key, 20, 30));
        assert!(!history.served(&key, 21, 31), "it may have ended");
        assert!(!history.served(&key, 41, 41));
    }

    #[test]
    fn a_backend_is_out_of_use_between_two_readings_that_say_so() {
        let history =
            history(&[(0, true, 1, true), (0, true, 1, false), (0, true, 1, false), (0, true, 1, true)]);
        assert_eq!(history.unusable_since((7, 1), 25), Some(21));
        assert_eq!(history.unusable_since((7, 1), 20), None);
        assert_eq!(history.unusable_since((7, 1), 31), None, "it may be back");
        assert_eq!(history.unusable_since((7, 2), 25), None);
        assert!(history.was_unusable((7, 1), 5, 22) && !history.was_unusable((7, 1), 5, 15));
    }

    #[test]
    fn whoever_had_an_id_before_has_gone_for_good() {
        let history = history(&[(0, true, 1, true), (0, true, 2, true), (0, true, 2, true)]);
        assert_eq!(history.unusable_since((7, 1), 1_000_000), Some(21));
        assert_eq!(history.unusable_since((7, 2), 25), None);
    }

    #[test]
    fn what_is_long_over_is_forgotten() {
        let mut history = history(&[(0, true, 1, false), (0, true, 1, false), (0, false, 1, true)]);
        history.forget(21);
        assert!(history.served.is_empty() && history.unusable.is_empty());
        assert_eq!(history.leases.len(), 1);
    }
}
