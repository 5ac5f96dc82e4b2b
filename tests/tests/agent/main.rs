//! The real agent on a real kernel: its whole life, what it is fed, and what the command line says of it.
//!
//! Every test has namespaces, a cgroup and pins of its own, and nothing leaves them.

mod set;
mod tables;

mod change;
mod lease;
mod partial;
mod restart;
mod storm;
