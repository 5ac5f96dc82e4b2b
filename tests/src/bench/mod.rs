//! The benchmark: `cargo xtask bench`.
//!
//! - [`programs`]: what a run of a program costs, beside the least that the same work takes;
//! - [`latency`]: what a connect takes, beside direct ones and kube-proxy's rules;
//! - [`churn`]: connects while everything changes;
//! - [`propagation`]: how soon a change is in the kernel, and what the agent needs for it;
//! - [`open`]: what connections that are open cost the agent;
//! - [`report`]: all of it, and what it should be.
//!
//! Every figure is measured in rounds in which the variants take turns, in an order that rotates, and is
//! given as the median of the rounds with the lowest and the highest; ratios are taken within a round.

pub mod child;
pub mod churn;
pub mod datapath;
pub mod facts;
pub mod latency;
pub mod load;
pub mod numbers;
pub mod open;
pub mod programs;
pub mod propagation;
pub mod report;
pub mod rules;
pub mod table;
pub mod targets;
pub mod worker;

use anyhow::{Result, bail};

use crate::topology::interrupted;

/// Says on standard error what is going on: the results alone go to standard output.
#[expect(clippy::print_stderr, reason = "the progress of a long run, for who waits for it")]
pub fn progress(what: &str) {
    eprintln!("bench: {what}");
}

/// Fails once a signal has asked for the end, so that everything is taken down in order.
///
/// # Errors
/// Then.
pub fn check_interrupt() -> Result<()> {
    if interrupted() { bail!("interrupted") } else { Ok(()) }
}
