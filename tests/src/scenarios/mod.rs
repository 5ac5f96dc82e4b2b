//! The scenarios: situations that people describe when they write about long-lived connections in Kubernetes, each
//! with real servers and clients, in every arm, from the same seeds: `cargo xtask scenarios`.
//!
//! - [`outcome`]: what a run leaves;
//! - [`measures`]: how even that is, and how sure one can be of it.

pub mod measures;
pub mod outcome;
