//! Moving connections on command, and saying which would be moved: the same gate, the same order.

use std::{collections::BTreeMap, time::Duration};

use balancer_common::abi::{Refusal, Service};

use super::{
    census::{Census, candidates, loads},
    gate::{self, Demand},
    hold::{self, Hold},
    moving,
    policy::{self, Excess, Motion},
    process::Place,
    record::{self, Counter},
    worker::name,
};
use crate::{
    datapath::Maps,
    sockets::{LiveSocket, SocketsError, Transport},
};

/// What became of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Connections that were moved.
    pub moved: u32,
    /// Those that were not, by reason.
    pub refused: BTreeMap<Refusal, u32>,
}

/// A connection, and whether it could be moved now.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The socket.
    pub socket: LiveSocket,
    /// Whether it could; otherwise why not.
    pub verdict: Result<(), Refusal>,
}

/// What would be moved now.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where too much is.
    pub excess: Vec<Excess>,
    /// How long a connection must be quiet.
    pub quiet: Duration,
    /// The connections to these backends, the longest idle first.
    pub candidates: Vec<Candidate>,
}

/// How long a connection must be quiet: as the agent wrote it down last, where it did.
fn demand(maps: &Maps, id: u32, service: &Service) -> Demand {
    let learned = record::entry(maps, id).quiet_ms;
    Demand {
        quiet: Duration::from_millis(service.quiet_ms.max(learned).into()),
        min_age: Duration::from_millis(service.min_age_ms.into()),
    }
}

/// Says what would be moved of each of `services`, and changes nothing.
///
/// # Errors
/// When connections cannot be listed.
pub fn plan(maps: &Maps, services: &[u32]) -> Result<Vec<(u32, Plan)>, SocketsError> {
    let mut census = Census::take(maps, &[Transport::Tcp])?;
    let mut plans = Vec::new();
    for id in services {
        let service = maps.services.get(*id).unwrap_or_default();
        let sockets = census.take_service(*id);
        let (_, excess) = policy::excess(Motion::Moving, &loads(maps, &service));
        let demand = demand(maps, *id, &service);
        let mut found = Vec::new();
        for from in &excess {
            for (socket, evidence) in candidates(&sockets, from.backend) {
                let verdict =
                    gate::judge(&evidence, &demand).and_then(|()| match census.processes.place(socket) {
                        // It would be asked of the kernel.
                        Place::Hidden(_) => Ok(()),
                        place => Hold::take(socket, &place)?.pass(maps, &demand).map(drop),
                    });
                found.push(Candidate { socket: socket.clone(), verdict });
            }
        }
        plans.push((*id, Plan { excess, quiet: demand.quiet, candidates: found }));
    }
    Ok(plans)
}

/// Moves up to `max` idle connections of a Service now: from where too much is first, else the longest idle.
///
/// # Errors
/// When connections cannot be listed.
pub fn now(maps: &mut Maps, id: u32, max: u32) -> Result<Outcome, SocketsError> {
    let mut census = Census::take(maps, &[Transport::Tcp])?;
    let service = maps.services.get(id).unwrap_or_default();
    let sockets = census.take_service(id);
    let demand = demand(maps, id, &service);
    let (_, excess) = policy::excess(Motion::Moving, &loads(maps, &service));
    let mut order: Vec<&LiveSocket> =
        excess.iter().flat_map(|from| candidates(&sockets, from.backend)).map(|(socket, _)| socket).collect();
    let mut others: Vec<&LiveSocket> = sockets
        .iter()
        .filter(|socket| {
            !order.iter().any(|other| other.cookie == socket.cookie) && hold::listed(socket).is_some()
        })
        .collect();
    others.sort_by_key(|socket| std::cmp::Reverse(socket.idle));
    order.append(&mut others);
    let mut outcome = Outcome::default();
    for socket in order {
        if outcome.moved == max {
            break;
        }
        match moving::relocate(maps, &mut census, socket, &demand) {
            Ok(way) => {
                log::info!("{}: moved {} ({})", name(maps, id), moving::describe(socket), way.name());
                record::count(maps, id, Counter::Moved);
                outcome.moved += 1;
            }
            Err(refusal) => {
                record::count(maps, id, Counter::Refused(refusal));
                *outcome.refused.entry(refusal).or_default() += 1;
            }
        }
    }
    Ok(outcome)
}
