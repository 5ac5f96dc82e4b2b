//! Watches.

use std::{future::pending, io, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    answer::{Denied, Pieces},
    fault::WatchFault,
    handle::Cluster,
    request::Asked,
    rules::as_asked,
    selector::Selectors,
    store::Change,
};

/// Pieces of this size are what [`WatchFault::Split`] sends.
const PIECE: usize = 7;

/// How long [`WatchFault::Batch`] collects.
const BATCH: Duration = Duration::from_millis(250);

/// Nobody reads any more, or the watch is over.
pub(super) struct Over;

/// A watch that is being served.
pub(super) struct Watching {
    pub cluster: Arc<Cluster>,
    pub asked: Asked,
    pub selectors: Selectors,
    pub pieces: Pieces,
    pub fault: Option<WatchFault>,
    /// Whether only metadata was asked for.
    pub accept: String,
    pub revision: u64,
    /// Events sent.
    pub sent: u64,
}

impl Watching {
    pub(super) async fn run(mut self) {
        let pieces = self.pieces.clone();
        tokio::select! {
            _ = self.serve() => {}
            () = pieces.closed() => {}
        }
    }

    async fn serve(&mut self) -> Result<(), Over> {
        match self.fault {
            Some(WatchFault::CloseAtOnce) => return Ok(()),
            Some(WatchFault::Silent) => return pending().await,
            Some(WatchFault::Expired) => {
                return self.line("ERROR", &Denied::expired("too old resource version").status()).await;
            }
            Some(WatchFault::InternalError) => {
                let denied = Denied::new(500, "InternalError", "etcdserver: no leader");
                return self.line("ERROR", &denied.status()).await;
            }
            _ => {}
        }
        self.begin().await?;
        let mut news = self.cluster.news.subscribe();
        let ends_at =
            self.asked.number("timeoutSeconds").map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let wants_bookmarks = self.asked.parameter("allowWatchBookmarks") == Some("true");
        let mut bookmark_at = Instant::now() + self.cluster.bookmark_every();
        loop {
            self.catch_up().await?;
            tokio::select! {
                changed = news.changed() => changed.map_err(|_| Over)?,
                () = sleep_until(bookmark_at), if wants_bookmarks => {
                    bookmark_at = Instant::now() + self.cluster.bookmark_every();
                    self.bookmark(&json!({})).await?;
                }
                () = async { match ends_at { Some(at) => sleep_until(at).await, None => pending().await } } => {
                    return Ok(());
                }
            }
            if self.fault == Some(WatchFault::Batch) {
                sleep(BATCH).await;
            }
        }
    }

    /// What is there already, if that was asked for.
    async fn begin(&mut self) -> Result<(), Over> {
        let initial = self.asked.parameter("sendInitialEvents") == Some("true");
        let version = self.asked.number("resourceVersion").unwrap_or(0);
        if !initial && version > 0 {
            self.revision = version;
            return Ok(());
        }
        let (objects, revision): (Vec<_>, _) = self.cluster.read(|store| {
            let all = store.all(&self.asked.resource, &self.asked.namespace);
            let all = all.filter(|object| self.selectors.match_object(object));
            (all.cloned().collect(), store.revision())
        });
        self.revision = revision;
        for object in objects {
            self.line("ADDED", &object).await?;
        }
        if initial {
            self.bookmark(&json!({"k8s.io/initial-events-end": "true"})).await?;
        }
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<(), Over> {
        let changes = self.cluster.read(|store| store.since(&self.asked.resource, self.revision));
        let changes = match changes {
            Ok(changes) => changes,
            Err(denied) => {
                self.line("ERROR", &denied.status()).await?;
                return Err(Over);
            }
        };
        let mut batch = Vec::new();
        for change in changes {
            self.revision = change.revision;
            let Some((kind, object)) = self.event(&change) else { continue };
            if self.fault == Some(WatchFault::Batch) {
                batch.extend(self.text(kind, &object));
            } else {
                self.line(kind, &object).await?;
            }
        }
        if !batch.is_empty() {
            self.send(batch.into()).await?;
        }
        Ok(())
    }

    /// What a change looks like through the selectors.
    fn event(&self, change: &Change) -> Option<(&'static str, Value)> {
        let namespace = self.asked.namespace.as_str();
        if !namespace.is_empty() && change.key.namespace != namespace {
            return None;
        }
        let seen = |object: &&Arc<Value>| self.selectors.match_object(object);
        let (old, new) = (change.old.as_ref().filter(seen), change.new.as_ref().filter(seen));
        Some(match (old, new) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", Value::clone(new)),
            (Some(_), Some(new)) => ("MODIFIED", Value::clone(new)),
            (Some(old), None) => {
                let mut gone = Value::clone(old);
                gone["metadata"]["resourceVersion"] = json!(change.revision.to_string());
                ("DELETED", gone)
            }
        })
    }

    async fn bookmark(&mut self, annotations: &Value) -> Result<(), Over> {
        let (kind, version) = self.cluster.kind_of(&self.asked);
        let object = json!({
            "kind": kind, "apiVersion": version,
            "metadata": {"resourceVersion": self.revision.to_string(), "annotations": annotations},
        });
        self.line("BOOKMARK", &object).await
    }

    fn text(&self, kind: &str, object: &Value) -> Vec<u8> {
        let object = if kind == "ERROR" { object.clone() } else { as_asked(&self.accept, object.clone()) };
        let mut text = json!({"type": kind, "object": object}).to_string().into_bytes();
        text.push(b'\n');
        text
    }

    /// Sends one event, as well as the fault allows.
    async fn line(&mut self, kind: &str, object: &Value) -> Result<(), Over> {
        let text = self.text(kind, object);
        self.sent += 1;
        match self.fault {
            Some(WatchFault::Split) => {
                for piece in text.chunks(PIECE) {
                    self.send(Bytes::copy_from_slice(piece)).await?;
                }
                Ok(())
            }
            Some(WatchFault::Truncate) if self.sent > 1 => {
                self.send(Bytes::copy_from_slice(&text[..text.len() / 2])).await?;
                let broken = io::Error::other("broken by the test");
                self.pieces.send(Err(broken)).await.map_err(|_| Over)?;
                Err(Over)
            }
            Some(WatchFault::Garbage) if self.sent > 1 => {
                self.send(Bytes::from_static(b"{\"type\": <!DOCTYPE html>\n")).await
            }
            Some(WatchFault::Twice) => {
                self.send(text.clone().into()).await?;
                self.send(text.into()).await
            }
            _ => self.send(text.into()).await,
        }
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Over> {
        self.cluster.thawed().await;
        self.pieces.send(Ok(bytes)).await.map_err(|_| Over)
    }
}
