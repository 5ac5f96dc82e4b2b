//! `balancer`: the agent of a node and its command line.

use balancer_userspace::cli;

fn main() -> cli::exit::Exit {
    cli::main(&balancer_userspace::unwired::Unwired)
}
