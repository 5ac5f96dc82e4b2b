//! The balancer agent and its command line.

pub mod datapath;
pub mod model;
pub mod reconcile;
pub mod view;
