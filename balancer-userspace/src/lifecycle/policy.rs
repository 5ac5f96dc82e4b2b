//! How many connections of a Service should go elsewhere, and how fast. Pure.
//!
//! Every node looks at its own connections alone: it acts on its own excess over its own even share, so two
//! nodes never pull at the same one. Where the even share is no whole number, whoever has the whole number
//! above it keeps it.

use std::collections::VecDeque;

/// What is begun with: the fullest backend holds so much more than the mean. Above it nothing stays that can be helped.
pub const BEGIN: f64 = 1.1;
/// What is ended with: lower, so that it is not begun again for the next connection.
pub const END: f64 = 1.05;
/// By how many connections the fullest must be above its even share, at least, to begin.
pub const LEAST_EXCESS: f64 = 2.0;
/// How long endpoints must have been as they are, in nanoseconds.
pub const STABLE_NS: u64 = 10_000_000_000;
/// How long a client has to connect anew, in nanoseconds.
pub const PATIENCE_NS: u64 = 10_000_000_000;
/// For how long a client that did not is left alone, and a Service that was stopped, in nanoseconds.
pub const PAUSE_NS: u64 = 600_000_000_000;
/// The period of a budget, in nanoseconds.
pub const PERIOD_NS: u64 = 10_000_000_000;
/// How long a process has peace after its share was taken, in nanoseconds.
pub const PROCESS_NS: u64 = 5_000_000_000;
/// How many of those that were moved are looked at to see whether clients come back, and how many it takes.
const LOOKED_AT: usize = 40;
const ENOUGH: usize = 10;
/// The share of them that must have come back, in percent.
const COME_BACK: usize = 95;

/// A backend that connections may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Backend id.
    pub backend: u32,
    /// Open connections.
    pub active: u64,
    /// Weight, at least 1.
    pub weight: u32,
}

/// Whether a Service is being evened out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Motion {
    /// It is even enough.
    #[default]
    Still,
    /// Connections are being moved until it is.
    Moving,
}

/// A backend, and how many of its connections should be elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Excess {
    /// Backend id.
    pub backend: u32,
    /// Open connections.
    pub active: u64,
    /// Its even share.
    pub even: f64,
}

impl Excess {
    /// How many should go.
    pub fn count(&self) -> u64 {
        // A share that is no whole number may be exceeded by a part of one.
        self.active.saturating_sub(self.even.ceil() as u64)
    }
}

/// What is too much where, the fullest first; empty if nothing is to be done.
pub fn excess(motion: Motion, loads: &[Load]) -> (Motion, Vec<Excess>) {
    let total = loads.iter().fold(0_u64, |total, load| total.saturating_add(load.active));
    let weights: u64 = loads.iter().map(|load| u64::from(load.weight.max(1))).sum();
    if total == 0 || loads.len() < 2 {
        return (Motion::Still, Vec::new());
    }
    let share = |load: &Load| total as f64 * f64::from(load.weight.max(1)) / weights as f64;
    let fullest = loads.iter().map(|load| load.active as f64 / share(load)).fold(0.0, f64::max);
    let most = loads.iter().map(|load| load.active as f64 - share(load)).fold(0.0, f64::max);
    let next = match motion {
        Motion::Still if fullest > BEGIN && most >= LEAST_EXCESS => Motion::Moving,
        // A connection is not moved for less than one.
        Motion::Moving if fullest > END && most >= 1.0 => Motion::Moving,
        Motion::Still | Motion::Moving => Motion::Still,
    };
    if next == Motion::Still {
        return (next, Vec::new());
    }
    let mut excess: Vec<Excess> = loads
        .iter()
        .map(|load| Excess { backend: load.backend, active: load.active, even: share(load) })
        .filter(|excess| excess.count() > 0)
        .collect();
    excess.sort_by_key(|excess| (std::cmp::Reverse(excess.count()), excess.backend));
    (next, excess)
}

/// How many may be moved: a part of a Service's connections per [`PERIOD_NS`], spread over it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    tokens: f64,
    as_of_ns: u64,
}

impl Budget {
    /// How many may be moved now, of `connections` that are open, where `percent` of them may be in a period:
    /// at least one, unless it is 0.
    pub fn available(&mut self, now_ns: u64, connections: u64, percent: u16) -> u64 {
        let most =
            if percent == 0 { 0.0 } else { (connections as f64 * f64::from(percent) / 100.0).max(1.0) };
        let periods = now_ns.saturating_sub(self.as_of_ns) as f64 / PERIOD_NS as f64;
        // Whoever begins has a whole period's.
        self.tokens = if self.as_of_ns == 0 { most } else { (self.tokens + periods * most).min(most) };
        self.as_of_ns = now_ns;
        self.tokens as u64
    }

    /// Takes one.
    pub fn take(&mut self) {
        self.tokens = (self.tokens - 1.0).max(0.0);
    }
}

/// How many connections a process that holds `held` to a Service may lose at once: its share of the budget, at least
/// one, but never all of several.
pub fn at_once(held: u64, percent: u16) -> u64 {
    let share = (held * u64::from(percent)).div_ceil(100).max(1);
    share.min(held.saturating_sub(1).max(1))
}

/// Whether those that are moved come back.
#[derive(Clone, Debug, Default)]
pub struct Returns(VecDeque<Return>);

/// What became of a connection that was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// Its process connected anew in time.
    Reconnected,
    /// It did not.
    Lost,
}

impl Returns {
    /// Notes one.
    pub fn note(&mut self, outcome: Return) {
        if self.0.len() == LOOKED_AT {
            self.0.pop_front();
        }
        self.0.push_back(outcome);
    }

    /// Whether too few of the last ones came back.
    pub fn too_few(&self) -> bool {
        let back = self.0.iter().filter(|outcome| **outcome == Return::Reconnected).count();
        self.0.len() >= ENOUGH && back * 100 < self.0.len() * COME_BACK
    }

    /// Begins anew.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn check(motion: Motion, active: &[u64], weights: &[u32], expect: Motion, counts: &[(u32, u64)]) {
        let loads: Vec<Load> = (0..)
            .zip(active.iter().zip(weights.iter().chain(std::iter::repeat(&1))))
            .map(|(backend, (&active, &weight))| Load { backend, active, weight })
            .collect();
        let (next, excess) = excess(motion, &loads);
        let found: Vec<_> = excess.iter().map(|excess| (excess.backend, excess.count())).collect();
        assert_eq!((next, found.as_slice()), (expect, counts), "{motion:?} {active:?}");
    }

    #[test]
    fn what_is_above_the_even_share_goes() {
        use Motion::{Moving, Still};
        check(Still, &[20, 20, 20, 0, 0, 0], &[], Moving, &[(0, 10), (1, 10), (2, 10)]);
        check(Moving, &[12, 11, 11, 9, 9, 8], &[], Moving, &[(0, 2), (1, 1), (2, 1)]);
        check(Moving, &[11, 11, 11, 9, 9, 9], &[], Moving, &[(0, 1), (1, 1), (2, 1)]);
        check(Moving, &[21, 21, 21, 19, 19, 19], &[], Still, &[]);
        check(Still, &[11, 11, 11, 9, 9, 9], &[], Still, &[]);
        check(Still, &[12, 10, 10, 10, 9, 9], &[], Moving, &[(0, 2)]);
        check(Still, &[110, 100, 90], &[], Still, &[]);
        check(Still, &[150, 150, 0], &[], Moving, &[(0, 50), (1, 50)]);
        // Two of five are as even as it gets, near enough.
        check(Still, &[2, 2, 1], &[], Still, &[]);
        check(Still, &[4, 1], &[], Still, &[]);
        check(Still, &[5, 1], &[], Moving, &[(0, 2)]);
        // Twice the weight, twice the connections.
        check(Still, &[20, 10], &[2, 1], Still, &[]);
        check(Still, &[15, 15], &[2, 1], Moving, &[(1, 5)]);
        check(Still, &[60], &[], Still, &[]);
        check(Still, &[0, 0], &[], Still, &[]);
        check(Moving, &[], &[], Still, &[]);
    }

    #[test]
    fn what_moves_ends_even_from_any_start() {
        for seed in 0..200_u64 {
            let mut active: Vec<u64> =
                (0..2 + seed % 7).map(|place| (seed * 31 + place * place * 7) % 40).collect();
            let mut motion = Motion::Still;
            for _ in 0..1_000 {
                let loads: Vec<Load> = (0..)
                    .zip(&active)
                    .map(|(backend, &active)| Load { backend, active, weight: 1 })
                    .collect();
                let (next, excess) = excess(motion, &loads);
                motion = next;
                let Some(from) = excess.first() else { break };
                active[from.backend as usize] -= 1;
                let least = (0..active.len()).min_by_key(|place| active[*place]).unwrap();
                assert_ne!(least, from.backend as usize);
                active[least] += 1;
            }
            assert_eq!(motion, Motion::Still, "{active:?}");
        }
    }

    #[test]
    fn a_budget_is_spread_over_its_period() {
        let mut budget = Budget::default();
        let mut moved = Vec::new();
        for second in 1..=40 {
            while budget.available(second * SECOND, 60, 5) > 0 {
                budget.take();
                moved.push(second);
            }
        }
        assert_eq!(moved.len(), 3 + 11, "{moved:?}");
        for start in 1..=30 {
            let within = moved.iter().filter(|second| (start..start + 10).contains(*second)).count();
            assert!(within <= 6, "{within} within ten seconds: {moved:?}");
        }
    }

    #[test]
    fn budgets_have_limits() {
        let mut none = Budget::default();
        assert_eq!((none.available(1, 1_000, 0), none.available(SECOND * 1_000, 1_000, 0)), (0, 0));
        let mut all = Budget::default();
        assert_eq!(all.available(1, 7, 10_000), 700);
        let mut few = Budget::default();
        assert_eq!(few.available(1, 3, 5), 1, "one at least");
        few.take();
        assert_eq!(few.available(1 + 9 * SECOND, 3, 5), 0);
        assert_eq!(few.available(1 + 10 * SECOND, 3, 5), 1);
    }

    #[test]
    fn a_process_keeps_one_of_several() {
        for (held, percent, expect) in
            [(1, 5, 1), (2, 5, 1), (2, 10_000, 1), (60, 5, 3), (60, 10_000, 59), (10, 100, 9), (0, 5, 1)]
        {
            assert_eq!(at_once(held, percent), expect, "{held} at {percent}%");
        }
    }

    #[test]
    fn clients_that_do_not_come_back_are_noticed() {
        let mut returns = Returns::default();
        (0..9).for_each(|_| returns.note(Return::Lost));
        assert!(!returns.too_few(), "nine are too few to judge by");
        returns.note(Return::Lost);
        assert!(returns.too_few());
        (0..38).for_each(|_| returns.note(Return::Reconnected));
        assert!(!returns.too_few(), "38 of 40");
        // Two of the first are still among the forty; the third takes the place of one that came back.
        (0..3).for_each(|_| returns.note(Return::Lost));
        assert!(returns.too_few(), "37 of 40");
        returns.forget();
        assert!(!returns.too_few());
    }
}
