//! What was counted, and what was found to be broken.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// Findings that are kept; the first ends the soak, those that come with it are told too.
const FINDINGS: usize = 20;

/// What must hold all the while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// `active` of each backend is the number of its open sockets.
    ActiveIsOpen,
    /// opened - closed == active, of each backend.
    OpenedClosed,
    /// No backend is chosen later than 50 ms after its removal was applied.
    NotRemoved,
    /// No connect fails, and no connection ends, that would not have without the balancer.
    NoFailure,
    /// The tables are what the API objects say.
    Tables,
    /// Ids, descriptors, memory, pins, processes, socket storage.
    NoLeak,
    /// Too many Services and backends hurt none of the others, and are reported.
    Pressure,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ActiveIsOpen,
        Self::OpenedClosed,
        Self::NotRemoved,
        Self::NoFailure,
        Self::Tables,
        Self::NoLeak,
        Self::Pressure,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActiveIsOpen => "active counts equal the open sockets",
            Self::OpenedClosed => "opened - closed == active",
            Self::NotRemoved => "no backend chosen 50 ms after its removal",
            Self::NoFailure => "no failure that a direct connect had not had",
            Self::Tables => "the tables are what the objects say",
            Self::NoLeak => "no leak of ids, fds, memory, pins, sockets",
            Self::Pressure => "full maps are reported, and hurt nobody else",
        }
    }
}

/// Something that should not be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What is broken.
    pub invariant: Invariant,
    /// How it was seen.
    pub text: String,
}

/// Counts of a soak.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// How often each invariant was checked.
    pub checks: BTreeMap<Invariant, u64>,
    /// Events, by kind.
    pub events: BTreeMap<String, u64>,
    /// Connects through the balancer, direct ones, questions on held connections, and what became of them.
    pub clients: BTreeMap<String, u64>,
    /// Failures that were to be expected, by why.
    pub excused: BTreeMap<String, u64>,
}

/// Counts and findings, shared by all threads.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<Counts>,
    findings: Mutex<Vec<Finding>>,
}

impl Tally {
    /// An invariant was looked at.
    pub fn checked(&self, invariant: Invariant) {
        *self.lock().checks.entry(invariant).or_default() += 1;
    }

    /// Something happened to the world.
    pub fn event(&self, kind: &str) {
        *self.lock().events.entry(kind.to_owned()).or_default() += 1;
    }

    /// A client did something.
    pub fn client(&self, what: &str) {
        *self.lock().clients.entry(what.to_owned()).or_default() += 1;
    }

    /// A failure that was to be expected.
    pub fn excused(&self, why: &str) {
        *self.lock().excused.entry(why.to_owned()).or_default() += 1;
    }

    /// Something is broken.
    pub fn found(&self, invariant: Invariant, text: String) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() < FINDINGS {
            findings.push(Finding { invariant, text });
        }
    }

    /// An invariant was looked at, with this outcome.
    pub fn judge(&self, invariant: Invariant, outcome: Result<(), String>) {
        self.checked(invariant);
        if let Err(text) = outcome {
            self.found(invariant, text);
        }
    }

    /// What is broken.
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether anything is.
    pub fn is_broken(&self) -> bool {
        !self.findings.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
