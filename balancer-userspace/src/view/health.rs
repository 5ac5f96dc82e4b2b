//! What the outcomes of connects say of a backend.

use std::time::Duration;

use balancer_common::{
    abi::BackendHealth,
    health::{self, RETURN_MS},
};

/// The health of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthView {
    /// Whether it may be chosen now.
    pub condition: Condition,
    /// How often it was ejected.
    pub ejections: u64,
    /// How often a single connect was let through to see whether it is back.
    pub trials: u64,
}

/// Whether a backend may be chosen, with the time that is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is wrong.
    #[default]
    Ok,
    /// It failed of late, and is tried again after this time, when a connect comes that would go there.
    Avoided(Duration),
    /// It failed again and again, and is tried again after this time.
    Ejected(Duration),
    /// A connect is trying it; another one may after this time.
    Trial(Duration),
    /// It is new, or back; it has its full share after this time.
    Ramping(Duration),
}

impl Condition {
    /// The name that tables and documents use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Avoided(_) => "avoided",
            Self::Ejected(_) => "ejected",
            Self::Trial(_) => "trial",
            Self::Ramping(_) => "ramping",
        }
    }

    /// How long it lasts, at least; `None` where there is no end to it.
    pub const fn left(self) -> Option<Duration> {
        match self {
            Self::Ok => None,
            Self::Avoided(left) | Self::Ejected(left) | Self::Trial(left) | Self::Ramping(left) => Some(left),
        }
    }
}

impl HealthView {
    /// As of `now_ns`, for a backend of a Service with this slow start.
    pub fn of(health: &BackendHealth, slow_start_ms: u32, now_ns: u64) -> Self {
        let left =
            |until_ms: u64| Duration::from_nanos((until_ms.saturating_mul(1_000_000)).saturating_sub(now_ns));
        let condition = match health.state.condition() {
            health::Condition::Clear => Condition::Ok,
            health::Condition::Avoided(until) => Condition::Avoided(left(until)),
            health::Condition::Ejected(until) => Condition::Ejected(left(until)),
            health::Condition::Trial(until) => Condition::Trial(left(until)),
            health::Condition::Ramp(_) if health.state.spared(now_ns, slow_start_ms) == 0 => Condition::Ok,
            health::Condition::Ramp(since) => {
                let window = if slow_start_ms == 0 { RETURN_MS } else { slow_start_ms.into() };
                Condition::Ramping(left(since.saturating_add(window)))
            }
        };
        Self { condition, ejections: health.ejections, trials: health.trials }
    }

    /// Whether it ever failed so often that it counted.
    pub const fn is_noted(&self) -> bool {
        self.ejections != 0 || self.trials != 0
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::health::{Admission, Failure, Health};

    use super::*;

    #[track_caller]
    fn check(state: Health, slow_start_ms: u32, at_ms: u64, expect: Condition) {
        let health = BackendHealth { state, ..BackendHealth::default() };
        assert_eq!(HealthView::of(&health, slow_start_ms, at_ms * 1_000_000).condition, expect, "{state:?}");
    }

    #[test]
    fn the_word_is_told_with_the_time_that_is_left() {
        let seconds = Duration::from_secs;
        let refused = |health: Health| health.failed(Failure::Refused, 0, 0);
        let avoided = refused(Health::CLEAR);
        let ejected = refused(refused(avoided));
        let Admission::Trial(trial) = ejected.admit(5_000_000_000, 0, 0) else { panic!("no trial") };
        check(Health::CLEAR, 0, 9, Condition::Ok);
        check(avoided, 0, 0, Condition::Avoided(seconds(1)));
        check(ejected, 0, 2_000, Condition::Ejected(seconds(3)));
        check(ejected, 0, 60_000, Condition::Ejected(seconds(0)));
        check(trial, 0, 6_000, Condition::Trial(seconds(4)));
        let back = trial.succeeded(6_000_000_000, 0);
        check(back, 0, 7_000, Condition::Ramping(seconds(9)));
        check(back, 30_000, 7_000, Condition::Ramping(seconds(29)));
        check(back, 0, 16_000, Condition::Ok);
        check(Health::ramp(0), 0, 1, Condition::Ok);
        check(Health::ramp(0), 5_000, 1_000, Condition::Ramping(seconds(4)));
        check(refused(Health::ramp(0)), 5_000, 0, Condition::Avoided(seconds(1)));
        check(
            Health::ramp(0).succeeded(61_000_000_000, 600_000),
            600_000,
            70_000,
            Condition::Ramping(seconds(530)),
        );
    }
}
