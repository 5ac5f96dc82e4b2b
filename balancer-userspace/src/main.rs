//! `balancer`: the agent of a node and its command line.

use balancer_userspace::{cli, node::ThisNode};

fn main() -> cli::exit::Exit {
    cli::main(&ThisNode)
}
