//! What is done with connections of a Service that are open already.

use std::time::Duration;

use balancer_common::abi::{
    Algorithm, Lifecycle, Rebalance, Refusal, SERVICE_DRAIN, SERVICE_FORCED, SERVICE_TRUSTED, Service, Stop,
};

use super::ServiceView;
use crate::lifecycle::{
    policy::{self, Motion},
    trust::CLEAN,
};

/// What is asked for, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifecycleView {
    /// Whether connections are moved to even out.
    pub mode: Rebalance,
    /// What it takes to move one.
    pub trust: Trust,
    /// Whether connections are moved away from terminating backends.
    pub drain: Drain,
    /// How long a connection must be quiet, as configured.
    pub configured_quiet: Duration,
    /// How long it must be now, learned silences included.
    pub quiet: Duration,
    /// How old it must be.
    pub min_age: Duration,
    /// How many may be moved in ten seconds, in percent of those that are open.
    pub budget_percent: u16,
    /// Connections of which it was noted what would have come of moving them.
    pub offered: u64,
    /// Of these, those that no move would have harmed.
    pub harmless: u64,
    /// Of these, those that a move would have cut off.
    pub harmful: u64,
    /// How many in a row did no harm.
    pub clean: u64,
    /// Connections that were moved to even out.
    pub moved: u64,
    /// Of these, those whose process had connected anew within ten seconds.
    pub reconnected: u64,
    /// Of these, those whose process had not.
    pub lost: u64,
    /// Connections that were moved away from terminating backends.
    pub drained: u64,
    /// Sockets to backends that are gone that were closed.
    pub destroyed: u64,
    /// Attempts that moved nothing, by [`Refusal`] as index.
    pub refused: [u64; Refusal::ALL.len()],
    /// How often a server spoke first after a silence.
    pub pushes: u64,
    /// The longest silence of the last ten minutes that a server broke.
    pub longest_push: Duration,
    /// Why moving was stopped, and how long ago; `None` if it was not.
    pub stopped: Option<(Stop, Duration)>,
    /// Time since the set of endpoints changed; `None` if it did not since the Service was first seen.
    pub endpoints_changed: Option<Duration>,
    /// [`Self::moved`] since then.
    pub moved_since_change: u64,
}

/// What it takes to move a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// A clean record of offers ([`CLEAN`]).
    #[default]
    Record,
    /// Nothing more than that it looks idle.
    Immediate,
    /// Not even that servers wait to be asked.
    Forced,
}

impl Trust {
    /// The name that tables and documents use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Immediate => "immediate",
            Self::Forced => "forced",
        }
    }
}

/// Whether connections are moved away from terminating backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// They stay.
    #[default]
    Off,
    /// They are.
    On,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing is moved to even out.
    Off,
    /// It is watched what moving would do: that is all that is asked for, or the record is not clean yet.
    Watching,
    /// Connections are moved.
    Moving,
    /// There is nothing to even out.
    Even,
    /// Its clients are bound to their backends (source-hash, session affinity): nothing can be evened out.
    Bound,
    /// Something went wrong, and nothing is moved any more.
    Stopped,
}

impl Activity {
    /// The name that tables and documents use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Watching => "watching",
            Self::Moving => "moving",
            Self::Even => "even",
            Self::Bound => "bound",
            Self::Stopped => "stopped",
        }
    }
}

impl LifecycleView {
    /// As of `now_ns`.
    pub fn of(service: &Service, lifecycle: &Lifecycle, now_ns: u64) -> Self {
        let since = |then: u64| Duration::from_nanos(now_ns.saturating_sub(then));
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let is_set = |flag: u32| service.flags & flag != 0;
        let trust = match (is_set(SERVICE_FORCED), is_set(SERVICE_TRUSTED)) {
            (true, _) => Trust::Forced,
            (false, true) => Trust::Immediate,
            (false, false) => Trust::Record,
        };
        let stop = Stop::from_u32(lifecycle.stop);
        let changed = lifecycle.endpoints_changed_ns;
        Self {
            mode: Rebalance::from_u16(service.rebalance),
            trust,
            drain: if is_set(SERVICE_DRAIN) { Drain::On } else { Drain::Off },
            configured_quiet: ms(service.quiet_ms),
            quiet: ms(service.quiet_ms.max(lifecycle.quiet_ms)),
            min_age: ms(service.min_age_ms),
            budget_percent: service.budget_percent,
            offered: lifecycle.offered,
            harmless: lifecycle.harmless,
            harmful: lifecycle.harmful,
            clean: lifecycle.clean.into(),
            moved: lifecycle.moved,
            reconnected: lifecycle.reconnected,
            lost: lifecycle.lost,
            drained: lifecycle.drained,
            destroyed: lifecycle.destroyed,
            refused: Refusal::ALL.map(|refusal| lifecycle.refused[refusal as usize]),
            pushes: lifecycle.pushes,
            longest_push: ms(lifecycle.longest_push_ms),
            stopped: (stop != Stop::None).then(|| (stop, since(lifecycle.stopped_ns))),
            endpoints_changed: (changed != 0).then(|| since(changed)),
            moved_since_change: lifecycle.moved.saturating_sub(lifecycle.moved_before),
        }
    }

    /// Whether connections are moved for any reason, or watched.
    pub fn is_on(&self) -> bool {
        self.mode != Rebalance::Off || self.drain == Drain::On
    }

    /// Whether enough offers in a row were harmless.
    pub const fn is_earned(&self) -> bool {
        self.clean >= CLEAN
    }
}

impl ServiceView {
    /// What goes on with its open connections.
    pub fn activity(&self) -> Activity {
        let lifecycle = &self.lifecycle;
        match lifecycle.mode {
            Rebalance::Off => Activity::Off,
            _ if lifecycle.stopped.is_some() => Activity::Stopped,
            Rebalance::DryRun => Activity::Watching,
            Rebalance::Idle if self.algorithm == Algorithm::SourceHash || self.affinity.is_some() => {
                Activity::Bound
            }
            Rebalance::Idle if lifecycle.trust == Trust::Record && !lifecycle.is_earned() => {
                Activity::Watching
            }
            Rebalance::Idle if self.is_even() => Activity::Even,
            Rebalance::Idle => Activity::Moving,
        }
    }

    /// Whether the spread is such that no moving would begin.
    fn is_even(&self) -> bool {
        let usable = self.backends.iter().filter(|backend| backend.state.is_usable());
        let loads: Vec<policy::Load> = usable
            .map(|backend| policy::Load {
                backend: backend.id,
                active: backend.stats.active,
                weight: backend.weight,
            })
            .collect();
        policy::excess(Motion::Still, &loads).0 == Motion::Still
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::abi::BackendState;

    use super::*;
    use crate::cli::fixture;

    fn of(flags: u32, lifecycle: Lifecycle) -> LifecycleView {
        let rebalance = Rebalance::Idle as u16;
        let service = Service { flags, rebalance, quiet_ms: 2_000, ..Service::default() };
        LifecycleView::of(&service, &lifecycle, 100_000_000_000)
    }

    #[test]
    fn times_are_told_as_they_are_past() {
        let view = of(
            SERVICE_DRAIN | SERVICE_TRUSTED,
            Lifecycle {
                endpoints_changed_ns: 40_000_000_000,
                moved_before: 3,
                moved: 10,
                stop: Stop::Harm as u32,
                stopped_ns: 99_000_000_000,
                quiet_ms: 4_600,
                ..Lifecycle::default()
            },
        );
        let seconds = Duration::from_secs;
        assert_eq!((view.mode, view.trust, view.drain), (Rebalance::Idle, Trust::Immediate, Drain::On));
        assert_eq!((view.endpoints_changed, view.moved_since_change), (Some(seconds(60)), 7));
        assert_eq!(view.stopped, Some((Stop::Harm, seconds(1))));
        assert_eq!((view.configured_quiet, view.quiet), (seconds(2), Duration::from_millis(4_600)));
        let fresh = of(SERVICE_TRUSTED | SERVICE_FORCED, Lifecycle::default());
        assert_eq!((fresh.trust, fresh.quiet, fresh.endpoints_changed), (Trust::Forced, seconds(2), None));
        assert_eq!(fresh.stopped, None);
    }

    /// A Service with these connections on its backends, after `clean` offers in a row that did no harm.
    #[track_caller]
    fn check(active: &[u64], clean: u64, expect: Activity) {
        let mut service = fixture::service(9, "default", "web", "", "10.96.0.1:80");
        service.backends =
            active.iter().zip(1..).map(|(active, n)| fixture::backend(n.into(), n, *active)).collect();
        service.lifecycle = LifecycleView { mode: Rebalance::Idle, clean, ..Default::default() };
        assert_eq!(service.activity(), expect, "{active:?} {clean}");
    }

    #[test]
    fn what_goes_on_follows_from_the_record_and_the_spread() {
        check(&[10, 2, 2], CLEAN, Activity::Moving);
        check(&[10, 2, 2], CLEAN - 1, Activity::Watching);
        check(&[5, 5, 4], CLEAN, Activity::Even);
        // Twice the mean, but by one connection.
        check(&[2, 1, 0], CLEAN, Activity::Even);
        // Many above the share, but few for so many.
        check(&[110, 100, 90], CLEAN, Activity::Even);
        check(&[], CLEAN, Activity::Even);
    }

    #[test]
    fn a_minute_ago_is_judged_by_the_backends_of_now() {
        let mut service = fixture::service(9, "default", "web", "", "10.96.0.1:80");
        let with = |n: u8, active, samples: &[Option<u64>]| crate::view::BackendView {
            history: fixture::history(samples),
            ..fixture::backend(n.into(), n, active)
        };
        let then = |first: u64| [[Some(first)].as_slice(), &[Some(5); 6]].concat();
        service.backends = vec![with(1, 5, &then(10)), with(2, 5, &then(10)), with(3, 5, &[Some(5); 3])];
        let before = |service: &ServiceView| service.evenness_a_minute_ago().map(|even| even.max_over_mean);
        assert_eq!(before(&service), Some(1.5), "the third one had none");
        service.backends[2].state = BackendState::Removed;
        assert_eq!(before(&service), Some(1.0), "it does not count any more");
        service.backends[0].history = fixture::history(&[&[Some(1), None][..], &[Some(5); 6]].concat());
        assert_eq!(before(&service), None, "nobody looked");
    }
}
