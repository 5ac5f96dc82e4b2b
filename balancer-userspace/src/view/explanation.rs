//! What a connect would do, and why.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use balancer_common::abi::{Algorithm, PassReason};

use crate::model::Frontend;

/// The answer to "what happens to a connect to this address?".
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What the application would dial.
    pub dialled: Frontend,
    /// On whose behalf the question was asked, as a person would say it (`this network namespace`).
    pub client: String,
    /// The Service port that the address belongs to; `None` where no table entry matches.
    pub service: Option<ExplainedService>,
    /// What the programs would do.
    pub verdict: Verdict,
    /// Anything else worth knowing, a sentence each.
    pub notes: Vec<String>,
}

/// The Service port that an [`Explanation`] matched.
#[derive(Clone, Debug)]
pub struct ExplainedService {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Service name.
    pub name: Arc<str>,
    /// Port name; empty for an unnamed port.
    pub port_name: Arc<str>,
    /// How it chooses.
    pub algorithm: Algorithm,
    /// ClientIP affinity timeout.
    pub affinity: Option<Duration>,
    /// Revision of its set of backends.
    pub revision: u32,
}

/// What the programs would do with a connect.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Leave the address alone; the rest of the node (kube-proxy, mostly) decides.
    PassThrough(PassCause),
    /// Rewrite it to one of the candidates.
    Rewrite(Choice),
    /// Leave it alone, and count it as if it went to one of the candidates.
    Observe(Choice),
}

/// Why a connect would be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassCause {
    /// The address, port and protocol are no Service port that is balanced here.
    NotAService,
    /// No program of ours is attached.
    NotAttached,
    /// The client's cgroup is not below the one that the programs are attached to.
    OutsideCgroup,
    /// A program would decide so.
    Program(PassReason),
}

/// How a backend would be chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The rule that applies, in words (`fewest open connections for its weight`).
    pub rule: String,
    /// Who may be chosen and who may not, sorted by address and port.
    pub candidates: Vec<Candidate>,
}

/// A backend in a [`Choice`].
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Address and target port.
    pub addr: SocketAddr,
    /// Pod name; empty where unknown.
    pub pod: Arc<str>,
    /// Node name; empty where unknown.
    pub node: Arc<str>,
    /// Zone; empty where unknown.
    pub zone: Arc<str>,
    /// Weight.
    pub weight: u32,
    /// Open connections now.
    pub active: u64,
    /// Probability that the next connect goes there, 0 to 1.
    pub chance: f64,
    /// Why its chance is what it is, where that is not plain; empty otherwise.
    pub reason: String,
}
