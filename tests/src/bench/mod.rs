//! The benchmark: `cargo xtask bench`.
//!
//! - [`programs`]: what a run of a program costs, beside the least that the same work takes;
//! - [`latency`]: what a connect takes, or a question over UDP, beside direct ones and kube-proxy's rules;
//! - [`established`]: what connections cost once they are open;
//! - [`contention`]: connects of several processors at once;
//! - [`memory`]: what the maps take;
//! - [`churn`]: connects while everything changes;
//! - [`propagation`]: how soon a change is in the kernel, and what the agent needs for it;
//! - [`open`]: what connections that are open cost the agent;
//! - [`lane`]: connects beside iptables rules, with the express lane and without;
//! - [`report`]: all of it, and what it should be;
//! - [`figures`], [`baseline`]: what of it is compared with an earlier run, and how.
//!
//! Every figure is measured in rounds in which the variants take turns, in an order that rotates, and is
//! given as the median of the rounds with the lowest and the highest; ratios are taken within a round.

pub mod baseline;
pub mod child;
pub mod churn;
pub mod contention;
pub mod datapath;
pub mod established;
pub mod facts;
pub mod figures;
pub mod lane;
pub mod latency;
pub mod load;
pub mod memory;
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

use crate::{agent::AgentOptions, topology::interrupted};

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

/// Options of an agent for so many Services of four endpoints: its own limits, where these suffice.
fn room_for(services: usize) -> AgentOptions {
    let mut arguments = Vec::new();
    if services > 16_000 {
        let twice = (2 * services).to_string();
        arguments.extend(["--max-services".into(), twice]);
        arguments.extend(["--max-backends".into(), (5 * services).to_string()]);
    }
    AgentOptions { arguments, ..AgentOptions::default() }
}
