//! Clients and servers in pods: small processes that do exactly what a test asks.
//!
//! They are processes because a socket belongs to the cgroup of the process that made it, and the programs under test see that
//! cgroup. The binary is `peer` of this package (`src/bin/peer`); requests and replies are JSON lines on its standard input and
//! output ([`protocol`]). It ends when its standard input does, so it cannot outlive its test.

mod client;
mod link;
pub mod protocol;
mod server;

pub use self::{
    client::{Client, Holder, Running, Socket},
    link::{CallError, binary},
    server::{Server, ServerOptions},
};
