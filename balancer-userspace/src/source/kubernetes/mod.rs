//! The API server as the source.
//!
//! Services, EndpointSlices, Namespaces and the agent's own Node are each listed in pages and then watched, by an
//! explicit loop (`follow`) over kube's `list` and `watch`. A list is delivered whole or not at all, an
//! unreachable API server changes nothing, and no failure is final.

mod access;
mod announce;
mod backoff;
mod failure;
mod follow;
mod sinks;

#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::{Events, Notice, SourceError, SourceHealth};
use access::Connection;
use follow::{Follow, Gate};
use sinks::{KindSink, Namespaces, NodeSink, Pods, Services, Sink, Slices};

pub use access::Access;

/// Which API server, and how to treat it.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// How to reach it.
    pub access: Access,
    /// The node that the agent runs on; empty where it has no name, and then zones are unknown.
    pub node_name: Arc<str>,
    /// Whether to read the Pods of that node.
    pub pods: ReadPods,
    /// Intervals and limits.
    pub timing: Timing,
}

/// Whether the Pods of the own node are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadPods {
    /// They are not asked for.
    #[default]
    No,
    /// They are, which takes a right of its own.
    Yes,
}

/// Intervals and limits towards the API server.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Longest wait for a page of a list, or for a watch to begin.
    pub request: Duration,
    /// How long the server is asked to keep a watch open, give or take a fifth.
    pub watch: Duration,
    /// A watch without an event or bookmark for this long is taken for dead; one that never had any leads
    /// to a full list. Servers send a bookmark about once a minute.
    pub silence: Duration,
    /// Shortest time between the beginnings of two watches of one resource.
    pub floor: Duration,
    /// A watch that lived this long counts as working, even without an event.
    pub settled: Duration,
    /// First pause after a failure; it doubles with every further one, and is then shortened at random
    /// by up to a half, so that the agents of a cluster do not return all at once.
    pub backoff: Duration,
    /// Longest such pause.
    pub backoff_cap: Duration,
    /// Time between full lists while everything works, give or take a fifth: repairs a watch that is
    /// silently stale, as after a restored etcd.
    pub relist: Duration,
    /// How long the first lists are held back for the zone of the own Node and the annotations of
    /// Namespaces, so that a restart neither resolves everything twice nor balances, even for a moment, a
    /// Service that was opted out. They are not waited for where they may not be read.
    pub node_grace: Duration,
    /// Objects per page.
    pub page: u32,
}

impl Timing {
    /// From what an operator may choose: the longest wait for an answer, and the time between full lists.
    ///
    /// Answers that are late by that much are given up, pauses between attempts are no longer, and a watch that
    /// is silent for five times as long is taken for dead.
    pub fn new(timeout: Duration, relist: Duration) -> Self {
        Self {
            request: timeout,
            watch: Duration::from_secs(300),
            silence: timeout * 5,
            floor: Duration::from_secs(1),
            settled: Duration::from_secs(10),
            backoff: Duration::from_millis(500),
            backoff_cap: timeout,
            relist,
            node_grace: Duration::from_secs(5),
            page: 500,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::new(Duration::from_secs(30), Duration::from_secs(30 * 60))
    }
}

/// Sends what the API server says, until the receiver is dropped or this future is.
///
/// The first events are [`Event::Node`], [`Event::AllNamespaces`] and, if asked for, [`Event::AllPods`], then [`Event::AllServices`] and
/// [`Event::AllSlices`], both in any order; where the Node or the Namespaces cannot be read in time they
/// come later. Whole lists come again every now and then.
///
/// # Errors
///
/// When the configuration of the client cannot be used. An API server that cannot be reached is not an
/// error: it is tried for ever.
///
/// [`Event::Node`]: crate::model::Event::Node
/// [`Event::AllNamespaces`]: crate::model::Event::AllNamespaces
/// [`Event::AllPods`]: crate::model::Event::AllPods
/// [`Event::AllServices`]: crate::model::Event::AllServices
/// [`Event::AllSlices`]: crate::model::Event::AllSlices
pub async fn run(
    config: KubernetesConfig,
    events: Events,
    health: Arc<SourceHealth>,
) -> Result<(), SourceError> {
    let KubernetesConfig { access, node_name, pods, timing } = config;
    let connection = Connection::new(access).await?;
    log::info!("reading Services and EndpointSlices from the API server at {}", connection.server());
    follow_all(connection, node_name, pods, timing, events, health).await;
    Ok(())
}

/// Checks that there is a configuration of a client, and that it can be used.
///
/// # Errors
///
/// When it cannot, by name.
pub async fn check(access: &Access) -> Result<(), SourceError> {
    Connection::new(access.clone()).await.map(drop)
}

/// Writes notices as Events on their Services, until nobody can send any. What cannot be written is dropped.
pub(super) async fn announce(access: Access, node: Arc<str>, notices: mpsc::Receiver<Notice>) {
    match Connection::new(access).await {
        Ok(connection) => announce::run(connection, node, notices, announce::Timing::default()).await,
        // The source itself ends with it.
        Err(error) => log::debug!("no Events are written: {error}"),
    }
}

/// What all resources have in common.
struct Common {
    connection: Connection,
    timing: Timing,
    events: Events,
    health: Arc<SourceHealth>,
}

impl Common {
    fn follow<S: Sink>(&self, sink: S, gate: Gate) -> Follow<S> {
        let Self { connection, timing, events, health } = self;
        Follow::new(sink, connection.clone(), timing.clone(), events.clone(), health.clone(), gate)
    }
}

async fn follow_all(
    connection: Connection,
    node_name: Arc<str>,
    pods: ReadPods,
    timing: Timing,
    events: Events,
    health: Arc<SourceHealth>,
) {
    let (known, node_known) = watch::channel(node_name.is_empty());
    let (annotated, namespaces_known) = watch::channel(false);
    let (listed, pods_known) = watch::channel(pods == ReadPods::No);
    let waits = || Gate::Waits(vec![node_known.clone(), namespaces_known.clone(), pods_known.clone()]);
    let with = Common { connection, timing, events: events.clone(), health };
    let health = || with.health.clone();
    let mut pods = (pods == ReadPods::Yes)
        .then(|| with.follow(KindSink::<Pods>::of_node(health(), &node_name), Gate::Opens(listed)));
    let mut namespaces = with.follow(KindSink::<Namespaces>::new(health()), Gate::Opens(annotated));
    let mut services = with.follow(KindSink::<Services>::new(health()), waits());
    let mut slices = with.follow(KindSink::<Slices>::new(health()), waits());
    let mut node = (!node_name.is_empty()).then(|| with.follow(NodeSink::new(node_name), Gate::Opens(known)));
    let node = async {
        match &mut node {
            Some(node) => node.run().await,
            None => std::future::pending().await,
        }
    };
    let pods = async {
        match &mut pods {
            Some(pods) => pods.run().await,
            None => std::future::pending().await,
        }
    };
    // Each ends when nobody listens, which may be noticed here first.
    tokio::select! {
        _ = services.run() => {}
        _ = slices.run() => {}
        _ = namespaces.run() => {}
        _ = pods => {}
        _ = node => {}
        () = events.closed() => {}
    }
}
