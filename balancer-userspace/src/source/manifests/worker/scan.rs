//! Looking at the whole directory: for what inotify does not tell, and for the directory itself.

use std::{collections::HashSet, fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

use super::{
    super::{read::Stamp, store::FileName, watch},
    Closed, SOON, Worker, Writing,
};
use crate::source::health::{Extent, Loss, Novelty, Problem, Resource};

/// Where the problem of having no inotify is kept; no file has this name.
const INOTIFY: &str = "inotify/";

/// Scans where inotify cannot be had.
const WITHOUT_INOTIFY: Duration = Duration::from_secs(1);
/// Which differences a scan acts on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// All: the files were replaced as a whole.
    Swap,
    /// Those that the previous scan saw already: a writer may be at work.
    Settled,
}

/// A directory that is being watched.
pub(super) struct Watch {
    /// Device and inode: the path may come to mean another directory.
    identity: (u64, u64),
    _watcher: notify::RecommendedWatcher,
}

impl Worker {
    /// Time to the next scan.
    pub(super) fn interval(&self) -> Duration {
        let unsettled = !self.missing.is_empty() || self.seen.values().any(|seen| seen.found.is_some());
        match &self.watch {
            _ if unsettled => self.config.scan_interval.min(WITHOUT_INOTIFY),
            Some(_) => self.config.scan_interval,
            None if self.config.dir.is_dir() => self.config.scan_interval.min(WITHOUT_INOTIFY),
            None => self.config.scan_interval.min(SOON),
        }
    }

    /// Looks for what no signal told of.
    pub(super) fn scan(&mut self, scan: Scan) -> Result<(), Closed> {
        self.start_watch();
        let present = match names(&self.config.dir) {
            Ok(present) => present,
            Err(error) => {
                let text = format!(
                    "cannot read manifests directory {}: {error}; what it had before stays in use",
                    self.config.dir.display()
                );
                if self.health.failed(Resource::Manifests, Extent::Source, &error.kind().to_string(), &text)
                    == Novelty::New
                {
                    log::warn!("{text}");
                }
                return Ok(());
            }
        };
        if self.health.recovered(Resource::Manifests).is_some() {
            log::info!("manifests directory {} can be read again", self.config.dir.display());
        }
        let missing: HashSet<FileName> =
            self.store.files().filter(|name| !present.contains(*name)).cloned().collect();
        // Under another name it will be read only when it is found a second time, so wait for that.
        let gone = |name: &&FileName| scan == Scan::Swap || self.missing.contains(*name);
        let mut differ: Vec<FileName> = missing.iter().filter(gone).cloned().collect();
        self.missing = missing;
        for name in present {
            let Ok(stamp) = Stamp::of(&self.config.dir.join(&*name)) else {
                differ.push(name);
                continue;
            };
            let seen = self.seen.entry(name.clone()).or_default();
            let changed = seen.read != Some(stamp);
            let settled =
                scan == Scan::Swap && seen.writing == Writing::No || seen.found.as_deref() == Some(&stamp);
            seen.found = (changed && !settled).then(|| Box::new(stamp));
            if changed && settled {
                differ.push(name);
            }
        }
        self.health.touch(Resource::Manifests);
        self.reread(differ)
    }

    /// Watches the directory that the path means now.
    pub(super) fn start_watch(&mut self) {
        let Ok(metadata) = fs::metadata(&self.config.dir) else {
            self.watch = None;
            return;
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.watch.as_ref().is_some_and(|watch| watch.identity == identity) {
            return;
        }
        match watch::watch(&self.config.dir, self.signals.clone()) {
            Ok(watcher) => {
                self.watch = Some(Watch { identity, _watcher: watcher });
                self.health.set_problems(INOTIFY, Vec::new());
            }
            Err(error) => {
                self.watch = None;
                let problem = Problem {
                    loss: Loss::Object,
                    what: self.config.dir.display().to_string(),
                    why: format!(
                        "changes are found within seconds, not at once, because inotify cannot be used: {error}; \
                         raise fs.inotify.max_user_instances and fs.inotify.max_user_watches"
                    ),
                };
                for problem in self.health.set_problems(INOTIFY, vec![problem]).added {
                    log::warn!("{}: {}", problem.what, problem.why);
                }
            }
        }
    }
}

/// The manifests of a directory.
pub(super) fn names(dir: &Path) -> io::Result<HashSet<FileName>> {
    let mut names = HashSet::new();
    for entry in fs::read_dir(dir)? {
        names.extend(watch::manifest_name(&entry?.file_name()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Arc, mpsc::sync_channel},
    };

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        model::Event,
        source::{
            SourceHealth, SourceKind,
            manifests::{ManifestsConfig, watch::QUEUE},
        },
    };

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n";

    /// A worker that hears no signals, after its first read.
    fn deaf(dir: &Path) -> (Worker, mpsc::Receiver<Event>) {
        let (sender, mut events) = mpsc::channel(64);
        let (signals, _) = sync_channel(QUEUE);
        let health = Arc::new(SourceHealth::new(SourceKind::Manifests));
        let mut worker = Worker::new(ManifestsConfig::new(dir, "n1"), sender, health, signals);
        let first = worker.first_read().unwrap();
        assert!(worker.send_first(first).is_ok());
        while events.try_recv().is_ok() {}
        (worker, events)
    }

    fn settle(worker: &mut Worker) {
        assert!(worker.scan(Scan::Settled).is_ok());
    }

    #[test]
    fn a_change_is_taken_in_when_it_is_seen_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (mut worker, mut events) = deaf(dir.path());
        fs::write(dir.path().join("a.yaml"), SERVICE).unwrap();
        settle(&mut worker);
        assert!(events.try_recv().is_err());
        assert!(worker.interval() <= WITHOUT_INOTIFY);
        fs::write(dir.path().join("a.yaml"), format!("{SERVICE}# more\n")).unwrap();
        settle(&mut worker);
        assert!(events.try_recv().is_err());
        settle(&mut worker);
        assert!(matches!(events.try_recv(), Ok(Event::Service(_))));
    }

    #[test]
    fn a_file_that_is_renamed_is_never_gone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), SERVICE).unwrap();
        let (mut worker, mut events) = deaf(dir.path());
        fs::rename(dir.path().join("a.yaml"), dir.path().join("z.yaml")).unwrap();
        for _ in 0..3 {
            settle(&mut worker);
        }
        assert!(events.try_recv().is_err());
        fs::remove_file(dir.path().join("z.yaml")).unwrap();
        settle(&mut worker);
        assert!(events.try_recv().is_err());
        settle(&mut worker);
        assert!(matches!(events.try_recv(), Ok(Event::ServiceGone(_))));
    }
}
