//! Failures, and how often they are met.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{Answer, FakeApi, Harness, Step, Timing, added, bookmark, list, service, status};
use crate::{
    model::Event,
    source::{
        SourceHealth, SourceKind,
        kubernetes::{Access, KubernetesConfig, run},
    },
};

#[tokio::test(start_paused = true)]
async fn a_list_without_items_or_version_is_not_believed() {
    let api = FakeApi::default();
    api.answer("list services", [Answer::List(vec![], "", None), list("10")]);
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]"]).await;
    assert!(harness.services().last_error.unwrap().contains("resourceVersion"));
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
async fn an_api_server_that_is_away_for_hours_takes_nothing_away() {
    const HOURS: Duration = Duration::from_secs(12 * 3600);
    let api = FakeApi::default();
    // Each list and each watch ends by itself at some time; from then on nothing is answered but 503.
    let items = || vec![service("a", 1, "1"), service("b", 2, "2")];
    api.answer("list services", [Answer::List(items(), "10", None)]);
    api.answer("watch services", [Answer::Watch(vec![bookmark("11")])]);
    api.answer("watch services", (0..100_000).map(|_| Answer::Status(503, "away")));
    api.answer("list services", (0..100_000).map(|_| Answer::Status(503, "away")));
    let mut harness = Harness::start(api.clone());
    harness.expect(&["all [a:1 b:2]"]).await;
    let start = Instant::now();
    harness.expect_quiet(HOURS).await;

    // Nothing was said of Services, the age of the view is what it is, and the attempts are few but do not end.
    let contact = harness.health.contact().unwrap();
    assert!(contact <= start.elapsed() && contact + Duration::from_secs(5) > HOURS, "{contact:?}");
    assert!(harness.health.synced(), "what was listed is still so");
    let attempts = api.asked("list services").len() + api.asked("watch services").len();
    let bounds = HOURS.as_secs() as usize / 30 / 2..HOURS.as_secs() as usize / 10;
    assert!(bounds.contains(&attempts), "{attempts} attempts in {HOURS:?}, not {bounds:?}");
    let last = api.asked("watch services").into_iter().chain(api.asked("list services"));
    let last = last.map(|asked| asked.at).max().unwrap();
    assert!(last.elapsed() <= Duration::from_secs(31), "it has given up: {:?}", last.elapsed());
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

/// A port that nobody listens on: it was just given up.
fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn kubeconfig(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\nusers: []\nclusters:\n- name: x\n  cluster: {{server: 'http://127.0.0.1:{port}'}}\n\
         contexts:\n- name: x\n  context: {{cluster: x}}\n"
    )
}

/// A source that reads this kubeconfig; it ends with what is returned beside its health.
fn start(path: &Path, cap: Duration) -> (Arc<SourceHealth>, mpsc::Receiver<Event>) {
    let (sender, events) = mpsc::channel(64);
    let health = Arc::new(SourceHealth::new(SourceKind::Kubernetes));
    let timing = Timing { backoff: Duration::from_millis(10), backoff_cap: cap, ..Timing::default() };
    let access = Access { kubeconfig: Some(path.to_owned()), context: None };
    let config = KubernetesConfig { access, node_name: "n1".into(), pods: super::ReadPods::Yes, timing };
    tokio::spawn(run(config, sender, health.clone()));
    (health, events)
}

/// Serves this on a port.
async fn serve(api: &FakeApi) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = api.router();
    tokio::spawn(async { axum::serve(listener, router).await });
    port
}

/// Waits until something is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Whether each resource has failed so often.
fn failed(health: &SourceHealth, times: u64) -> bool {
    health.snapshot().resources.iter().all(|resource| resource.errors >= times)
}

#[tokio::test]
async fn a_kubeconfig_that_was_corrected_is_read_again_and_not_at_every_failure() {
    for (cap, read) in [(Duration::from_millis(20), true), (Duration::from_secs(3600), false)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, kubeconfig(dead_port())).unwrap();
        let (health, _events) = start(&path, cap);
        until("no failure", || failed(&health, 1)).await;
        let api = FakeApi::default();
        std::fs::write(&path, kubeconfig(serve(&api).await)).unwrap();
        if read {
            until("the file is not read again", || health.synced()).await;
        } else {
            until("no more failures", || failed(&health, 6)).await;
            assert!(!health.synced() && api.asked("list services").is_empty());
        }
    }
}

#[tokio::test]
async fn another_server_is_listed_before_it_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let (before, after) = (FakeApi::default(), FakeApi::default());
    before.answer("list services", [list("10")]);
    before.answer(
        "watch services",
        [Answer::Watch(vec![bookmark("11"), Step::Wait(Duration::from_millis(100)), Step::Break])],
    );
    before.answer("probe services", (0..1_000).map(|_| Answer::Broken));
    before.answer("list services", (0..1_000).map(|_| Answer::Broken));
    after.answer("list services", [list("3")]);
    std::fs::write(&path, kubeconfig(serve(&before).await)).unwrap();
    let (_health, mut events) = start(&path, Duration::from_millis(20));
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    until("no watch", || !before.asked("watch services").is_empty()).await;
    std::fs::write(&path, kubeconfig(serve(&after).await)).unwrap();
    until("no watch of the other", || !after.asked("watch services").is_empty()).await;
    assert_eq!(after.asked("watch services")[0].query["resourceVersion"], "3");
}

#[tokio::test]
async fn an_api_server_that_cannot_be_reached_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let port = dead_port();
    std::fs::write(&path, kubeconfig(port)).unwrap();
    let (sender, events) = mpsc::channel(4);
    let health = Arc::new(SourceHealth::new(SourceKind::Kubernetes));
    let timing = Timing {
        backoff: Duration::from_millis(10),
        backoff_cap: Duration::from_millis(20),
        ..Timing::default()
    };
    let access = Access { kubeconfig: Some(path), context: None };
    let config = KubernetesConfig { access, node_name: "".into(), pods: super::ReadPods::No, timing };
    let task = tokio::spawn(run(config, sender, health.clone()));
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

#[tokio::test(start_paused = true)]
async fn a_server_that_went_back_is_listed() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), Answer::List(vec![service("b", 2, "3")], "5", None)]);
    // It breaks before its time, and what comes back is an older backup.
    api.answer(
        "watch services",
        [
            Answer::Watch(vec![added("c", 3, "20"), Step::Break]),
            Answer::Watch(vec![added("d", 4, "6"), Step::Hang]),
        ],
    );
    api.answer("probe services", [Answer::List(vec![], "5", None)]);
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "c:3", "all [b:2]", "d:4"]).await;
    assert_eq!(harness.versions(), ["10", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_goes_back_is_not_believed() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), Answer::List(vec![service("b", 2, "3")], "5", None)]);
    api.answer("watch services", [Answer::Watch(vec![bookmark("20"), bookmark("5"), Step::Hang])]);
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "all [b:2]"]).await;
    harness.expect_quiet(Duration::from_secs(2)).await;
    assert_eq!(harness.versions(), ["10", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lived_its_time_raises_no_doubt() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    let whole = || {
        Answer::Watch(vec![
            bookmark("11"),
            Step::Wait(Duration::from_secs(149)),
            bookmark("12"),
            Step::Wait(Duration::from_secs(149)),
            bookmark("13"),
            Step::Wait(Duration::from_secs(70)),
        ])
    };
    api.answer("watch services", [whole()]);
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]"]).await;
    harness.expect_quiet(Duration::from_secs(500)).await;
    assert_eq!(harness.versions(), ["10", "13"]);
    assert!(harness.api.asked("probe services").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_passes_is_not_told() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer(
        "watch services",
        [Answer::Status(403, "no roles yet"), Answer::Watch(vec![added("b", 2, "11"), Step::Hang])],
    );
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "b:2"]).await;
    assert_eq!(harness.services().errors, 1);
    assert!(harness.services().failing.is_none());
}

/// A watch with a change 100 ms after it began, and then nothing.
fn change_soon(name: &str, version: &str) -> Answer {
    Answer::Watch(vec![Step::Wait(Duration::from_millis(100)), added(name, 1, version), Step::Hang])
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_when_it_is_due_does_not_end_the_watch() {
    for failure in [
        || Answer::Status(429, "too many lists"),
        || Answer::Status(504, "too slow"),
        || Answer::Status(403, "list is forbidden"),
        || Answer::Hang,
        || Answer::Broken,
    ] {
        let api = FakeApi::default();
        api.answer("list services", [list("10")]);
        api.answer("list services", (0..1_000).map(|_| failure()));
        let steps = (0..60).flat_map(|_| [Step::Wait(Duration::from_secs(60)), bookmark("11")]);
        api.answer("watch services", [Answer::Watch(steps.collect())]);
        let versions: Vec<_> = (12..32).map(|version| version.to_string()).collect();
        api.answer(
            "watch services",
            versions.iter().map(|version| change_soon(&format!("s{version}"), version)),
        );
        let mut harness = Harness::start(api.clone());
        harness.expect(&["all [a:1]"]).await;
        for version in &versions {
            harness.expect(&[&format!("s{version}:1")]).await;
            assert!(harness.services().contact.unwrap() < Duration::from_secs(1));
        }
        // Each began where the one before had come to, after one list each, and with pauses that grow although every
        // watch works.
        assert_eq!(harness.versions()[..3], ["10", "11", "12"]);
        let lists = api.asked("list services");
        assert_eq!(lists.len(), 1 + versions.len());
        let (first, last) = (lists[1].at, lists[versions.len()].at);
        assert!(last - first > Duration::from_secs(150), "{:?}", last - first);
        assert!(last - first < (harness.timing.backoff_cap + harness.timing.request) * 20);
        // It is failing all the while, and says so.
        let (text, since) = harness.services().failing.unwrap();
        assert!(text.starts_with("cannot list services") || text.contains("cannot reach"), "{text}");
        assert!(since + Duration::from_secs(31) > last - first, "{since:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_overdue_is_made_up_for() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("list services", (0..8).map(|_| Answer::Status(429, "too many lists")));
    api.answer("list services", [Answer::List(vec![service("b", 2, "1")], "20", None)]);
    let steps = (0..60).flat_map(|_| [Step::Wait(Duration::from_secs(60)), bookmark("11")]);
    api.answer("watch services", [Answer::Watch(steps.collect())]);
    let start = Instant::now();
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "all [b:2]"]).await;
    let minutes = start.elapsed().as_secs() / 60;
    assert!((24..=39).contains(&minutes), "{minutes} minutes");
    assert!(harness.services().failing.is_some());
    sleep(Duration::from_secs(20)).await;
    assert_eq!(harness.versions().last().unwrap(), "20");
    assert!(harness.services().failing.is_none(), "it is well again");
    // The next one is due by the clock again.
    harness.expect_quiet(Duration::from_secs(120)).await;
}

#[tokio::test(start_paused = true)]
async fn watches_go_on_where_lists_fail_too() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("list services", (0..1_000).map(|_| Answer::Status(504, "too slow")));
    api.answer("watch services", (0..12).map(|_| Answer::Status(503, "away")));
    api.answer("watch services", [Answer::Watch(vec![added("b", 2, "11"), Step::Hang])]);
    let mut harness = Harness::start(api);
    harness.expect(&["all [a:1]", "b:2"]).await;
    assert_eq!(harness.versions(), ["10"; 13]);
    assert_eq!((harness.services().lists, harness.api.asked("list services").len()), (1, 3));
    assert!(harness.services().failing.is_none(), "no list is due");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_is_not_watched_from() {
    for end in
        [Step::Event("ERROR", status(410, "too old")), Step::Event("ERROR", status(500, "lost")), Step::Hang]
    {
        let api = FakeApi::default();
        api.answer("list services", [list("10")]);
        api.answer("list services", (0..10).map(|_| Answer::Status(504, "too slow")));
        api.answer("list services", [list("20")]);
        api.answer("watch services", [Answer::Watch(vec![end])]);
        let mut harness = Harness::start(api);
        harness.expect(&["all [a:1]", "all [a:1]"]).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(harness.versions(), ["10", "20"]);
    }
}
