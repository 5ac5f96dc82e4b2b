//! The scenarios: situations that people describe when they write about long-lived connections in Kubernetes, each
//! with real servers and clients, in every arm, from the same seeds: `cargo xtask scenarios`.
//!
//! - [`list`]: all that are run with sockets; [`script`]: what one consists of;
//! - [`run`]: plays one, on a [`stage`], with the [`process`]es of clients and servers;
//! - [`simulation`]: many nodes, with the selection code and without sockets;
//! - [`outcome`]: what a run leaves; [`measures`]: how even that is, and how sure one can be of it;
//! - [`report`]: all of it in one file, as tables (`rows`, `markdown`, `text`) and pictures ([`plot`]).

#[cfg(test)]
mod fixture;
pub mod list;
mod markdown;
pub mod measures;
pub mod outcome;
pub mod plot;
pub mod process;
pub mod report;
mod rows;
pub mod run;
pub mod script;
pub mod simulation;
pub mod stage;
mod text;
pub mod words;
