//! Namespaces: known before anything is balanced, where they can be.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{Answer, FakeApi, Harness, PATIENCE, Step, brief, list};
use crate::{model::Event, source::Resource};

fn namespace(name: &str, enabled: Option<&str>, version: &str) -> Value {
    let annotations = enabled.map(|enabled| json!({"balancer.dev/enabled": enabled}));
    json!({"metadata": {"name": name, "resourceVersion": version, "annotations": annotations}})
}

/// The next event that is about Namespaces or is the list of Services.
async fn next(harness: &mut Harness) -> String {
    loop {
        let event = timeout(PATIENCE, harness.events.recv()).await.expect("no event").unwrap();
        if !matches!(event, Event::AllSlices(_) | Event::Node(_)) {
            return brief(&event);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn namespaces_come_before_services_and_are_followed() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    let shop = |version| namespace("shop", Some("false"), version);
    api.answer("list namespaces", [Answer::List(vec![shop("1"), namespace("b", None, "2")], "10", None)]);
    api.answer(
        "watch namespaces",
        [Answer::Watch(vec![
            Step::Wait(Duration::from_secs(10)),
            Step::Event("MODIFIED", namespace("b", Some("true"), "11")),
            Step::Event("DELETED", shop("12")),
            Step::Hang,
        ])],
    );
    let mut harness = Harness::start(api);
    assert_eq!(next(&mut harness).await, "all namespaces [b shop:OptedOut]");
    assert_eq!(next(&mut harness).await, "all [a:1]");
    assert_eq!(next(&mut harness).await, "namespace b:OptedIn");
    assert_eq!(next(&mut harness).await, "namespace gone shop");
    let asked = harness.api.asked("list namespaces").remove(0);
    assert!(asked.accept.contains("PartialObjectMetadataList"), "{}", asked.accept);
    assert!(!asked.query.contains_key("labelSelector"), "{:?}", asked.query);
}

#[tokio::test(start_paused = true)]
async fn namespaces_that_may_not_be_read_hold_nothing_up() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("list namespaces", (0..1_000).map(|_| Answer::Status(403, "namespaces is forbidden")));
    let start = Instant::now();
    let mut harness = Harness::start(api);
    assert_eq!(next(&mut harness).await, "all [a:1]");
    assert!(start.elapsed() < Duration::from_secs(1));
    sleep(Duration::from_secs(60)).await;
    assert!(harness.health.synced());
    assert_eq!(harness.health.snapshot().problem_count, 1, "it shows in balancer check");
    let (text, _) = harness.resource(Resource::Namespaces).failing.unwrap();
    assert!(text.starts_with("cannot list namespaces: HTTP 403 (namespaces is forbidden): grant"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_is_waited_for() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    let listed = Answer::List(vec![namespace("shop", Some("false"), "1")], "10", None);
    api.answer("list namespaces", [Answer::Status(429, "later"), Answer::Status(503, "later"), listed]);
    let mut harness = Harness::start(api);
    assert_eq!(next(&mut harness).await, "all namespaces [shop:OptedOut]");
    assert_eq!(next(&mut harness).await, "all [a:1]");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_does_not_pass_is_not_waited_for_again() {
    let api = FakeApi::default();
    api.answer("list services", [list("10"), list("20")]);
    api.answer("watch services", [Answer::Status(410, "too old")]);
    api.answer("list namespaces", (0..1_000).map(|_| Answer::Hang));
    let start = Instant::now();
    let mut harness = Harness::start(api);
    assert_eq!(next(&mut harness).await, "all [a:1]");
    assert_eq!(start.elapsed().as_secs(), harness.timing.node_grace.as_secs());
    assert_eq!(next(&mut harness).await, "all [a:1]");
    assert_eq!(start.elapsed().as_secs(), harness.timing.node_grace.as_secs());
}
