//! The documents that `-o json` and `-o yaml` print: `apiVersion: balancer.dev/v1`.
//!
//! They are a contract with scripts, described for users in `docs/output.md`, so they are types of
//! their own: a change inside the program does not show here unless it is made here. Within `v1` fields may be
//! added; none is removed, renamed or given another type or unit. What is unknown is `null`, never absent. Field names
//! are in camelCase, times in seconds, sizes in bytes, and the unit is part of the name.

pub mod agent;
pub mod answers;
pub mod backend;
pub mod lifecycle;
pub mod service;
pub mod stats;

use clap::ValueEnum;
use serde::Serialize;

use self::agent::{AgentDoc, WarningDoc};
use super::{exit::Failure, warnings::warnings};
use crate::view::Snapshot;

/// The version of all documents.
pub const API_VERSION: &str = "balancer.dev/v1";

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with a wide terminal: more columns.
    Wide,
    /// One JSON document.
    Json,
    /// The same document as YAML.
    Yaml,
}

/// The flag `-o`.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct FormatArgs {
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// What a document lists.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "each is the name of a subcommand's document")]
pub enum Kind {
    Stats,
    Services,
    Backends,
    Connections,
    Explanation,
    Check,
    Detach,
    RebalanceStatus,
    RebalancePlan,
    RebalanceMoved,
}

/// A whole document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<T> {
    api_version: &'static str,
    kind: Kind,
    /// The agent; `null` in documents that are not read from the maps.
    agent: Option<AgentDoc>,
    warnings: Vec<WarningDoc>,
    items: Vec<T>,
}

impl<T: Serialize> Document<T> {
    /// A document about what a snapshot holds.
    pub fn of(kind: Kind, snapshot: &Snapshot, items: Vec<T>) -> Self {
        Self {
            api_version: API_VERSION,
            kind,
            agent: Some(AgentDoc::from(&snapshot.agent)),
            warnings: warnings(snapshot).iter().map(WarningDoc::from).collect(),
            items,
        }
    }

    /// A document about something else.
    pub fn plain(kind: Kind, items: Vec<T>) -> Self {
        Self { api_version: API_VERSION, kind, agent: None, warnings: Vec::new(), items }
    }

    /// As JSON with line breaks and a final one.
    pub fn json(&self) -> Result<String, Failure> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }

    /// As JSON on a single line.
    pub fn json_line(&self) -> Result<String, Failure> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        Ok(text)
    }

    /// As YAML, after a line that separates it from the document before.
    pub fn yaml(&self) -> Result<String, Failure> {
        Ok(format!("---\n{}", serde_saphyr::to_string(self)?))
    }
}
