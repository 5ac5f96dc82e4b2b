//! The balancer agent and its command line.

pub mod cli;
pub mod evenness;
pub mod handshake;
pub mod logging;
pub mod model;
pub mod unwired;
pub mod view;
