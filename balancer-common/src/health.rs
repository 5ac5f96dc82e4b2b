//! Passive health: what the outcomes of connects say of a backend, and whether it may be chosen.
//!
//! Everything is one word per backend, so that programs on several processors change it whole, and it
//! decays by time alone: what is written here needs no agent to be taken back.
//!
//! ```text
//!              failed                    failed, the third in a row
//!   Clear ──────────────► Avoided (1 s) ───────────────────────────► Ejected (5 s, 10 s … 60 s)
//!     ▲  ▲                  │   ▲ failed                                │    ▲
//!     │  └──────────────────┘   │                                  time │    │ failed
//!     │     established         └──────────── Trial ◄───────────────────┘    │
//!     │                                         │ └──────────────────────────┘
//!     │           slow start over               │ established
//!     └──────────────────────────── Ramp ◄──────┘
//! ```
//!
//! What is avoided or ejected comes back through a *trial*: when its time is over, a single connect is let
//! through, and its outcome decides. A new backend begins in the ramp where its Service asks for that, and what
//! interrupts its ramp without an ejection leaves it its place: when it was tried it goes on where it would be by then.
//!
//! The two lowest bits say what is wrong, and the third whether there is a ramp. Of a ramp alone the rest is as in
//! every other word. With both, the ramp is one of a backend that was not ejected, and the number of its ejections
//! makes room for when the ramp began:
//!
//! ```text
//!   bits      0-1        2     3-6       7-10      11-15   16-63
//!             trouble    ramp  failures  level     0       when it ends; in the ramp alone, when that began (ms)
//!
//!   bits      0-1        2     3-6       7-22                          23-63
//!             trouble    1     failures  when the ramp began (64 ms)   when the trouble ends (ms)
//! ```

use bytemuck::{Pod, Zeroable};

use crate::select::{below, sign_mask};

/// How long a backend is avoided after a failure, in milliseconds.
pub const AVOID_MS: u64 = 1_000;
/// How many failures in a row eject a backend.
pub const EJECT_AFTER: u64 = 3;
/// How long the first ejection lasts, in milliseconds, before jitter; each further one lasts twice as long.
pub const EJECT_MS: u64 = 5_000;
/// How long an ejection lasts at most, in milliseconds, before jitter.
pub const EJECT_MAX_MS: u64 = 60_000;
/// How long the outcome of a trial is waited for, in milliseconds, before another one is made.
pub const TRIAL_MS: u64 = 5_000;
/// How long a backend that was ejected takes to get its full share again, in milliseconds, where its
/// Service does not say.
pub const RETURN_MS: u64 = 10_000;
/// How long a backend must have been well for its ejections to be forgotten, in milliseconds.
pub const FORGIVE_MS: u64 = 60_000;

const TROUBLE: u64 = 3;
const COUNT: u64 = 15;
const FAILURES_AT: u32 = 3;
const LEVEL_AT: u32 = 7;
const TIME_AT: u32 = 16;

const AVOIDED: u64 = 1;
const EJECTED: u64 = 2;
const TRIAL: u64 = 3;
const RAMP: u64 = 4;

/// Where a word with trouble and a ramp has the beginning of the ramp, the low bits of a number of steps, and where
/// the end of the trouble.
const BEGAN_AT: u32 = 7;
const BEGAN: u64 = 0xffff;
const END_AT: u32 = 23;
/// The steps are so many bits above a millisecond: what can be told apart is more than an hour, the longest ramp.
const STEP: u32 = 6;

/// What is known of a backend's health, in one word: 0 if nothing is wrong.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Health(pub u64);

/// [`Health`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is wrong.
    Clear,
    /// It failed of late; it may be tried from this time on (milliseconds of `CLOCK_BOOTTIME`).
    Avoided(u64),
    /// It failed again and again; it may be tried from this time on.
    Ejected(u64),
    /// A connect is trying it; another may from this time on.
    Trial(u64),
    /// It is new, or back, since this time.
    Ramp(u64),
}

/// Whether a backend may be chosen for a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Yes,
    /// It may if the word can be exchanged for this one: only one connect is to try it.
    Trial(Health),
    /// Another one should be.
    No,
}

/// A failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was answered, with a refusal.
    Refused,
    /// It was not answered in time. A NetworkPolicy that drops looks the same to the one client that it
    /// concerns.
    Slow(Suspicion),
}

/// Who found a backend slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// One client alone, as far as known: that ejects nobody.
    OneClient,
    /// Another one before.
    SeveralClients,
}

impl Health {
    /// Nothing is wrong.
    pub const CLEAR: Self = Self(0);

    #[inline(always)]
    const fn new(kind: u64, failures: u64, level: u64, time_ms: u64) -> Self {
        Self(kind | (failures << FAILURES_AT) | (level << LEVEL_AT) | (time_ms << TIME_AT))
    }

    /// A backend that begins now to get its share little by little.
    pub const fn ramp(now_ns: u64) -> Self {
        Self::new(RAMP, 0, 0, ms(now_ns))
    }

    /// In trouble until `end_ms`, and in a ramp that began at `began_ms`, unless that was too long ago to be noted, and
    /// so to matter.
    #[inline(always)]
    const fn interrupted(trouble: u64, failures: u64, began_ms: u64, end_ms: u64) -> Self {
        let began = began_ms >> STEP;
        if (end_ms >> STEP).wrapping_sub(began) > BEGAN {
            return Self::new(trouble, failures, 0, end_ms);
        }
        Self(trouble | RAMP | (failures << FAILURES_AT) | ((began & BEGAN) << BEGAN_AT) | (end_ms << END_AT))
    }

    #[inline(always)]
    const fn trouble(self) -> u64 {
        self.0 & TROUBLE
    }

    #[inline(always)]
    const fn failures(self) -> u64 {
        (self.0 >> FAILURES_AT) & COUNT
    }

    /// Whether it has both, trouble and a ramp.
    #[inline(always)]
    const fn is_interrupted(self) -> bool {
        self.0 & RAMP != 0 && self.trouble() != 0
    }

    #[inline(always)]
    const fn level(self) -> u64 {
        if self.is_interrupted() { 0 } else { (self.0 >> LEVEL_AT) & COUNT }
    }

    /// When the trouble ends; of a ramp alone, when that began.
    #[inline(always)]
    const fn time_ms(self) -> u64 {
        if self.is_interrupted() { self.0 >> END_AT } else { self.0 >> TIME_AT }
    }

    /// When the ramp began that it is in.
    #[inline(always)]
    const fn began_ms(self) -> u64 {
        if !self.is_interrupted() {
            return self.time_ms();
        }
        // The last time with these bits before the trouble ends.
        let end = self.time_ms() >> STEP;
        let ago = end.wrapping_sub(self.0 >> BEGAN_AT) & BEGAN;
        end.wrapping_sub(ago) << STEP
    }

    /// Since when it is in the ramp, in milliseconds of `CLOCK_BOOTTIME`, be it that it failed meanwhile: then in steps
    /// of 64 ms.
    pub const fn ramp_since(self) -> Option<u64> {
        if self.0 & RAMP != 0 { Some(self.began_ms()) } else { None }
    }

    /// Whether nothing is wrong.
    #[inline(always)]
    pub const fn is_clear(self) -> bool {
        self.0 == 0
    }

    /// Whether it is ejected.
    #[inline(always)]
    pub const fn is_ejected(self) -> bool {
        self.trouble() == EJECTED
    }

    /// Taken apart.
    pub const fn condition(self) -> Condition {
        let time = self.time_ms();
        match self.trouble() {
            AVOIDED => Condition::Avoided(time),
            EJECTED => Condition::Ejected(time),
            TRIAL => Condition::Trial(time),
            _ if self.0 & RAMP != 0 => Condition::Ramp(time),
            _ => Condition::Clear,
        }
    }

    /// How long the ramp takes that this backend is in, if it is in one.
    #[inline(always)]
    const fn ramp_ms(self, slow_start_ms: u32) -> u64 {
        if slow_start_ms != 0 {
            slow_start_ms as u64
        } else if self.level() != 0 {
            RETURN_MS
        } else {
            0
        }
    }

    /// Whether the backend may be chosen for a connect at `now_ns`. `random` is uniform: in the ramp the
    /// chance grows from a tenth to one.
    #[inline(always)]
    pub fn admit(self, now_ns: u64, slow_start_ms: u32, random: u32) -> Admission {
        let now = ms(now_ns);
        if self.trouble() != 0 {
            if now < self.time_ms() {
                return Admission::No;
            }
            return Admission::Trial(self.out(TRIAL, self.failures(), now + TRIAL_MS));
        }
        if self.0 & RAMP == 0 {
            return Admission::Yes;
        }
        let window = self.ramp_ms(slow_start_ms);
        let elapsed = now.saturating_sub(self.time_ms());
        if elapsed >= window {
            return Admission::Yes;
        }
        // elapsed / window, at least a tenth, against random / 2^32; none of it overflows, for a
        // window is below 2^32.
        let grown = if elapsed * 10 < window { window / 10 } else { elapsed };
        if (random as u64) * window < grown << 32 { Admission::Yes } else { Admission::No }
    }

    /// In trouble until `end_ms`, with what else is known of it: how often it was ejected, or the ramp of one that was
    /// not.
    #[inline(always)]
    const fn out(self, trouble: u64, failures: u64, end_ms: u64) -> Self {
        let level = self.level();
        if self.0 & RAMP != 0 && level == 0 {
            Self::interrupted(trouble, failures, self.began_ms(), end_ms)
        } else {
            Self::new(trouble, failures, level, end_ms)
        }
    }

    /// All ones if a connect should rather go elsewhere, without a trial; else 0.
    #[inline(always)]
    pub fn spared(self, now_ns: u64, slow_start_ms: u32) -> u64 {
        // Beyond the end of the ramp there is nothing to spare. What is made here of one that was interrupted does not
        // matter: that one is failing.
        let returned = below(0, self.0 & (COUNT << LEVEL_AT));
        let given = slow_start_ms as u64;
        let window = given | (returned & !below(0, given) & RETURN_MS);
        let ramping = sign_mask(self.0 << 61) & below(ms(now_ns), (self.0 >> TIME_AT) + window);
        self.failing() | ramping
    }

    /// All ones if it is avoided, ejected or on trial; else 0.
    #[inline(always)]
    pub fn failing(self) -> u64 {
        // Each of the two bits by itself: of a single comparison the verifier would follow both outcomes.
        sign_mask(self.0 << 63) | sign_mask(self.0 << 62)
    }

    /// After an attempt that failed at `now_ns`. `random` is uniform.
    #[inline(always)]
    pub fn failed(self, failure: Failure, now_ns: u64, random: u32) -> Self {
        let now = ms(now_ns);
        let kind = self.trouble();
        // What failed while it was out anyway says nothing new.
        if kind == EJECTED && now < self.time_ms() {
            return self;
        }
        let failures = if self.failures() < COUNT { self.failures() + 1 } else { COUNT };
        let level = self.level();
        let alone = matches!(failure, Failure::Slow(Suspicion::OneClient));
        // A backend that was ejected and fails its trial is ejected again, at once.
        let relapsed = kind == TRIAL && level != 0;
        if !alone && (failures >= EJECT_AFTER || relapsed) {
            let raised = if level < COUNT { level + 1 } else { COUNT };
            return Self::new(EJECTED, failures, raised, now + ejection_ms(level, random));
        }
        let wait = if alone {
            // 1, 2, 4, 8 s: one client that meets nobody should not keep trying.
            AVOID_MS << if failures < 4 { failures - 1 } else { 3 }
        } else {
            AVOID_MS
        };
        self.out(AVOIDED, failures, now + wait)
    }

    /// After a handshake that was completed at `now_ns`, with a backend of a Service with this slow start.
    #[inline(always)]
    pub const fn succeeded(self, now_ns: u64, slow_start_ms: u32) -> Self {
        let now = ms(now_ns);
        let level = self.level();
        let trouble = self.trouble();
        if trouble == EJECTED {
            // It began before: the trial will tell.
            return self;
        }
        // What was ejected before ramps from now on. The ramp of what was not goes on, if there is one.
        let began = if trouble != 0 && level != 0 { now } else { self.began_ms() };
        let age = now.saturating_sub(began);
        let ramps = self.0 & RAMP != 0 && age < slow_start_ms as u64;
        if level != 0 && age < FORGIVE_MS {
            Self::new(RAMP, 0, level, began)
        } else if ramps {
            Self::new(RAMP, 0, 0, began)
        } else {
            Self::CLEAR
        }
    }
}

/// How long a backend stays out that was ejected `level` times in a row before: up to half as long again
/// by chance, so that nodes do not all try it at once.
#[inline(always)]
const fn ejection_ms(level: u64, random: u32) -> u64 {
    let doubled = EJECT_MS << if level < 4 { level } else { 4 };
    let base = if doubled < EJECT_MAX_MS { doubled } else { EJECT_MAX_MS };
    base + ((base * random as u64) >> 33)
}

/// Nanoseconds in milliseconds.
#[inline(always)]
const fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const HALF: u32 = 1 << 31;

    fn refuse(health: Health, at_ms: u64) -> Health {
        health.failed(Failure::Refused, at_ms * MS, 0)
    }

    fn slow(health: Health, at_ms: u64, suspicion: Suspicion) -> Health {
        health.failed(Failure::Slow(suspicion), at_ms * MS, 0)
    }

    fn try_again(health: Health, at_ms: u64) -> Health {
        match health.admit(at_ms * MS, 0, HALF) {
            Admission::Trial(next) => next,
            other => panic!("{other:?} instead of a trial"),
        }
    }

    #[test]
    fn one_refusal_avoids_for_a_second_and_one_connect_tries_again() {
        let failed = refuse(Health::CLEAR, 1_000);
        assert_eq!(failed.condition(), Condition::Avoided(2_000));
        assert_eq!(failed.admit(1_999 * MS, 0, HALF), Admission::No);
        let trial = try_again(failed, 2_000);
        assert_eq!(trial.admit(2_001 * MS, 0, HALF), Admission::No, "only one");
        assert_eq!(trial.succeeded(2_001 * MS, 0), Health::CLEAR);
        try_again(trial, 2_000 + TRIAL_MS);
    }

    #[test]
    fn three_in_a_row_eject_for_longer_each_time() {
        let mut health = refuse(refuse(Health::CLEAR, 0), 1);
        let mut now = 2;
        for seconds in [5, 10, 20, 40, 60, 60, 60] {
            health = refuse(health, now);
            assert_eq!(health.condition(), Condition::Ejected(now + seconds * 1_000));
            assert_eq!(refuse(health, now + 1), health, "late answers add nothing");
            now += seconds * 1_000;
            health = try_again(health, now);
        }
        let most = refuse(refuse(Health::CLEAR, 0), 0).failed(Failure::Refused, 0, u32::MAX);
        assert_eq!(most.condition(), Condition::Ejected(7_499), "half as long again at most");
    }

    #[test]
    fn a_success_between_them_breaks_the_row() {
        let health = refuse(refuse(Health::CLEAR, 0), 1).succeeded(2 * MS, 0);
        assert_eq!(health, Health::CLEAR);
        assert!(matches!(refuse(health, 3).condition(), Condition::Avoided(_)));
    }

    #[test]
    fn what_was_ejected_comes_back_slowly_and_is_forgiven_after_a_while() {
        let ejected = refuse(refuse(refuse(Health::CLEAR, 0), 0), 0);
        assert_eq!(ejected.succeeded(1, 0), ejected, "it began before");
        let back = try_again(ejected, 5_000).succeeded(5_001 * MS, 0);
        assert_eq!(back.condition(), Condition::Ramp(5_001));
        assert_eq!(back.admit((5_001 + RETURN_MS) * MS, 0, u32::MAX), Admission::Yes);
        let still = back.succeeded(20_000 * MS, 0);
        assert_eq!(still, back);
        assert_eq!(
            refuse(refuse(refuse(still, 30_000), 30_000), 30_000).condition(),
            Condition::Ejected(40_000)
        );
        assert_eq!(still.succeeded((5_001 + FORGIVE_MS) * MS, 0), Health::CLEAR);
    }

    #[test]
    fn a_ramp_goes_on_for_as_long_as_the_service_says() {
        const WINDOW: u32 = 3_600_000;
        let new = Health::ramp(1_000 * MS);
        assert_eq!(new.succeeded(3_600_999 * MS, WINDOW), new);
        assert_eq!(new.succeeded(3_601_000 * MS, WINDOW), Health::CLEAR);
        assert_eq!(new.succeeded(11_000 * MS, 10_000), Health::CLEAR, "over is over");
        let ejected = refuse(refuse(refuse(Health::CLEAR, 0), 0), 0);
        let back = try_again(ejected, 5_000).succeeded(5_000 * MS, WINDOW);
        let forgiven = back.succeeded((5_000 + FORGIVE_MS) * MS, WINDOW);
        assert_eq!(forgiven, Health::ramp(5_000 * MS), "forgiven, and in the ramp");
        assert_eq!(back.succeeded(64_999 * MS, WINDOW), back);
        assert_eq!(back.succeeded((5_000 + FORGIVE_MS) * MS, 10_000), Health::CLEAR);
    }

    #[test]
    fn a_ramp_goes_on_after_a_failure_where_it_would_be() {
        const WINDOW: u32 = 3_600_000;
        let began = 123_456_789;
        let mut health = Health::ramp(began * MS);
        // One client that meets nobody, again and again, does not keep it back.
        let mut now = began;
        while now < began + 3_500_000 {
            health = slow(health, now, Suspicion::OneClient);
            let Condition::Avoided(until) = health.condition() else { panic!("{health:?}") };
            assert!((now + 1_000..=now + 8_000).contains(&until));
            assert_eq!(health.spared(now * MS, WINDOW), u64::MAX);
            now = until + 1_234;
            health = try_again(health, now);
            assert_eq!(health.condition(), Condition::Trial(now + TRIAL_MS));
            assert_eq!(health.ramp_since(), Some(began - began % 64));
            if now % 3 == 0 {
                health = health.succeeded(now * MS, WINDOW);
                assert_eq!(health.condition(), Condition::Ramp(began - began % 64));
            }
        }
        assert_eq!(health.succeeded((began + 3_600_000) * MS, WINDOW), Health::CLEAR);
        let late = slow(health, began + 10_000_000, Suspicion::OneClient);
        assert!(matches!(late.condition(), Condition::Avoided(_)));
        assert_eq!(late.ramp_since(), None, "longer ago than any ramp takes");
    }

    #[test]
    fn an_ejection_ends_a_ramp_and_begins_another() {
        let refused = refuse(refuse(Health::ramp(0), 1), 2);
        assert_eq!(refused.ramp_since(), Some(0));
        let ejected = refuse(refused, 3);
        assert_eq!((ejected.condition(), ejected.ramp_since()), (Condition::Ejected(5_003), None));
        let relapsed = refuse(try_again(ejected, 6_000), 6_000);
        assert_eq!(relapsed.condition(), Condition::Ejected(16_000));
        let back = try_again(relapsed, 16_000).succeeded(16_000 * MS, 30_000);
        assert_eq!(back.ramp_since(), Some(16_000));
        let again = refuse(back, 20_000);
        assert_eq!(again.ramp_since(), None, "one that was ejected begins anew after each failure");
        let back = try_again(again, 21_000).succeeded(21_000 * MS, 30_000);
        assert_eq!(back.ramp_since(), Some(21_000));
    }

    #[test]
    fn one_client_that_meets_nobody_ejects_nobody() {
        let mut health = Health::CLEAR;
        let mut now = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 8_000, 8_000] {
            health = slow(health, now, Suspicion::OneClient);
            assert_eq!(health.condition(), Condition::Avoided(now + wait));
            now += wait;
            health = try_again(health, now);
        }
        let ejected = slow(health, now, Suspicion::SeveralClients);
        assert_eq!(ejected.condition(), Condition::Ejected(now + 5_000));
    }

    #[test]
    fn a_ramp_admits_a_tenth_at_first_and_all_in_the_end() {
        let health = Health::ramp(0);
        let share = |at_ms: u64| {
            let admitted = |random: u32| health.admit(at_ms * MS, 10_000, random) == Admission::Yes;
            (0..1_000_u64).filter(|step| admitted(((step << 32) / 1_000 + 1) as u32)).count()
        };
        assert_eq!([0, 500, 1_000, 5_000, 9_000, 10_000].map(share), [100, 100, 100, 500, 900, 1_000]);
        assert_eq!(health.admit(0, 0, u32::MAX), Admission::Yes, "no window, no ramp");
        let hour = Health::ramp(0).admit(3_600_000 * MS - MS, 3_600_000, u32::MAX - 10_000);
        assert_eq!(hour, Admission::Yes);
    }

    #[test]
    fn the_mask_agrees_with_the_admission() {
        let ejected = refuse(refuse(refuse(Health::CLEAR, 0), 0), 0);
        let back = try_again(ejected, 5_000).succeeded(5_000 * MS, 0);
        for (health, at_ms, window, spared) in [
            (Health::CLEAR, 0, 0, false),
            (Health::CLEAR, 0, 5_000, false),
            (refuse(Health::CLEAR, 0), 999, 0, true),
            // A trial is for the algorithm's own choice alone.
            (refuse(Health::CLEAR, 0), 1_000, 0, true),
            (ejected, 10_000, 0, true),
            (try_again(ejected, 5_000), 5_000, 0, true),
            (back, 14_999, 0, true),
            (back, 15_000, 0, false),
            (back, 9_999, 5_000, true),
            (back, 10_000, 5_000, false),
            (Health::ramp(0), 0, 0, false),
            (Health::ramp(0), 4_999, 5_000, true),
            (Health::ramp(0), 5_000, 5_000, false),
            (refuse(Health::ramp(0), 0), 9_000, 5_000, true),
            (try_again(refuse(Health::ramp(0), 0), 9_000), 9_000, 5_000, true),
        ] {
            let mask = health.spared(at_ms * MS, window);
            assert_eq!(mask, if spared { u64::MAX } else { 0 }, "{health:?} at {at_ms} ms, window {window}");
            let failing = matches!(
                health.condition(),
                Condition::Avoided(_) | Condition::Ejected(_) | Condition::Trial(_)
            );
            assert_eq!(health.failing() != 0, failing);
        }
    }
}
