//! Chaos for as long as it is told, and what must hold meanwhile: `cargo xtask soak`.
//!
//! A node of pods with servers, clients that connect in every way, the real agent, and an API server that fails on
//! command ([`crate::apiserver::fake`]). At random, from a seed that is printed, endpoints change, Services come and go,
//! servers are killed, stopped and cut off, clients are killed, the agent is killed, stopped and replaced, the API server
//! fails in every way, and there are more Services than the tables hold.
//!
//! - [`world`], [`services`], [`agents`], [`pressure`]: what there is;
//! - `events`, [`faults`]: what happens to it, and `undo` how it ends; [`plant`]: bugs, to see that they are found;
//! - [`ledger`]: what was done when, which excuses failures; [`watcher`]: what the tables said when;
//! - [`worker`], [`record`]: the clients, with the system calls of `dialling`; [`crew`]: the soak's side of them;
//! - [`judge`]: whether what they saw may be; [`quiet`]: what is compared while all stand still;
//! - [`invariants`]: the rules, as pure functions; [`tally`], [`report`]: what came of it; [`run`]: the order of it all.

pub mod agents;
pub mod crew;
mod dialling;
mod events;
pub mod faults;
pub mod invariants;
pub mod judge;
pub mod ledger;
pub mod plant;
pub mod pressure;
pub mod quiet;
pub mod record;
pub mod report;
pub mod run;
pub mod services;
pub mod tally;
mod undo;
pub mod watcher;
pub mod worker;
pub mod world;
