//! Pods: those of the own node alone, on request alone, and known before anything is balanced.

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Answer, FakeApi, Harness, PATIENCE, ReadPods, Step, brief, list};
use crate::{model::Event, source::Resource};

fn pod(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": format!("u-{name}"), "resourceVersion": version}})
}

/// The next event that is about Pods or is the list of Services.
async fn next(harness: &mut Harness) -> String {
    loop {
        let event = timeout(PATIENCE, harness.events.recv()).await.expect("no event").unwrap();
        if !matches!(event, Event::AllSlices(_) | Event::Node(_) | Event::AllNamespaces(_)) {
            return brief(&event);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pods_come_before_services_and_are_followed() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("list pods", [Answer::List(vec![pod("a", "1"), pod("b", "2")], "10", None)]);
    let steps =
        vec![Step::Event("ADDED", pod("c", "11")), Step::Event("DELETED", pod("a", "12")), Step::Hang];
    api.answer("watch pods", [Answer::Watch(steps)]);
    let mut harness = Harness::reading(ReadPods::Yes, api, "n1", |_| {});
    assert_eq!(next(&mut harness).await, "all pods [shop/a shop/b]");
    let mut rest = [next(&mut harness).await, next(&mut harness).await, next(&mut harness).await];
    rest.sort_unstable();
    assert_eq!(rest, ["all [a:1]", "pod gone shop/a", "pod shop/c"]);
    for ask in ["list pods", "watch pods"] {
        let asked = harness.api.asked(ask).remove(0);
        assert_eq!(asked.query["fieldSelector"], "spec.nodeName=n1", "{ask}");
        assert!(asked.accept.contains("PartialObjectMetadata"), "{}", asked.accept);
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_may_not_be_read_hold_nothing_up_and_are_missed_by_name() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    api.answer("list pods", (0..1_000).map(|_| Answer::Status(403, "pods is forbidden")));
    let mut harness = Harness::reading(ReadPods::Yes, api, "n1", |_| {});
    assert_eq!(next(&mut harness).await, "all [a:1]");
    assert!(harness.health.synced());
    let (text, _) = harness.resource(Resource::Pods).failing.unwrap();
    assert!(text.starts_with("cannot list pods: HTTP 403 (pods is forbidden): grant"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn pods_are_not_asked_for_unless_told() {
    let api = FakeApi::default();
    api.answer("list services", [list("10")]);
    let mut harness = Harness::start_with(api, "n1", |_| {});
    assert_eq!(next(&mut harness).await, "all [a:1]");
    assert!(harness.api.asked("list pods").is_empty());
    assert!(harness.resource(Resource::Pods).failing.is_none());
}
