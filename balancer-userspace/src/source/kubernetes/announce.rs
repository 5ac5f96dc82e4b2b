//! Notices as Events on the Services that they are about.
//!
//! All nodes of a cluster find the same things. The name of an Event follows from the Service's uid, the
//! reason and the message, so that whoever is first writes it, and the others are told that it is there.
//! Each waits for a random time before it tries, and then writes at a slow pace: nothing depends on it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Error, api::PostParams};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{access::Connection, backoff};
use crate::source::Notice;

/// Who reports.
const COMPONENT: &str = "balancer";
/// The longest message that API servers take, in bytes.
const MAX_MESSAGE: usize = 1_024;
/// Names of Events that are remembered, so as not to write them again.
const MAX_KNOWN: usize = 4_096;

/// How slowly to go.
#[derive(Clone, Debug)]
pub(super) struct Timing {
    /// Longest random wait before the first Event, and after a pause in which there were none.
    pub spread: Duration,
    /// Between two Events.
    pub pace: Duration,
    /// For an answer.
    pub request: Duration,
    /// After an answer that there is no right to write Events, until that is tried again.
    pub refused: Duration,
    /// Attempts, if the API server does not answer as it should.
    pub attempts: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            spread: Duration::from_secs(30),
            pace: Duration::from_secs(1),
            request: Duration::from_secs(10),
            refused: Duration::from_secs(600),
            attempts: 3,
        }
    }
}

/// What became of an attempt.
enum Attempt {
    /// It stands there, whoever wrote it; or it never will.
    Done,
    /// There is no right to.
    Refused,
    /// Perhaps later.
    Failed(String),
}

/// Writes Events until nobody can send notices any more.
pub(super) async fn run(
    mut connection: Connection,
    node: Arc<str>,
    mut notices: mpsc::Receiver<Notice>,
    timing: Timing,
) {
    let mut known: HashSet<String> = HashSet::new();
    let mut refused_until: Option<Instant> = None;
    let mut told_refused = false;
    loop {
        let idle = notices.is_empty();
        let Some(notice) = notices.recv().await else { return };
        if refused_until.is_some_and(|until| Instant::now() < until) {
            continue;
        }
        let event = event(&notice, &node);
        let name = event.metadata.name.clone().unwrap_or_default();
        if known.contains(&name) {
            continue;
        }
        if idle {
            // The agents of all nodes have just found the same thing.
            sleep(backoff::up_to(timing.spread)).await;
        }
        let next = Instant::now() + timing.pace;
        match write(&mut connection, &event, &timing).await {
            Attempt::Done => {
                if known.len() >= MAX_KNOWN {
                    known.clear();
                }
                known.insert(name);
            }
            Attempt::Refused => {
                refused_until = Some(Instant::now() + timing.refused);
                if !std::mem::replace(&mut told_refused, true) {
                    log::warn!(
                        "problems of Services are not written as Events on them: the agent may not; grant its \
                         service account create on events, or run it with --events off"
                    );
                }
            }
            Attempt::Failed(why) => log::debug!("Event {name} is not written: {why}"),
        }
        sleep_until(next).await;
    }
}

async fn write(connection: &mut Connection, event: &Event, timing: &Timing) -> Attempt {
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let mut why = String::new();
    for attempt in 1..=timing.attempts {
        if attempt > 1 {
            sleep(backoff::pause(timing.pace, timing.spread, attempt)).await;
        }
        let api: Api<Event> = Api::namespaced(connection.client(), namespace);
        why = match timeout(timing.request, api.create(&PostParams::default(), event)).await {
            Ok(Ok(_)) => return Attempt::Done,
            Ok(Err(Error::Api(status))) => match status.code {
                // Another node was faster.
                409 => return Attempt::Done,
                // The Namespace is being deleted, and the Service with it.
                403 if status.message.contains("being terminated") => return Attempt::Done,
                403 => return Attempt::Refused,
                401 => {
                    connection.refresh().await;
                    status.message.clone()
                }
                429 | 500.. => status.message.clone(),
                // It would not be taken the next time either.
                _ => {
                    log::debug!("an Event is not taken: {}", status.message);
                    return Attempt::Done;
                }
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", timing.request.as_secs()),
        };
    }
    Attempt::Failed(why)
}

fn event(notice: &Notice, node: &str) -> Event {
    let Notice { service, uid, reason, message } = notice;
    let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
    // FNV-1a: the same in every version of the agent, or two of them would say everything twice.
    let identity = format!("{uid} {} {message}", reason.name());
    let hash = identity.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    #[expect(clippy::disallowed_methods, reason = "shown to people, by whom nothing is decided")]
    let now = Time(Timestamp::now());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", service.name, hash)),
            namespace: Some(service.namespace.to_string()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.namespace.to_string()),
            name: Some(service.name.to_string()),
            uid: Some(uid.to_string()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason.name().to_owned()),
        message: Some(message.to_owned()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}
