//! The benchmark: `cargo xtask bench`.
//!
//! Every figure is measured in rounds in which the variants take turns, in an order that rotates, and is
//! given as the median of the rounds with the lowest and the highest; ratios are taken within a round.

pub mod child;
pub mod datapath;
pub mod numbers;
pub mod programs;
pub mod worker;
