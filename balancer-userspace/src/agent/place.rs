//! Where the programs are attached, who else is there, and what to say of it.

use std::path::Path;

use crate::datapath::{Cgroup, Neighbour, Pins};

/// Where the programs are.
pub(super) struct Place<'a> {
    pub pins: &'a Pins,
    pub cgroup: &'a Cgroup,
    /// Who else was there.
    pub neighbours: Vec<Neighbour>,
}

/// What to know of programs that are attached to less than every process of the machine.
pub(super) fn part_of_the_machine(cgroup: &Cgroup, asked: Option<&Path>) -> String {
    let remedy = match asked {
        Some(_) => "leave out --cgroup to balance every process of the node",
        None => {
            "right for a node that is itself a container (kind); elsewhere mount the host's /sys/fs/cgroup \
             into the agent's container"
        }
    };
    format!(
        "attached to {}, which is not the root of the hierarchy: processes outside are not balanced; {remedy}",
        cgroup.path.display()
    )
}

/// Logs that a program of somebody else is on our hooks.
pub(super) fn tell_of(neighbour: &Neighbour) {
    match neighbour.product() {
        Some(product) => log::warn!(
            "{} is at work too: {}; of the two, whichever was attached first balances: {}",
            product.name(),
            neighbour.describe(),
            product.remedy()
        ),
        None => log::info!("beside this agent's programs: {} of somebody else", neighbour.describe()),
    }
}
