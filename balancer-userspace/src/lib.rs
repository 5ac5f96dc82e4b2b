//! The balancer agent and its command line.

pub mod model;
pub mod sockets;
pub mod view;
