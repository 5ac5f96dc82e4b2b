//! The balancer agent and its command line.
//!
//! Dependencies point one way: `cli` and `agent` use everything; `model` is pure and knows neither a
//! Kubernetes client nor aya; `datapath` alone uses aya; `source` alone talks to Kubernetes.

pub mod agent;
pub mod cli;
mod compact;
pub mod datapath;
pub mod evenness;
pub mod exclusion;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod handshake;
pub mod history;
pub mod http;
pub mod lane;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod node;
pub mod reconcile;
pub mod sockets;
pub mod source;
pub mod view;
