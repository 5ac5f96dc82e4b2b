//! The live sockets, with the names of what they lead to.

use crate::{
    cli::exit::{Exit, Failure},
    datapath::Maps,
    sockets::{self, Scope, Search, SocketsError},
    view::{Connection, Snapshot},
};

/// All open connections of the node. What could not be looked at is said on standard error.
pub(super) fn connections(maps: &Maps, snapshot: &Snapshot) -> Result<Vec<Connection>, Failure> {
    let listing = sockets::live_sockets(maps.sockets(), Some(maps.flows()), Scope::Node).map_err(failure)?;
    for problem in &listing.incomplete {
        warn(problem);
    }
    let owners = sockets::owners(&listing.sockets, Search::Recorded).map_err(failure)?;
    Ok(sockets::connections(&listing, &owners, snapshot))
}

fn failure(error: SocketsError) -> Failure {
    Failure::new(Exit::Failed, error)
}

#[expect(clippy::print_stderr, reason = "a warning of a command, for the person who called it")]
fn warn(problem: &SocketsError) {
    eprintln!("balancer: the list may be incomplete: {problem}");
}
