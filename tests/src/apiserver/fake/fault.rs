//! What goes wrong, when, and how often.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::request::Verb;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// An answer with this status.
    Status(u16),
    /// An answer with this status and `Retry-After`, in seconds.
    RetryAfter(u16, u32),
    /// No answer, ever.
    Hang,
    /// The first half of the body, then nothing.
    HangHalfway,
    /// The first half of the body, then the connection breaks in the midst of a chunk.
    Truncate,
    /// The body a few bytes at a time, with this pause between them.
    Trickle(Duration),
    /// An answer that is not JSON.
    Garbage,
    /// JSON that is not what was asked for.
    OtherJson,
    /// How events of a watch are sent.
    Watch(WatchFault),
}

/// What is wrong with a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFault {
    /// An ERROR event with code 410.
    Expired,
    /// An ERROR event with code 500.
    InternalError,
    /// The end, at once, without an error.
    CloseAtOnce,
    /// Neither events nor bookmarks, ever.
    Silent,
    /// Every line in pieces of a few bytes.
    Split,
    /// The events of a quarter of a second in one chunk.
    Batch,
    /// After the first event the connection breaks in the midst of a line.
    Truncate,
    /// After the first event a line that is not JSON.
    Garbage,
    /// Every event twice.
    Twice,
}

/// How connections are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/1.1 without TLS.
    Plain,
    /// TLS, and in it an answer of HTTP/1.0 that is not an API server's.
    Http10,
    /// TLS, and in it something that is not HTTP.
    NotHttp,
    /// Neither TLS nor HTTP.
    NotTls,
    /// A certificate of an authority that nobody trusts.
    WrongAuthority,
    /// A certificate that expired in 2001.
    Expired,
    /// Connections are accepted and closed.
    Close,
}

/// Which requests a fault is for.
#[derive(Clone, Debug)]
pub struct Rule {
    verb: Option<Verb>,
    resource: Option<String>,
    left: Option<u32>,
    fault: Fault,
}

impl Rule {
    /// A fault for every list and watch.
    pub const fn new(fault: Fault) -> Self {
        Self { verb: None, resource: None, left: None, fault }
    }

    /// Only for requests of this kind.
    #[must_use]
    pub const fn on(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// Only for this resource: `services`, `endpointslices.discovery.k8s.io`.
    #[must_use]
    pub fn of(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Only for the next few such requests.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }
}

/// The rules in force, in order.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Rule>>);

impl Faults {
    pub(super) fn add(&self, rule: Rule) {
        self.rules().push(rule);
    }

    pub(super) fn clear(&self) {
        self.rules().clear();
    }

    /// The fault for a request, and one time less to go.
    pub(super) fn take(&self, verb: Verb, resource: &str) -> Option<Fault> {
        let mut rules = self.rules();
        let rule = rules.iter_mut().find(|rule| {
            rule.verb.map_or(matches!(verb, Verb::List | Verb::Watch), |wanted| wanted == verb)
                && rule.resource.as_deref().is_none_or(|wanted| wanted == resource)
                && !matches!((&rule.fault, verb), (Fault::Watch(_), Verb::List))
                && rule.left != Some(0)
        })?;
        rule.left = rule.left.map(|left| left - 1);
        Some(rule.fault.clone())
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
