//! What a run of a scenario leaves behind: plain data, written as JSON, read by tables and plots.

use serde::{Deserialize, Serialize};

/// Who chooses the server of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The client itself, in turn over pod addresses: the ideal.
    Direct,
    /// iptables rules in kube-proxy's shape.
    Iptables,
    /// nftables rules in kube-proxy's shape.
    Nftables,
    /// IPVS, round robin.
    IpvsRr,
    /// IPVS, least connections.
    IpvsLc,
    /// IPVS, shortest expected delay.
    IpvsSed,
    /// IPVS, by the source's hash.
    IpvsSh,
    /// balancer, when connections are made.
    ConnectOnly,
    /// balancer, which also moves idle connections.
    Rebalancing,
}

/// Connections per backend at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub seconds: f64,
    /// Open connections, by backend; a backend that does not exist yet or any more has 0.
    pub open: Vec<u32>,
}

/// One run: one scenario in one arm from one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What everything random in it was drawn from.
    pub seed: u64,
    /// Open connections at the end, by backend that is to be used then; none where connections are not kept.
    pub connections: Vec<u64>,
    /// Requests that were answered from the last change of backends to the end, by backend.
    pub requests: Vec<u64>,
    /// Seconds from the change that made it uneven until max/mean of connections was at most 1.1 and stayed so; none if
    /// that did not happen, or the scenario has no such change.
    pub even_after: Option<f64>,
    /// Connections that were ended in order to be opened elsewhere.
    pub moves: u64,
    /// Requests, and connects, that failed.
    pub failed: u64,
    /// Requests, and connects, that were tried.
    pub tried: u64,
    /// Median of the time that a request took, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of it.
    pub p99_us: f64,
    /// Connections per backend over time; kept of the first seed alone.
    pub samples: Vec<Sample>,
    /// Figures of this scenario alone, by name.
    pub extra: std::collections::BTreeMap<String, f64>,
}

/// All runs of one scenario in one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// They ran.
    Ran(Vec<Run>),
    /// They did not, for this reason.
    NotRun(String),
}

/// One scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Short name, as on the command line.
    pub name: String,
    /// One line: the situation.
    pub title: String,
    /// What it shows, in a few sentences for who reads the table.
    pub story: String,
    /// What made it uneven, from which [`Run::even_after`] is counted, as in "3 -> 6 servers"; none if nothing did. Tells a
    /// run that never became even from one that had nothing to become.
    #[serde(default)]
    pub change: Option<String>,
    /// Whether it is simulated with the selection code, rather than run with sockets.
    pub simulated: bool,
    /// What each arm did.
    pub arms: Vec<(Arm, Cell)>,
}
