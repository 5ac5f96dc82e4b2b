//! An API server in this process that answers as told.
//!
//! It stands in for the HTTP connection beneath kube's client, so requests are real ones, and time
//! can be virtual.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Method, Request, Response, request::Parts},
};
use futures::{StreamExt, stream};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// A resource and what is asked of it, as in `list services`.
type Ask = &'static str;

/// One answer.
pub(super) enum Answer {
    /// A page of a list: objects, resourceVersion and, where there is more, a token.
    List(Vec<Value>, &'static str, Option<&'static str>),
    /// A watch: what happens in it, and then it is closed.
    Watch(Vec<Step>),
    /// An object.
    Object(Value),
    /// A failure.
    Status(u16, &'static str),
    /// The connection breaks before an answer.
    Broken,
    /// Nothing, ever.
    Hang,
}

/// What happens in a watch.
pub(super) enum Step {
    /// An event of this type with this object.
    Event(&'static str, Value),
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing for so long.
    Wait(Duration),
    /// Nothing, ever.
    Hang,
    /// The connection breaks.
    Break,
}

/// A request that was made.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub ask: String,
    pub query: HashMap<String, String>,
    pub accept: String,
    pub at: Instant,
    pub body: Value,
}

/// What it was told, and what it was asked.
#[derive(Clone, Default)]
pub(super) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    answers: HashMap<Ask, VecDeque<Answer>>,
    asked: Vec<Asked>,
}

impl FakeApi {
    /// Answers the next requests of this kind. When they run out lists are empty at version 1, lists of one
    /// object (`probe services`) say that the server is far ahead, and watches stay open without an event.
    pub(super) fn answer(&self, ask: Ask, answers: impl IntoIterator<Item = Answer>) {
        self.0.lock().unwrap().answers.entry(ask).or_default().extend(answers);
    }

    /// All requests of this kind so far.
    pub(super) fn asked(&self, ask: Ask) -> Vec<Asked> {
        self.0.lock().unwrap().asked.iter().filter(|asked| asked.ask == ask).cloned().collect()
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.router(), "default")
    }

    pub(super) fn router(&self) -> Router {
        let api = self.clone();
        Router::new().fallback(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                api.take(&parts, &body).respond_soon().await
            }
        })
    }

    /// Notes a request and takes the answer to it.
    fn take(&self, request: &Parts, body: &[u8]) -> Answer {
        let resource = request.uri.path().rsplit('/').next().unwrap_or_default();
        let query: HashMap<String, String> = request
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), decode(value)))
            .collect();
        let verb = match (&request.method, query.get("limit").map(String::as_str)) {
            (&Method::POST, _) => "create",
            _ if query.contains_key("watch") => "watch",
            (_, Some("1")) => "probe",
            _ => "list",
        };
        let ask = format!("{verb} {resource}");
        let accept = request.headers.get("accept").map(|accept| accept.to_str().unwrap().to_owned());
        let mut state = self.0.lock().unwrap();
        let answer = state.answers.get_mut(ask.as_str()).and_then(VecDeque::pop_front);
        state.asked.push(Asked {
            ask,
            query,
            accept: accept.unwrap_or_default(),
            at: Instant::now(),
            body: serde_json::from_slice(body).unwrap_or_default(),
        });
        answer.unwrap_or_else(|| match verb {
            "list" => Answer::List(Vec::new(), "1", None),
            "probe" => Answer::List(Vec::new(), "1000000", None),
            "create" => Answer::Object(json!({"metadata": {}, "involvedObject": {}})),
            _ => Answer::Watch(vec![Step::Hang]),
        })
    }
}

impl Answer {
    async fn respond_soon(self) -> Response<Body> {
        // Not even an API server in this process answers in no time.
        sleep(Duration::from_millis(1)).await;
        self.respond().await
    }

    async fn respond(self) -> Response<Body> {
        match self {
            Self::List(items, version, token) => {
                let metadata = json!({"resourceVersion": version, "continue": token});
                let list = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items});
                Response::new(Body::from(list.to_string()))
            }
            Self::Watch(steps) => {
                let steps = stream::iter(steps).then(Step::bytes).scan((), |(), bytes| async { Some(bytes) });
                Response::new(Body::from_stream(steps))
            }
            Self::Object(object) => Response::new(Body::from(object.to_string())),
            Self::Status(code, message) => {
                let body = status(code, message).to_string();
                Response::builder().status(code).body(Body::from(body)).unwrap()
            }
            Self::Broken => {
                let broken = stream::once(async {
                    Err::<Bytes, _>(std::io::Error::other("connection reset by test"))
                });
                Response::new(Body::from_stream(broken))
            }
            Self::Hang => std::future::pending().await,
        }
    }
}

impl Step {
    async fn bytes(self) -> Result<Bytes, std::io::Error> {
        match self {
            Self::Event(kind, object) => Ok(format!("{}\n", json!({"type": kind, "object": object})).into()),
            Self::Bytes(bytes) => Ok(bytes.into()),
            Self::Wait(duration) => {
                sleep(duration).await;
                Ok(Bytes::new())
            }
            Self::Hang => {
                std::future::pending::<Result<Bytes, Infallible>>().await.map_err(|never| match never {})
            }
            Self::Break => Err(std::io::Error::other("connection reset by test")),
        }
    }
}

/// A `Status` object.
pub(super) fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "Test", "code": code})
}

/// A bookmark of a Service watch.
pub(super) fn bookmark(version: &str) -> Step {
    Step::Event(
        "BOOKMARK",
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": version}}),
    )
}

/// A Service.
pub(super) fn service(name: &str, port: u16, version: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version},
        "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": port, "protocol": "TCP"}]},
    })
}

/// An EndpointSlice of a Service.
pub(super) fn slice(name: &str, service: Option<&str>, version: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "resourceVersion": version,
            "labels": service.map(|service| json!({"kubernetes.io/service-name": service})),
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {}}],
    })
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
