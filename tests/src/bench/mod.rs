//! The benchmark: `cargo xtask bench`.
//!
//! Every figure is measured in rounds in which the variants take turns, in an order that rotates, and is
//! given as the median of the rounds with the lowest and the highest; ratios are taken within a round.

pub mod child;
pub mod churn;
pub mod datapath;
pub mod latency;
pub mod numbers;
pub mod programs;
pub mod propagation;
pub mod rules;
pub mod worker;

/// Says on standard error what is going on: the results alone go to standard output.
#[expect(clippy::print_stderr, reason = "the progress of a long run, for who waits for it")]
pub fn progress(what: &str) {
    eprintln!("bench: {what}");
}
