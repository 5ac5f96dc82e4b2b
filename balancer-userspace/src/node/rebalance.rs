//! What moving connections would do, and doing it on command.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use anyhow::Context as _;
use balancer_common::abi::{Algorithm, Rebalance, Stop};

use crate::{
    cli::exit::Failure,
    datapath::Maps,
    evenness::{Evenness, Load},
    lifecycle::{
        manual::{self, Plan},
        policy::STABLE_NS,
    },
    sockets::{self, LiveSocket, Search},
    view::{MovedView, OfferView, Overfull, PlanView, ServiceView, Snapshot},
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
            Some(view(maps, service, &plan, &owners))
        })
        .collect())
}

/// Moves up to `max` connections of a Service.
pub(super) fn now(maps: &mut Maps, service: u32, max: u32) -> Result<MovedView, Failure> {
    let outcome = manual::now(maps, service, max).context("cannot list connections")?;
    Ok(MovedView { moved: outcome.moved, refused: outcome.refused })
}

fn view(
    maps: &Maps,
    service: &ServiceView,
    plan: &Plan,
    owners: &HashMap<u32, Vec<sockets::Process>>,
) -> PlanView {
    let addr = |id: u32| service.backends.iter().find(|backend| backend.id == id).map(|backend| backend.addr);
    let mut loads: BTreeMap<SocketAddr, Load> = service
        .backends
        .iter()
        .filter(|backend| backend.state.is_usable())
        .map(|backend| (backend.addr, Load { connections: backend.stats.active, weight: backend.weight }))
        .collect();
    let evenness =
        |loads: &BTreeMap<SocketAddr, Load>| Evenness::of(&loads.values().copied().collect::<Vec<_>>());
    let now = evenness(&loads);
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
            shift(&mut loads, full);
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
        why_not: why_not(maps, service, plan),
    }
}

/// Takes a connection from where it is to where one more weighs least.
fn shift(loads: &mut BTreeMap<SocketAddr, Load>, from: SocketAddr) {
    if let Some(load) = loads.get_mut(&from) {
        load.connections = load.connections.saturating_sub(1);
    }
    let cost = |load: &Load| (load.connections + 1) as f64 / f64::from(load.weight.max(1));
    if let Some(least) = loads.values_mut().min_by(|a, b| cost(a).total_cmp(&cost(b))) {
        least.connections += 1;
    }
}

/// Why nothing is moved now; the first reason of several.
fn why_not(maps: &Maps, service: &ServiceView, plan: &Plan) -> Option<String> {
    let entry = maps.services.get(service.id)?;
    let lifecycle = maps.lifecycle.get(service.id)?;
    let since = crate::datapath::boot_ns().saturating_sub(lifecycle.endpoints_changed_ns);
    if entry.algorithm == Algorithm::SourceHash as u32 || entry.affinity_seconds != 0 {
        Some(
            "its clients are bound to their backends: a connection that is opened anew goes to the same"
                .to_owned(),
        )
    } else if plan.excess.is_empty() {
        Some("connections are even enough".to_owned())
    } else if Rebalance::from_u16(entry.rebalance) != Rebalance::Idle {
        Some(format!(
            "rebalance is {}; balancer.dev/rebalance: idle moves connections",
            Rebalance::from_u16(entry.rebalance).name()
        ))
    } else if Stop::from_u32(lifecycle.stop) != Stop::None {
        Some(format!("moving was stopped: {}", Stop::from_u32(lifecycle.stop).name()))
    } else if since < STABLE_NS {
        Some("endpoints have just changed".to_owned())
    } else {
        None
    }
}
