//! The express lane: connects to pods that need not walk through kube-proxy's iptables rules.
//!
//! In its iptables mode kube-proxy has a rule for each Service in one chain. A connection to a pod's own address, which is
//! what connects are translated to, matches none of them, and its first packet walks over all. A table of our own,
//! whose chain comes just before, settles NAT for known pods: to the address that they have.
//!
//! **Invariant:** the lane holds backends of the tables and no address of any Service; it rewrites nothing; and it
//! lapses with the lease, in the kernel, whatever becomes of the agent.
//!
//! - [`endpoint`], [`desired`], [`cidr`]: what it should hold; pure;
//! - `message`, [`answer`]: nf_tables in bytes; pure;
//! - `netlink`, `table`: the kernel; `kubeproxy`, `xtables`: whether the lane is of use;
//! - `worker`, `side`: a thread of its own, since a transaction waits for those of others, and kube-proxy's take seconds.

pub mod answer;
pub mod cidr;
pub mod desired;
pub mod endpoint;
mod error;
mod kubeproxy;
mod message;
mod netlink;
mod side;
mod table;
mod worker;
mod xtables;

use std::{
    cell::Cell,
    collections::BTreeSet,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use balancer_common::abi::LaneState;

pub use self::{
    cidr::{Cidr, CidrError},
    desired::{Delta, Desired},
    endpoint::Endpoint,
    error::LaneError,
    table::table_name,
};
use self::{netlink::Channel, worker::Worker};
use crate::model::Family;

/// What the thread is told.
#[derive(Debug)]
enum Command {
    /// All endpoints that the lane should hold.
    Whole(Vec<Endpoint>),
    /// What changed since.
    Change(Delta),
    /// The lease holds until then, in nanoseconds of the boot time; `u64::MAX` for ever.
    Renew {
        until: u64,
        /// How long each renewal lasts, in nanoseconds; 0 for ever.
        term: u64,
    },
    /// The lease has lapsed, and what was said is not certain any more.
    Suspend,
    /// All of it was removed on purpose: nothing is put back.
    Remove,
}

/// How the lane is, as far as the thread has said.
#[derive(Debug, Default)]
pub struct Status {
    states: [AtomicU32; 2],
    entries: [AtomicU32; 2],
    repairs: AtomicU64,
}

impl Status {
    fn set(&self, family: Family, state: LaneState, entries: usize) {
        let index = usize::from(family == Family::V6);
        self.entries[index].store(u32::try_from(entries).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.states[index].store(state as u32, Ordering::Relaxed);
    }

    fn repaired(&self) {
        self.repairs.fetch_add(1, Ordering::Relaxed);
    }

    /// The states of IPv4 and IPv6, as numbers.
    pub fn states(&self) -> [u32; 2] {
        [0, 1].map(|index| self.states[index].load(Ordering::Relaxed))
    }

    /// How many endpoints it holds, of IPv4 and IPv6.
    pub fn entries(&self) -> [u32; 2] {
        [0, 1].map(|index| self.entries[index].load(Ordering::Relaxed))
    }

    /// How often something of it was put back that others had taken away.
    pub fn repairs(&self) -> u64 {
        self.repairs.load(Ordering::Relaxed)
    }
}

/// The lane. What it is told never blocks: the work is done by a thread, which ends when this is dropped, and leaves
/// the lane in the kernel until it lapses.
#[derive(Debug)]
pub struct Lane {
    commands: Sender<Command>,
    ended: Receiver<()>,
    status: Arc<Status>,
    /// Whether the thread is known to have ended.
    lost: Cell<bool>,
}

impl Lane {
    /// Starts the thread, in the network namespace of the caller.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(table: String) -> io::Result<Self> {
        let (commands, received) = channel();
        let (sender, ended) = channel();
        let status = Arc::new(Status::default());
        let [v4, v6] = [Family::V4, Family::V6];
        status.set(v4, LaneState::Waiting, 0);
        status.set(v6, LaneState::Waiting, 0);
        let worker = Worker::new(table, Arc::clone(&status), sender);
        std::thread::Builder::new().name("lane".to_owned()).spawn(move || worker.run(&received))?;
        Ok(Self { commands, ended, status, lost: Cell::new(false) })
    }

    /// Says what it should hold, all of it.
    pub fn whole(&self, endpoints: Vec<Endpoint>) {
        self.tell(Command::Whole(endpoints));
    }

    /// Says what changed since then.
    pub fn change(&self, delta: Delta) {
        if !delta.is_empty() {
            self.tell(Command::Change(delta));
        }
    }

    /// Says until when the lease holds, in nanoseconds of the boot time, and how long each of its terms is; `u64::MAX` and
    /// 0 for ever. The kernel is told at least four times per term: there the lane lapses up to a quarter of it before.
    pub fn renew(&self, until_ns: u64, term_ns: u64) {
        self.tell(Command::Renew { until: until_ns, term: term_ns });
    }

    /// Lets it lapse at once, until it is told everything anew.
    pub fn suspend(&self) {
        self.tell(Command::Suspend);
    }

    /// Removes it, and does not put it back.
    pub fn remove(&self) {
        self.tell(Command::Remove);
    }

    /// How it is.
    pub const fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Ends the thread once it has done what it was told, which is waited for no longer than this.
    pub fn finish(self, patience: Duration) {
        drop(self.commands);
        // Either way, told or not in time, it is over.
        let _ = self.ended.recv_timeout(patience);
    }

    fn tell(&self, command: Command) {
        // Once: everything comes by here, many times a second.
        if self.commands.send(command).is_err() && !self.lost.replace(true) {
            for family in [Family::V4, Family::V6] {
                self.status.set(family, LaneState::Refused, 0);
            }
            log::error!("the thread that looks after the express lane has ended: restart the agent");
        }
    }
}

/// What a state means, for people.
pub const fn words(state: LaneState) -> &'static str {
    match state {
        LaneState::Off => "off (--express-lane)",
        LaneState::Waiting => "not installed yet: it waits for the source to list everything",
        LaneState::Installed => "installed",
        LaneState::NoRules => {
            "not installed: kube-proxy has no iptables rules here that a connect would walk through"
        }
        LaneState::Nftables => "not installed: kube-proxy uses nftables, which looks Services up at once",
        LaneState::Ipvs => "not installed: kube-proxy uses IPVS, which looks Services up at once",
        LaneState::Observing => "not installed: connects are only observed (--mode observe)",
        LaneState::Refused => "not installed: the kernel refused it; the agent's log says why",
    }
}

/// What the kernel holds of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether its rules hold now.
    pub alive: bool,
    /// The endpoints.
    pub endpoints: BTreeSet<Endpoint>,
    /// Keys that are no endpoints: somebody else put them in.
    pub strange: usize,
}

/// Reads the lane that goes with pins; `None` if there is none in this network namespace.
///
/// # Errors
/// Without CAP_NET_ADMIN, or without nf_tables.
pub fn read(pins: &Path, family: Family) -> Result<Option<Found>, LaneError> {
    let name = table_name(pins)?;
    let mut channel = Channel::open()?;
    if table::inspect(&mut channel, family, &name)? != table::Structure::Whole {
        return Ok(None);
    }
    let (endpoints, strange) = table::endpoints(&mut channel, family, &name)?;
    Ok(Some(Found { alive: table::is_alive(&mut channel, family, &name)?, endpoints, strange }))
}

/// The tables of the lane that goes with pins, as `nft` calls them.
///
/// # Errors
/// Those of [`read`]; that the kernel has no nf_tables is none.
pub fn tables(pins: &Path) -> Result<Vec<String>, LaneError> {
    each_table(pins, |channel, family, name| channel.ask(family, message::Query::Table(name), |_| {}))
}

/// Removes the lane that goes with pins; returns its tables, as `nft` calls them.
///
/// # Errors
/// Those of [`tables`].
pub fn remove(pins: &Path) -> Result<Vec<String>, LaneError> {
    each_table(pins, table::remove)
}

fn each_table(
    pins: &Path,
    mut act: impl FnMut(&mut Channel, Family, &str) -> Result<bool, LaneError>,
) -> Result<Vec<String>, LaneError> {
    let name = table_name(pins)?;
    let mut channel = match Channel::open() {
        Ok(channel) => channel,
        Err(LaneError::NoNfTables { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut acted = Vec::new();
    for family in [Family::V4, Family::V6] {
        if act(&mut channel, family, &name)? {
            acted.push(table::describe(family, &name));
        }
    }
    Ok(acted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_ended_is_not_said_to_hold_anything() {
        let (commands, _) = channel();
        let (_, ended) = channel();
        let lane = Lane { commands, ended, status: Arc::default(), lost: Cell::new(false) };
        lane.status.set(Family::V4, LaneState::Installed, 7);
        lane.suspend();
        assert_eq!(lane.status.states(), [LaneState::Refused as u32; 2]);
        assert_eq!(lane.status.entries(), [0, 0]);
    }
}
