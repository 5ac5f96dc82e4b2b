//! What was done to the world, and when: a connect that fails for nothing that stands here is a finding.
//!
//! An entry begins before the deed and ends after it is undone, so that whatever the deed can cause overlaps it. Times
//! are those of the programs' clock.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use balancer_userspace::datapath::boot_ns;

/// For how long entries that have ended are kept. A connection may be asked the first time after so long.
const KEPT_NS: u64 = 600_000_000_000;

/// Events that a failure is told with.
const EVENTS: usize = 80;

/// What something was done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The server in a pod, or the way to it.
    Pod(usize),
    /// A Service as a whole: it may not be there.
    Service(usize),
}

/// One deed.
#[derive(Clone, Debug)]
struct Entry {
    serial: u64,
    whom: Whom,
    what: &'static str,
    from_ns: u64,
    until_ns: Option<u64>,
}

/// An entry that has begun.
#[derive(Debug)]
#[must_use = "what is never ended excuses everything that comes"]
pub struct Open(u64);

#[derive(Debug, Default)]
struct Inner {
    serial: u64,
    entries: VecDeque<Entry>,
    events: VecDeque<(u64, String)>,
}

/// The record.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Inner>);

impl Ledger {
    /// Something is about to be done.
    pub fn begin(&self, whom: Whom, what: &'static str) -> Open {
        let mut inner = self.inner();
        inner.serial += 1;
        let (serial, from_ns) = (inner.serial, boot_ns());
        inner.entries.push_back(Entry { serial, whom, what, from_ns, until_ns: None });
        while inner
            .entries
            .front()
            .is_some_and(|entry| entry.until_ns.is_some_and(|until| until.saturating_add(KEPT_NS) < from_ns))
        {
            inner.entries.pop_front();
        }
        Open(serial)
    }

    /// It is undone.
    pub fn end(&self, Open(serial): Open) {
        let mut inner = self.inner();
        if let Some(entry) = inner.entries.iter_mut().find(|entry| entry.serial == serial) {
            entry.until_ns = Some(boot_ns());
        }
    }

    /// What was done to somebody between two instants.
    pub fn excuse(&self, whom: Whom, from_ns: u64, until_ns: u64) -> Option<&'static str> {
        let inner = self.inner();
        let overlaps = |entry: &&Entry| {
            entry.whom == whom
                && entry.from_ns <= until_ns
                && entry.until_ns.is_none_or(|until| until >= from_ns)
        };
        inner.entries.iter().find(overlaps).map(|entry| entry.what)
    }

    /// Writes down what happens, for whoever reads a failure.
    pub fn note(&self, text: String) {
        let mut inner = self.inner();
        inner.events.push_back((boot_ns(), text));
        if inner.events.len() > EVENTS {
            inner.events.pop_front();
        }
    }

    /// The last events, with their age in seconds.
    pub fn events(&self) -> Vec<String> {
        let (now, inner) = (boot_ns(), self.inner());
        let line = |(at, text): &(u64, String)| format!("{:7.2} s ago  {text}", seconds(now - at));
        inner.events.iter().map(line).collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds as seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_overlaps_is_an_excuse() {
        let ledger = Ledger::default();
        let before = boot_ns();
        let open = ledger.begin(Whom::Pod(3), "killed");
        let during = boot_ns();
        assert_eq!(ledger.excuse(Whom::Pod(3), during, during), Some("killed"));
        assert_eq!(ledger.excuse(Whom::Pod(3), before - 2, before - 1), None);
        assert_eq!(ledger.excuse(Whom::Pod(2), during, during), None);
        assert_eq!(ledger.excuse(Whom::Service(3), during, during), None);
        ledger.end(open);
        let after = boot_ns() + 1;
        assert_eq!(ledger.excuse(Whom::Pod(3), after, after + 1), None);
        assert_eq!(ledger.excuse(Whom::Pod(3), before, after), Some("killed"));
    }

    #[test]
    fn the_last_events_are_kept() {
        let ledger = Ledger::default();
        (0..2 * EVENTS).for_each(|n| ledger.note(n.to_string()));
        let events = ledger.events();
        assert_eq!(events.len(), EVENTS);
        assert!(events.last().unwrap().ends_with(&(2 * EVENTS - 1).to_string()));
    }
}
