//! What happens to connections that are open already.
//!
//! Choosing well when a connection is made repairs nothing that happens afterwards. Here, where a Service asks for
//! it, idle connections are ended so that their clients open new ones, which are balanced; those to backends that
//! terminate are, before the backend ends them; and those to backends that are gone are closed at once.
//!
//! **Invariant:** a connection of a Service is ended only by the gate's leave ([`gate`]), whatever else is decided,
//! unless its backend is gone.
//!
//! - [`gate`], [`policy`], [`trust`]: whether, how many, and what is learned; pure;
//! - [`census`], [`process`], [`hold`], [`moving`]: the connections, who holds them, and ending one;
//! - [`offers`], `service`, `pace`, `closing`, `worker`: what is done turn by turn;
//! - [`record`]: what is written down;
//! - [`manual`]: the same on command; [`rights`]: what it takes.
//!
//! The work is done by a thread of its own, so that nothing here delays the tables.

pub mod census;
mod closing;
pub mod gate;
pub mod hold;
pub mod manual;
pub mod moving;
pub mod offers;
mod pace;
pub mod policy;
pub mod process;
pub mod record;
pub mod rights;
mod service;
pub mod trust;
mod worker;

use std::{
    io,
    sync::mpsc::{Receiver, Sender, channel},
    time::Instant,
};

use balancer_common::abi::{BackendState, Stop};

use crate::datapath::Maps;

/// A backend that takes no new connections, and may still have old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Backend id.
    pub backend: u32,
    /// Service id.
    pub service: u32,
    /// [`BackendState::Draining`] or [`BackendState::Removed`]; others are left alone.
    pub state: BackendState,
    /// Since when.
    pub since: Instant,
}

/// What the tables hold now, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Ids of the Services whose connections may be moved.
    pub services: Vec<u32>,
    /// Backends that are not chosen any more.
    pub departed: Vec<Departed>,
}

/// Something that a user should be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Service id.
    pub service: u32,
    /// Why its connections are not moved any more; [`Stop::None`] if they are again.
    pub stop: Stop,
}

/// The thread that does the work. It ends when this is dropped.
#[derive(Debug)]
pub struct Lifecycle {
    updates: Sender<Update>,
    reports: Receiver<Report>,
    last: Update,
}

impl Lifecycle {
    /// Starts it. `maps` are its own: it shares nothing with the caller but the kernel's memory.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(maps: Maps) -> io::Result<Self> {
        let (updates, received) = channel();
        let (sender, reports) = channel();
        let worker = worker::Worker::new(maps, sender);
        std::thread::Builder::new().name("lifecycle".to_owned()).spawn(move || worker.run(&received))?;
        Ok(Self { updates, reports, last: Update::default() })
    }

    /// Says what the tables hold.
    pub fn update(&mut self, update: Update) {
        if update != self.last {
            self.last = update.clone();
            if self.updates.send(update).is_err() {
                log::error!("the thread that moves and closes connections has ended: restart the agent");
            }
        }
    }

    /// What there is to tell since the last call.
    pub fn reports(&self) -> Vec<Report> {
        self.reports.try_iter().collect()
    }
}
