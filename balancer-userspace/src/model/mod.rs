//! From API objects to what should be in the kernel: pure, no I/O.
//!
//! A source reads objects with [`convert`] and sends [`Event`]s; [`Index`] holds what they say and tells
//! which Services changed; [`Index::resolve`] computes what each of those should be in the kernel.

pub mod annotations;
mod claims;
mod connections;
pub mod convert;
mod dirty;
mod endpoints;
mod index;
mod pods;
mod problems;
mod quote;
pub mod resolve;
mod scope;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod story;
mod types;
mod uid;
pub mod values;

pub use connections::{ConnectionSettings, ConnectionWishes, Drain, RemovedSockets, Trust};
pub use dirty::Dirty;
pub use index::{Counts, Defaults, Index};
pub use pods::{ExcludedPod, Mesh, PodExclusion, PodSpec};
pub use quote::quote;
pub use scope::{Exclusion, NamespaceSpec, Participation, Scope, Selection};
pub use types::*;
pub use uid::Uid;

#[cfg(test)]
mod tests;
