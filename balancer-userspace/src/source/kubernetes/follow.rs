//! The loop that keeps up with one resource.
//!
//! ```text
//!            complete                    expired, due, broken in a way that a version cannot mend
//!  list ───────────────► watch ────────────────────────────────────────────────────► list
//!   ▲ │ failed: pause     ▲ │ ended, silent, failed: pause, go on from the last version
//!   └─┘                   └─┘
//! ```
//!
//! A list that was due by the clock, or tried because watches fail, leaves the last version as good as it was: if
//! it fails, the watch goes on from there, and the list is tried again after a pause.
//!
//! It is written out rather than left to kube's `watcher`, which hides bookmarks (the only sign of life
//! of a quiet cluster), starts the next watch at once when one is closed, and goes on with the same
//! version when a watch request is answered with 410.

mod doubt;

use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use self::doubt::{Trust, is_before};
use super::{
    Timing,
    access::{Connection, Server},
    backoff,
    failure::{Answer, Blame, Doing, Failure, Then, Worth, is_expired},
    sinks::Sink,
};
use crate::{
    model::Event,
    source::{
        Events,
        health::{Loss, Novelty, Problem, SourceHealth},
    },
};

/// Failures in a row after which a list is tried instead of another watch.
const FAILURES_TO_RELIST: u32 = 5;
/// Watches in a row that ended at once before that is called a failure.
const CLOSED_TO_COMPLAIN: u32 = 3;
/// How often in a row what may pass by itself has to happen to be called lasting.
const TIMES_TO_LAST: u32 = 3;

/// Nobody listens any more.
pub(super) struct Closed;

/// Whether others wait for this resource, or this one for another, before its first list is delivered.
pub(super) enum Gate {
    Opens(watch::Sender<bool>),
    Waits(Vec<watch::Receiver<bool>>),
    /// It has waited.
    Passed,
}

/// How a watch ended.
enum End {
    /// By the server, when its time was over.
    Closed,
    /// By the server or on the way, after a life of some use, but before its time.
    ClosedEarly,
    /// By the server, at once.
    ClosedAtOnce,
    /// By us: nothing was heard for too long.
    Silent,
    /// By us: nothing was ever heard of it, not even the bookmarks that were asked for.
    Mute,
    /// By us: it is time for a full list.
    Due,
    /// The version is no longer there.
    Expired,
    /// The server's versions are behind ours.
    WentBack,
    Failed(Failure),
}

/// What to do next.
enum Next {
    List(Last),
    Watch,
}

/// What the last version is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// A watch can go on from it.
    Good,
    /// Nothing, or there is none: only a list leads on.
    Void,
}

pub(super) struct Follow<S: Sink> {
    sink: S,
    connection: Connection,
    api: Api<S::Object>,
    timing: Timing,
    events: Events,
    health: Arc<SourceHealth>,
    gate: Gate,
    /// Where the next watch begins; empty where only a list can tell.
    version: String,
    /// When the next full list is due.
    relist_at: Instant,
    /// When the last watch began.
    watched_at: Option<Instant>,
    /// Attempts in a row that came to nothing.
    failures: u32,
    /// Watches in a row that ended at once.
    closed: u32,
    /// Failures in a row that may pass by themselves.
    passing: u32,
    /// Lists in a row that failed when they were due.
    overdue: u32,
    /// When the client's configuration was last read again.
    refreshed_at: Option<Instant>,
    trust: Trust,
}

impl<S: Sink> Follow<S> {
    pub(super) fn new(
        sink: S,
        connection: Connection,
        timing: Timing,
        events: Events,
        health: Arc<SourceHealth>,
        gate: Gate,
    ) -> Self {
        Self {
            sink,
            api: Api::all(connection.client()),
            connection,
            relist_at: Instant::now() + timing.relist,
            timing,
            events,
            health,
            gate,
            version: String::new(),
            watched_at: None,
            failures: 0,
            closed: 0,
            passing: 0,
            overdue: 0,
            refreshed_at: None,
            trust: Trust::Same,
        }
    }

    /// Keeps up until nobody listens.
    pub(super) async fn run(&mut self) -> Closed {
        let mut next = Next::List(Last::Void);
        loop {
            let step = match next {
                Next::List(last) => self.list_step(last).await,
                Next::Watch => self.watch_step().await,
            };
            next = match step {
                Ok(next) => next,
                Err(closed) => return closed,
            };
        }
    }

    async fn list_step(&mut self, last: Last) -> Result<Next, Closed> {
        match self.list().await {
            Ok(version) => {
                self.version = version;
                self.overdue = 0;
                self.relist_at = Instant::now() + backoff::about(self.timing.relist);
                self.wait_for_gate().await;
                let events = self.sink.commit();
                self.send(events).await?;
                self.health.listed(S::RESOURCE);
                if !S::RESOURCE.is_required() {
                    self.health.set_problems(S::RESOURCE.name(), Vec::new());
                }
                self.open_gate();
                Ok(Next::Watch)
            }
            Err(failure) => {
                let (is_refused, answer) = (failure.is_refused(), failure.answer);
                self.fail(failure).await;
                let events = self.sink.failed();
                self.send(events).await?;
                // Another failure may pass before those who wait have waited for long enough.
                if is_refused {
                    self.open_gate();
                }
                let last = if self.version.is_empty() { Last::Void } else { last };
                Ok(self.without_list(last, answer).await)
            }
        }
    }

    /// A list failed.
    async fn without_list(&mut self, last: Last, answer: Answer) -> Next {
        match last {
            Last::Void => {
                self.pause().await;
                Next::List(Last::Void)
            }
            // It was due: the watch, which worked, passes the time until the next attempt.
            Last::Good if self.relist_at <= Instant::now() => {
                self.overdue += 1;
                self.relist_at = self.next_watch() + self.pause_after(self.overdue);
                Next::Watch
            }
            // Watches fail, and lists fare no better.
            Last::Good => {
                if answer == Answer::None {
                    self.trust = Trust::Doubtful;
                }
                self.pause().await;
                Next::Watch
            }
        }
    }

    async fn watch_step(&mut self) -> Result<Next, Closed> {
        if self.watched_at.is_some() {
            sleep_until(self.next_watch()).await;
            self.health.reconnected(S::RESOURCE);
        }
        self.watched_at = Some(Instant::now());
        let end = match self.went_back().await {
            Ok(false) => self.watch().await?,
            Ok(true) => End::WentBack,
            Err(failure) => End::Failed(failure),
        };
        self.trust = match &end {
            End::Closed | End::Due | End::Mute | End::Expired | End::WentBack => Trust::Same,
            End::Failed(failure) if failure.answer == Answer::Status => self.trust,
            End::ClosedEarly | End::ClosedAtOnce | End::Silent | End::Failed(_) => Trust::Doubtful,
        };
        Ok(match end {
            End::Closed | End::ClosedEarly | End::Silent => Next::Watch,
            End::Due => Next::List(Last::Good),
            // A watch that says nothing may hide anything.
            End::Mute => Next::List(Last::Void),
            End::WentBack => {
                log::warn!(
                    "{}: the API server is behind version {}, which it had reached before, as after a restored \
                     backup: listing everything",
                    S::RESOURCE.name(),
                    self.version
                );
                self.failures += 1;
                if self.failures > 1 {
                    self.pause().await;
                }
                Next::List(Last::Void)
            }
            End::Expired => {
                log::debug!("{}: version {} is gone, listing", S::RESOURCE.name(), self.version);
                // Once is the ordinary course of things.
                let again = self.failures > 0;
                self.failures += 1;
                if again {
                    self.pause().await;
                }
                Next::List(Last::Void)
            }
            End::ClosedAtOnce if self.closed + 1 < CLOSED_TO_COMPLAIN => {
                self.closed += 1;
                self.failures += 1;
                self.pause().await;
                Next::Watch
            }
            End::ClosedAtOnce => {
                self.closed += 1;
                let failure = Failure::closed_at_once(S::RESOURCE, self.closed);
                self.fail(failure).await;
                self.pause().await;
                self.resume()
            }
            End::Failed(failure) => {
                let then = failure.then;
                self.fail(failure).await;
                self.pause().await;
                match then {
                    Then::Resume => self.resume(),
                    Then::Relist => Next::List(Last::Void),
                }
            }
        })
    }

    /// Every few failures, see whether a list fares better.
    fn resume(&self) -> Next {
        if self.version.is_empty() {
            Next::List(Last::Void)
        } else if self.failures.is_multiple_of(FAILURES_TO_RELIST) {
            Next::List(Last::Good)
        } else {
            Next::Watch
        }
    }

    /// Reads everything; the version that it was read at.
    async fn list(&mut self) -> Result<String, Failure> {
        let selector = self.sink.selector();
        let mut params = ListParams {
            label_selector: selector.labels,
            field_selector: selector.fields,
            limit: Some(self.timing.page),
            ..ListParams::default()
        };
        self.sink.begin();
        loop {
            let page = match timeout(self.timing.request, self.api.list(&params)).await {
                Ok(Ok(page)) => page,
                // The snapshot behind the token is gone: all at once, then.
                Ok(Err(error)) if params.continue_token.is_some() && is_expired(&error) => {
                    self.sink.begin();
                    params.continue_token = None;
                    params.limit = None;
                    continue;
                }
                Ok(Err(error)) => return Err(self.client_failure(Doing::List, &error)),
                Err(_) => return Err(Failure::timeout(S::RESOURCE, Doing::List, self.timing.request)),
            };
            self.health.touch(S::RESOURCE);
            page.items.into_iter().for_each(|object| self.sink.add(object));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                return version.ok_or_else(|| Failure::no_version(S::RESOURCE, Doing::List));
            }
        }
    }

    /// Watches from the last version on, and moves it.
    async fn watch(&mut self) -> Result<End, Closed> {
        let selector = self.sink.selector();
        let lifetime = backoff::about(self.timing.watch);
        let seconds = lifetime.as_secs().max(1);
        let began = Instant::now();
        let params = WatchParams {
            label_selector: selector.labels,
            field_selector: selector.fields,
            timeout: u32::try_from(seconds).ok(),
            bookmarks: true,
            send_initial_events: false,
        };
        let stream = match timeout(self.timing.request, self.api.watch(&params, &self.version)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_expired(&error) => return Ok(End::Expired),
            Ok(Err(error)) => return Ok(End::Failed(self.client_failure(Doing::Watch, &error))),
            Err(_) => {
                return Ok(End::Failed(Failure::timeout(S::RESOURCE, Doing::Watch, self.timing.request)));
            }
        };
        let mut stream = pin!(stream);
        self.health.touch(S::RESOURCE);
        let settled_at = Instant::now() + self.timing.settled;
        let mut heard_at = Instant::now();
        let (mut useful, mut heard) = (false, false);
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                () = sleep_until(self.relist_at) => return Ok(End::Due),
                () = sleep_until(heard_at + self.timing.silence) => {
                    return Ok(if heard { End::Silent } else { End::Mute });
                }
                () = sleep_until(settled_at), if !useful => {
                    useful = true;
                    self.well();
                    continue;
                }
            };
            let event = match item {
                Some(Ok(event)) => event,
                Some(Err(error)) if is_expired(&error) => return Ok(End::Expired),
                Some(Err(error)) => return Ok(End::Failed(self.client_failure(Doing::Watch, &error))),
                None if began.elapsed() >= lifetime.mul_f64(0.9) => return Ok(End::Closed),
                None if useful => return Ok(End::ClosedEarly),
                None => return Ok(End::ClosedAtOnce),
            };
            let (version, events) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    (object.resource_version(), self.sink.apply(object))
                }
                WatchEvent::Deleted(object) => (object.resource_version(), self.sink.delete(object)),
                WatchEvent::Bookmark(bookmark) => (Some(bookmark.metadata.resource_version), Vec::new()),
                WatchEvent::Error(status) if status.code == 410 => return Ok(End::Expired),
                WatchEvent::Error(status) => {
                    let failure =
                        Failure::status(S::RESOURCE, Doing::Watch, &status, self.connection.place());
                    // In the midst of a stream it is unclear what was missed.
                    return Ok(End::Failed(Failure { then: Then::Relist, ..failure }));
                }
            };
            self.send(events).await?;
            self.health.touch(S::RESOURCE);
            heard_at = Instant::now();
            heard = true;
            match version.filter(|version| !version.is_empty()) {
                Some(version) if is_before(&version, &self.version) => return Ok(End::WentBack),
                Some(version) => self.version = version,
                None => return Ok(End::Failed(Failure::no_version(S::RESOURCE, Doing::Watch))),
            }
            if !useful {
                useful = true;
                self.well();
            }
        }
    }

    /// The resource is being followed as it should, unless a list is overdue: that goes on failing.
    fn well(&mut self) {
        self.failures = 0;
        self.closed = 0;
        if self.overdue > 0 {
            return;
        }
        self.passing = 0;
        if let Some(outage) = self.health.recovered(S::RESOURCE) {
            log::info!("following {} again after {} s", S::RESOURCE.name(), outage.as_secs());
        }
    }

    async fn fail(&mut self, failure: Failure) {
        self.failures += 1;
        if failure.is_refused() && !S::RESOURCE.is_required() {
            let name = S::RESOURCE.name();
            let why = format!("{}; what it says is taken for unknown", failure.text);
            let problem = Problem { what: name.to_owned(), why, loss: Loss::Object };
            self.health.set_problems(name, vec![problem]);
        }
        let Failure { class, text, extent, blame, worth, .. } = failure;
        self.passing = if worth == Worth::Lasting { self.passing + 1 } else { 0 };
        if worth == Worth::Lasting && !self.version.is_empty() && self.passing < TIMES_TO_LAST {
            _ = self.health.failed(S::RESOURCE, extent, &format!("{class}, at first"), &text);
            log::debug!("{text}");
        } else if self.health.failed(S::RESOURCE, extent, &class, &text) == Novelty::New {
            log::warn!("{text}; trying again, and what is in place stays until then");
        }
        match blame {
            Blame::Identity => self.refresh().await,
            Blame::Connection
                if self.refreshed_at.is_none_or(|last| last.elapsed() >= self.timing.backoff_cap) =>
            {
                self.refresh().await;
            }
            Blame::Connection | Blame::Other => {}
        }
    }

    /// Reads the client's configuration again.
    async fn refresh(&mut self) {
        self.refreshed_at = Some(Instant::now());
        let server = self.connection.refresh().await;
        self.api = Api::all(self.connection.client());
        if server == Server::Other {
            log::info!(
                "reading {} from the API server at {} now",
                S::RESOURCE.name(),
                self.connection.server()
            );
            // It may be of another cluster, with versions of its own.
            self.version.clear();
        }
    }

    async fn pause(&self) {
        sleep(self.pause_after(self.failures)).await;
    }

    /// When the next watch may begin.
    fn next_watch(&self) -> Instant {
        let now = Instant::now();
        self.watched_at.map_or(now, |last| now.max(last + self.timing.floor))
    }

    fn pause_after(&self, failures: u32) -> Duration {
        backoff::pause(self.timing.backoff, self.timing.backoff_cap, failures)
    }

    fn client_failure(&self, doing: Doing, error: &kube::Error) -> Failure {
        Failure::client(S::RESOURCE, doing, error, self.connection.server(), self.connection.place())
    }

    async fn wait_for_gate(&mut self) {
        if let Gate::Waits(awaited) = &mut self.gate {
            let all = async {
                for known in awaited {
                    // Who opens it lives as long as who waits.
                    let _ = known.wait_for(|known| *known).await;
                }
            };
            // Too late or never known: it then arrives after the lists.
            let _ = timeout(self.timing.node_grace, all).await;
            self.gate = Gate::Passed;
        }
    }

    fn open_gate(&self) {
        if let Gate::Opens(known) = &self.gate {
            known.send_replace(true);
        }
    }

    async fn send(&self, events: Vec<Event>) -> Result<(), Closed> {
        for event in events {
            self.events.send(event).await.map_err(|_| Closed)?;
        }
        Ok(())
    }
}
