//! Making the kernel hold what the model asks for, and touching nothing else.
//!
//! - [`diff`]: what changed between two versions of a Service port; pure;
//! - [`layout`]: how its backends become slots; pure;
//! - [`runs`] and [`ids`]: who owns which part of the maps;
//! - [`apply`]: the writes, in the one order that no connect can notice;
//! - [`recover`]: what an earlier agent left.

pub mod apply;
mod backends;
mod departures;
pub mod diff;
pub mod ids;
pub mod kernel;
pub mod layout;
mod lingering;
pub mod recover;
pub mod runs;
mod settings;
mod slots;

pub use apply::{Applied, Reconciler};
pub use kernel::KernelTables;

#[cfg(test)]
mod tests;
