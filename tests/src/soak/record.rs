//! What a worker and the soak say to each other: JSON lines.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How it is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The first line to a worker: what it is to do until it is told otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Its dice.
    pub seed: u64,
    /// Directory of the pins, to read what the programs recorded with a socket.
    pub pins: std::path::PathBuf,
    /// What is dialled: protocol and address.
    pub fronts: Vec<(Transport, SocketAddr)>,
    /// Servers that are dialled without the balancer: pod, and address.
    pub direct: Vec<(usize, SocketAddr)>,
    /// Most connections that are held.
    pub hold: usize,
    /// Longest pause between two deeds, microseconds.
    pub pause_us: u64,
}

/// Every line after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Do nothing until [`Order::Go`]; what is held stays open. Answered with [`Record::Paused`].
    Pause,
    /// Close everything that is held. Only while paused; answered with [`Record::Paused`].
    Drop,
    /// Go on.
    Go,
}

/// What was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Goal {
    /// By its index in [`Plan::fronts`].
    Front(usize),
    /// A pod itself, without the balancer.
    Direct(usize, Transport),
}

/// What the programs recorded of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Backend id.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// Where the connect was sent.
    pub target: SocketAddr,
}

/// Which step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// connect(), or sendto().
    Connect,
    /// No answer came.
    Answer,
}

/// What a worker saw. Times are nanoseconds of the programs' clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// A connect, and mostly a question on it.
    Connect {
        /// What was dialled.
        goal: Goal,
        /// Before connect(), after it had returned (it does not block), and when all was over.
        at: [u64; 3],
        /// What the programs recorded; nothing if the connect was left alone.
        chosen: Option<Chosen>,
        /// What failed.
        failed: Option<(Step, String)>,
        /// Who answered: the address at which the server took the connection.
        answered: Option<SocketAddr>,
        /// What getpeername() said, or recvfrom(), if it is not what was dialled.
        peer: Option<SocketAddr>,
    },
    /// A connection that was held had ended when it was looked at, before anything was sent.
    Ended {
        /// What was dialled.
        goal: Goal,
        /// What the programs recorded.
        chosen: Option<Chosen>,
        /// When it was known to work last, and when it was seen to have ended.
        at: [u64; 2],
        /// How it ended.
        how: String,
    },
    /// A question on a connection that was held was answered, or not.
    Asked {
        /// What was dialled.
        goal: Goal,
        /// What the programs recorded.
        chosen: Option<Chosen>,
        /// When it was known to work last, and when all was over.
        at: [u64; 2],
        /// What came instead of an answer.
        failed: Option<String>,
    },
    /// Nothing is done any more, and so many connections are held.
    Paused {
        /// How many.
        held: usize,
    },
}

impl Record {
    /// When it was over.
    pub fn ended_ns(&self) -> u64 {
        match self {
            Self::Connect { at: [_, _, end], .. } => *end,
            Self::Ended { at: [_, end], .. } | Self::Asked { at: [_, end], .. } => *end,
            Self::Paused { .. } => 0,
        }
    }
}
