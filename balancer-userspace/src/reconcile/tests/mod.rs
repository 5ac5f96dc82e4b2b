//! The reconciler against tables in memory that are checked after every single store.

mod cluster;
mod cost;
mod crash;
mod departures;
mod eyes;
mod fake;
mod garbage;
mod limits;
pub(super) mod objects;
mod order;
mod properties;
mod settled;
mod story;
mod watch;
