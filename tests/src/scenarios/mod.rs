//! The scenarios: situations that people describe when they write about long-lived connections in Kubernetes, each
//! with real servers and clients, in every arm, from the same seeds: `cargo xtask scenarios`.
//!
//! - [`outcome`]: what a run leaves;
//! - [`measures`]: how even that is, and how sure one can be of it;
//! - [`simulation`]: many nodes, with the selection code and without sockets;
//! - [`report`]: all of it in one file, as tables ([`rows`], [`markdown`], [`text`]) and pictures ([`plot`]).

#[cfg(test)]
mod fixture;
mod markdown;
pub mod measures;
pub mod outcome;
pub mod plot;
pub mod report;
mod rows;
pub mod simulation;
mod text;
pub mod words;
