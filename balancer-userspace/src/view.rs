//! What the pinned maps say, as plain data: the one input of every table, JSON document and metric.
//!
//! `datapath` reads it, `cli` and `metrics` show it.

pub mod check;
pub mod connection;
pub mod explanation;
pub mod health;
pub mod lifecycle;
pub mod rebalance;

pub use check::{CheckItem, CheckReport, DetachReport, Outcome};
pub use connection::{BackendGone, Connection, Process};
pub use explanation::{Candidate, Choice, ExplainedService, Explanation, PassCause, Verdict};
pub use health::{Condition, HealthView};
pub use lifecycle::{Activity, Drain, LifecycleView, Trust};
pub use rebalance::{MovedView, OfferView, Overfull, PlanView};

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use balancer_common::abi::{Algorithm, BackendState, BackendStats, LaneState, Mode, PassReason, PickReason};

use crate::{
    evenness::{self, Evenness, Load},
    history::{History, STEP_SECONDS},
    model::{Family, Protocol, resolve},
};

/// Everything at one instant. Counters of different backends may be a few microseconds apart.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The agent that writes, or last wrote, the maps.
    pub agent: AgentView,
    /// How full each map is.
    pub maps: Vec<MapFill>,
    /// Sorted by namespace, name, port name, protocol, family. The agent's self-probe is not among them.
    pub services: Vec<ServiceView>,
}

/// What the maps say of the agent.
#[derive(Clone, Debug)]
pub struct AgentView {
    /// Whether a process holds the agent's lock on the pins now.
    pub liveness: Liveness,
    /// Its process id, in its own PID namespace.
    pub pid: u32,
    /// Version of the agent.
    pub version: String,
    /// Node name.
    pub node: String,
    /// Where Services come from, as a person would say it.
    pub source: String,
    /// Whether connects are balanced, or only observed.
    pub mode: Mode,
    /// How many cgroups are left alone.
    pub excluded: u32,
    /// The cgroup that the programs are attached to.
    pub cgroup: PathBuf,
    /// Where the maps are pinned.
    pub pins: PathBuf,
    /// Time since it started.
    pub uptime: Duration,
    /// The lease.
    pub lease: Lease,
    /// Time since its view became complete; `None` while it is not.
    pub synced: Option<Duration>,
    /// Time since the source was last known to be in touch with what it watches; `None` before.
    pub contact: Option<Duration>,
    /// Time since the tables last changed; `None` before.
    pub changed: Option<Duration>,
    /// Objects that it had to skip.
    pub skipped: u32,
    /// The express lane, for IPv4 and for IPv6.
    pub lane: [LaneView; 2],
}

impl AgentView {
    /// The express lane of a family.
    pub const fn lane(&self, family: Family) -> LaneView {
        match family {
            Family::V4 => self.lane[0],
            Family::V6 => self.lane[1],
        }
    }
}

/// The express lane of an address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneView {
    /// What became of it.
    pub state: LaneState,
    /// How many endpoints it holds.
    pub entries: u32,
}

/// Whether the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It holds its lock.
    Running,
    /// Nobody holds the lock.
    Dead,
}

/// The lease under which the programs translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It never lapses (`--lease 0`).
    Endless,
    /// It has this long to go.
    Valid(Duration),
    /// It lapsed this long ago: every connect is passed through.
    Lapsed(Duration),
    /// It was never taken.
    Never,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Map name.
    pub name: &'static str,
    /// Entries in use.
    pub used: u64,
    /// Entries that it can hold.
    pub capacity: u64,
    /// The agent's flag that raises the capacity.
    pub flag: &'static str,
}

/// One Service port of one family.
#[derive(Clone, Debug)]
pub struct ServiceView {
    /// Service id.
    pub id: u32,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Service name.
    pub name: Arc<str>,
    /// Port name; empty for the only, unnamed port.
    pub port_name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Family.
    pub family: Family,
    /// What applications dial.
    pub frontend: SocketAddr,
    /// How it chooses.
    pub algorithm: Algorithm,
    /// ClientIP affinity timeout.
    pub affinity: Option<Duration>,
    /// Raised each time the set of backends changes.
    pub revision: u32,
    /// What is wrong with the objects behind it, or why it has no backends, in words.
    pub problem: Option<String>,
    /// Picks, by [`PickReason`] as index.
    pub picks: [u64; PickReason::ALL.len()],
    /// Pass-throughs, by [`PassReason`] as index.
    pub passes: [u64; PassReason::ALL.len()],
    /// Unconnected UDP sockets that talked to too many Services and forgot this one.
    pub flow_evictions: u64,
    /// What is done with connections that are open already.
    pub lifecycle: LifecycleView,
    /// Sorted by address and port. Removed ones stand here for as long as sockets are open to them.
    pub backends: Vec<BackendView>,
}

/// One backend of a [`ServiceView`].
#[derive(Clone, Debug)]
pub struct BackendView {
    /// Backend id.
    pub id: u32,
    /// Address and target port.
    pub addr: SocketAddr,
    /// Whether new connections may go there.
    pub state: BackendState,
    /// Weight.
    pub weight: u32,
    /// Pod name; empty where unknown.
    pub pod: Arc<str>,
    /// Node name; empty where unknown.
    pub node: Arc<str>,
    /// Zone; empty where unknown.
    pub zone: Arc<str>,
    /// Its counters, all read within microseconds.
    pub stats: BackendStats,
    /// What the outcomes of connects say of it.
    pub health: HealthView,
    /// Its open connections over the last minutes.
    pub history: History,
}

/// Samples of [`History`] in a minute.
const MINUTE: usize = (60 / STEP_SECONDS) as usize;

impl ServiceView {
    /// Whether it is not served as it is written: its problem is more than that it has no backends for now, or none here.
    pub fn has_problem(&self) -> bool {
        self.problem.as_deref().is_some_and(|text| !resolve::is_state(text))
    }

    /// Sockets open to any of its backends, removed ones included.
    pub fn active(&self) -> u64 {
        self.backends.iter().fold(0, |total: u64, backend| total.saturating_add(backend.stats.active))
    }

    /// How evenly open sockets are spread over the backends that may be chosen.
    pub fn evenness(&self) -> Option<Evenness> {
        Evenness::of(&self.loads())
    }

    /// [`Evenness::max_over_mean`], where there are several backends to spread connections over.
    pub fn max_over_mean(&self) -> Option<f64> {
        let loads = self.loads();
        if loads.len() > 1 { Evenness::max_over_mean_of(&loads) } else { None }
    }

    fn loads(&self) -> Vec<Load> {
        let usable = self.backends.iter().filter(|backend| backend.state.is_usable());
        usable.map(|backend| Load { connections: backend.stats.active, weight: backend.weight }).collect()
    }

    /// How evenly the backends that may be chosen now were loaded a minute before the last sample; those
    /// that are newer had nothing. `None` where that is not known, or there was nothing.
    pub fn evenness_a_minute_ago(&self) -> Option<Evenness> {
        let mut loads = Vec::new();
        for backend in self.backends.iter().filter(|backend| backend.state.is_usable()) {
            let samples = backend.history.samples();
            let then = samples.len().checked_sub(1 + MINUTE);
            let connections = then.map_or(Some(0), |index| samples[index])?;
            loads.push(Load { connections: connections.into(), weight: backend.weight });
        }
        Evenness::of(&loads)
    }
}

impl BackendView {
    /// Attempts that failed, for whatever reason.
    pub fn failed(&self) -> u64 {
        let stats = &self.stats;
        evenness::total(&[stats.refused, stats.timed_out, stats.unreachable, stats.aborted])
    }
}
