//! Moving one connection: through its process's descriptor or, where that is out of reach, through the kernel.

use std::net::SocketAddr;

use balancer_common::abi::Refusal;

use super::{
    census::Census,
    gate::{self, Demand},
    hold::{self, Hold},
    process::{self, Place},
};
use crate::{
    datapath::Maps,
    sockets::{Destroyed, LiveSocket, Transport},
};

/// Which way a connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// shutdown() on a duplicate of its process's descriptor.
    Shutdown,
    /// The kernel was told to close it (`SOCK_DESTROY`).
    Destroyed,
}

impl Way {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Destroyed => "closed by the kernel",
        }
    }
}

/// Ends the connection of `socket` if it may be ended now, so that its process connects anew when it needs to.
///
/// # Errors
/// Why it was left as it is.
pub fn relocate(
    maps: &mut Maps,
    census: &mut Census,
    socket: &LiveSocket,
    demand: &Demand,
) -> Result<Way, Refusal> {
    // What the listing says is old, but never better than what is: it costs nothing to look there first.
    gate::judge(&hold::listed(socket).ok_or(Refusal::Changed)?, demand)?;
    match reach(census, socket)? {
        Reach::Descriptor(hold) => {
            hold.pass(maps, demand)?;
            maps.withdraw_offer(socket.cookie);
            hold.end().map(|()| Way::Shutdown)
        }
        Reach::Kernel(pids) => destroy(maps, census, socket, demand, &pids).map(|()| Way::Destroyed),
    }
}

/// How a connection can be got at.
pub enum Reach {
    /// Through its process's descriptor.
    Descriptor(Hold),
    /// Through the kernel alone; these processes may hold it.
    Kernel(Vec<u32>),
}

/// How the connection of `socket` can be got at.
///
/// # Errors
/// Why it cannot.
pub fn reach(census: &mut Census, socket: &LiveSocket) -> Result<Reach, Refusal> {
    let place = census.processes.place(socket);
    if let Place::Hidden(pids) = place {
        return Ok(Reach::Kernel(pids));
    }
    match (Hold::take(socket, &place), place) {
        (Ok(hold), _) => Ok(Reach::Descriptor(hold)),
        // Its descriptor may be seen, and not duplicated. Who opened it may have ended since, and left it to a child.
        (Err(Refusal::Unreachable), Place::Held { pid, .. }) => Ok(Reach::Kernel(vec![pid])),
        (Err(refusal), _) => Err(refusal),
    }
}

/// Whether none of these processes can be about to write.
///
/// # Errors
/// Why that cannot be told, or that one runs.
pub fn asleep(pids: &[u32]) -> Result<(), Refusal> {
    if !process::sees_all() {
        Err(Refusal::Unreachable)
    } else if !pids.iter().all(|pid| process::sleeps(*pid)) {
        Err(Refusal::Running)
    } else {
        Ok(())
    }
}

/// The same where descriptors may not be looked at. Any process of its cgroup may hold the socket then, so all of
/// them must sleep.
fn destroy(
    maps: &mut Maps,
    census: &mut Census,
    socket: &LiveSocket,
    demand: &Demand,
    pids: &[u32],
) -> Result<(), Refusal> {
    let before = hold::listed(socket).ok_or(Refusal::Changed)?;
    asleep(pids)?;
    let listing =
        census.channels.connected(maps.sockets(), &[Transport::Tcp]).map_err(|_| Refusal::Failed)?;
    let now = listing.sockets.iter().find(|now| now.cookie == socket.cookie).ok_or(Refusal::Changed)?;
    let after = hold::listed(now).ok_or(Refusal::Changed)?;
    gate::judge(&after, demand)?;
    if now.backend() != socket.backend() || !gate::same(&before, &after) {
        return Err(Refusal::Busy);
    }
    maps.withdraw_offer(socket.cookie);
    match census.channels.destroy(now) {
        Ok(Destroyed::Yes) => Ok(()),
        Ok(Destroyed::Gone) => Err(Refusal::Changed),
        Err(error) => {
            log::debug!("{error}");
            Err(Refusal::Failed)
        }
    }
}

/// A connection in words, for the log.
pub fn describe(socket: &LiveSocket) -> String {
    let local = socket.local.map_or_else(|| "?".to_owned(), |local: SocketAddr| local.to_string());
    let idle = socket.idle.unwrap_or_default().as_secs_f64();
    let process =
        socket.tgid().map_or_else(|| "an unknown process".to_owned(), |pid| format!("process {pid}"));
    format!("{local} -> {} of {process}, idle for {idle:.1} s", socket.target())
}
