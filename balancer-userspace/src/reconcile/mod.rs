//! Making the kernel hold what the model asks for, and touching nothing else.
//!
//! - [`diff`]: what changed between two versions of a Service port; pure;
//! - [`layout`]: how its backends become slots; pure;
//! - [`runs`] and [`ids`]: who owns which part of the maps;
//! - `room`: what becomes of a Service when the maps are full;
//! - [`apply`]: the writes, in the one order that no connect can notice.

pub mod apply;
pub mod diff;
pub mod ids;
pub mod kernel;
pub mod layout;
pub mod recover;
mod room;
pub mod runs;

pub use apply::{Applied, Reconciler};
pub use kernel::KernelTables;

#[cfg(test)]
mod tests;
