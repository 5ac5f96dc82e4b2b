//! Files that cannot be read, or not all of them.

use std::fs;

use tokio::time::timeout;

use super::{Harness, QUIET, service};
use crate::model::Event;

#[tokio::test]
async fn a_malformed_document_takes_nothing_along() {
    let stream = format!(
        "{}---\nkind: Service\napiVersion: v1\nspec:\n  ports: 7\n---\n{}",
        service("a", 1),
        service("b", 2)
    );
    let (harness, first) =
        Harness::start(&[("a.yaml", &stream), ("b.yaml", "x: [1\n"), ("c.yaml", &service("c", 3))]).await;
    assert_eq!(first[1], "all services [default/a:1 default/b:2 default/c:3]");
    harness.wait_until("two problems", |health| health.snapshot().problem_count == 2).await;
    let problems = harness.problems();
    assert!(problems[0].starts_with("a.yaml: document 2, line 13: "), "{problems:?}");
    assert!(problems[1].starts_with("b.yaml: document 1, line 1: "), "{problems:?}");
}

#[tokio::test]
async fn every_kind_of_fault_is_named() {
    let deep = format!("apiVersion: v1\nkind: Service\nmetadata: {}{}\n", "[".repeat(300), "]".repeat(300));
    let bomb = {
        let mut bomb = "apiVersion: v1\nkind: List\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        bomb + "items: []\n"
    };
    let cases: &[(&str, &[u8], &str)] = &[
        ("01.yaml", b"metadata:\n  name: x\n", "document 1, line 1: it has no kind and apiVersion"),
        ("02.yaml", b"\n\napiVersion: v1\nkind: Service\nspec: {}\n", "document 1, line 3: metadata.name \"\" is not a valid name"),
        ("03.yaml", b"a: 1\n---\n\xff\n", "document 1, line 3: it is not UTF-8"),
        ("04.json", b"{\"apiVersion\": \"v1\",\n \"kind\": \"Service\",\n}\n", "document 1, line 3: trailing comma"),
        ("05.json", b"{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"x\"},\n \"spec\":\n 7}\n", "document 1, line 3: invalid type: integer"),
        ("06.yaml", b"apiVersion: v1\nkind: List\nitems:\n- metadata: {}\n- 7\n", "document 1, line 4: item 1 of the list has no kind"),
        ("07.yaml", b"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: x}\n  spec: {ports: 1}\n", "document 1, line 4: Service default/x: invalid type: integer"),
        ("08.yaml", b"apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: x}\n", "document 1, line 1: EndpointSlice of discovery.k8s.io/v1beta1 is not read: use discovery.k8s.io/v1"),
        ("09.yaml", b"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: x}\n", "document 1, line 1: EndpointSlice default/x: "),
        ("10.yaml", b"just text\n", "document 1, line 1: "),
        ("11.yaml", deep.as_bytes(), "document 1, line 3: "),
        ("12.yaml", bomb.as_bytes(), "document 1, "),
        ("13.yaml", b"apiVersion: v1\nkind: Service\nmetadata:\n\tname: x\n", "document 1, line 4: "),
        ("14.yaml", b"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nmetadata: {name: y}\n", "document 1, line 4: "),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, content, _) in cases {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let (harness, first) = Harness::start_in(dir, |_| {}).await;
    assert_eq!(first[1], "all services []");
    // One for each, and two for the list with two bad items.
    harness.wait_until("all problems", |health| health.snapshot().problem_count > cases.len()).await;
    let problems = harness.problems();
    for (name, _, expected) in cases {
        let expected = format!("{name}: {expected}");
        assert!(
            problems.iter().any(|problem| problem.starts_with(&expected)),
            "no {expected} in {problems:#?}"
        );
    }
}

#[tokio::test]
async fn what_was_good_stays_while_a_file_is_malformed() {
    let (mut harness, _) =
        Harness::start(&[("a.yaml", &format!("{}---\n{}", service("a", 1), service("b", 2)))]).await;
    // One document broken, one changed, one new: what can be read counts, what cannot stays.
    harness.write("a.yaml", &format!("{}---\nkind: [\n---\n{}", service("a", 10), service("c", 3)));
    harness.expect(&["service default/a:10", "service default/c:3"]).await;
    let skipped = harness.next(1).await.remove(0);
    assert!(skipped.starts_with("skipped a.yaml: document 2, line 10: "), "{skipped}");
    assert!(skipped.ends_with("stays in use until it is right again"), "{skipped}");
    // Not even when it says nothing at all that can be read.
    harness.replace("a.yaml", "]");
    let skipped = harness.next(1).await.remove(0);
    assert!(skipped.starts_with("skipped a.yaml: document 1, line 1: "), "{skipped}");
    harness.expect_quiet().await;
    // Once it is right, what it says counts.
    harness.replace("a.yaml", &service("c", 3));
    harness.expect(&["service gone default/a", "service gone default/b"]).await;
    harness.expect_problems(&[]).await;
}

#[tokio::test]
async fn the_first_file_wins() {
    let (mut harness, first) = Harness::start(&[
        ("b.yaml", &service("a", 2)),
        ("c.yaml", &format!("{}---\n{}", service("a", 3), service("a", 4))),
    ])
    .await;
    assert_eq!(first[1], "all services [default/a:2]");
    harness.wait_until("two problems", |health| health.snapshot().problem_count == 2).await;
    harness
        .expect_problems(&[
            "c.yaml: document 1, line 1: Service default/a: b.yaml has it already, and the first file counts",
            "c.yaml: document 2, line 9: Service default/a: the same file has it before",
        ])
        .await;
    harness.next(2).await;
    harness.write("a.yaml", &service("a", 1));
    let mut events = harness.next(3).await;
    assert_eq!(events.remove(0), "service default/a:1");
    harness.wait_until("three problems", |health| health.snapshot().problem_count == 3).await;
    fs::remove_file(harness.path("a.yaml")).unwrap();
    assert_eq!(harness.next(1).await, ["service default/a:2"]);
    harness.wait_until("two problems", |health| health.snapshot().problem_count == 2).await;
    while let Ok(Some(event)) = timeout(QUIET, harness.events.recv()).await {
        assert!(matches!(event, Event::Skipped { .. }), "{event:?}");
    }
    fs::remove_file(harness.path("b.yaml")).unwrap();
    harness.expect(&["service default/a:3"]).await;
    harness.write("c.yaml", &service("a", 3));
    harness.expect_quiet().await;
    harness.expect_problems(&[]).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub.yaml")).unwrap();
    fs::write(dir.path().join("big.yaml"), " ".repeat(2_000)).unwrap();
    fs::write(dir.path().join("ok.yaml"), service("a", 1)).unwrap();
    let status = std::process::Command::new("mkfifo").arg(dir.path().join("pipe.yaml")).status().unwrap();
    assert!(status.success());
    let (mut harness, first) = Harness::start_in(dir, |config| config.max_file_bytes = 1_000).await;
    assert_eq!(first[1], "all services [default/a:1]");
    harness.next(2).await;
    harness
        .expect_problems(&[
            "big.yaml: cannot read it: it is larger than the limit of 1000 bytes: split it",
            "pipe.yaml: cannot read it: it is not a regular file",
        ])
        .await;
    // Growing too large is no reason to lose what it had.
    harness.replace("ok.yaml", &" ".repeat(2_000));
    let skipped = harness.next(1).await.remove(0);
    assert!(skipped.ends_with("what it had before stays in use"), "{skipped}");
    fs::remove_file(harness.path("ok.yaml")).unwrap();
    harness.expect(&["service gone default/a"]).await;
}
