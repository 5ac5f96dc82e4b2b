//! The node that the commands run on: the pinned maps, the sockets, the agent.

mod check;
mod connections;
mod explain;
mod lane;
mod liveness;
mod rebalance;

use std::path::{Path, PathBuf};

use crate::{
    agent::{self, failure},
    cli::{
        agent::AgentArgs,
        exit::{Exit, Failure},
        node::{DetachMode, Detachment, Node, SelfProbe},
    },
    datapath::{self, Access, Maps, Pins, Removal},
    model::Frontend,
    view::{CheckReport, Connection, DetachReport, Explanation, MovedView, PlanView, Snapshot},
};

/// This machine.
#[derive(Debug)]
pub struct ThisNode;

impl Node for ThisNode {
    fn agent(&self, pins: &Path, args: &AgentArgs) -> Result<(), Failure> {
        agent::run(pins, args)
    }

    fn snapshot(&self, pins: &Path) -> Result<Snapshot, Failure> {
        datapath::read_snapshot(pins).map_err(failure)
    }

    fn connections(&self, pins: &Path, snapshot: &Snapshot) -> Result<Vec<Connection>, Failure> {
        connections::connections(&open(pins)?, snapshot)
    }

    fn explain(
        &self,
        pins: &Path,
        snapshot: &Snapshot,
        dialled: &[Frontend],
    ) -> Result<Vec<Explanation>, Failure> {
        let maps = open(pins)?;
        dialled
            .iter()
            .map(|frontend| explain::explain(&Pins::new(pins), &maps, snapshot, *frontend))
            .collect()
    }

    fn check(&self, pins: &Path, probe: SelfProbe) -> Result<CheckReport, Failure> {
        Ok(check::check(&Pins::new(pins), probe))
    }

    fn rebalance_plan(
        &self,
        pins: &Path,
        snapshot: &Snapshot,
        services: &[u32],
    ) -> Result<Vec<PlanView>, Failure> {
        rebalance::plan(&open(pins)?, snapshot, services)
    }

    fn rebalance_now(&self, pins: &Path, _: &Snapshot, service: u32, max: u32) -> Result<MovedView, Failure> {
        let mut maps = Maps::open(&Pins::new(pins), Access::Write).map_err(failure)?;
        rebalance::now(&mut maps, service, max)
    }

    fn probe(&self, pins: &Path) -> Result<String, Failure> {
        Ok(check::probe_here(&Pins::new(pins)))
    }

    fn detach(&self, pins: &Path, mode: DetachMode) -> Result<Detachment, Failure> {
        let pins = Pins::new(pins);
        // Held until all of it is gone, so that no agent starts meanwhile.
        let _lock = match mode {
            DetachMode::DryRun | DetachMode::RemoveUnderAgent => None,
            DetachMode::Remove => {
                let lock = pins.lock_existing().map_err(failure)?;
                Some(lock.ok_or_else(|| {
                    Failure::new(
                        Exit::AlreadyRunning,
                        anyhow::anyhow!(
                            "an agent runs on this node and holds {}: stop it first, or detach under it with \
                             --force",
                            pins.root().display()
                        ),
                    )
                })?)
            }
        };
        let removal = match mode {
            DetachMode::DryRun => Removal::DryRun,
            DetachMode::Remove | DetachMode::RemoveUnderAgent => Removal::Act,
        };
        // First, for it is named after what is removed then. It lapses by itself; the programs do not.
        let lane = lane::detach(&pins, removal);
        let detached = datapath::detach(&pins, removal).map_err(failure)?;
        let (lane, left) = match lane {
            Ok(tables) => (tables, None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        let text = |paths: Vec<PathBuf>| paths.into_iter().map(|path| path.display().to_string());
        let report = DetachReport {
            removed: lane.into_iter().chain(text(detached.removed)).collect(),
            kept: text(detached.kept).collect(),
        };
        Ok(Detachment { report, left })
    }
}

fn open(pins: &Path) -> Result<Maps, Failure> {
    Maps::open(&Pins::new(pins), Access::Read).map_err(failure)
}
