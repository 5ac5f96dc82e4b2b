//! Stands in for the node until the data path is wired to the command line; not meant to be merged as it is.

use std::path::Path;

use crate::{
    cli::{
        agent::AgentArgs,
        exit::{Exit, Failure},
        node::{DetachMode, Node, SelfProbe},
    },
    model::Frontend,
    view::{CheckReport, Connection, DetachReport, Explanation, Snapshot},
};

/// A node that can do nothing, and says so.
#[derive(Debug)]
pub struct Unwired;

fn failure<T>() -> Result<T, Failure> {
    Err(Failure::new(Exit::Failed, anyhow::anyhow!("this build has no data path")))
}

impl Node for Unwired {
    fn agent(&self, _: &Path, _: &AgentArgs) -> Result<(), Failure> {
        failure()
    }
    fn snapshot(&self, _: &Path) -> Result<Snapshot, Failure> {
        failure()
    }
    fn connections(&self, _: &Path, _: &Snapshot) -> Result<Vec<Connection>, Failure> {
        failure()
    }
    fn explain(&self, _: &Path, _: &Snapshot, _: &[Frontend]) -> Result<Vec<Explanation>, Failure> {
        failure()
    }
    fn check(&self, _: &Path, _: SelfProbe) -> Result<CheckReport, Failure> {
        failure()
    }
    fn detach(&self, _: &Path, _: DetachMode) -> Result<DetachReport, Failure> {
        failure()
    }
}
