//! From API objects to what should be in the kernel: pure, no I/O.

pub mod annotations;
pub mod convert;
mod problems;
mod quote;
mod types;

pub use quote::quote;
pub use types::*;
