//! How what happened is undone, in its time or at once.

use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::{
    faults,
    run::Soak,
    services::{Condition, SPECS},
};

/// What has to be done later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    Serve(usize),
    ResumeServer(usize),
    Plug(usize),
    Agent,
    ResumeAgent,
    Heal,
    /// After a backup was restored: whoever keeps these objects writes them again.
    Rewrite,
    Bring(usize),
    Fill(usize, usize),
    Finish(usize, usize),
    Ready(usize, usize),
}

impl Soak<'_> {
    /// Undoes what is due.
    pub(super) fn undo_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(at) = self.undos.iter().position(|(due, _)| *due <= now) {
            let (_, undo) = self.undos.remove(at);
            self.undo(undo)?;
        }
        Ok(())
    }

    /// Undoes everything, now.
    pub(super) fn undo_all(&mut self) -> Result<()> {
        while !self.undos.is_empty() {
            let (_, undo) = self.undos.remove(0);
            self.undo(undo)?;
        }
        Ok(())
    }

    fn undo(&mut self, undo: Undo) -> Result<()> {
        self.ledger.note(format!("undone: {undo:?}"));
        match undo {
            Undo::Serve(pod) => {
                self.world.serve(pod)?;
                self.world.trouble_ends(pod);
            }
            Undo::ResumeServer(pod) => {
                let server = self.world.targets[pod].server.as_mut().context("it was stopped")?;
                server.process().signal(Signal::CONT)?;
                self.world.trouble_ends(pod);
            }
            Undo::Plug(pod) => {
                self.world.targets[pod].pod.plug()?;
                self.world.trouble_ends(pod);
            }
            Undo::Agent => self.agents.spawn()?,
            Undo::ResumeAgent => self.agents.resume()?,
            Undo::Heal => faults::heal(&mut self.world)?,
            Undo::Rewrite => (0..SPECS.len()).try_for_each(|service| self.world.publish(service))?,
            Undo::Bring(service) => {
                self.world.wanted[service].exists = true;
                self.world.publish(service)?;
            }
            Undo::Fill(service, pod) => {
                self.world.wanted[service].endpoints.insert(pod, Condition::Ready);
                self.world.publish(service)?;
            }
            Undo::Finish(service, pod) => self.step(service, pod, Condition::Terminating, None)?,
            Undo::Ready(service, pod) => {
                self.step(service, pod, Condition::NotReady, Some(Condition::Ready))?;
            }
        }
        Ok(())
    }

    /// The next condition of an endpoint, if it still has the one from before.
    fn step(&mut self, service: usize, pod: usize, from: Condition, to: Option<Condition>) -> Result<()> {
        let endpoints = &mut self.world.wanted[service].endpoints;
        if endpoints.get(&pod) != Some(&from) {
            return Ok(());
        }
        match to {
            Some(to) => endpoints.insert(pod, to),
            None => endpoints.remove(&pod),
        };
        self.world.publish(service)
    }
}
