//! What is sent back.

use std::{io, pin::Pin};

use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{Response, body::Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The body of an answer; an error in it breaks the connection.
pub(super) type Body = BoxBody<Bytes, io::Error>;

/// Where the pieces of a body go.
pub(super) type Pieces = mpsc::Sender<io::Result<Bytes>>;

/// A request that is refused, as a `Status` object says it.
#[derive(Clone, Debug)]
pub(super) struct Denied {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Seconds.
    pub retry_after: Option<u32>,
}

impl Denied {
    pub(super) fn new(code: u16, reason: &'static str, message: &str) -> Self {
        Self { code, reason, message: message.to_owned(), retry_after: None }
    }

    pub(super) fn expired(message: &str) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }

    pub(super) fn response(&self) -> Response<Body> {
        let mut response = json(self.code, &self.status());
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert("retry-after", seconds.into());
        }
        response
    }
}

pub(super) fn json(code: u16, value: &Value) -> Response<Body> {
    text(code, "application/json", value.to_string().into())
}

pub(super) fn text(code: u16, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed());
    if let Ok(code) = code.try_into() {
        *response.status_mut() = code;
    }
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
    response
}

/// An answer in chunks that are still to come.
pub(super) fn streamed() -> (Pieces, Response<Body>) {
    let (pieces, mut receiver) = mpsc::channel::<io::Result<Bytes>>(16);
    let frames: Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync>> =
        Box::pin(futures::stream::poll_fn(move |context| {
            receiver.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
        }));
    let mut response = Response::new(BoxBody::new(StreamBody::new(frames)));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    (pieces, response)
}
