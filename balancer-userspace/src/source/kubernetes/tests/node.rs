//! The agent's own Node.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{Answer, FakeApi, Harness, PATIENCE, Step, brief, list};
use crate::{model::Event, source::Resource};

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
    let mut first = Vec::new();
    for _ in 0..2 {
        first.push(brief(&timeout(PATIENCE, harness.events.recv()).await.unwrap().unwrap()));
    }
    first.sort();
    assert_eq!(first, ["all namespaces []", "node n1 Some(\"z1\")"]);
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
    assert!(text.starts_with("cannot list node: HTTP 403 (nodes is forbidden): grant the agent's service account list and watch"), "{text}");
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
