//! What the manuals say of health, written down once more and in the plainest way: nothing here is the programs' own.

use balancer_common::health::{self, Condition};

/// What the outcomes of connects say of one backend. Times are milliseconds of the tables' clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) state: State,
    /// Failures in a row, as far as they count.
    failures: u32,
    /// How often it was ejected without a minute of peace.
    ejections: u32,
    /// When the ramp began that it is in, be it that it failed meanwhile. Of one that was ejected it begins anew.
    ramp: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Well,
    Avoided {
        until: u64,
    },
    Ejected {
        until: u64,
    },
    Trial {
        until: u64,
    },
    Ramping,
}

/// Fields that count this far count no further.
const MOST: u32 = 15;

impl Health {
    /// Of a backend that joins others under slow start.
    pub(super) fn newcomer(now: u64) -> Self {
        Self { state: State::Ramping, ramp: Some(now), ..Self::default() }
    }

    /// Whether it failed of late, was ejected, or is being tried.
    pub(super) const fn is_failing(&self) -> bool {
        matches!(self.state, State::Avoided { .. } | State::Ejected { .. } | State::Trial { .. })
    }

    /// Whether it still gets less than its share.
    pub(super) fn is_ramping(&self, now: u64, slow_start: u64) -> bool {
        let (State::Ramping, Some(since)) = (self.state, self.ramp) else { return false };
        let by_default = if self.ejections > 0 { 10_000 } else { 0 };
        let window = if slow_start > 0 { slow_start } else { by_default };
        now < since + window
    }

    /// Whether a connect may try it.
    pub(super) fn is_due(&self, now: u64) -> bool {
        match self.state {
            State::Avoided { until } | State::Ejected { until } | State::Trial { until } => now >= until,
            State::Well | State::Ramping => false,
        }
    }

    /// A connect tries it.
    pub(super) fn tried(&mut self, now: u64) {
        self.state = State::Trial { until: now + 5_000 };
        self.interrupted(now + 5_000);
    }

    /// Its ramp, if it is in one, is remembered in steps of 64 ms, 65,536 of them.
    fn interrupted(&mut self, until: u64) {
        self.ramp =
            self.ramp.map(|since| since - since % 64).filter(|since| (until / 64) - since / 64 < 65_536);
    }

    /// A handshake was completed.
    pub(super) fn succeeded(&mut self, now: u64, slow_start: u64) {
        match self.state {
            State::Ejected { .. } => return,
            State::Avoided { .. } | State::Trial { .. } if self.ejections > 0 => self.ramp = Some(now),
            _ => {}
        }
        self.failures = 0;
        let Some(since) = self.ramp else { return *self = Self::default() };
        if now >= since + 60_000 {
            self.ejections = 0;
        }
        // After an ejection the ramp is remembered for as long as that is.
        if self.ejections > 0 || now < since + slow_start {
            self.state = State::Ramping;
        } else {
            *self = Self::default();
        }
    }

    /// An attempt failed; `alone` if one client alone found it slow. What the tables say of it now is taken over where
    /// chance decides, if it is within bounds.
    pub(super) fn failed(&mut self, alone: Alone, now: u64, tables: Condition) {
        if matches!(self.state, State::Ejected { until } if now < until) {
            return;
        }
        self.failures = (self.failures + 1).min(MOST);
        let relapse = matches!(self.state, State::Trial { .. }) && self.ejections > 0;
        if alone == Alone::No && (self.failures >= 3 || relapse) {
            let Condition::Ejected(until) = tables else {
                panic!("{self:?} should be ejected, not {tables:?}")
            };
            let shortest = [5_000, 10_000, 20_000, 40_000, 60_000][self.ejections.min(4) as usize];
            let out = until - now;
            assert!((shortest..=shortest * 3 / 2).contains(&out), "{self:?} is out for {out} ms");
            self.ejections = (self.ejections + 1).min(MOST);
            (self.state, self.ramp) = (State::Ejected { until }, None);
        } else {
            let wait = match alone {
                Alone::Yes => [1_000, 2_000, 4_000, 8_000][self.failures.min(4) as usize - 1],
                Alone::No => 1_000,
            };
            self.state = State::Avoided { until: now + wait };
            if self.ejections > 0 {
                self.ramp = None;
            }
            self.interrupted(now + wait);
        }
    }

    /// Whether the tables say the same.
    pub(super) fn check(&self, tables: health::Health) {
        let own = match self.state {
            State::Well => Condition::Clear,
            State::Avoided { until } => Condition::Avoided(until),
            State::Ejected { until } => Condition::Ejected(until),
            State::Trial { until } => Condition::Trial(until),
            State::Ramping => Condition::Ramp(self.ramp.expect("a ramp has a beginning")),
        };
        assert_eq!((own, self.ramp), (tables.condition(), tables.ramp_since()), "{self:?}");
    }
}

/// Whether one client alone complains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alone {
    Yes,
    No,
}
