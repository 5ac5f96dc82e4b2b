//! The source against an API server that misbehaves, on virtual time.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    Access, KubernetesConfig, Timing,
    access::Connection,
    fake_api::{Answer, FakeApi, Step, bookmark, service, slice, status},
    follow_all,
};
use crate::{
    model::Event,
    source::{Resource, ResourceSnapshot, SourceHealth, SourceKind},
};

/// Longer than any test waits for one event. Virtual, so it costs nothing.
const PATIENCE: Duration = Duration::from_secs(3600 * 24);

struct Harness {
    api: FakeApi,
    events: mpsc::Receiver<Event>,
    health: Arc<SourceHealth>,
    timing: Timing,
}

impl Harness {
    fn start(api: FakeApi) -> Self {
        Self::start_with(api, "", |_| {})
    }

    fn start_with(api: FakeApi, node: &str, configure: impl FnOnce(&mut Timing)) -> Self {
        let mut timing = Timing::default();
        configure(&mut timing);
        let (sender, events) = mpsc::channel(4);
        let health = Arc::new(SourceHealth::new(SourceKind::Kubernetes));
        let connection = Connection::with_client(api.client());
        tokio::spawn(follow_all(connection, node.into(), timing.clone(), sender, health.clone()));
        Self { api, events, health, timing }
    }

    /// The next event that is about Services, in brief.
    async fn next(&mut self) -> String {
        loop {
            let event =
                timeout(PATIENCE, self.events.recv()).await.expect("no event").expect("the source ended");
            if !matches!(event, Event::AllSlices(_) | Event::Slice(_) | Event::SliceGone(_) | Event::Node(_))
            {
                return brief(&event);
            }
        }
    }

    async fn expect(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.next().await, *expected);
        }
    }

    /// Lets time pass; events about Services in it are a failure.
    async fn expect_quiet(&mut self, duration: Duration) {
        if let Ok(event) = timeout(duration, self.next()).await {
            panic!("unexpected {event}");
        }
    }

    fn services(&self) -> ResourceSnapshot {
        self.resource(Resource::Services)
    }

    fn resource(&self, resource: Resource) -> ResourceSnapshot {
        self.health.snapshot().resources.into_iter().find(|snapshot| snapshot.resource == resource).unwrap()
    }

    /// The versions that watches of Services began at.
    fn versions(&self) -> Vec<String> {
        self.api.asked("watch services").iter().map(|asked| asked.query["resourceVersion"].clone()).collect()
    }
}

fn brief(event: &Event) -> String {
    match event {
        Event::AllServices(all) => {
            let mut names: Vec<_> =
                all.iter().map(|s| format!("{}:{}", s.name.name, s.ports[0].port)).collect();
            names.sort();
            format!("all [{}]", names.join(" "))
        }
        Event::Service(spec) => format!("{}:{}", spec.name.name, spec.ports[0].port),
        Event::ServiceGone(name) => format!("gone {}", name.name),
        Event::AllSlices(all) => {
            let mut names: Vec<_> = all.iter().map(|s| s.name.to_string()).collect();
            names.sort();
            format!("all slices [{}]", names.join(" "))
        }
        Event::Slice(spec) => format!("slice {}", spec.name),
        Event::SliceGone(name) => format!("slice gone {name}"),
        Event::Node(node) => format!("node {} {:?}", node.name, node.zone.as_deref()),
        Event::Skipped { what, why } => format!("skipped {what}: {why}"),
    }
}

fn list(version: &'static str) -> Answer {
    Answer::List(vec![service("a", 1, "1")], version, None)
}

fn added(name: &str, port: u16, version: &str) -> Step {
    Step::Event("ADDED", service(name, port, version))
}

#[tokio::test(start_paused = true)]
async fn a_list_and_then_changes() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer(
        "watch services",
        [Answer::Watch(vec![
            added("b", 2, "11"),
            Step::Event("MODIFIED", service("a", 10, "12")),
            Step::Event("DELETED", service("b", 2, "13")),
            Step::Hang,
        ])],
    );
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "b:2", "a:10", "gone b"]).await;
    assert!(harness.health.synced());
    let asked = harness.api.asked("list services").remove(0);
    assert_eq!(asked.query["labelSelector"], "!service.kubernetes.io/service-proxy-name");
    assert_eq!(asked.query["limit"], "500");
    let asked = harness.api.asked("watch services").remove(0);
    assert_eq!(asked.query["labelSelector"], "!service.kubernetes.io/service-proxy-name");
    assert_eq!(asked.query["resourceVersion"], "10");
    assert_eq!(asked.query["allowWatchBookmarks"], "true");
    let seconds: u64 = asked.query["timeoutSeconds"].parse().unwrap();
    assert!((240..=360).contains(&seconds), "{seconds}");
    let asked = harness.api.asked("list endpointslices").remove(0);
    assert_eq!(asked.query["labelSelector"], "!service.kubernetes.io/headless");
}

#[tokio::test(start_paused = true)]
async fn pages_are_delivered_as_one_list() {
    let api = FakeApi::default();
    api.answer(
        "list services",
        [
            Answer::List(vec![service("a", 1, "1")], "10", Some("t1")),
            Answer::List(vec![service("b", 2, "1")], "10", Some("t2")),
            Answer::List(vec![service("c", 3, "1")], "10", None),
        ],
    );
    let mut harness = Harness::start_with(api, "", |timing| timing.page = 1);
    harness.expect(&["all [a:1 b:2 c:3]"]).await;
    harness.expect_quiet(Duration::from_secs(60)).await;
    let tokens: Vec<_> =
        harness.api.asked("list services").iter().map(|asked| asked.query.get("continue").cloned()).collect();
    assert_eq!(tokens, [None, Some("t1".to_owned()), Some("t2".to_owned())]);
    assert_eq!(harness.versions(), ["10"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_delivers_nothing() {
    let api = FakeApi::default();
    api.answer(
        "list services",
        [
            Answer::List(vec![service("a", 1, "1")], "10", Some("t1")),
            Answer::Status(500, "etcd is away"),
            Answer::List(vec![service("b", 2, "1")], "11", None),
        ],
    );
    let mut harness = Harness::start(api);
    harness.expect(&["all [b:2]"]).await;
    assert_eq!(harness.services().errors, 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expired_leads_to_one_large_page() {
    let api = FakeApi::default();
    api.answer(
        "list services",
        [
            Answer::List(vec![service("a", 1, "1")], "10", Some("t1")),
            Answer::Status(410, "the provided continue parameter is too old"),
            Answer::List(vec![service("a", 1, "1"), service("b", 2, "1")], "12", None),
        ],
    );
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1 b:2]"]).await;
    let last = harness.api.asked("list services").remove(2);
    assert!(!last.query.contains_key("limit") && !last.query.contains_key("continue"), "{last:?}");
    assert_eq!(harness.services().errors, 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_without_items_or_version_is_not_believed() {
    let api = FakeApi::default();
    api.answer("list services", [Answer::List(vec![], "", None), list("10")]);
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]"]).await;
    assert!(harness.services().last_error.unwrap().contains("resourceVersion"));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_expires_within_a_watch_leads_to_a_list() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), Answer::List(vec![service("b", 2, "1")], "20", None)]);
    api.answer(
        "watch services",
        [Answer::Watch(vec![
            added("c", 3, "11"),
            Step::Event("ERROR", status(410, "too old resource version")),
        ])],
    );
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "c:3", "all [b:2]"]).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(harness.versions(), ["10", "20"]);
    assert_eq!((harness.services().lists, harness.services().errors), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_watch_request_answered_with_gone_leads_to_a_list() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), list("20")]);
    api.answer("watch services", [Answer::Status(410, "too old resource version")]);
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "all [a:1]"]).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(harness.versions(), ["10", "20"]);
}

#[tokio::test(start_paused = true)]
async fn versions_that_always_expire_are_not_a_busy_loop() {
    let api = FakeApi::default();
    api.answer("watch services", (0..10_000).map(|_| Answer::Status(410, "too old resource version")));
    let mut harness = Harness::start(api);
    let minute = timeout(Duration::from_secs(60), async { while !harness.next().await.is_empty() {} });
    assert!(minute.await.is_err());
    let lists = harness.api.asked("list services").len();
    assert!((5..=20).contains(&lists), "{lists} lists in a minute");
}

#[tokio::test(start_paused = true)]
async fn watches_closed_at_once_are_not_a_busy_loop() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("watch services", (0..10_000).map(|_| Answer::Watch(vec![])));
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]"]).await;
    sleep(Duration::from_secs(60)).await;
    let watches = harness.api.asked("watch services");
    assert!((5..=20).contains(&watches.len()), "{} watches in a minute", watches.len());
    let (text, _) = harness.services().failing.unwrap();
    assert!(text.contains("ended it at once"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn watches_closed_after_an_event_keep_a_distance() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("watch services", (0..10_000).map(|_| Answer::Watch(vec![bookmark("11")])));
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]"]).await;
    sleep(Duration::from_secs(10)).await;
    let watches = harness.api.asked("watch services");
    assert!((9..=11).contains(&watches.len()), "{} watches in 10 s", watches.len());
    for pair in watches.windows(2) {
        assert!(pair[1].at - pair[0].at >= harness.timing.floor);
    }
    assert!(harness.services().failing.is_none());
    assert_eq!(harness.services().reconnects, watches.len() as u64 - 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_goes_on_where_it_was() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer(
        "watch services",
        [
            Answer::Watch(vec![added("b", 2, "11"), bookmark("15"), Step::Break]),
            Answer::Broken,
            Answer::Watch(vec![added("c", 3, "16"), Step::Hang]),
        ],
    );
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "b:2", "c:3"]).await;
    assert_eq!(harness.versions(), ["10", "15", "15"]);
    assert_eq!(harness.services().lists, 1);
    assert!(harness.services().errors >= 1);
    assert!(harness.services().failing.is_none(), "it is well again");
}

#[tokio::test(start_paused = true)]
async fn events_come_in_any_pieces() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    let two = format!(
        "{}\n{}\n",
        json!({"type": "ADDED", "object": service("b", 2, "11")}),
        json!({"type": "ADDED", "object": service("ü", 3, "12")})
    );
    let bytes = two.into_bytes();
    let mut steps: Vec<_> = bytes.chunks(7).map(|chunk| Step::Bytes(chunk.to_vec())).collect();
    steps.push(Step::Hang);
    api.answer("watch services", [Answer::Watch(steps)]);
    let mut harness = Harness::start(api);
    assert_eq!(harness.next().await, "all [a:1]");
    assert_eq!(harness.next().await, "b:2");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_hangs_is_given_up() {
    let api = FakeApi::default();
    api.answer("list services", [Answer::Hang, list("10")]);
    let start = Instant::now();
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]"]).await;
    assert!(start.elapsed() < harness.timing.request + Duration::from_secs(2));
    assert!(harness.services().last_error.unwrap().contains("no answer within 30 s"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_hangs_or_falls_silent_is_given_up() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer(
        "watch services",
        [
            Answer::Hang,
            Answer::Watch(vec![
                bookmark("11"),
                Step::Wait(Duration::from_secs(100)),
                bookmark("12"),
                Step::Hang,
            ]),
            Answer::Watch(vec![added("b", 2, "13"), Step::Hang]),
        ],
    );
    let start = Instant::now();
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "b:2"]).await;
    // 30 s for the first, and 100 s and 150 s of silence in the second.
    assert!((280..290).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(harness.versions(), ["10", "10", "12"]);
}

#[tokio::test(start_paused = true)]
async fn everything_is_listed_again_now_and_then() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), Answer::List(vec![service("b", 2, "1")], "20", None)]);
    let steps = || (0..1_000).flat_map(|_| [Step::Wait(Duration::from_secs(60)), bookmark("11")]).collect();
    api.answer("watch services", [Answer::Watch(steps())]);
    let start = Instant::now();
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "all [b:2]"]).await;
    let minutes = start.elapsed().as_secs() / 60;
    assert!((24..=36).contains(&minutes), "{minutes} minutes");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(harness.versions(), ["10", "20"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_for_ever_and_told_once() {
    for (code, word) in [(401, "token"), (403, "grant"), (429, "429"), (500, "500"), (503, "503")] {
        let api = FakeApi::default();
        api.answer("list services", (0..50).map(|_| Answer::Status(code, "no")));
        api.answer("list services", [list("10")]);
        api.answer("watch services", [Answer::Watch(vec![bookmark("11"), Step::Hang])]);
        let start = Instant::now();
        let mut harness = Harness::start(api);
        sleep(Duration::from_secs(120)).await;
        let (text, _) = harness.services().failing.unwrap();
        assert!(text.contains(&format!("HTTP {code}")) && text.contains(word), "{text}");
        assert!(!harness.health.synced() && harness.services().contact.is_none());
        harness.expect(&["all [a:1]"]).await;
        let took = start.elapsed();
        assert!(took > Duration::from_secs(600) && took < Duration::from_secs(50 * 30), "{code}: {took:?}");
        sleep(Duration::from_secs(1)).await;
        assert!(harness.services().failing.is_none());
        assert_eq!(harness.services().errors, 50);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_forbidden_leaves_the_view_and_lists_now_and_then() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), Answer::List(vec![service("b", 2, "1")], "20", None)]);
    api.answer("watch services", (0..1_000).map(|_| Answer::Status(403, "watch is forbidden")));
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "all [b:2]"]).await;
    assert_eq!(harness.versions()[..5], ["10"; 5]);
    assert!(harness.services().failing.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_error_within_a_watch_leads_to_a_list() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), list("20")]);
    api.answer(
        "watch services",
        [Answer::Watch(vec![Step::Event("ERROR", status(500, "storage is (re)initializing"))])],
    );
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "all [a:1]"]).await;
    assert!(harness.services().last_error.unwrap().contains("storage is (re)initializing"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_leads_to_a_list() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), list("20")]);
    api.answer("watch services", [Answer::Watch(vec![Step::Event("ADDED", json!({"metadata": 7}))])]);
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "all [a:1]"]).await;
    assert!(harness.services().last_error.unwrap().contains("is not one of an object"));
}

#[tokio::test(start_paused = true)]
async fn slices_that_cannot_be_used_are_told_once() {
    let api = FakeApi::default();
    let lost = || slice("lost", None, "2");
    api.answer(
        "list endpointslices",
        [Answer::List(vec![slice("web-1", Some("web"), "1"), lost()], "10", None)],
    );
    api.answer(
        "watch endpointslices",
        [Answer::Watch(vec![
            Step::Event("MODIFIED", lost()),
            Step::Event("MODIFIED", slice("web-1", None, "3")),
            Step::Wait(Duration::from_secs(10)),
            Step::Event("MODIFIED", slice("lost", Some("web"), "4")),
            Step::Event("DELETED", slice("web-1", None, "5")),
            Step::Hang,
        ])],
    );
    let mut harness = Harness::start(api);
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "slice gone shop/web-1") || told.len() < 7 {
        let event = timeout(PATIENCE, harness.events.recv()).await.expect("no event").unwrap();
        if !matches!(event, Event::AllServices(_)) {
            told.push(brief(&event));
        }
        if told.len() == 5 {
            assert_eq!(harness.health.snapshot().problem_count, 2);
        }
    }
    let kinds: Vec<_> = told.iter().map(|event| event.split(':').next().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "all slices [shop/web-1]",
            "skipped EndpointSlice shop/lost",
            "slice gone shop/lost",
            "slice gone shop/web-1",
            "skipped EndpointSlice shop/web-1",
            "slice shop/lost",
            "slice gone shop/web-1",
        ]
    );
    assert_eq!(harness.health.snapshot().problem_count, 0);
}

fn node(zone: Option<&str>, version: &str) -> Value {
    let labels = zone.map(|zone| json!({"topology.kubernetes.io/zone": zone}));
    json!({"metadata": {"name": "n1", "resourceVersion": version, "labels": labels}})
}

async fn nodes(harness: &mut Harness, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let event = timeout(PATIENCE, harness.events.recv()).await.expect("no event").unwrap();
        if matches!(event, Event::Node(_)) {
            found.push(brief(&event));
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn the_own_node_comes_first_and_is_followed() {
    let api = FakeApi::default();
    api.answer("list nodes", [Answer::List(vec![node(Some("z1"), "1")], "10", None)]);
    api.answer(
        "watch nodes",
        [Answer::Watch(vec![
            Step::Wait(Duration::from_secs(10)),
            Step::Event("MODIFIED", node(Some("z1"), "11")),
            Step::Event("MODIFIED", node(Some("z2"), "12")),
            Step::Event("DELETED", node(Some("z2"), "13")),
            Step::Event("ADDED", node(Some("z3"), "14")),
            Step::Hang,
        ])],
    );
    let mut harness = Harness::start_with(api, "n1", |_| {});
    let first = timeout(PATIENCE, harness.events.recv()).await.unwrap().unwrap();
    assert_eq!(brief(&first), "node n1 Some(\"z1\")");
    assert_eq!(nodes(&mut harness, 2).await, ["node n1 Some(\"z2\")", "node n1 Some(\"z3\")"]);
    let asked = harness.api.asked("list nodes").remove(0);
    assert_eq!(asked.query["fieldSelector"], "metadata.name=n1");
    assert!(asked.accept.contains("PartialObjectMetadataList"), "{}", asked.accept);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_may_not_be_read_holds_nothing_up() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("list nodes", (0..1_000).map(|_| Answer::Status(403, "nodes is forbidden")));
    let start = Instant::now();
    let mut harness = Harness::start_with(api, "n1", |_| {});
    assert_eq!(nodes(&mut harness, 1).await, ["node n1 None"]);
    harness.expect(&["all [a:1]"]).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    sleep(Duration::from_secs(60)).await;
    assert!(harness.health.synced());
    let (text, _) = harness.resource(Resource::Node).failing.unwrap();
    assert!(text.starts_with("cannot list node: HTTP 403 (nodes is forbidden): grant"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_slow_holds_things_up_for_a_moment_only() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("list nodes", [Answer::Hang, Answer::List(vec![], "10", None)]);
    let start = Instant::now();
    let mut harness = Harness::start_with(api, "n1", |_| {});
    harness.expect(&["all [a:1]"]).await;
    assert_eq!(start.elapsed().as_secs(), harness.timing.node_grace.as_secs());
    assert_eq!(nodes(&mut harness, 1).await, ["node n1 None"]);
}

#[tokio::test]
async fn an_api_server_that_cannot_be_reached_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    // A port that nobody listens on: it was just given up.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\nusers: []\nclusters:\n- name: x\n  cluster: {{server: 'http://127.0.0.1:{port}'}}\n\
         contexts:\n- name: x\n  context: {{cluster: x}}\n"
    );
    std::fs::write(&path, text).unwrap();
    let (sender, events) = mpsc::channel(4);
    let health = Arc::new(SourceHealth::new(SourceKind::Kubernetes));
    let timing = Timing {
        backoff: Duration::from_millis(10),
        backoff_cap: Duration::from_millis(20),
        ..Timing::default()
    };
    let access = Access { kubeconfig: Some(path), context: None };
    let config = KubernetesConfig { access, node_name: "".into(), timing };
    let task = tokio::spawn(super::run(config, sender, health.clone()));
    let errors = || health.snapshot().resources.iter().map(|resource| resource.errors).sum::<u64>();
    timeout(Duration::from_secs(20), async {
        while errors() < 10 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it gave up");
    let (text, _) = health.snapshot().resources[0].failing.clone().unwrap();
    assert!(text.contains(&format!("http://127.0.0.1:{port}")) && text.contains("refused"), "{text}");
    assert!(!health.synced() && health.contact().is_none());
    drop(events);
    assert!(timeout(Duration::from_secs(10), task).await.expect("it did not end").unwrap().is_ok());
}
