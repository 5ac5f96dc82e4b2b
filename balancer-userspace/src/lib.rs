//! The balancer agent and its command line.

pub mod cli;
pub mod datapath;
pub mod evenness;
pub mod handshake;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod reconcile;
pub mod sockets;
pub mod source;
pub mod unwired;
pub mod view;
