//! The agent and an API server: a real one, where there is one, and one that fails on command.
//!
//! Tests below `real` need `KUBEBUILDER_ASSETS`; `.config/nextest.toml` leaves them out where it is not set, and
//! `cargo xtask test` says so.

#![expect(clippy::print_stdout, reason = "figures of each case, shown with its output")]

mod conformance;
mod faults;
mod lab;
mod load;
mod real;
