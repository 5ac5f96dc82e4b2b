//! What `balancer stats -o json` says, as far as tests judge it. Unknown fields are fine: the document may grow.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use balancer_userspace::model::Protocol;
use serde::Deserialize;

/// What an application dials. A bare address means TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialled {
    /// Protocol.
    pub protocol: Protocol,
    /// Service address and port.
    pub addr: SocketAddr,
}

impl Dialled {
    /// By UDP.
    pub const fn udp(addr: SocketAddr) -> Self {
        Self { protocol: Protocol::Udp, addr }
    }
}

impl From<SocketAddr> for Dialled {
    fn from(addr: SocketAddr) -> Self {
        Self { protocol: Protocol::Tcp, addr }
    }
}

/// A Service port.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStats {
    /// Namespace.
    pub namespace: String,
    /// Service name.
    pub name: String,
    /// Port name, if it has one.
    pub port_name: Option<String>,
    /// Service address.
    pub address: IpAddr,
    /// Service port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// How it chooses.
    pub algorithm: String,
    /// Connections open now.
    pub active: u64,
    /// How even they are; `None` without backends that count.
    pub evenness: Option<EvennessStats>,
    /// Picks by reason.
    pub picks: BTreeMap<String, u64>,
    /// Pass-throughs by reason.
    pub pass_throughs: BTreeMap<String, u64>,
    /// Unconnected UDP sockets that forgot it for another.
    pub flow_evictions: u64,
    /// Its backends.
    pub backends: Vec<BackendStats>,
}

/// How even a spread is, beside the best that whole connections allow.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvennessStats {
    /// Connections of the backends that count.
    pub connections: u64,
    /// Backends that count.
    pub backends: u64,
    /// Largest over mean.
    pub max_over_mean: f64,
    /// The best possible.
    pub best_max_over_mean: f64,
    /// Jain's index.
    pub jain: f64,
    /// The best possible.
    pub best_jain: f64,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendStats {
    /// Pod address.
    pub address: IpAddr,
    /// Target port.
    pub port: u16,
    /// Pod name, where known.
    pub pod: Option<String>,
    /// `ready` and the like.
    pub state: String,
    /// Weight.
    pub weight: u32,
    /// Connections open now.
    pub active: u64,
    /// Connections sent there.
    pub opened: u64,
    /// Of these, established.
    pub established: u64,
    /// Of these, failed.
    pub failed: FailedStats,
    /// Ended.
    pub closed: u64,
    /// Bytes received by closed connections.
    pub bytes_in: u64,
    /// Bytes sent by closed connections.
    pub bytes_out: u64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// Connections that were never established, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedStats {
    /// RST in answer to SYN.
    pub refused: u64,
    /// No answer.
    pub timed_out: u64,
    /// No route.
    pub unreachable: u64,
    /// Given up by the client.
    pub aborted: u64,
}

impl FailedStats {
    /// All of them.
    pub const fn sum(self) -> u64 {
        self.refused + self.timed_out + self.unreachable + self.aborted
    }
}

impl ServiceStats {
    /// The items of a document.
    pub(super) fn read(document: serde_json::Value) -> Result<Vec<Self>> {
        let (version, kind) = (&document["apiVersion"], &document["kind"]);
        ensure!(version == "balancer.dev/v1" && kind == "Stats", "not statistics: {version} {kind}");
        Vec::deserialize(&document["items"]).with_context(|| format!("unexpected statistics: {document:#}"))
    }

    /// Whether this is what answers at an address.
    pub fn is_dialled_by(&self, dialled: Dialled) -> bool {
        let protocol = match dialled.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        self.protocol == protocol && SocketAddr::new(self.address, self.port) == dialled.addr
    }

    /// The backend at an address.
    pub fn backend(&self, address: impl Into<IpAddr>) -> Option<&BackendStats> {
        let address = address.into();
        self.backends.iter().find(|backend| backend.address == address)
    }

    /// The sum of one count over all backends.
    pub fn total(&self, count: impl Fn(&BackendStats) -> u64) -> u64 {
        self.backends.iter().map(count).sum()
    }

    /// Open connections of each backend, in the order of their addresses.
    pub fn active_each(&self) -> Vec<u64> {
        self.backends.iter().map(|backend| backend.active).collect()
    }
}
