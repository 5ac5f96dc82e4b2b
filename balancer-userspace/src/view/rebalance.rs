//! What moving connections would do, and what it did.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use balancer_common::abi::Refusal;

use super::Process;
use crate::evenness::Evenness;

/// What would be moved to even out a Service port.
#[derive(Clone, Debug)]
pub struct PlanView {
    /// Service id.
    pub service: u32,
    /// The backends that have more than their even share, the fullest first.
    pub from: Vec<Overfull>,
    /// How many connections would be moved, of those that may be.
    pub moves: u32,
    /// How even the spread is; `None` without open connections.
    pub now: Option<Evenness>,
    /// How even it would be after these moves.
    pub after: Option<Evenness>,
    /// The connections of these backends, in the order in which they would be tried.
    pub offers: Vec<OfferView>,
    /// Why nothing is moved now, in words; `None` where something is, or would be.
    pub why_not: Option<String>,
}

/// A backend that has more than its even share.
#[derive(Clone, Debug, PartialEq)]
pub struct Overfull {
    /// Address and target port.
    pub backend: SocketAddr,
    /// Open connections.
    pub active: u64,
    /// Its even share of them.
    pub share: f64,
    /// How many would have to go.
    pub excess: u64,
}

/// A connection that might be moved.
#[derive(Clone, Debug)]
pub struct OfferView {
    /// Who holds it; `None` where no process could be found.
    pub process: Option<Process>,
    /// The socket's own address; `None` where it has none.
    pub local: Option<SocketAddr>,
    /// Where it goes.
    pub backend: SocketAddr,
    /// Time since data last went either way.
    pub idle: Option<Duration>,
    /// Time since connect().
    pub age: Option<Duration>,
    /// Whether it may be moved now.
    pub verdict: Result<(), Refusal>,
}

/// What `balancer rebalance now` did with a Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MovedView {
    /// Connections that were moved.
    pub moved: u32,
    /// Connections that were tried and not moved, by reason.
    pub refused: BTreeMap<Refusal, u32>,
}
