//! The agent's HTTP server: `/metrics`, `/livez` and `/readyz`.
//!
//! It binds to loopback unless told otherwise, holds a bounded number of connections, lets in whoever comes, and reads the
//! maps for a bounded number of scrapes at a time: nobody who can reach it can slow the agent down, or silence it.

mod listener;

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::Semaphore};

use self::listener::Bounded;
use crate::metrics::CONTENT_TYPE;

/// Scrapes that may read the maps at the same time; more are told to come back.
const SCRAPES: usize = 2;

/// What the server serves.
pub trait Status: Send + Sync + 'static {
    /// The metrics as text of [`CONTENT_TYPE`]. May block: it runs on a thread for that.
    fn metrics(&self) -> anyhow::Result<String>;

    /// Whether the agent works at all; the reason where it does not. Does not block.
    fn live(&self) -> Result<(), String>;

    /// Whether connects are balanced; the reason where they are not. Does not block.
    fn ready(&self) -> Result<(), String>;
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody else listens there.
    #[error("{addr} is in use by another process: choose another address with --http, or --http off")]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at {addr} (--http): {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A server that is bound and not yet running.
#[derive(Debug)]
pub struct Server {
    listener: Bounded,
    addr: SocketAddr,
}

impl Server {
    /// Binds, so that a wrong address is told at start.
    pub async fn bind(addr: SocketAddr) -> Result<Self, HttpError> {
        let wrap = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => HttpError::InUse { addr },
            _ => HttpError::Bind { addr, source },
        };
        let listener = TcpListener::bind(addr).await.map_err(wrap)?;
        let addr = listener.local_addr().map_err(wrap)?;
        Ok(Self { listener: Bounded::new(listener), addr })
    }

    /// The address that it is bound to, with the port that the kernel chose where 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop` completes; requests that are under way then are answered first.
    pub async fn run(self, status: Arc<dyn Status>, stop: impl Future<Output = ()> + Send + 'static) {
        let server = axum::serve(self.listener, router(status)).with_graceful_shutdown(stop);
        // It has no error: a connection that fails ends alone.
        if let Err(error) = server.await {
            log::error!("the HTTP server ended: {error}");
        }
    }
}

#[derive(Clone)]
struct App {
    status: Arc<dyn Status>,
    scrapes: Arc<Semaphore>,
}

fn router(status: Arc<dyn Status>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/livez", get(|State(app): State<App>| async move { health(app.status.live()) }))
        .route("/readyz", get(|State(app): State<App>| async move { health(app.status.ready()) }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found; / lists what there is\n") })
        .with_state(App { status, scrapes: Arc::new(Semaphore::new(SCRAPES)) })
}

async fn index() -> &'static str {
    concat!(
        "balancer ",
        env!("CARGO_PKG_VERSION"),
        "\n\n",
        "/metrics  OpenMetrics text\n",
        "/livez    200 while the agent works\n",
        "/readyz   200 while connects are balanced, else 503 with the reason\n",
    )
}

fn health(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(app): State<App>) -> Response {
    let Ok(permit) = app.scrapes.try_acquire_owned() else {
        let retry = [(header::RETRY_AFTER, "1")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry, "too many scrapes at a time\n").into_response();
    };
    let text = tokio::task::spawn_blocking(move || {
        // Held until the maps are read, even where the client has gone away.
        let _permit = permit;
        app.status.metrics()
    });
    match text.await.map_err(anyhow::Error::from).and_then(|text| text) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            log::warn!("cannot serve /metrics: {error:#}");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, mpsc},
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    /// A status that is ready or not; where there is a gate, scrapes knock and wait at it.
    #[derive(Default)]
    struct Fake {
        trouble: Option<&'static str>,
        gate: Option<Gate>,
    }

    struct Gate {
        knock: tokio::sync::mpsc::UnboundedSender<()>,
        open: Mutex<mpsc::Receiver<()>>,
    }

    impl Status for Fake {
        fn metrics(&self) -> anyhow::Result<String> {
            if let Some(gate) = &self.gate {
                gate.knock.send(()).unwrap();
                // The gate opens when its other end is dropped.
                let _ = gate.open.lock().unwrap().recv();
            }
            match self.trouble {
                Some(trouble) => Err(anyhow::anyhow!(trouble)),
                None => Ok("# EOF\n".into()),
            }
        }
        fn live(&self) -> Result<(), String> {
            Ok(())
        }
        fn ready(&self) -> Result<(), String> {
            self.trouble.map_or(Ok(()), |trouble| Err(trouble.into()))
        }
    }

    async fn serve(status: Fake) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = server.addr();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(Arc::new(status), async {
            // A dropped sender stops it too.
            let _ = stopped.await;
        }));
        (addr, stop, task)
    }

    async fn request(addr: SocketAddr, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[track_caller]
    fn check(response: &str, status: &str, body: &str) {
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
        assert!(response.ends_with(&format!("\r\n\r\n{body}")), "{response}");
    }

    #[tokio::test]
    async fn every_path_answers() {
        let (addr, _stop, _) = serve(Fake::default()).await;
        let metrics = request(addr, "GET", "/metrics").await;
        check(&metrics, "200", "# EOF\n");
        assert!(
            metrics.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n")
        );
        check(&request(addr, "GET", "/livez").await, "200", "ok\n");
        check(&request(addr, "GET", "/readyz").await, "200", "ok\n");
        assert!(request(addr, "GET", "/").await.contains("/metrics"));
        check(&request(addr, "GET", "/debug").await, "404", "not found; / lists what there is\n");
        check(&request(addr, "POST", "/metrics").await, "405", "");
        check(&request(addr, "HEAD", "/readyz").await, "200", "");
    }

    #[tokio::test]
    async fn trouble_is_told_with_its_reason() {
        let (addr, _stop, _) = serve(Fake { trouble: Some("the view is not complete"), gate: None }).await;
        check(&request(addr, "GET", "/readyz").await, "503", "the view is not complete\n");
        check(&request(addr, "GET", "/livez").await, "200", "ok\n");
        check(&request(addr, "GET", "/metrics").await, "500", "the view is not complete\n");
    }

    #[tokio::test]
    async fn scrapes_beyond_the_bound_come_back_later() {
        let (knock, mut knocks) = tokio::sync::mpsc::unbounded_channel();
        let (opener, open) = mpsc::channel();
        let gate = Gate { knock, open: Mutex::new(open) };
        let (addr, _stop, _) = serve(Fake { trouble: None, gate: Some(gate) }).await;
        let slow: Vec<_> = (0..SCRAPES).map(|_| tokio::spawn(request(addr, "GET", "/metrics"))).collect();
        for _ in 0..SCRAPES {
            knocks.recv().await.unwrap();
        }
        let refused = request(addr, "GET", "/metrics").await;
        assert!(refused.contains("retry-after: 1"), "{refused}");
        check(&refused, "503", "too many scrapes at a time\n");
        check(&request(addr, "GET", "/livez").await, "200", "ok\n");
        drop(opener);
        for scrape in slow {
            check(&scrape.await.unwrap(), "200", "# EOF\n");
        }
    }

    /// Any process of the node can do this; a kubelet kills an agent that does not answer it.
    #[tokio::test]
    async fn requests_that_never_end_keep_nobody_from_asking() {
        let (addr, _stop, _task) = serve(Fake::default()).await;
        let mut stuck = Vec::new();
        for _ in 0..200 {
            let mut client = TcpStream::connect(addr).await.unwrap();
            client.write_all(b"GET /livez HTTP/1.1\r\nX: ").await.unwrap();
            stuck.push(client);
        }
        for _ in 0..3 {
            let asked = tokio::time::timeout(Duration::from_secs(5), request(addr, "GET", "/livez"));
            check(&asked.await.expect("it is answered"), "200", "ok\n");
            // Those that are still there are fed.
            for client in &mut stuck {
                let _ = client.write_all(b"x").await;
            }
        }
    }

    #[tokio::test]
    async fn it_stops_when_told() {
        let (addr, stop, task) = serve(Fake::default()).await;
        check(&request(addr, "GET", "/livez").await, "200", "ok\n");
        stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), task).await.expect("it ends").unwrap();
        TcpStream::connect(addr).await.unwrap_err();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_the_remedy() {
        let first = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = Server::bind(first.addr()).await.unwrap_err().to_string();
        assert!(error.contains(&first.addr().to_string()) && error.contains("--http off"), "{error}");
        let error = Server::bind("192.0.2.1:1".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot listen at 192.0.2.1:1 (--http): "), "{error}");
    }
}
