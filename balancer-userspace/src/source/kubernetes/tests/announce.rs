//! Notices become Events, at a pace, and whatever goes wrong with them is nothing to anybody else.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{Answer, FakeApi, PATIENCE};
use crate::{
    model::{ObjectName, Uid},
    source::{
        NOTICES, Notice, NoticeReason,
        kubernetes::{access::Connection, announce},
    },
};

const UID: &str = "7f3c1a2e-0b4d-4c5e-8f60-a1b2c3d4e5f6";

fn notice(message: &str) -> Notice {
    Notice {
        service: ObjectName::new("shop", "web"),
        uid: Uid::parse(UID).unwrap(),
        reason: NoticeReason::Problem,
        message: message.to_owned(),
    }
}

fn start(api: &FakeApi, node: &str) -> mpsc::Sender<Notice> {
    let (sender, notices) = mpsc::channel(NOTICES);
    let connection = Connection::with_client(api.client());
    tokio::spawn(announce::run(connection, node.into(), notices, announce::Timing::default()));
    sender
}

async fn written(api: &FakeApi, count: usize) -> Vec<serde_json::Value> {
    let enough = async {
        while api.asked("create events").len() < count {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, enough).await.expect("no Event");
    api.asked("create events").into_iter().map(|asked| asked.body).collect()
}

#[tokio::test(start_paused = true)]
async fn all_nodes_write_one_and_the_same_event() {
    let api = FakeApi::default();
    api.answer("create events", [Answer::Object(serde_json::json!({"metadata": {}, "involvedObject": {}}))]);
    api.answer("create events", (0..2).map(|_| Answer::Status(409, "events \"x\" already exists")));
    let agents = ["n1", "n2", "n3"].map(|node| start(&api, node));
    for agent in &agents {
        agent.try_send(notice("wrong")).unwrap();
    }
    let start = Instant::now();
    let events = written(&api, 3).await;
    assert!(start.elapsed() <= Duration::from_secs(31), "{:?}", start.elapsed());
    let names: Vec<_> = events.iter().map(|event| event["metadata"]["name"].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| *name == names[0] && name.starts_with("web.")), "{names:?}");
    let event = &events[0];
    assert_eq!(event["metadata"]["namespace"], "shop");
    assert_eq!(event["involvedObject"]["kind"], "Service");
    assert_eq!(event["involvedObject"]["name"], "web");
    assert_eq!(event["involvedObject"]["uid"], UID);
    assert_eq!((&event["type"], &event["reason"]), (&"Warning".into(), &"BalancerProblem".into()));
    assert_eq!(event["message"], "wrong");
    // Whoever was told that it exists does not ask again; another message is another Event.
    for agent in &agents {
        agent.try_send(notice("wrong")).unwrap();
    }
    agents[0].try_send(notice("wrong in another way")).unwrap();
    let events = written(&api, 4).await;
    assert_ne!(events[3]["metadata"]["name"], *names[0]);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(api.asked("create events").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn events_are_written_at_a_pace_and_the_queue_has_an_end() {
    let api = FakeApi::default();
    let agent = start(&api, "n1");
    let taken = (0..1_000).filter(|n| agent.try_send(notice(&n.to_string())).is_ok()).count();
    assert_eq!(taken, NOTICES);
    written(&api, 1).await;
    let start = Instant::now();
    written(&api, NOTICES).await;
    assert!(start.elapsed() >= Duration::from_secs(NOTICES as u64 - 1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_may_not_write_events_tries_again_much_later() {
    let api = FakeApi::default();
    api.answer("create events", [Answer::Status(403, "events is forbidden")]);
    let agent = start(&api, "n1");
    for n in 0..100 {
        agent.try_send(notice(&n.to_string())).unwrap();
    }
    written(&api, 1).await;
    sleep(Duration::from_secs(500)).await;
    agent.try_send(notice("still not")).unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(api.asked("create events").len(), 1, "what came in between is dropped");
    sleep(Duration::from_secs(60)).await;
    agent.try_send(notice("now")).unwrap();
    assert_eq!(written(&api, 2).await[1]["message"], "now");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_and_then_left() {
    let api = FakeApi::default();
    api.answer("create events", [Answer::Status(500, "etcd"), Answer::Hang]);
    let agent = start(&api, "n1");
    agent.try_send(notice("a")).unwrap();
    let events = written(&api, 3).await;
    assert!(events.iter().all(|event| event["message"] == "a"));
    api.answer("create events", (0..3).map(|_| Answer::Broken));
    agent.try_send(notice("b")).unwrap();
    agent.try_send(notice("c")).unwrap();
    let events = written(&api, 7).await;
    assert_eq!((&events[5]["message"], &events[6]["message"]), (&"b".into(), &"c".into()));
    // A Namespace that is being deleted refuses whatever is written to it: nothing to complain of.
    api.answer("create events", [Answer::Status(403, "namespace shop is being terminated")]);
    agent.try_send(notice("d")).unwrap();
    agent.try_send(notice("e")).unwrap();
    assert_eq!(written(&api, 9).await[8]["message"], "e");
}
