//! The source against an API server that misbehaves, on virtual time.

mod announce;
mod day;
mod failures;
mod namespaces;
mod node;
mod pods;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    ReadPods, Timing,
    access::Connection,
    fake_api::{Answer, FakeApi, Step, bookmark, service, slice, status},
    follow_all,
};
use crate::{
    model::{Event, NamespaceSpec},
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
        Self::reading(ReadPods::No, api, node, configure)
    }

    fn reading(pods: ReadPods, api: FakeApi, node: &str, configure: impl FnOnce(&mut Timing)) -> Self {
        let mut timing = Timing::default();
        configure(&mut timing);
        let (sender, events) = mpsc::channel(4);
        let health = Arc::new(SourceHealth::new(SourceKind::Kubernetes));
        let connection = Connection::with_client(api.client());
        tokio::spawn(follow_all(connection, node.into(), pods, timing.clone(), sender, health.clone()));
        Self { api, events, health, timing }
    }

    /// The next event that is about Services, in brief.
    async fn next(&mut self) -> String {
        loop {
            let event =
                timeout(PATIENCE, self.events.recv()).await.expect("no event").expect("the source ended");
            if !matches!(
                event,
                Event::AllSlices(_)
                    | Event::Slice(_)
                    | Event::SliceGone(_)
                    | Event::Node(_)
                    | Event::AllNamespaces(_)
                    | Event::Namespace(_)
                    | Event::NamespaceGone(_)
                    | Event::AllPods(_)
                    | Event::Pod(_)
                    | Event::PodGone(_)
            ) {
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
        Event::AllNamespaces(all) => {
            let mut names: Vec<_> = all.iter().map(namespace).collect();
            names.sort();
            format!("all namespaces [{}]", names.join(" "))
        }
        Event::Namespace(spec) => format!("namespace {}", namespace(spec)),
        Event::NamespaceGone(name) => format!("namespace gone {name}"),
        Event::AllPods(all) => {
            let mut names: Vec<_> = all.iter().map(|pod| pod.name.to_string()).collect();
            names.sort_unstable();
            format!("all pods [{}]", names.join(" "))
        }
        Event::Pod(spec) => format!("pod {}", spec.name),
        Event::PodGone(name) => format!("pod gone {name}"),
        Event::Skipped { what, why } => format!("skipped {what}: {why}"),
    }
}

fn namespace(spec: &NamespaceSpec) -> String {
    match spec.enabled {
        None => spec.name.to_string(),
        Some(enabled) => format!("{}:{enabled:?}", spec.name),
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
    let mut harness = Harness::start_with(api, "", |timing| timing.page = 2);
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
async fn slices_that_cannot_be_used_are_told_once() {
    let api = FakeApi::default();
    let lost = || slice("lost", None, "11");
    api.answer(
        "list endpointslices",
        [Answer::List(vec![slice("web-1", Some("web"), "1"), lost()], "10", None)],
    );
    api.answer(
        "watch endpointslices",
        [Answer::Watch(vec![
            Step::Event("MODIFIED", lost()),
            Step::Event("MODIFIED", slice("web-1", None, "13")),
            Step::Wait(Duration::from_secs(10)),
            Step::Event("MODIFIED", slice("lost", Some("web"), "14")),
            Step::Event("DELETED", slice("web-1", None, "15")),
            Step::Hang,
        ])],
    );
    let mut harness = Harness::start(api);
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "slice gone shop/web-1") || told.len() < 7 {
        let event = timeout(PATIENCE, harness.events.recv()).await.expect("no event").unwrap();
        if !matches!(event, Event::AllServices(_) | Event::AllNamespaces(_)) {
            told.push(brief(&event));
        }
        // Slices without a Service are no mistake: other controllers make them.
        assert_eq!(harness.health.snapshot().problem_count, 0);
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
}

/// Only what somebody should put right is a problem: not what healthy clusters hold.
#[tokio::test(start_paused = true)]
async fn a_slice_is_a_problem_while_it_is_a_mistake() {
    let api = FakeApi::default();
    let of_type = |kind: &str, version: &str| {
        let mut object = slice("odd", Some("web"), version);
        object["addressType"] = json!(kind);
        object
    };
    api.answer("list endpointslices", [Answer::List(vec![of_type("FQDN", "1")], "10", None)]);
    let types = [("Carrier", "11"), ("FQDN", "12"), ("Carrier", "13"), ("IPv4", "14")];
    let steps = types.into_iter().flat_map(|(kind, version)| {
        [Step::Wait(Duration::from_secs(10)), Step::Event("MODIFIED", of_type(kind, version))]
    });
    api.answer("watch endpointslices", [Answer::Watch(steps.chain([Step::Hang]).collect())]);
    let mut harness = Harness::start(api);
    let mut counts = Vec::new();
    while counts.len() < 5 {
        let event = timeout(PATIENCE, harness.events.recv()).await.expect("no event").unwrap();
        if matches!(event, Event::Skipped { .. } | Event::Slice(_)) {
            counts.push(harness.health.snapshot().problem_count);
        }
    }
    assert_eq!(counts, [0, 1, 0, 1, 0]);
}
