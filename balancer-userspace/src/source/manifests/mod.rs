//! A directory of ordinary manifests as the source.
//!
//! Reads every `.yaml`, `.yml` and `.json` file in the directory, in the order of their names and not
//! those of subdirectories, as `kubectl apply -f DIR` does; hidden files are left out. Services,
//! EndpointSlices, Namespaces, Pods, the agent's own Node and lists of them count, other kinds are ignored.
//!
//! A change is taken in at once when a file is put in place or its writer closes it (inotify). A slow
//! scan catches what inotify cannot see: remote file systems, symlinks to files elsewhere, writers that
//! never close. What a file said before stays in use while it cannot be read; see `store.rs`.

mod parse;
mod read;
mod split;
mod store;
mod text;
mod watch;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Events, SourceError, SourceHealth};
use watch::Signal;
use worker::Worker;

/// Where manifests are, and how to read them.
#[derive(Clone, Debug)]
pub struct ManifestsConfig {
    /// The directory.
    pub dir: PathBuf,
    /// The node that the agent runs on; empty where it has no name. Other Nodes are ignored.
    pub node_name: Arc<str>,
    /// Time between two scans for changes that inotify does not report.
    pub scan_interval: Duration,
    /// Largest file that is read, in bytes.
    pub max_file_bytes: u64,
}

impl ManifestsConfig {
    /// `dir` with a scan every 5 s and files of up to 64 MiB.
    pub fn new(dir: impl Into<PathBuf>, node_name: impl Into<Arc<str>>) -> Self {
        Self {
            dir: dir.into(),
            node_name: node_name.into(),
            scan_interval: Duration::from_secs(5),
            max_file_bytes: 64 << 20,
        }
    }
}

/// Sends what the directory says, until the receiver is dropped or this future is.
///
/// The first events are [`Event::Node`], [`Event::AllNamespaces`], [`Event::AllPods`],
/// [`Event::AllServices`] and [`Event::AllSlices`]; every change after that is an event of its own.
///
/// # Errors
///
/// When the directory cannot be read at the start. Later it may vanish and come back.
///
/// [`Event::Node`]: crate::model::Event::Node
/// [`Event::AllNamespaces`]: crate::model::Event::AllNamespaces
/// [`Event::AllPods`]: crate::model::Event::AllPods
/// [`Event::AllServices`]: crate::model::Event::AllServices
/// [`Event::AllSlices`]: crate::model::Event::AllSlices
pub async fn run(
    config: ManifestsConfig,
    events: Events,
    health: Arc<SourceHealth>,
) -> Result<(), SourceError> {
    check(&config.dir)?;
    let (signals, queue) = mpsc::sync_channel(watch::QUEUE);
    let (done, mut result) = oneshot::channel();
    let receiver = events.clone();
    let stop = Stop(signals.clone());
    // Not a task of the runtime, which would wait for it at exit.
    thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || {
            let outcome = Worker::new(config, events, health, signals).run(&queue);
            // Only fails when nobody waits any more.
            let _ = done.send(outcome);
        })
        .map_err(SourceError::Thread)?;
    let outcome = tokio::select! {
        outcome = &mut result => outcome,
        () = receiver.closed() => {
            drop(stop);
            result.await
        }
    };
    outcome.unwrap_or(Ok(()))
}

/// What a directory with this one file says.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_once(name: &str, bytes: &[u8]) -> Vec<crate::model::Event> {
    let mut store = store::Store::new("n1".into());
    store.apply(vec![(name.into(), store::Change::Read(bytes.to_vec()))]).events
}

/// Ends the thread when the future that waits for it is dropped.
struct Stop(mpsc::SyncSender<Signal>);

impl Drop for Stop {
    fn drop(&mut self) {
        // A full queue means that the thread is busy; it notices the closed channel by itself.
        let _ = self.0.try_send(Signal::Stop);
    }
}

/// Checks that `dir` is a directory that can be looked at.
///
/// # Errors
///
/// When it is not, by name.
pub fn check(dir: &Path) -> Result<(), SourceError> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(SourceError::NotADirectory(dir.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(SourceError::NoDirectory(dir.to_owned()))
        }
        Err(source) => Err(SourceError::Directory { path: dir.to_owned(), source }),
    }
}
