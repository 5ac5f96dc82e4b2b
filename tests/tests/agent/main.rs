//! The real agent on a real kernel: its whole life, what it is fed, and what the command line says of it.
//!
//! Every test has namespaces, a cgroup and pins of its own, and nothing leaves them.

mod foreign;
mod set;
mod tables;

mod change;
mod containers;
mod detach;
mod lane;
mod lease;
mod memory;
mod modes;
mod partial;
mod restart;
mod second;
mod socket_lb;
mod stale;
mod start;
mod storm;
