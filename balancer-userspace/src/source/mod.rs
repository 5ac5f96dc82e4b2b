//! Where Services and EndpointSlices come from.
//!
//! A source turns API objects into [`Event`]s and sends them on a channel: whole lists first, then
//! single changes. It never sends a partial list, and it never reports an object as gone because it
//! could not be read.
//!
//! Nothing outside this module talks to Kubernetes or reads manifests.

mod adapter;
mod health;
pub mod manifests;

use std::{fmt, io, path::PathBuf};

use tokio::sync::mpsc;

use crate::model::Event;

pub use health::{HealthSnapshot, Problem, Resource, ResourceSnapshot, SourceHealth};

/// Which source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A directory of manifests.
    Manifests,
    /// The API server.
    Kubernetes,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifests => "manifests",
            Self::Kubernetes => "kubernetes",
        })
    }
}

/// A source that cannot start. Once it runs, a source never fails: it reports and tries again.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The manifests directory is not there.
    #[error("manifests directory {} does not exist: create it, or name another with --manifests", .0.display())]
    NoDirectory(PathBuf),
    /// It is something else.
    #[error("{} is not a directory: --manifests takes a directory of .yaml, .yml and .json files", .0.display())]
    NotADirectory(PathBuf),
    /// It cannot be read.
    #[error("cannot read manifests directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread for the directory.
    #[error("cannot start a thread that reads manifests: {0}")]
    Thread(#[source] io::Error),
}

/// The end that events are sent on.
type Events = mpsc::Sender<Event>;
