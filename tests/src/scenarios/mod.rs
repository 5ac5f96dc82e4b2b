//! The scenarios: situations that people describe when they write about long-lived connections in Kubernetes, each
//! with real servers and clients, in every arm, from the same seeds: `cargo xtask scenarios`.
//!
//! - [`list`]: all of them; [`script`]: what one consists of;
//! - [`run`]: plays one, on a [`stage`], with the [`process`]es of clients and servers;
//! - [`outcome`]: what a run leaves behind.

pub mod list;
pub mod outcome;
pub mod process;
pub mod run;
pub mod script;
pub mod stage;
