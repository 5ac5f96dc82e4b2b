//! A day of faults, on virtual time: whatever goes wrong, and in whatever order, the view is right in the end, and
//! nothing has grown.
#![expect(clippy::print_stdout, reason = "the seed of a failure must be seen")]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, Response, Uri},
};
use futures::stream;
use kube::Client;
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::super::{
    ReadPods, Timing,
    access::Connection,
    fake_api::{service, status},
    follow_all,
};
use crate::{
    model::{ConnectionSettings, Defaults, Event, Index, Selection},
    source::{SourceHealth, SourceKind},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Changes that the server remembers.
const HISTORY: usize = 200;

/// Most requests in a day. Days were seen to take 8,000; one resource that never pauses takes 86,400.
const REQUESTS: u64 = 20_000;

type Random = Arc<Mutex<u64>>;

/// xorshift64*: any sequence will do, as long as its seed says which.
fn roll(random: &Random, below: u64) -> u64 {
    let mut state = random.lock().unwrap();
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
}

#[derive(Default)]
struct World {
    services: BTreeMap<String, u16>,
    version: u64,
    history: Vec<(u64, &'static str, Value)>,
    compacted: u64,
    faulty: bool,
    requests: u64,
}

impl World {
    fn change(&mut self, name: &str, port: Option<u16>) {
        self.version += 1;
        let object = service(name, port.unwrap_or(1), &self.version.to_string());
        let before = self.services.remove(name);
        let kind = match (before, port) {
            (_, None) => "DELETED",
            (None, _) => "ADDED",
            (Some(_), _) => "MODIFIED",
        };
        if let Some(port) = port {
            self.services.insert(name.to_owned(), port);
        }
        self.history.push((self.version, kind, object));
        if self.history.len() > HISTORY {
            self.compacted =
                self.history.drain(..HISTORY / 2).next_back().map_or(self.compacted, |change| change.0);
        }
    }
}

#[derive(Clone)]
struct Server {
    world: Arc<Mutex<World>>,
    random: Random,
    news: watch::Sender<()>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        Client::new(
            Router::new().fallback(move |request: Request<Body>| {
                let server = server.clone();
                async move { server.answer(request.uri().clone()).await }
            }),
            "default",
        )
    }

    async fn answer(&self, uri: Uri) -> Response<Body> {
        sleep(Duration::from_millis(1 + roll(&self.random, 20))).await;
        let query: HashMap<_, _> =
            uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let is_watch = query.contains_key("watch");
        let of_services = uri.path().ends_with("/services");
        let faulty = {
            let mut world = self.world.lock().unwrap();
            world.requests += 1;
            world.faulty
        };
        if faulty && roll(&self.random, 2) == 0 {
            let fault = roll(&self.random, 8);
            let code = [401, 403, 410, 429, 500, 503, 504][roll(&self.random, 7) as usize];
            return match fault {
                0 => std::future::pending().await,
                1 => Response::new(Body::from("<!DOCTYPE html>")),
                2 => Response::new(Body::from_stream(stream::iter([
                    Ok(Bytes::from_static(b"{\"metadata\": {\"resource")),
                    Err(std::io::Error::other("broken by the test")),
                ]))),
                _ => Response::builder()
                    .status(code)
                    .body(Body::from(status(code, &format!("at {:?}", Instant::now())).to_string()))
                    .unwrap(),
            };
        }
        if is_watch {
            let from = query["resourceVersion"].parse().unwrap_or(0);
            let seconds = query["timeoutSeconds"].parse().unwrap_or(300);
            return self.watch(from, seconds, of_services);
        }
        let world = self.world.lock().unwrap();
        let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let items: Vec<Value> = world
            .services
            .iter()
            .filter(|_| of_services)
            .take(limit)
            .map(|(name, port)| service(name, *port, "1"))
            .collect();
        let metadata = json!({"resourceVersion": world.version.to_string()});
        Response::new(Body::from(json!({"metadata": metadata, "items": items}).to_string()))
    }

    fn watch(&self, mut from: u64, seconds: u64, of_services: bool) -> Response<Body> {
        let (pieces, mut receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
        let (server, mut news) = (self.clone(), self.news.subscribe());
        let unread = pieces.clone();
        let serve = async move {
            let ends = Instant::now() + Duration::from_secs(seconds);
            loop {
                let (lines, faulty) = {
                    let world = server.world.lock().unwrap();
                    let (mut lines, since) = (String::new(), from);
                    if from < world.compacted {
                        lines = format!("{}\n", json!({"type": "ERROR", "object": status(410, "too old")}));
                    } else if of_services {
                        for (version, kind, object) in world.history.iter().filter(|change| change.0 > since)
                        {
                            lines += &format!("{}\n", json!({"type": kind, "object": object}));
                            from = *version;
                        }
                    }
                    (lines, world.faulty)
                };
                let fault = if faulty { roll(&server.random, 40) } else { u64::MAX };
                match fault {
                    0 => return,
                    1 => std::future::pending().await,
                    2 => {
                        let error = status(500, "etcdserver: no leader");
                        let line = format!("{}\n", json!({"type": "ERROR", "object": error}));
                        _ = pieces.send(Ok(line.into())).await;
                        return;
                    }
                    3 => {
                        _ = pieces.send(Ok(Bytes::from_static(b"{\"type\": \"ADD"))).await;
                        _ = pieces.send(Err(std::io::Error::other("broken by the test"))).await;
                        return;
                    }
                    _ => {}
                }
                for piece in lines.as_bytes().chunks(if fault == 4 { 7 } else { 4096 }) {
                    if pieces.send(Ok(Bytes::copy_from_slice(piece))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    _ = news.changed() => {}
                    () = sleep(Duration::from_secs(60)) => {
                        let metadata = json!({"resourceVersion": from.to_string()});
                        let object = json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata});
                        let line = format!("{}\n", json!({"type": "BOOKMARK", "object": object}));
                        if pieces.send(Ok(line.into())).await.is_err() {
                            return;
                        }
                    }
                    () = tokio::time::sleep_until(ends) => return,
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = serve => {}
                () = unread.closed() => {}
            }
        });
        Response::new(Body::from_stream(stream::poll_fn(move |context| receiver.poll_recv(context))))
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Takes events in for a while.
async fn follow(events: &mut mpsc::Receiver<Event>, index: &mut Index, duration: Duration) {
    _ = timeout(duration, async {
        while let Some(event) = events.recv().await {
            index.apply(event);
            index.take_dirty();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_day_of_faults_leaves_nothing_behind() {
    let seed = std::env::var("BALANCER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish() | 1);
    println!("BALANCER_SEED={seed}");
    let random: Random = Arc::new(Mutex::new(seed));
    let world = Arc::new(Mutex::new(World { version: 10, ..World::default() }));
    let server =
        Server { world: Arc::clone(&world), random: Arc::clone(&random), news: watch::Sender::new(()) };
    let (sender, mut events) = mpsc::channel(64);
    let health = Arc::new(SourceHealth::new(SourceKind::Kubernetes));
    let connection = Connection::with_client(server.client());
    let timing = Timing::default();
    let source = tokio::spawn(follow_all(
        connection,
        "node-1".into(),
        ReadPods::No,
        timing,
        sender,
        Arc::clone(&health),
    ));
    let mut index = Index::new(Defaults {
        algorithm: balancer_common::abi::Algorithm::default(),
        connections: ConnectionSettings::default(),
        selection: Selection::All,
        started_ms: 0,
    });

    let started = Instant::now();
    let (mut early, mut backup) = (None, None);
    while started.elapsed() < DAY {
        // An hour of which most is faulty; sometimes an older backup is restored.
        world.lock().unwrap().faulty = roll(&random, 4) != 0;
        for _ in 0..roll(&random, 40) {
            let name = format!("s{}", roll(&random, 60));
            let port = (roll(&random, 5) != 0).then(|| 1 + roll(&random, 60_000) as u16);
            {
                let mut world = world.lock().unwrap();
                if port.is_some() || world.services.contains_key(&name) {
                    world.change(&name, port);
                }
            }
            server.news.send_replace(());
            follow(&mut events, &mut index, Duration::from_secs(1 + roll(&random, 60))).await;
        }
        follow(&mut events, &mut index, Duration::from_secs(roll(&random, 900))).await;
        match (roll(&random, 12), backup.take()) {
            (0, Some((services, version))) => {
                let mut world = world.lock().unwrap();
                (world.services, world.version, world.compacted) = (services, version, version);
                world.history.clear();
            }
            (1, _) => {
                let world = world.lock().unwrap();
                backup = Some((world.services.clone(), world.version));
            }
            (_, kept) => backup = kept,
        }
        if early.is_none() && started.elapsed() > DAY / 6 {
            early = Some((resident(), Handle::current().metrics().num_alive_tasks(), descriptors()));
        }
    }
    let (memory, tasks, fds) = early.unwrap();
    world.lock().unwrap().faulty = false;
    // Longer than it takes to the next full list: what was restored beneath an open watch needs one.
    follow(&mut events, &mut index, Duration::from_secs(45 * 60)).await;

    {
        let world = world.lock().unwrap();
        let counts = index.counts();
        assert_eq!(counts.services, world.services.len(), "BALANCER_SEED={seed}: Services");
        for (name, port) in &world.services {
            let spec = index
                .service(&crate::model::ObjectName::new("shop", name.as_str()))
                .unwrap_or_else(|| panic!("{name}"));
            assert_eq!(spec.ports[0].port, *port, "BALANCER_SEED={seed}: {name}");
        }
        let (memory_now, tasks_now, fds_now) =
            (resident(), Handle::current().metrics().num_alive_tasks(), descriptors());
        println!(
            "{} requests, {} changes, {} failures; memory {} -> {} KiB, tasks {tasks} -> {tasks_now}, descriptors {fds} -> {fds_now}",
            world.requests,
            world.version,
            health.errors(),
            memory / 1024,
            memory_now / 1024,
        );
        assert!(health.errors() > 1_000, "few faults: {}", health.errors());
        assert!(world.requests < REQUESTS, "BALANCER_SEED={seed}: {} requests", world.requests);
        assert!(tasks_now <= tasks + 6, "BALANCER_SEED={seed}: {tasks} -> {tasks_now} tasks");
        assert!(fds_now <= fds + 2, "BALANCER_SEED={seed}: {fds} -> {fds_now} descriptors");
        assert!(memory_now < memory + (8 << 20), "BALANCER_SEED={seed}: {memory} -> {memory_now} bytes");
    }
    drop(events);
    timeout(Duration::from_secs(10), source).await.expect("it did not end").unwrap();
}
