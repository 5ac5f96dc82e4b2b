//! The thread that follows the directory: signals and scans in, events out.

mod scan;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io, mem,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    ManifestsConfig,
    read::{self, ReadError, Stamp},
    store::{Change, FileName, Outcome, Store},
    watch::Signal,
};
use scan::{Scan, Watch};

use crate::{
    model::{Event, NodeInfo},
    source::{
        Events, SourceError, SourceHealth,
        health::{Loss, Problem, Resource},
    },
};

/// How long to wait, after a file vanished, for it to turn up under another name.
const RENAME_GRACE: Duration = Duration::from_millis(1);
/// Scans while the directory is missing, and the second one after signals were lost.
const SOON: Duration = Duration::from_millis(100);
/// Signals taken before they are acted on.
const BATCH: usize = 4_096;
/// Times that files are read again because another file lost an object that they have too.
const REREADS: usize = 8;
/// How often, and how long apart, to try a file that is being written during the first read.
const FIRST_READ_TRIES: u32 = 10;
const FIRST_READ_PAUSE: Duration = Duration::from_millis(5);

/// Nobody listens any more.
struct Closed;

/// What is known of a file besides its content.
#[derive(Debug, Default)]
struct Seen {
    /// The version that was last read, or tried.
    read: Option<Stamp>,
    /// A version that the last scan found and left alone; there is hardly ever one.
    found: Option<Box<Stamp>>,
    writing: Writing,
    failed: Failed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Writing {
    #[default]
    No,
    Yes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Failed {
    #[default]
    No,
    Yes,
}

#[derive(Default)]
struct Batch {
    files: BTreeSet<FileName>,
    gone: bool,
    swapped: bool,
    lost: bool,
    stop: bool,
}

pub(super) struct Worker {
    config: ManifestsConfig,
    events: Events,
    health: Arc<SourceHealth>,
    signals: SyncSender<Signal>,
    store: Store,
    seen: HashMap<FileName, Seen>,
    /// Files that the last scan did not find.
    missing: HashSet<FileName>,
    watch: Option<Watch>,
}

impl Worker {
    pub(super) fn new(
        config: ManifestsConfig,
        events: Events,
        health: Arc<SourceHealth>,
        signals: SyncSender<Signal>,
    ) -> Self {
        let store = Store::new(config.node_name.clone());
        Self {
            config,
            events,
            health,
            signals,
            store,
            seen: HashMap::new(),
            missing: HashSet::new(),
            watch: None,
        }
    }

    /// Follows the directory until nobody listens.
    pub(super) fn run(mut self, queue: &Receiver<Signal>) -> Result<(), SourceError> {
        // Watch first: what changes while the files are read is then read again.
        self.start_watch();
        let first = self
            .first_read()
            .map_err(|source| SourceError::Directory { path: self.config.dir.clone(), source })?;
        if let Ok(()) = self.send_first(first) {
            let Closed = self.follow(queue);
        }
        Ok(())
    }

    fn follow(&mut self, queue: &Receiver<Signal>) -> Closed {
        let mut next_scan = Instant::now() + self.interval();
        loop {
            let batch = match queue.recv_timeout(next_scan.saturating_duration_since(Instant::now())) {
                Ok(signal) => self.collect(signal, queue),
                Err(RecvTimeoutError::Timeout) => Batch::default(),
                Err(RecvTimeoutError::Disconnected) => return Closed,
            };
            if batch.stop || self.events.is_closed() {
                return Closed;
            }
            if self.take(&batch).is_err() {
                return Closed;
            }
            if batch.swapped && self.scan(Scan::Swap).is_err() {
                return Closed;
            }
            if batch.lost || next_scan <= Instant::now() {
                if self.scan(Scan::Settled).is_err() {
                    return Closed;
                }
                next_scan = Instant::now() + if batch.lost { SOON } else { self.interval() };
            }
        }
    }

    /// Takes all signals that are there.
    fn collect(&mut self, first: Signal, queue: &Receiver<Signal>) -> Batch {
        let mut batch = Batch::default();
        self.note(first, &mut batch);
        for _ in 0..BATCH {
            let next = if mem::take(&mut batch.gone) {
                queue.recv_timeout(RENAME_GRACE).ok()
            } else {
                queue.try_recv().ok()
            };
            match next {
                Some(signal) => self.note(signal, &mut batch),
                None => break,
            }
        }
        batch
    }

    fn note(&mut self, signal: Signal, batch: &mut Batch) {
        match signal {
            Signal::Ready(name) => {
                self.seen.entry(name.clone()).or_default().writing = Writing::No;
                batch.files.insert(name);
            }
            Signal::Gone(name) => {
                self.seen.entry(name.clone()).or_default().writing = Writing::No;
                batch.files.insert(name);
                batch.gone = true;
            }
            Signal::Writing(name) => self.seen.entry(name).or_default().writing = Writing::Yes,
            Signal::Attributes(name) => {
                if self.seen.get(&name).is_some_and(|seen| seen.failed == Failed::Yes) {
                    batch.files.insert(name);
                }
            }
            Signal::Swapped => batch.swapped = true,
            Signal::Lost => batch.lost = true,
            Signal::DirectoryGone => {
                self.watch = None;
                batch.lost = true;
            }
            Signal::Stop => batch.stop = true,
        }
    }

    /// Reads the files of a batch that are whole.
    fn take(&mut self, batch: &Batch) -> Result<(), Closed> {
        let changes = batch
            .files
            .iter()
            .filter(|name| self.seen.get(*name).is_none_or(|seen| seen.writing == Writing::No))
            .cloned()
            .collect::<Vec<_>>();
        self.reread(changes)
    }

    /// Reads files and sends what changed.
    fn reread(&mut self, names: Vec<FileName>) -> Result<(), Closed> {
        let changes: Vec<_> = names.into_iter().filter_map(|name| self.read(name)).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let outcome = self.apply(changes);
        self.send(outcome)
    }

    fn apply(&mut self, changes: Vec<(FileName, Change)>) -> Outcome {
        let mut outcome = self.store.apply(changes);
        for _ in 0..REREADS {
            let names = mem::take(&mut outcome.reread);
            if names.is_empty() {
                break;
            }
            let changes = names.into_iter().filter_map(|name| self.read(name)).collect();
            let Outcome { events, problems, reread } = self.store.apply(changes);
            // What is there goes before what is gone.
            outcome.events.splice(0..0, events);
            outcome.problems.extend(problems);
            outcome.reread = reread;
        }
        outcome
    }

    /// Reads one file; `None` when it is being written and another signal will follow.
    fn read(&mut self, name: FileName) -> Option<(FileName, Change)> {
        let path = self.config.dir.join(&*name);
        let (change, stamp, failed) = match read::read(&path, self.config.max_file_bytes) {
            Ok((bytes, stamp)) => (Change::Read(bytes), Some(stamp), Failed::No),
            // In a directory that is gone as a whole nothing was removed.
            Err(ReadError::Gone) if !self.config.dir.is_dir() => return None,
            Err(ReadError::Gone) => {
                self.seen.remove(&name);
                return Some((name, Change::Removed));
            }
            Err(ReadError::Busy) => {
                // The writer will close it, or else what interfered were its attributes.
                self.seen.entry(name).or_default().failed = Failed::Yes;
                return None;
            }
            Err(error) => (Change::Unreadable(error.to_string()), Stamp::of(&path).ok(), Failed::Yes),
        };
        self.seen.insert(name.clone(), Seen { read: stamp, failed, ..Seen::default() });
        Some((name, change))
    }

    fn first_read(&mut self) -> io::Result<Outcome> {
        let mut names: Vec<_> = scan::names(&self.config.dir)?.into_iter().collect();
        let mut changes = Vec::new();
        for _ in 0..FIRST_READ_TRIES {
            let all = mem::take(&mut names);
            for name in all {
                match self.read(name.clone()) {
                    Some(change) => changes.push(change),
                    None => names.push(name),
                }
            }
            if names.is_empty() {
                break;
            }
            thread::sleep(FIRST_READ_PAUSE);
        }
        Ok(self.apply(changes))
    }

    fn send_first(&mut self, outcome: Outcome) -> Result<(), Closed> {
        let mut node = NodeInfo { name: self.config.node_name.clone(), zone: None };
        let (mut namespaces, mut services, mut slices) = (Vec::new(), Vec::new(), Vec::new());
        for event in outcome.events {
            match event {
                Event::Service(spec) => services.push(*spec),
                Event::Slice(spec) => slices.push(*spec),
                Event::Node(info) => node = info,
                Event::Namespace(spec) => namespaces.push(spec),
                // Nothing was there that could be gone.
                Event::AllServices(_)
                | Event::AllSlices(_)
                | Event::ServiceGone(_)
                | Event::SliceGone(_)
                | Event::AllNamespaces(_)
                | Event::NamespaceGone(_)
                | Event::Skipped { .. } => {}
            }
        }
        log::info!(
            "read {} Services and {} EndpointSlices from {} files in {}",
            services.len(),
            slices.len(),
            self.store.files().count(),
            self.config.dir.display()
        );
        let events = vec![
            Event::Node(node),
            Event::AllNamespaces(namespaces),
            Event::AllServices(services),
            Event::AllSlices(slices),
        ];
        self.send(Outcome { events, problems: outcome.problems, reread: Vec::new() })?;
        self.health.listed(Resource::Manifests);
        Ok(())
    }

    fn send(&mut self, outcome: Outcome) -> Result<(), Closed> {
        // Who takes the events in must know of what could not be read among them; what can be read again
        // counts as such only when it was sent.
        let is_partial = |problems: &[Problem]| problems.iter().any(|problem| problem.loss == Loss::Unknown);
        let (before, after): (Vec<_>, Vec<_>) =
            outcome.problems.into_iter().partition(|(_, problems)| is_partial(problems));
        let mut skipped = self.note_problems(before);
        for event in outcome.events {
            self.events.blocking_send(event).map_err(|_| Closed)?;
        }
        skipped.extend(self.note_problems(after));
        for event in skipped {
            self.events.blocking_send(event).map_err(|_| Closed)?;
        }
        self.health.touch(Resource::Manifests);
        Ok(())
    }

    /// Reports what is wrong with files now; returns what to say of it.
    fn note_problems(&self, list: Vec<(FileName, Vec<Problem>)>) -> Vec<Event> {
        let mut skipped = Vec::new();
        for (name, problems) in list {
            let right_again = problems.is_empty();
            let change = self.health.set_problems(&name, problems);
            for problem in change.added {
                log::warn!("{}: {}", problem.what, problem.why);
                skipped.push(Event::Skipped { what: problem.what, why: problem.why });
            }
            if right_again && change.removed > 0 {
                log::info!("{name}: nothing is wrong with it any more");
            }
        }
        skipped
    }
}
