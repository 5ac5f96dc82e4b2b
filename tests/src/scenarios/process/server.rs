//! A server: HTTP/1.1 and HTTP/2 on many ports, which counts what is open.

use std::{
    cell::RefCell, convert::Infallible, io::Write as _, net::Ipv4Addr, pin::pin, rc::Rc, time::Duration,
};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::LocalSet,
};

use super::{Protocol, Served, ServerCommand, ServerPlan, link::lines};

/// How long requests under way may take once it ends.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// What it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serves,
    Refuses,
    Ends,
}

/// Serves until it is told to end, or its input is closed.
///
/// # Errors
/// When it cannot listen.
pub fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    LocalSet::new().block_on(&runtime, run())
}

async fn run() -> Result<()> {
    let mut commands = lines();
    let first = commands.recv().await.context("no plan")?;
    let plan: ServerPlan = serde_json::from_str(&first).context("the plan")?;
    let served = Rc::new(RefCell::new(Served {
        open: vec![0; usize::from(plan.ports)],
        requests: vec![0; usize::from(plan.ports)],
    }));
    let (tell, state) = watch::channel(State::Serves);
    let name = Bytes::from(plan.name.clone());
    for index in 0..plan.ports {
        let listener = listen(plan.first_port + index).await?;
        let port = Port {
            index: usize::from(index),
            served: Rc::clone(&served),
            name: name.clone(),
            delay: Duration::from_millis(plan.delay_ms),
            protocol: plan.protocol,
        };
        tokio::task::spawn_local(accept(listener, port, state.clone()));
    }
    drop(state);
    answer(&Served::default())?;
    while let Some(line) = commands.recv().await {
        match serde_json::from_str(&line).context("a command")? {
            ServerCommand::Stats => answer(&served.borrow())?,
            ServerCommand::Refuse => {
                tell.send_replace(State::Refuses);
                tokio::task::yield_now().await;
                answer(&served.borrow())?;
            }
            ServerCommand::End => {
                tell.send_replace(State::Ends);
                // Those that are still open then are cut.
                _ = tokio::time::timeout(LAST_REQUESTS, tell.closed()).await;
                answer(&served.borrow())?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn answer(served: &Served) -> Result<()> {
    let mut line = serde_json::to_vec(served)?;
    line.push(b'\n');
    std::io::stdout().write_all(&line).context("answer")
}

async fn listen(port: u16) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4().context("socket")?;
    socket.set_reuseaddr(true).context("SO_REUSEADDR")?;
    socket.bind((Ipv4Addr::UNSPECIFIED, port).into()).with_context(|| format!("bind to port {port}"))?;
    socket.listen(4096).context("listen")
}

/// What a connection needs to know.
#[derive(Clone)]
struct Port {
    index: usize,
    served: Rc<RefCell<Served>>,
    name: Bytes,
    delay: Duration,
    protocol: Protocol,
}

async fn accept(listener: TcpListener, port: Port, mut state: watch::Receiver<State>) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = state.wait_for(|state| *state != State::Serves) => return,
        };
        // Out of descriptors, or a connection that was reset at once: the next may do better.
        let Ok((stream, _)) = stream else { continue };
        tokio::task::spawn_local(connection(stream, port.clone(), state.clone()));
    }
}

async fn connection(stream: TcpStream, port: Port, mut state: watch::Receiver<State>) {
    port.served.borrow_mut().open[port.index] += 1;
    let service = service_fn(|_: Request<Incoming>| {
        let port = port.clone();
        async move {
            tokio::time::sleep(port.delay).await;
            port.served.borrow_mut().requests[port.index] += 1;
            Ok::<_, Infallible>(Response::new(Full::new(port.name)))
        }
    });
    _ = stream.set_nodelay(true);
    let io = TokioIo::new(stream);
    /// Serves to the end, which is soon once the server ends.
    macro_rules! serve {
        ($connection:expr) => {{
            let mut serving = pin!($connection);
            tokio::select! {
                _ = serving.as_mut() => {}
                _ = state.wait_for(|state| *state == State::Ends) => {
                    serving.as_mut().graceful_shutdown();
                    _ = serving.as_mut().await;
                }
            }
        }};
    }
    match port.protocol {
        Protocol::Http1 => {
            serve!(http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service))
        }
        Protocol::Http2 => {
            serve!(http2::Builder::new(Local).timer(TokioTimer::new()).serve_connection(io, service));
        }
    }
    port.served.borrow_mut().open[port.index] -= 1;
}

/// Runs what HTTP/2 needs to run on the side on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}
