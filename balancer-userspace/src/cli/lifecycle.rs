//! What is done with open connections, in words: for `stats`, `services`, `backends` and `rebalance`.

use balancer_common::abi::{Rebalance, Refusal};

use super::{table::Cell, term::Ink, text};
use crate::{
    lifecycle::trust::CLEAN,
    view::{Activity, Drain, LifecycleView, ServiceView, Trust},
};

/// `idle`, `dry-run, drain`, `drain`; `None` where nothing is moved.
pub fn mode(lifecycle: &LifecycleView) -> Option<String> {
    let moves = (lifecycle.mode != Rebalance::Off).then(|| lifecycle.mode.name());
    let drains = (lifecycle.drain == Drain::On).then_some("drain");
    let words: Vec<&str> = moves.into_iter().chain(drains).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// The mode, and why nothing is moved any more: `idle, stopped: no-reconnects`.
pub fn mode_cell(lifecycle: &LifecycleView) -> Cell {
    let mode = mode(lifecycle).unwrap_or_default();
    match lifecycle.stopped {
        Some((stop, _)) if lifecycle.mode != Rebalance::Off => {
            Cell::inked(format!("{mode}, stopped: {}", stop.name()), Ink::Warn)
        }
        _ => Cell::new(mode),
    }
}

/// `no-reconnects 3m ago`; `None` where nothing was stopped.
pub fn stopped(lifecycle: &LifecycleView) -> Option<String> {
    let (stop, since) = lifecycle.stopped?;
    Some(format!("{} {} ago", stop.name(), text::duration(since)))
}

/// What became of connections since the endpoints changed, and in all; `None` where there is nothing to say.
pub fn moves(lifecycle: &LifecycleView) -> Option<String> {
    let (moved, drained, destroyed) = (lifecycle.moved, lifecycle.drained, lifecycle.destroyed);
    if !lifecycle.is_on() && moved + drained + destroyed == 0 {
        return None;
    }
    let mut line = String::new();
    if let Some(since) = lifecycle.endpoints_changed {
        let moved = text::count(lifecycle.moved_since_change, "connection", "connections");
        line = format!("endpoints changed {} ago, {moved} moved since", text::duration(since));
    }
    if moved + drained + destroyed > 0 {
        let so_far = if line.is_empty() { "" } else { "; in all " };
        line.push_str(&format!("{so_far}{moved} moved, {drained} drained, {destroyed} closed"));
    }
    (!line.is_empty()).then_some(line)
}

/// What it takes to move a connection, and how far that is: `record 120/200`, `earned`.
pub fn trust(lifecycle: &LifecycleView) -> String {
    match lifecycle.trust {
        Trust::Record if lifecycle.is_earned() => "earned".to_owned(),
        Trust::Record => format!("record {}/{CLEAN} clean", lifecycle.clean),
        Trust::Immediate | Trust::Forced => lifecycle.trust.name().to_owned(),
    }
}

/// What goes on: `watching`, `stopped: harm 3m ago`.
pub fn activity(service: &ServiceView) -> Cell {
    let activity = service.activity();
    match (activity, stopped(&service.lifecycle)) {
        (Activity::Stopped, Some(why)) => Cell::inked(format!("stopped: {why}"), Ink::Warn),
        (Activity::Even, _) => Cell::inked(activity.name(), Ink::Good),
        (Activity::Off | Activity::Bound, _) => Cell::inked(activity.name(), Ink::Dim),
        (Activity::Stopped | Activity::Watching | Activity::Moving, _) => Cell::new(activity.name()),
    }
}

/// `busy 310, young 12`: the `most` frequent reasons, the most frequent first.
pub fn refusals(lifecycle: &LifecycleView, most: usize) -> String {
    let mut reasons: Vec<(u64, &str)> = Refusal::ALL
        .into_iter()
        .map(|refusal| (lifecycle.refused[refusal as usize], refusal.name()))
        .filter(|(count, _)| *count > 0)
        .collect();
    reasons.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let shown: Vec<String> =
        reasons.iter().take(most).map(|(count, name)| format!("{name} {count}")).collect();
    shown.join(", ")
}

/// Why a connection is not moved, as a clause.
pub const fn refusal_clause(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Busy => "it was not quiet for long enough",
        Refusal::Unanswered => "what was sent last is not answered, or not known to be",
        Refusal::FewTurns => "it has not gone back and forth often enough",
        Refusal::Young => "it was opened too short a time ago",
        Refusal::Untracked => "it was opened before it was followed what connections carry",
        Refusal::InFlight => "data is on its way",
        Refusal::Running => "a thread of its process was running",
        Refusal::Shared => "more than one process holds it",
        Refusal::Unreachable => "its process could not be found, or reached",
        Refusal::Changed => "it is not open any more, or another one by now",
        Refusal::ServerSpeaksFirst => "servers of this Service speak first",
        Refusal::Failed => "the kernel refused",
    }
}
