//! What commands say of the express lane.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use balancer_common::abi::LaneState;

use super::check::item;
use crate::{
    cli::exit::{Exit, Failure},
    datapath::{Pins, Removal},
    lane::{self, Endpoint, Found, LaneError, words},
    model::{Family, Frontend},
    view::{AgentView, CheckItem, Lease, Outcome, Snapshot, Verdict},
};

const NAME: &str = "express lane";
/// How often it is compared with the tables before a difference counts, and how long apart: both change.
const COMPARISONS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);
/// What the lane may lag behind the tables.
const LAG: Duration = Duration::from_secs(10);

/// Removes the lane, or says what of it would be removed.
pub(super) fn detach(pins: &Pins, removal: Removal) -> Result<Vec<String>, Failure> {
    let result = match removal {
        Removal::DryRun => lane::tables(pins.root()),
        Removal::Act => lane::remove(pins.root()),
    };
    match result {
        Ok(tables) => Ok(tables),
        // There are no pins: whoever is called next says so.
        Err(LaneError::Pins { .. }) => Ok(Vec::new()),
        Err(error) => {
            let exit = match error {
                LaneError::Permission { .. } => Exit::NoPermission,
                _ => Exit::Failed,
            };
            let name = lane::table_name(pins.root()).unwrap_or_else(|_| "balancer-…".to_owned());
            let what = match removal {
                Removal::DryRun => "an express lane cannot be looked for".to_owned(),
                Removal::Act => format!(
                    "an express lane, if there is one, is left to lapse (`nft delete table ip {name}` and `ip6 {name}` \
                     remove it)"
                ),
            };
            Err(Failure::new(exit, anyhow::Error::from(error).context(what)))
        }
    }
}

/// Whether the lane is what it should be.
pub(super) fn check(pins: &Pins, snapshot: &Snapshot) -> CheckItem {
    let agent = &snapshot.agent;
    let families = [Family::V4, Family::V6].map(|family| (family, agent.lane(family)));
    let [(_, v4), (_, v6)] = families;
    if v4.state == v6.state && v4.state != LaneState::Installed {
        return said(words(v4.state).to_owned(), v4.state);
    }
    let mut parts = Vec::new();
    let mut worst: Option<CheckItem> = None;
    for (family, lane) in families {
        let found = match lane.state {
            LaneState::Installed => installed(pins, snapshot, family),
            state => said(words(state).to_owned(), state),
        };
        parts.push(format!("{family}: {}", found.detail));
        if worst.as_ref().is_none_or(|worst| found.outcome > worst.outcome) {
            worst = Some(found);
        }
    }
    let worst = worst.expect("there are two families");
    item(NAME, worst.outcome, parts.join("; "), &worst.remedy)
}

fn said(detail: String, state: LaneState) -> CheckItem {
    match state {
        LaneState::Refused => item(NAME, Outcome::Warning, detail, "see the agent's log"),
        _ => item(NAME, Outcome::Ok, detail, ""),
    }
}

fn installed(pins: &Pins, snapshot: &Snapshot, family: Family) -> CheckItem {
    let mut last = String::new();
    for attempt in 0..COMPARISONS {
        if attempt > 0 {
            thread::sleep(PAUSE);
        }
        let found = match lane::read(pins.root(), family) {
            Ok(found) => found,
            Err(error) => return item(NAME, Outcome::Skipped, error.to_string(), "run as root on the host"),
        };
        let Some(found) = found else {
            last = "its table is not in this network namespace, or was changed".to_owned();
            continue;
        };
        if !found.alive {
            let lapsed = matches!(snapshot.agent.lease, Lease::Lapsed(_) | Lease::Never);
            let why = if lapsed { " with the lease" } else { "" };
            return item(
                NAME,
                Outcome::Warning,
                format!("lapsed{why}: connects walk through kube-proxy's rules"),
                "see the lease",
            );
        }
        match differs(&found, snapshot, family) {
            None => {
                let detail =
                    format!("{} endpoints pass by kube-proxy's iptables rules", found.endpoints.len());
                return item(NAME, Outcome::Ok, detail, "");
            }
            Some(what) => last = what,
        }
    }
    let remedy = "the agent puts it right within a minute; it is told by balancer_express_lane_repairs_total";
    item(NAME, Outcome::Warning, last, remedy)
}

/// How what the kernel holds differs from what the agent says that it does, and from the tables.
fn differs(found: &Found, snapshot: &Snapshot, family: Family) -> Option<String> {
    let said = snapshot.agent.lane(family).entries as usize;
    let backends = backends(snapshot);
    // Changes of the tables follow within seconds.
    let settled = snapshot.agent.changed.is_none_or(|age| age > LAG);
    let others = if settled { found.endpoints.difference(&backends).count() } else { 0 };
    let strange = found.strange + others;
    if strange > 0 {
        Some(format!("{strange} endpoints in it are no backends"))
    } else if found.endpoints.len() != said {
        Some(format!("it holds {} endpoints, and should hold {said}", found.endpoints.len()))
    } else {
        None
    }
}

/// Every backend that connects go to.
fn backends(snapshot: &Snapshot) -> BTreeSet<Endpoint> {
    let of = |service: &crate::view::ServiceView| {
        let protocol = service.protocol;
        let usable = service.backends.iter().filter(|backend| backend.state.is_usable());
        usable.map(move |backend| endpoint(backend.addr, protocol)).collect::<Vec<_>>()
    };
    snapshot.services.iter().flat_map(of).collect()
}

const fn endpoint(addr: SocketAddr, protocol: crate::model::Protocol) -> Endpoint {
    Endpoint { addr: addr.ip(), protocol, port: addr.port() }
}

/// What to know of the way to where a connect goes; nothing without a lane that holds.
pub(super) fn explain(
    pins: &Pins,
    snapshot: &Snapshot,
    dialled: Frontend,
    verdict: &Verdict,
) -> Option<String> {
    let family = Family::of(dialled.addr);
    if snapshot.agent.lane(family).state != LaneState::Installed || !holds(&snapshot.agent) {
        return None;
    }
    // In a pod's network namespace the node's table is not to be seen: which of them are in it is not known there.
    let found = lane::read(pins.root(), family).ok().flatten().filter(|found| found.alive)?;
    let holds = |endpoint: &Endpoint| found.endpoints.contains(endpoint);
    match verdict {
        Verdict::Rewrite(choice) => {
            let candidates = &choice.candidates;
            let of = |addr| holds(&endpoint(addr, dialled.protocol));
            let count = candidates.iter().filter(|candidate| of(candidate.addr)).count();
            Some(format!(
                "express lane: to {count} of these {} a connection passes by kube-proxy's iptables rules",
                candidates.len()
            ))
        }
        Verdict::PassThrough(_) => {
            let dialled = endpoint(SocketAddr::new(dialled.addr, dialled.port), dialled.protocol);
            let known = backends(snapshot).contains(&dialled) && holds(&dialled);
            known.then(|| {
                "express lane: this is a backend's own address: a connection to it passes by kube-proxy's iptables rules"
                    .to_owned()
            })
        }
        Verdict::Observe(_) => None,
    }
}

const fn holds(agent: &AgentView) -> bool {
    matches!(agent.lease, Lease::Valid(_) | Lease::Endless)
}
