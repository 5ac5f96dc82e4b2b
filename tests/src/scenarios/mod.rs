//! The scenarios: situations that people describe when they write about long-lived connections in Kubernetes, each
//! with real servers and clients, in every arm, from the same seeds: `cargo xtask scenarios`.
//!
//! - [`outcome`]: what a run leaves, and how much it is worth.

pub mod outcome;
