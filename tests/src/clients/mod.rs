//! Whether moving idle connections hurts a request: real client libraries, real servers, and a count of both sides.
//!
//! For each library and each quiet time ([`row`]): a client program of `tests/clients` keeps a pool of connections to a Service
//! address, each silent between bursts of requests for longer than the quiet time. Its idle connections are moved
//! ([`mechanism`]) until enough have been, and the ids of all requests, which the client says and the servers keep, are joined
//! ([`join`]): what the client was told beside what was carried out.
//!
//! `tests/clients/README.md` has what client and server programs are told, and what they say.

mod client;
pub mod join;
pub mod library;
mod lines;
pub mod mechanism;
pub mod parts;
mod quantiles;
mod reconnect;
pub mod report;
pub mod row;
mod server;
pub mod suite;
mod words;
