//! What went wrong with a request, in words, and what to do about it.

use std::{error::Error as StdError, time::Duration};

use kube::{Error, core::Status};

use crate::source::health::{Extent, Resource};

/// What to do after a failure, and after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Go on with the same version: the view is intact.
    Resume,
    /// List everything.
    Relist,
}

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    List,
    Watch,
}

impl Doing {
    const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// What makes two failures the same one.
    pub class: String,
    /// For people.
    pub text: String,
    /// Whether it is about the server as a whole.
    pub extent: Extent,
    pub then: Then,
    pub blame: Blame,
    /// The server knows who we are, and we may not.
    pub refused: Refused,
    pub worth: Worth,
    pub answer: Answer,
}

/// Whether an API server answered at all: one that did is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Status,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Yes,
    No,
}

/// When a failure is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    AtOnce,
    /// If it lasts: an API server that starts knows no roles for a moment, and refuses everybody.
    Lasting,
}

/// Whether the client's configuration may be at fault, so that it is worth reading again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// It is: the server does not know who we are.
    Identity,
    /// The server or its authority may be another one there by now. More often the server is just away.
    Connection,
    Other,
}

impl Failure {
    fn new(resource: Resource, doing: Doing, class: &str, text: &str, then: Then) -> Self {
        Self {
            class: format!("{} {class}", doing.name()),
            text: format!("cannot {} {}: {text}", doing.name(), resource.name()),
            extent: Extent::Resource,
            then,
            blame: Blame::Other,
            refused: Refused::No,
            worth: Worth::AtOnce,
            answer: Answer::None,
        }
    }

    pub(super) fn timeout(resource: Resource, doing: Doing, after: Duration) -> Self {
        let text = format!("no answer within {} s", after.as_secs());
        Self::new(resource, doing, "timeout", &text, Then::Resume).of_the_server()
    }

    /// It would meet whoever asks, and for whatever: it is said once, not of each resource.
    fn of_the_server(mut self) -> Self {
        self.extent = Extent::Source;
        if let Some((_, class)) = self.class.split_once(' ') {
            self.class = class.to_owned();
        }
        self
    }

    pub(super) fn no_version(resource: Resource, doing: Doing) -> Self {
        let text =
            "the answer has no resourceVersion: whatever sits between here and the API server drops it";
        Self::new(resource, doing, "version", text, Then::Relist)
    }

    /// The server ended watches as soon as they began, `times` times.
    pub(super) fn closed_at_once(resource: Resource, times: u32) -> Self {
        let text = format!("the server ended it at once, {times} times in a row, without an error");
        Self::new(resource, Doing::Watch, "closed", &text, Then::Resume)
    }

    /// Whether we may not, which does not pass by itself within moments.
    pub(super) fn is_refused(&self) -> bool {
        self.refused == Refused::Yes
    }

    /// The server answered with a status.
    pub(super) fn status(resource: Resource, doing: Doing, status: &Status, place: &str) -> Self {
        let code = status.code;
        let message = match (status.message.trim(), status.reason.trim()) {
            ("", "") => String::new(),
            ("", what) | (what, _) => format!(" ({})", shorten(what)),
        };
        let remedy = match code {
            401 => format!(
                ": whoever {place} says we are is not known: see that its token or client certificate is of this \
                 cluster and has not expired"
            ),
            403 => ": grant the agent's service account list and watch on it".to_owned(),
            _ => String::new(),
        };
        let then = match code {
            401 | 403 | 429 | 500.. => Then::Resume,
            _ => Then::Relist,
        };
        let mut failure =
            Self::new(resource, doing, &code.to_string(), &format!("HTTP {code}{message}{remedy}"), then);
        failure.answer = Answer::Status;
        match code {
            401 => failure.blame = Blame::Identity,
            403 => (failure.refused, failure.worth) = (Refused::Yes, Worth::Lasting),
            _ => {}
        }
        if matches!(code, 401 | 429 | 500..) {
            failure = failure.of_the_server();
        }
        failure
    }

    /// The client failed.
    ///
    /// `place` is where the client's configuration comes from.
    pub(super) fn client(resource: Resource, doing: Doing, error: &Error, server: &str, place: &str) -> Self {
        match error {
            // What kube makes of an event that is JSON and cannot be read.
            Error::Api(status) if status.code == 0 => {
                let text = "an event is not one of an object of this kind";
                Self::new(resource, doing, "answer", text, Then::Relist)
            }
            Error::Api(status) => Self::status(resource, doing, status, place),
            Error::SerdeError(error) => {
                let text = format!("cannot read the answer: {error}");
                Self::new(resource, doing, "answer", &text, Then::Relist)
            }
            Error::HyperError(_) | Error::Service(_) => {
                let cause = cause(error);
                Self {
                    class: format!("connect {}", kind(&cause)),
                    text: format!(
                        "cannot reach the API server at {server}: {cause}{}",
                        remedy(&cause, place)
                    ),
                    extent: Extent::Source,
                    then: Then::Resume,
                    blame: Blame::Connection,
                    refused: Refused::No,
                    worth: Worth::AtOnce,
                    answer: Answer::None,
                }
            }
            _ => {
                let cause = cause(error);
                Self::new(resource, doing, &kind(&cause), &cause, Then::Resume)
            }
        }
    }
}

/// Whether the version asked for is no longer there.
pub(super) fn is_expired(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 410)
}

/// What to do about a connection that does not come about, by the words of the TLS library.
fn remedy(cause: &str, place: &str) -> String {
    if cause.contains("UnknownIssuer") || cause.contains("BadSignature") {
        format!(
            ": its certificate is not of the authority in {place}: certificate-authority there must be that of this \
             cluster"
        )
    } else if cause.contains("certificate expired") || cause.contains("not valid yet") {
        ": renew the API server's certificate, or set this node's clock".to_owned()
    } else if cause.contains("not valid for name") {
        format!(": name the server in {place} as its certificate does, or set tls-server-name there")
    } else if cause.contains("alert: CertificateExpired") || cause.contains("alert: CertificateUnknown") {
        format!(": renew the client certificate in {place}")
    } else if cause.contains("corrupt message") {
        format!(": what answers there does not speak TLS; see the server in {place}")
    } else if cause.contains("invalid HTTP") {
        format!(": what answers there does not speak HTTP; see the server in {place}")
    } else {
        String::new()
    }
}

/// The innermost error, which says what happened; those around it say in which layer.
fn cause(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // The TLS library adds where to read about it.
    let text = innermost.to_string();
    shorten(text.split_once(": https://").map_or(text.as_str(), |(text, _)| text))
}

/// A cause without its numbers: some name the time, and would be another cause every second.
fn kind(cause: &str) -> String {
    cause.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Messages of a server may be of any length.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
