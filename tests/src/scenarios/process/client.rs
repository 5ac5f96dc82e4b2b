//! A client: a pool of keep-alive connections, transactions, short connections, or one HTTP/2 connection.

use std::{
    cell::RefCell,
    io::Write as _,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_userspace::datapath::boot_ns;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::LocalSet,
    time::{sleep, timeout},
};

use super::{ClientCommand, ClientPlan, ClientReport, Reconnect, Work, link::lines};

/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(5);

/// What it waits after a connect that failed.
const AGAIN: Duration = Duration::from_millis(100);

/// Works until it is told to end, or its input is closed.
///
/// # Errors
/// When what it is told is not understood.
pub fn client() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    LocalSet::new().block_on(&runtime, run())
}

async fn run() -> Result<()> {
    let mut commands = lines();
    let first = commands.recv().await.context("no plan")?;
    let plan: ClientPlan = serde_json::from_str(&first).context("the plan")?;
    let shared = Rc::new(Shared {
        targets: RefCell::new((plan.targets.clone(), plan.start)),
        random: RefCell::new(fastrand::Rng::with_seed(plan.seed)),
        mark: RefCell::new(Instant::now()),
        report: RefCell::default(),
    });
    let mut begun = start(plan.work, &shared);
    // Ready once each of them has had its first answer, or failed.
    while begun.recv().await.is_some() {}
    answer(&"ready")?;
    while let Some(line) = commands.recv().await {
        match serde_json::from_str(&line).context("a command")? {
            ClientCommand::Targets(targets) => shared.targets.borrow_mut().0 = targets,
            ClientCommand::Mark => shared.set_mark(),
            ClientCommand::End => {
                answer(&*shared.report.borrow())?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn answer(what: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    std::io::stdout().write_all(&line).context("answer")
}

/// Starts the work. The channel is closed once all of it has begun.
fn start(work: Work, shared: &Rc<Shared>) -> mpsc::Receiver<()> {
    let (tell, begun) = mpsc::channel(1);
    match work {
        Work::Pool { connections, pause_ms, reconnect } => {
            for _ in 0..connections {
                let slot = Slot::new(shared, pause_ms);
                tokio::task::spawn_local(slot.pool(reconnect, tell.clone()));
            }
        }
        Work::Transactions { connections, pause_ms } => {
            for _ in 0..connections {
                tokio::task::spawn_local(Slot::new(shared, pause_ms).transactions(tell.clone()));
            }
        }
        Work::Short { per_second } => {
            tokio::task::spawn_local(short(Rc::clone(shared), per_second));
        }
        Work::Multiplexed { streams, pause_ms } => {
            tokio::task::spawn_local(multiplexed(Rc::clone(shared), streams, pause_ms, tell));
        }
    }
    begun
}

/// What all of a client's tasks share.
struct Shared {
    /// Where to connect to, and which of them is next.
    targets: RefCell<(Vec<SocketAddr>, usize)>,
    random: RefCell<fastrand::Rng>,
    mark: RefCell<Instant>,
    report: RefCell<ClientReport>,
}

impl Shared {
    fn target(&self) -> Option<SocketAddr> {
        let mut targets = self.targets.borrow_mut();
        let next = targets.1;
        targets.1 = next.wrapping_add(1);
        let count = targets.0.len();
        (count > 0).then(|| targets.0[next % count])
    }

    fn pause(&self, (from, to): (u64, u64)) -> Duration {
        Duration::from_millis(self.random.borrow_mut().u64(from..=to))
    }

    fn set_mark(&self) {
        self.mark.replace(Instant::now());
        let mut report = self.report.borrow_mut();
        report.latencies_us.clear();
        report.failed_since_mark = 0;
        report.tried_since_mark = 0;
        report.failed_after_a_second = 0;
        report.tried_after_a_second = 0;
    }

    /// Counts an attempt that began then.
    fn tried(&self, begun: Instant, outcome: Result<(), String>) {
        let since = begun.checked_duration_since(*self.mark.borrow());
        let mut report = self.report.borrow_mut();
        report.tried += 1;
        let marked = u64::from(since.is_some());
        let later = u64::from(since.is_some_and(|since| since >= Duration::from_secs(1)));
        report.tried_since_mark += marked;
        report.tried_after_a_second += later;
        match outcome {
            Ok(()) if since.is_some() => {
                let took = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
                report.latencies_us.push(took);
            }
            Ok(()) => {}
            Err(error) => {
                report.failed += 1;
                report.failed_since_mark += marked;
                report.failed_after_a_second += later;
                *report.errors.entry(error).or_default() += 1;
                report.failed_at_ns.push(boot_ns());
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let Some(target) = self.target() else { return Err("no target".into()) };
        match timeout(CONNECT, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => {
                _ = stream.set_nodelay(true);
                Ok(stream)
            }
            Ok(Err(error)) => Err(format!("connect: {}", error.kind())),
            Err(_) => Err("connect: no answer".into()),
        }
    }
}

type Sender = http1::SendRequest<Empty<Bytes>>;

fn request() -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    request.headers_mut().insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("web"));
    request
}

async fn handshake(stream: TcpStream) -> Result<Sender, String> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("handshake: {error}"))?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// What became of a request.
enum Sent {
    Answered,
    /// The connection had ended before; nothing was sent.
    Ended,
    Failed(String),
}

async fn send(sender: &mut Sender) -> Sent {
    if sender.ready().await.is_err() {
        return Sent::Ended;
    }
    let exchange = async {
        let answer = sender.send_request(request()).await?;
        answer.into_body().collect().await
    };
    match timeout(REQUEST, exchange).await {
        Ok(Ok(_)) => Sent::Answered,
        Ok(Err(error)) if error.is_canceled() => Sent::Ended,
        Ok(Err(error)) => Sent::Failed(format!("request: {error}")),
        Err(_) => Sent::Failed("request: no answer".into()),
    }
}

/// A place in the pool.
struct Slot {
    shared: Rc<Shared>,
    pause_ms: (u64, u64),
    connection: Option<Sender>,
    had: bool,
}

impl Slot {
    fn new(shared: &Rc<Shared>, pause_ms: (u64, u64)) -> Self {
        Self { shared: Rc::clone(shared), pause_ms, connection: None, had: false }
    }

    /// Opens a connection where there is none.
    async fn connected(&mut self) -> &mut Sender {
        loop {
            // Borrowed again below: the loop cannot return it from here.
            if self.connection.as_ref().is_some_and(|sender| !sender.is_closed()) {
                break;
            }
            let begun = Instant::now();
            let stream = self.shared.connect().await;
            let opened = match stream {
                Ok(stream) => handshake(stream).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(sender) => {
                    self.connection = Some(sender);
                    self.shared.report.borrow_mut().reopened += u64::from(self.had);
                    self.had = true;
                }
                Err(error) => {
                    self.shared.tried(begun, Err(error));
                    sleep(AGAIN).await;
                }
            }
        }
        match &mut self.connection {
            Some(sender) => sender,
            None => unreachable!("the loop ends once there is one"),
        }
    }

    /// One request, on a connection that is opened anew if the other side has ended it.
    async fn ask(&mut self) {
        loop {
            let sender = self.connected().await;
            let begun = Instant::now();
            match send(sender).await {
                Sent::Answered => return self.shared.tried(begun, Ok(())),
                Sent::Ended => self.connection = None,
                Sent::Failed(error) => {
                    self.connection = None;
                    return self.shared.tried(begun, Err(error));
                }
            }
        }
    }

    async fn pause(&self) {
        let pause = self.shared.pause(self.pause_ms);
        sleep(pause).await;
    }

    async fn pool(mut self, reconnect: Reconnect, begun: mpsc::Sender<()>) {
        self.ask().await;
        drop(begun);
        loop {
            self.pause().await;
            let ended = self.connection.as_ref().is_none_or(http1::SendRequest::is_closed);
            if reconnect == Reconnect::Never && ended {
                self.shared.report.borrow_mut().given_up += 1;
                return;
            }
            self.ask().await;
        }
    }

    async fn transactions(mut self, begun: mpsc::Sender<()>) {
        self.ask().await;
        drop(begun);
        loop {
            self.pause().await;
            // A pool validates a connection before it hands it out: the first may be opened anew.
            self.ask().await;
            let mut lost = false;
            for _ in 0..2 {
                self.pause().await;
                let started = Instant::now();
                let sent = match &mut self.connection {
                    Some(sender) => send(sender).await,
                    None => Sent::Ended,
                };
                match sent {
                    Sent::Answered => self.shared.tried(started, Ok(())),
                    Sent::Ended | Sent::Failed(_) => {
                        self.connection = None;
                        self.shared.tried(started, Err("transaction: the connection has ended".into()));
                        lost = true;
                        break;
                    }
                }
            }
            let mut report = self.shared.report.borrow_mut();
            report.transactions += 1;
            report.lost_transactions += u64::from(lost);
        }
    }
}

async fn short(shared: Rc<Shared>, per_second: u32) {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    loop {
        tick.tick().await;
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            let begun = Instant::now();
            let outcome = async {
                let mut sender = handshake(shared.connect().await?).await?;
                match send(&mut sender).await {
                    Sent::Answered => Ok(()),
                    Sent::Ended => Err("request: the connection has ended".to_owned()),
                    Sent::Failed(error) => Err(error),
                }
            };
            let outcome = outcome.await;
            shared.tried(begun, outcome);
        });
    }
}

type Streams = http2::SendRequest<Empty<Bytes>>;

async fn multiplexed(shared: Rc<Shared>, streams: u32, pause_ms: (u64, u64), begun: mpsc::Sender<()>) {
    let mut senders: Vec<Streams> = Vec::new();
    let count = shared.targets.borrow().0.len();
    for _ in 0..count {
        let opened = async {
            let stream = shared.connect().await?;
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| format!("handshake: {error}"))
        };
        match opened.await {
            Ok((sender, connection)) => {
                tokio::task::spawn_local(connection);
                senders.push(sender);
            }
            Err(error) => shared.tried(Instant::now(), Err(error)),
        }
    }
    let turn = Rc::new(RefCell::new(0_usize));
    let senders = Rc::new(senders);
    for _ in 0..streams {
        let (shared, senders, turn, begun) =
            (Rc::clone(&shared), Rc::clone(&senders), Rc::clone(&turn), begun.clone());
        tokio::task::spawn_local(async move {
            let mut begun = Some(begun);
            loop {
                let next = {
                    let mut turn = turn.borrow_mut();
                    *turn += 1;
                    *turn
                };
                let Some(mut sender) = (!senders.is_empty()).then(|| senders[next % senders.len()].clone())
                else {
                    return;
                };
                let started = Instant::now();
                let exchange = async { sender.send_request(request2()).await?.into_body().collect().await };
                let outcome = match timeout(REQUEST, exchange).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(format!("request: {error}")),
                    Err(_) => Err("request: no answer".into()),
                };
                shared.tried(started, outcome);
                begun.take();
                let pause = shared.pause(pause_ms);
                sleep(pause).await;
            }
        });
    }
}

fn request2() -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = hyper::Uri::from_static("http://web/");
    request
}
