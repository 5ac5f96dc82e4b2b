//! From API objects to what should be in the kernel: pure, no I/O.

mod types;

pub use types::*;
