//! The processes of a run: servers and clients that speak HTTP, the scenarios' own binary started again in a pod.
//!
//! Each reads one JSON document a line and answers with one a line. A client is a process of one thread of work, as
//! a small service with a connection pool is: one that waits is asleep, and its connections may be moved.

mod client;
mod link;
mod server;

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::{
    client::client,
    link::{Client, Server},
    server::serve,
};

/// What a server is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerPlan {
    /// What it answers with.
    pub name: String,
    /// The first port; each run has a port of its own, so that connections can be told apart.
    pub first_port: u16,
    /// How many ports.
    pub ports: u16,
    /// How long a request takes, in milliseconds.
    pub delay_ms: u64,
    /// What it speaks.
    pub protocol: Protocol,
}

/// What a server speaks, in plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without an upgrade.
    Http2,
}

/// What a server is told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerCommand {
    /// Say what is open and was answered: [`Served`].
    Stats,
    /// Refuse connections from now on; those that are open stay.
    Refuse,
    /// End as a well-made server does: accept no more, finish what is under way, close what is idle. Answered with
    /// [`Served`] once that is done.
    End,
}

/// What a server has open and has answered, by port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Served {
    /// Connections that are open.
    pub open: Vec<u32>,
    /// Requests that were answered.
    pub requests: Vec<u64>,
}

/// What a client does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Keeps so many connections, and sends a request on each after a pause drawn from this range (milliseconds).
    Pool {
        /// How many.
        connections: u32,
        /// Shortest and longest pause.
        pause_ms: (u64, u64),
        /// Whether a connection that the other side has ended is opened anew.
        reconnect: Reconnect,
    },
    /// The same, but three requests with such pauses between them belong together, as a transaction does: if the connection ends
    /// between them, the transaction is lost. Between transactions it pauses as long.
    Transactions {
        /// How many.
        connections: u32,
        /// Shortest and longest pause.
        pause_ms: (u64, u64),
    },
    /// Opens a connection for each request, so many a second, whether or not earlier ones are done.
    Short {
        /// How many.
        per_second: u32,
    },
    /// One HTTP/2 connection to each target, and so many requests at a time, on the connections in turn.
    Multiplexed {
        /// How many.
        streams: u32,
        /// Shortest and longest pause of each stream.
        pause_ms: (u64, u64),
    },
}

/// What a client does about a connection that the other side has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reconnect {
    /// It opens another when it needs it.
    WhenNeeded,
    /// It does with one less.
    Never,
}

/// What a client is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientPlan {
    /// Where to connect to, in turn.
    pub targets: Vec<SocketAddr>,
    /// Which of them comes first.
    pub start: usize,
    /// What pauses are drawn from.
    pub seed: u64,
    /// What to do.
    pub work: Work,
}

/// What a client is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCommand {
    /// New connections go to these from now on.
    Targets(Vec<SocketAddr>),
    /// Requests that were answered so far are not counted: [`ClientReport::latencies_us`] begins anew.
    Mark,
    /// Close all, and report: [`ClientReport`].
    End,
}

/// What became of a client's work.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClientReport {
    /// Requests that were tried, connects that failed included.
    pub tried: u64,
    /// Those that failed: connects, and requests that may have been carried out or were lost.
    pub failed: u64,
    /// The same since the last [`ClientCommand::Mark`].
    pub failed_since_mark: u64,
    /// What was tried since then.
    pub tried_since_mark: u64,
    /// Failures more than a second after the mark.
    pub failed_after_a_second: u64,
    /// Attempts more than a second after the mark.
    pub tried_after_a_second: u64,
    /// By what the library said.
    pub errors: BTreeMap<String, u64>,
    /// When each failed, in nanoseconds since boot.
    pub failed_at_ns: Vec<u64>,
    /// Connections that were opened in place of one that the other side had ended.
    pub reopened: u64,
    /// Connections that the other side has ended, and that were not opened anew.
    pub given_up: u64,
    /// Transactions of which the connection ended in the middle.
    pub lost_transactions: u64,
    /// Transactions that were done.
    pub transactions: u64,
    /// How long each request took that was answered since the last mark, in microseconds.
    pub latencies_us: Vec<u32>,
}
