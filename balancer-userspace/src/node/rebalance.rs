//! What moving connections would do, and doing it on command.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use anyhow::Context as _;
use balancer_common::abi::{Algorithm, Mode, Rebalance};

use crate::{
    cli::exit::Failure,
    datapath::Maps,
    evenness::{Evenness, Load},
    lifecycle::{
        manual::{self, Plan, Spread},
        policy::STABLE_NS,
        trust::CLEAN,
    },
    sockets::{self, LiveSocket, Search},
    view::{
        AgentView, BackendView, Condition, MovedView, OfferView, Overfull, PlanView, ServiceView, Snapshot,
        Trust,
    },
};

/// What would be moved of each of `services`.
pub(super) fn plan(maps: &Maps, snapshot: &Snapshot, services: &[u32]) -> Result<Vec<PlanView>, Failure> {
    let plans = manual::plan(maps, services).context("cannot list connections")?;
    let sockets: Vec<LiveSocket> = plans
        .iter()
        .flat_map(|(_, plan)| &plan.candidates)
        .map(|candidate| candidate.socket.clone())
        .collect();
    let owners = sockets::owners(&sockets, Search::Recorded).context("cannot look at processes")?;
    Ok(plans
        .into_iter()
        .filter_map(|(id, plan)| {
            let service = snapshot.services.iter().find(|service| service.id == id)?;
            Some(view(&snapshot.agent, service, &plan, &owners))
        })
        .collect())
}

/// Moves up to `max` connections of a Service.
pub(super) fn now(maps: &mut Maps, service: u32, max: u32) -> Result<MovedView, Failure> {
    let outcome = manual::now(maps, service, max).context("cannot list connections")?;
    Ok(MovedView { moved: outcome.moved, refused: outcome.refused })
}

fn view(
    agent: &AgentView,
    service: &ServiceView,
    plan: &Plan,
    owners: &HashMap<u32, Vec<sockets::Process>>,
) -> PlanView {
    let addr = |id: u32| service.backends.iter().find(|backend| backend.id == id).map(|backend| backend.addr);
    let usable = || service.backends.iter().filter(|backend| backend.state.is_usable());
    let mut loads: BTreeMap<SocketAddr, Load> = usable()
        .map(|backend| (backend.addr, Load { connections: backend.stats.active, weight: backend.weight }))
        .collect();
    let evenness =
        |loads: &BTreeMap<SocketAddr, Load>| Evenness::of(&loads.values().copied().collect::<Vec<_>>());
    let now = evenness(&loads);
    // As in the plan: those that fail or ramp up are not counted on.
    let counted: BTreeSet<SocketAddr> = usable()
        .filter(|backend| backend.health.condition == Condition::Ok)
        .map(|backend| backend.addr)
        .collect();
    let mut moves = 0;
    for from in &plan.excess {
        let Some(full) = addr(from.backend) else { continue };
        let ready = plan
            .candidates
            .iter()
            .filter(|candidate| candidate.socket.target() == full && candidate.verdict.is_ok())
            .count() as u64;
        for _ in 0..ready.min(from.count()) {
            moves += 1;
            shift(&mut loads, full, &counted);
        }
    }
    PlanView {
        service: service.id,
        from: plan
            .excess
            .iter()
            .filter_map(|from| {
                Some(Overfull {
                    backend: addr(from.backend)?,
                    active: from.active,
                    share: from.even,
                    excess: from.count(),
                })
            })
            .collect(),
        moves,
        now,
        after: evenness(&loads),
        offers: plan
            .candidates
            .iter()
            .map(|candidate| OfferView {
                process: sockets::process(owners.get(&candidate.socket.inode).map_or(&[][..], Vec::as_slice)),
                local: candidate.socket.local,
                backend: candidate.socket.target(),
                idle: candidate.socket.idle,
                age: candidate.socket.age,
                verdict: candidate.verdict,
            })
            .collect(),
        why_not: why_not(agent, service, plan.spread),
    }
}

/// Takes a connection from where it is to where, among `to`, one more weighs least.
fn shift(loads: &mut BTreeMap<SocketAddr, Load>, from: SocketAddr, to: &BTreeSet<SocketAddr>) {
    if let Some(load) = loads.get_mut(&from) {
        load.connections = load.connections.saturating_sub(1);
    }
    let cost = |load: &Load| (load.connections + 1) as f64 / f64::from(load.weight.max(1));
    let others = loads.iter_mut().filter(|(addr, _)| to.contains(addr)).map(|(_, load)| load);
    if let Some(least) = others.min_by(|a, b| cost(a).total_cmp(&cost(b))) {
        least.connections += 1;
    }
}

/// Why nothing is moved now; the first reason of several.
fn why_not(agent: &AgentView, service: &ServiceView, spread: Spread) -> Option<String> {
    let lifecycle = &service.lifecycle;
    if service.algorithm == Algorithm::SourceHash || service.affinity.is_some() {
        return Some(
            "its clients are bound to their backends: a connection that is opened anew goes to the same"
                .to_owned(),
        );
    }
    match spread {
        Spread::Even => {
            let spared = |backend: &&BackendView| {
                backend.state.is_usable() && backend.health.condition != Condition::Ok
            };
            return Some(match service.backends.iter().filter(spared).count() {
                0 => "connections are even enough".to_owned(),
                spared => format!(
                    "connections are even enough, without backends that fail or have not their full share yet: {spared}"
                ),
            });
        }
        Spread::Between => {
            return Some(
                "connections are even enough not to begin: moving goes on only where it has begun".to_owned(),
            );
        }
        Spread::Uneven => {}
    }
    if lifecycle.mode != Rebalance::Idle {
        return Some(format!(
            "rebalance is {}; balancer.dev/rebalance: idle moves connections",
            lifecycle.mode.name()
        ));
    }
    if agent.mode == Mode::Observe {
        return Some("the agent only observes (--mode observe)".to_owned());
    }
    if let Some((stop, _)) = lifecycle.stopped {
        return Some(format!("moving was stopped: {}", stop.name()));
    }
    if lifecycle.trust == Trust::Record && !lifecycle.is_earned() {
        return Some(format!(
            "the record is not clean yet: {} of {CLEAN} offers in a row were harmless",
            lifecycle.clean
        ));
    }
    if lifecycle.budget_percent == 0 {
        return Some("the budget is 0% (balancer.dev/rebalance-budget)".to_owned());
    }
    let just_changed = |since: Duration| since < Duration::from_nanos(STABLE_NS);
    lifecycle.endpoints_changed.is_some_and(just_changed).then(|| "endpoints have just changed".to_owned())
}

#[cfg(test)]
mod tests {
    use balancer_common::abi::Stop;

    use super::*;
    use crate::cli::fixture;

    /// A Service that would be moved, but for what `change` does to it.
    #[track_caller]
    fn check(spread: Spread, change: impl Fn(&mut AgentView, &mut ServiceView), expect: Option<&str>) {
        let mut agent = fixture::snapshot().agent;
        let mut service = fixture::service(9, "default", "web", "", "10.96.0.1:80");
        let lifecycle = &mut service.lifecycle;
        (lifecycle.mode, lifecycle.clean, lifecycle.budget_percent) = (Rebalance::Idle, CLEAN, 5);
        lifecycle.endpoints_changed = Some(Duration::from_secs(10));
        change(&mut agent, &mut service);
        let why = why_not(&agent, &service, spread);
        let is_expected = why.as_deref().zip(expect).map(|(why, expect)| why.contains(expect));
        assert_eq!(why.is_some(), expect.is_some(), "{why:?}");
        assert_ne!(is_expected, Some(false), "{why:?}");
    }

    #[test]
    fn what_keeps_the_agent_from_moving_is_named() {
        let uneven = Spread::Uneven;
        check(uneven, |_, _| {}, None);
        check(Spread::Even, |_, _| {}, Some("even enough"));
        let ramping = |_: &mut AgentView, service: &mut ServiceView| {
            let all = fixture::snapshot().services.into_iter().flat_map(|service| service.backends);
            service.backends =
                all.filter(|backend| matches!(backend.health.condition, Condition::Ramping(_))).collect();
            assert_eq!(service.backends.len(), 1);
        };
        check(Spread::Even, ramping, Some("not their full share yet: 1"));
        check(Spread::Between, |_, _| {}, Some("where it has begun"));
        check(uneven, |_, service| service.algorithm = Algorithm::SourceHash, Some("bound"));
        check(uneven, |_, service| service.affinity = Some(Duration::from_secs(9)), Some("bound"));
        check(uneven, |_, service| service.lifecycle.mode = Rebalance::DryRun, Some("dry-run"));
        check(uneven, |agent, _| agent.mode = Mode::Observe, Some("observe"));
        let stopped = Some((Stop::Harm, Duration::from_secs(9)));
        check(uneven, |_, service| service.lifecycle.stopped = stopped, Some("harm"));
        check(uneven, |_, service| service.lifecycle.clean = 50, Some("50 of 200"));
        check(
            uneven,
            |_, service| (service.lifecycle.clean, service.lifecycle.trust) = (50, Trust::Immediate),
            None,
        );
        check(uneven, |_, service| service.lifecycle.budget_percent = 0, Some("budget"));
        let lately = Some(Duration::from_secs(9));
        check(uneven, |_, service| service.lifecycle.endpoints_changed = lately, Some("just changed"));
        check(uneven, |_, service| service.lifecycle.endpoints_changed = None, None);
    }
}
