//! The real agent on a real kernel: its whole life, what it is fed, and what the command line says of it.
//!
//! Every test has namespaces, a cgroup and pins of its own, and nothing leaves them.

mod foreign;
mod set;
mod tables;

mod change;
mod detach;
mod lease;
mod memory;
mod modes;
mod partial;
mod restart;
mod second;
mod start;
mod storm;
