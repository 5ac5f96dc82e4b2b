//! Where Services and EndpointSlices come from.
//!
//! A source turns API objects into [`Event`]s and sends them on a channel: whole lists first, then
//! single changes. It never sends a partial list, and it never reports an object as gone because it
//! could not be read.
//!
//! Nothing outside this module talks to Kubernetes or reads manifests.

mod health;
pub mod kubernetes;
pub mod manifests;
mod notice;

use std::{fmt, io, path::PathBuf, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc;

use crate::model::{Event, NodeInfo};

use kubernetes::KubernetesConfig;
use manifests::ManifestsConfig;

pub use health::{HealthSnapshot, Loss, Problem, Resource, ResourceSnapshot, SourceHealth};
pub use notice::{Notice, NoticeReason, QUEUE as NOTICES};

/// The label that names a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

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

/// A source with all that it needs to run.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory of manifests.
    Manifests(ManifestsConfig),
    /// The API server.
    Kubernetes(KubernetesConfig),
}

impl Source {
    /// Checks what can be known before anything is watched: that the directory is there, that the
    /// configuration of a client can be read. Asks no server.
    ///
    /// # Errors
    ///
    /// What [`Source::run`] would end with at once.
    pub async fn check(&self) -> Result<(), SourceError> {
        match self {
            Self::Manifests(config) => manifests::check(&config.dir),
            Self::Kubernetes(config) => kubernetes::check(&config.access).await,
        }
    }

    /// Which it is.
    pub const fn kind(&self) -> SourceKind {
        match self {
            Self::Manifests(_) => SourceKind::Manifests,
            Self::Kubernetes(_) => SourceKind::Kubernetes,
        }
    }

    /// Announces notices where those who look after the Services will find them, until nobody can send any:
    /// as Events on the Service with an API server, nowhere with manifests. `node` is who says so.
    pub async fn announce(self, node: Arc<str>, notices: mpsc::Receiver<Notice>) {
        if let Self::Kubernetes(config) = self {
            kubernetes::announce(config.access, node, notices).await;
        }
    }

    /// Sends events until the receiver is dropped or this future is. `health` is of the same kind.
    ///
    /// # Errors
    ///
    /// When the source cannot start; once it runs it does not fail.
    pub async fn run(
        self,
        events: mpsc::Sender<Event>,
        health: Arc<SourceHealth>,
    ) -> Result<(), SourceError> {
        match self {
            Self::Manifests(config) => manifests::run(config, events, health).await,
            Self::Kubernetes(config) => kubernetes::run(config, events, health).await,
        }
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
    /// No configuration of a client anywhere.
    #[error(
        "found no cluster: neither KUBECONFIG, nor a service account, nor ~/.kube/config; \
         name a file with --kubeconfig, or use --source manifests"
    )]
    NoCluster,
    /// A kubeconfig that cannot be used.
    // Of its words the first line: the others quote the file, which may hold a token.
    #[error("cannot use the kubeconfig of {place}: {}", first_line(source))]
    Kubeconfig {
        /// The file, or the variable that names it.
        place: String,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// A service account that cannot be used.
    #[error("cannot use the service account of this pod: {0}; is automountServiceAccountToken off?")]
    ServiceAccount(#[source] kube::config::InClusterError),
    /// No client for that configuration.
    #[error("cannot make a client for the API server from {place}: {source}")]
    Client {
        /// The file, or the variable that names it.
        place: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// No thread for the directory.
    #[error("cannot start a thread that reads manifests: {0}")]
    Thread(#[source] io::Error),
}

fn first_line(error: &impl fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What the model needs of a Node, which is in its metadata.
fn node_info(metadata: &ObjectMeta) -> NodeInfo {
    let zone = metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
    NodeInfo {
        name: metadata.name.as_deref().unwrap_or_default().into(),
        zone: zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
    }
}

/// The end that events are sent on.
type Events = mpsc::Sender<Event>;
