//! What the commands ask of the node that they run on.

use std::path::Path;

use super::{agent::AgentArgs, exit::Failure};
use crate::{
    model::Frontend,
    view::{CheckReport, Connection, DetachReport, Explanation, MovedView, PlanView, Snapshot},
};

/// Everything that a command does outside of its own process, so that commands are tested without a kernel.
pub trait Node {
    /// Runs the agent until it is told to stop. Logging is set up already.
    fn agent(&self, pins: &Path, args: &AgentArgs) -> Result<(), Failure>;

    /// Reads the pinned maps.
    fn snapshot(&self, pins: &Path) -> Result<Snapshot, Failure>;

    /// Lists the live sockets that were translated, in any order.
    fn connections(&self, pins: &Path, snapshot: &Snapshot) -> Result<Vec<Connection>, Failure>;

    /// Says what a connect from here to each of `dialled` would do, in their order.
    fn explain(
        &self,
        pins: &Path,
        snapshot: &Snapshot,
        dialled: &[Frontend],
    ) -> Result<Vec<Explanation>, Failure>;

    /// Looks at all that must be right for connects to be balanced. What is wrong is in the report.
    fn check(&self, pins: &Path, probe: SelfProbe) -> Result<CheckReport, Failure>;

    /// Says which connections of each of `services`, by id, would be moved to even out, in their order.
    fn rebalance_plan(
        &self,
        pins: &Path,
        snapshot: &Snapshot,
        services: &[u32],
    ) -> Result<Vec<PlanView>, Failure>;

    /// Moves connections of a Service port, by id, at most `max`.
    fn rebalance_now(
        &self,
        pins: &Path,
        snapshot: &Snapshot,
        service: u32,
        max: u32,
    ) -> Result<MovedView, Failure>;

    /// Makes the self-probe's connects from this process and says in a word how they went; for `check`,
    /// which cannot move itself to another cgroup.
    fn probe(&self, pins: &Path) -> Result<String, Failure>;

    /// Removes all that is ours from the node, or says what it would remove.
    fn detach(&self, pins: &Path, mode: DetachMode) -> Result<Detachment, Failure>;
}

/// What became of `detach`.
#[derive(Debug)]
pub struct Detachment {
    /// What was removed.
    pub report: DetachReport,
    /// Why not all of it was.
    pub left: Option<Failure>,
}

/// Whether `check` makes a real connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfProbe {
    /// It does, over loopback, to a port where nothing listens.
    Connect,
    /// It only looks.
    Omit,
}

/// Whether `detach` acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachMode {
    /// It does.
    Remove,
    /// It only says what it would do.
    DryRun,
    /// It does, even though an agent runs and will notice.
    RemoveUnderAgent,
}
