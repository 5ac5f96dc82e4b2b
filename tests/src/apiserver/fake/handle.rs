//! Requests and what is done with them.

use std::{
    collections::HashMap,
    future::pending,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Request, Response, body::Incoming};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::{
    answer::{Body, Denied, json, streamed, text},
    fault::{Fault, Faults},
    rbac::{self, User},
    request::{Asked, Verb},
    rules::{as_asked, check, failed, invalid, merge, missing, selectors, wants_metadata},
    store::{Key, Page, Store},
    watching::Watching,
};

/// How often a bookmark is sent unless a test says otherwise.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// Whether faults apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// The agent's: they do.
    Front,
    /// The test's own: they do not.
    Back,
}

/// The cluster behind the server.
pub(super) struct Cluster {
    store: Mutex<Store>,
    /// Counts writes, so that watches wake up.
    pub news: watch::Sender<u64>,
    pub frozen: watch::Sender<bool>,
    pub faults: Faults,
    tokens: Mutex<HashMap<String, User>>,
    /// How many tokens were issued.
    issued: AtomicU64,
    bookmarks: Mutex<Duration>,
    /// How often each thing was asked at the front door.
    counts: Mutex<HashMap<(Verb, String), u64>>,
}

impl Cluster {
    pub(super) fn new(admin_token: &str) -> Self {
        let admin = User { name: "admin".to_owned(), groups: vec![rbac::MASTERS.to_owned()] };
        Self {
            store: Mutex::default(),
            news: watch::Sender::new(0),
            frozen: watch::Sender::new(false),
            faults: Faults::default(),
            issued: AtomicU64::new(0),
            tokens: Mutex::new([(admin_token.to_owned(), admin)].into()),
            bookmarks: Mutex::new(BOOKMARKS),
            counts: Mutex::default(),
        }
    }

    pub(super) fn read<T>(&self, body: impl FnOnce(&Store) -> T) -> T {
        body(&lock(&self.store))
    }

    pub(super) fn write<T>(&self, body: impl FnOnce(&mut Store) -> T) -> T {
        let result = body(&mut lock(&self.store));
        self.news.send_modify(|count| *count += 1);
        result
    }

    pub(super) fn bookmark_every(&self) -> Duration {
        *lock(&self.bookmarks)
    }

    pub(super) fn set_bookmarks(&self, every: Duration) {
        *lock(&self.bookmarks) = every;
    }

    pub(super) fn revoke(&self, token: &str) {
        lock(&self.tokens).remove(token);
    }

    pub(super) fn asked(&self, verb: Verb, resource: &str) -> u64 {
        lock(&self.counts).get(&(verb, resource.to_owned())).copied().unwrap_or(0)
    }

    pub(super) fn asked_in_all(&self) -> u64 {
        lock(&self.counts).values().sum()
    }

    /// Returns when the server is not stopped.
    pub(super) async fn thawed(&self) {
        let mut frozen = self.frozen.subscribe();
        // The sender lives as long as the server.
        _ = frozen.wait_for(|frozen| !frozen).await;
    }

    /// Kind and version of the objects of a request.
    pub(super) fn kind_of(&self, asked: &Asked) -> (String, String) {
        let known = match &*asked.resource {
            "services" => Some(("Service", "v1")),
            "nodes" => Some(("Node", "v1")),
            "namespaces" => Some(("Namespace", "v1")),
            "endpointslices.discovery.k8s.io" => Some(("EndpointSlice", "discovery.k8s.io/v1")),
            _ => None,
        };
        known.map_or_else(
            || {
                let sample = self.read(|store| store.all(&asked.resource, "").next().cloned());
                let text = |name: &str| {
                    sample.as_ref().and_then(|object| object[name].as_str()).unwrap_or("Unknown").to_owned()
                };
                (text("kind"), text("apiVersion"))
            },
            |(kind, version)| (kind.to_owned(), version.to_owned()),
        )
    }

    /// Answers one request.
    pub(super) async fn answer(self: &Arc<Self>, door: Door, request: Request<Incoming>) -> Response<Body> {
        if door == Door::Front {
            self.thawed().await;
        }
        let uri = request.uri().clone();
        let Some(asked) = Asked::parse(request.method(), uri.path(), uri.query().unwrap_or_default()) else {
            return match uri.path() {
                "/readyz" | "/livez" => text(200, "text/plain", Bytes::from_static(b"ok")),
                _ => Denied::new(404, "NotFound", "the server could not find the requested resource")
                    .response(),
            };
        };
        let mut fault = None;
        if door == Door::Front {
            *lock(&self.counts).entry((asked.verb, asked.resource.to_string())).or_default() += 1;
            fault = self.faults.take(asked.verb, &asked.resource);
        }
        match fault {
            Some(Fault::Status(code)) => return failed(code, None),
            Some(Fault::RetryAfter(code, seconds)) => return failed(code, Some(seconds)),
            Some(Fault::Hang) => return pending().await,
            Some(Fault::Garbage) => {
                return text(200, "text/html", Bytes::from_static(b"<!DOCTYPE html><title>Sign in</title>"));
            }
            Some(Fault::OtherJson) => return json(200, &json!({"kind": "Lunch", "items": 7})),
            _ => {}
        }
        let response = match self.handle(asked, request, &fault).await {
            Ok(response) => response,
            Err(denied) => denied.response(),
        };
        match fault {
            Some(Fault::HangHalfway | Fault::Truncate | Fault::Trickle(_)) => {
                self.mangle(fault, response).await
            }
            _ => response,
        }
    }

    async fn handle(
        self: &Arc<Self>,
        asked: Asked,
        request: Request<Incoming>,
        fault: &Option<Fault>,
    ) -> Result<Response<Body>, Denied> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let accept = header("accept").unwrap_or_default().to_owned();
        let token = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let user = token.and_then(|token| lock(&self.tokens).get(token).cloned());
        let user = user.ok_or_else(|| Denied::new(401, "Unauthorized", "Unauthorized"))?;
        self.read(|store| rbac::authorize(store, &user, &asked))?;
        let body = request.into_body().collect().await;
        let body = body.map_err(|error| Denied::new(400, "BadRequest", &error.to_string()))?.to_bytes();
        let object = || -> Result<Value, Denied> {
            serde_json::from_slice(&body).map_err(|error| Denied::new(400, "BadRequest", &error.to_string()))
        };
        match asked.verb {
            Verb::Get => {
                let found =
                    self.read(|store| store.get(&asked.key()).cloned()).ok_or_else(|| missing(&asked))?;
                Ok(json(200, &as_asked(&accept, Value::clone(&found))))
            }
            Verb::List => self.list(&asked, &accept),
            Verb::Watch => {
                let selectors = selectors(&asked)?;
                let (pieces, response) = streamed();
                let fault = match fault {
                    Some(Fault::Watch(fault)) => Some(*fault),
                    _ => None,
                };
                let cluster = Arc::clone(self);
                let watching =
                    Watching { cluster, asked, selectors, pieces, fault, accept, revision: 0, sent: 0 };
                tokio::spawn(watching.run());
                Ok(response)
            }
            Verb::Create if asked.plural == "serviceaccounts/token" => self.issue_token(&asked),
            Verb::Create => self.create(asked, object()?),
            Verb::Update => self.change(&asked, |_| object()),
            Verb::Patch => {
                let patch = object()?;
                self.change(&asked, |old| {
                    let mut new = old.clone();
                    merge(&mut new, &patch);
                    Ok(new)
                })
            }
            Verb::Delete => {
                let gone = self.write(|store| store.delete(&asked.key())).ok_or_else(|| missing(&asked))?;
                if &*asked.resource == "serviceaccounts" {
                    let account = User::account(&asked.namespace, &asked.name);
                    lock(&self.tokens).retain(|_, user| *user != account);
                }
                Ok(json(200, &gone))
            }
        }
    }

    fn list(&self, asked: &Asked, accept: &str) -> Result<Response<Body>, Denied> {
        let limit = usize::try_from(asked.number("limit").unwrap_or(0)).unwrap_or(usize::MAX);
        let selectors = selectors(asked)?;
        let mut store = lock(&self.store);
        let page = match asked.parameter("continue") {
            Some(token) => store.next_page(token, limit)?,
            None => store.list(&asked.resource, &asked.namespace, &selectors, limit),
        };
        drop(store);
        let Page { items, revision, token, remaining } = page;
        let items: Vec<Value> = items.iter().map(|item| as_asked(accept, Value::clone(item))).collect();
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some(token) = token {
            metadata["continue"] = json!(token);
            if asked.parameter("labelSelector").or(asked.parameter("fieldSelector")).is_none() {
                metadata["remainingItemCount"] = json!(remaining);
            }
        }
        let (kind, version) = self.kind_of(asked);
        let (kind, version) = if wants_metadata(accept) {
            ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned())
        } else {
            (kind, version)
        };
        Ok(json(
            200,
            &json!({"kind": format!("{kind}List"), "apiVersion": version, "metadata": metadata, "items": items}),
        ))
    }

    fn issue_token(&self, asked: &Asked) -> Result<Response<Body>, Denied> {
        self.read(|store| store.get(&asked.key()).cloned()).ok_or_else(|| missing(asked))?;
        let mut tokens = lock(&self.tokens);
        // A token that was taken back must not come again.
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let token = format!("token-{}-{}-{number}", asked.namespace, asked.name);
        tokens.insert(token.clone(), User::account(&asked.namespace, &asked.name));
        Ok(json(
            201,
            &json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "status": {"token": token}}),
        ))
    }

    fn create(&self, mut asked: Asked, object: Value) -> Result<Response<Body>, Denied> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            return Err(invalid("metadata.name: Required value: name or generateName is required"));
        }
        asked.name = name.to_owned();
        check(&object)?;
        self.write(|store| {
            let namespace = Key {
                resource: "namespaces".into(),
                namespace: String::new(),
                name: asked.namespace.clone(),
            };
            if !asked.namespace.is_empty() && store.get(&namespace).is_none() {
                let text = format!("namespaces \"{}\" not found", asked.namespace);
                return Err(Denied::new(404, "NotFound", &text));
            }
            if store.get(&asked.key()).is_some() {
                let text = format!("{} \"{}\" already exists", asked.resource, asked.name);
                return Err(Denied::new(409, "AlreadyExists", &text));
            }
            Ok(json(201, &store.put(asked.key(), object)))
        })
    }

    fn change(
        &self,
        asked: &Asked,
        new: impl FnOnce(&Value) -> Result<Value, Denied>,
    ) -> Result<Response<Body>, Denied> {
        self.write(|store| {
            let old = store.get(&asked.key()).cloned().ok_or_else(|| missing(asked))?;
            let mut object = new(&old)?;
            check(&object)?;
            let version = &object["metadata"]["resourceVersion"];
            if !version.is_null() && *version != old["metadata"]["resourceVersion"] {
                return Err(Denied::new(
                    409,
                    "Conflict",
                    "the object has been modified; please apply your changes to the latest version",
                ));
            }
            // What differs in nothing is not written.
            for field in ["resourceVersion", "uid"] {
                object["metadata"][field] = old["metadata"][field].clone();
            }
            if object == *old {
                return Ok(json(200, &old));
            }
            Ok(json(200, &store.put(asked.key(), object)))
        })
    }

    /// Sends the body of an answer as badly as asked.
    async fn mangle(&self, fault: Option<Fault>, response: Response<Body>) -> Response<Body> {
        let (parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else { return failed(500, None) };
        let bytes = body.to_bytes();
        let (pieces, mut mangled) = streamed();
        *mangled.status_mut() = parts.status;
        tokio::spawn(async move {
            let half = bytes.slice(..bytes.len() / 2);
            match fault {
                Some(Fault::Trickle(pause)) => {
                    for piece in bytes.chunks(64) {
                        if pieces.send(Ok(Bytes::copy_from_slice(piece))).await.is_err() {
                            return;
                        }
                        sleep(pause).await;
                    }
                }
                Some(Fault::Truncate) => {
                    _ = pieces.send(Ok(half)).await;
                    _ = pieces.send(Err(io::Error::other("broken by the test"))).await;
                }
                _ => {
                    _ = pieces.send(Ok(half)).await;
                    pieces.closed().await;
                }
            }
        });
        mangled
    }
}

/// A test that panicked elsewhere has failed already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
