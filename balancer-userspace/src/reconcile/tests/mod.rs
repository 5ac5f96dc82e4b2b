//! The reconciler against tables in memory that are checked after every single store.

mod eyes;
mod fake;
mod objects;
mod order;
