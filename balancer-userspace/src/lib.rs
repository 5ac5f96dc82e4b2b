//! The balancer agent and its command line.

pub mod model;
pub mod source;
pub mod view;
