//! The source run on a real directory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{ManifestsConfig, run};
use crate::{
    model::Event,
    source::{SourceError, SourceHealth, SourceKind},
};

/// Longer than anything takes that inotify reports.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing has to happen to count as nothing happening.
const QUIET: Duration = Duration::from_millis(150);

struct Harness {
    dir: TempDir,
    events: mpsc::Receiver<Event>,
    health: Arc<SourceHealth>,
    task: JoinHandle<Result<(), SourceError>>,
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.0.0.1\n  ports:\n  - port: {port}\n"
    )
}

fn slice(name: &str, addr: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: shop\n  labels:\n    \
         kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n- port: 8080\nendpoints:\n- addresses: [{addr}]\n"
    )
}

/// An event in brief.
fn brief(event: &Event) -> String {
    let list = |prefix: &str, mut names: Vec<String>| {
        names.sort();
        format!("{prefix}[{}]", names.join(" "))
    };
    match event {
        Event::AllServices(all) => {
            list("all services ", all.iter().map(|s| format!("{}:{}", s.name, s.ports[0].port)).collect())
        }
        Event::AllSlices(all) => list("all slices ", all.iter().map(|s| s.name.to_string()).collect()),
        Event::Service(spec) => format!("service {}:{}", spec.name, spec.ports[0].port),
        Event::ServiceGone(name) => format!("service gone {name}"),
        Event::Slice(spec) => format!("slice {} {}", spec.name, spec.endpoints[0].addr),
        Event::SliceGone(name) => format!("slice gone {name}"),
        Event::Node(node) => format!("node {} {:?}", node.name, node.zone.as_deref()),
        Event::Skipped { what, why } => format!("skipped {what}: {why}"),
    }
}

impl Harness {
    /// A source on a directory with these files, after its first read.
    async fn start(files: &[(&str, &str)]) -> (Self, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        Self::start_in(dir, |_| {}).await
    }

    async fn start_in(dir: TempDir, configure: impl FnOnce(&mut ManifestsConfig)) -> (Self, Vec<String>) {
        let mut config = ManifestsConfig::new(dir.path().join(""), "n1");
        // No test below waits for a scan unless it asks for one.
        config.scan_interval = Duration::from_secs(3600);
        configure(&mut config);
        let (sender, events) = mpsc::channel(16);
        let health = Arc::new(SourceHealth::new(SourceKind::Manifests));
        let task = tokio::spawn(run(config, sender, health.clone()));
        let mut harness = Self { dir, events, health, task };
        let first = harness.next(3).await;
        (harness, first)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Puts a file in place as careful writers do.
    fn replace(&self, name: &str, content: &str) {
        self.write(".tmp", content);
        fs::rename(self.path(".tmp"), self.path(name)).unwrap();
    }

    async fn next(&mut self, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            match timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(event)) => found.push(brief(&event)),
                other => panic!("{other:?} instead of event {} after {found:?}", found.len() + 1),
            }
        }
        found
    }

    async fn expect(&mut self, expected: &[&str]) {
        assert_eq!(self.next(expected.len()).await, expected);
    }

    async fn expect_quiet(&mut self) {
        if let Ok(event) = timeout(QUIET, self.events.recv()).await {
            panic!("unexpected {event:?}");
        }
    }

    fn problems(&self) -> Vec<String> {
        self.health.snapshot().problems.into_iter().map(|p| format!("{}: {}", p.what, p.why)).collect()
    }

    /// Problems are published right after the events of the same change.
    async fn expect_problems(&self, expected: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while self.problems() != expected {
            assert!(Instant::now() < deadline, "{:#?} instead of {expected:#?}", self.problems());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn wait_until(&self, what: &str, mut condition: impl FnMut(&SourceHealth) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.health) {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn the_first_read_is_whole_lists() {
    let json = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "j"}, "spec": {"clusterIP": "10.0.0.3", "ports": [{"port": 3}]}}"#;
    let (mut harness, first) = Harness::start(&[
        ("b.yaml", &format!("# shop\n{}---\n{}---\n", service("web", 80), slice("web", "10.1.0.1"))),
        ("a.yml", &service("a", 1)),
        ("c.json", &format!("{json}\n{}", json.replace("\"j\"", "\"k\""))),
        ("d.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"),
        ("e.yaml", "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: other}\nspec: {template: {}}\n"),
        ("notes.txt", "not yaml: ["),
        (".hidden.yaml", "not yaml: ["),
        ("empty.yaml", ""),
    ])
    .await;
    assert_eq!(
        first,
        [
            "node n1 None",
            "all services [default/a:1 default/j:3 default/k:3 default/web:80]",
            "all slices [shop/web-1]"
        ]
    );
    harness.expect_problems(&[]).await;
    harness.wait_until("synced", |health| health.synced() && health.contact().is_some()).await;
    harness.expect_quiet().await;
}

#[tokio::test]
async fn lists_of_every_kind() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: {ports: [{port: 1}]}\n\
                - apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: x}\n\
                - apiVersion: v1\n  kind: Node\n  metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n\
                - apiVersion: v1\n  kind: Node\n  metadata: {name: n2, labels: {topology.kubernetes.io/zone: z2}}\n";
    let services =
        "kind: ServiceList\napiVersion: v1\nitems:\n- metadata: {name: b}\n  spec: {ports: [{port: 2}]}\n";
    let slices = r#"{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "items": [
        {"metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": "b"}}, "addressType": "IPv4"}]}"#;
    let (harness, first) =
        Harness::start(&[("a.yaml", list), ("b.yaml", services), ("c.json", slices)]).await;
    assert_eq!(
        first,
        ["node n1 Some(\"z1\")", "all services [default/a:1 default/b:2]", "all slices [shop/s]"]
    );
    harness.expect_problems(&[]).await;
}

#[tokio::test]
async fn changes_are_single_events() {
    let (mut harness, _) =
        Harness::start(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 2))]).await;
    harness.replace("a.yaml", &service("a", 10));
    harness.expect(&["service default/a:10"]).await;
    harness.write("b.yaml", &service("b", 20));
    harness.expect(&["service default/b:20"]).await;
    harness.write("c.yaml", &format!("{}---\n{}", service("c", 3), slice("c", "10.1.0.1")));
    harness.expect(&["service default/c:3", "slice shop/c-1 10.1.0.1"]).await;
    harness.write("c.yaml", &format!("# moved\n\n{}---\n{}", service("c", 3), slice("c", "10.1.0.2")));
    harness.expect(&["slice shop/c-1 10.1.0.2"]).await;
    fs::remove_file(harness.path("a.yaml")).unwrap();
    harness.expect(&["service gone default/a"]).await;
    harness.write("c.yaml", &service("c", 3));
    harness.expect(&["slice gone shop/c-1"]).await;
    harness.write(".c.yaml.swp", "x: [");
    harness.write("c.yaml~", "x: [");
    harness.write("c.yaml", &service("c", 3));
    harness.expect_quiet().await;
}

#[tokio::test]
async fn an_object_that_moves_between_files_is_never_gone() {
    let (mut harness, _) = Harness::start(&[("a.yaml", &service("a", 1))]).await;
    fs::rename(harness.path("a.yaml"), harness.path("z.yaml")).unwrap();
    harness.expect_quiet().await;
    fs::remove_file(harness.path("z.yaml")).unwrap();
    harness.expect(&["service gone default/a"]).await;
}

#[tokio::test]
async fn the_zone_comes_from_the_own_node() {
    let node =
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  labels:\n    topology.kubernetes.io/zone: z1\n";
    let (mut harness, first) = Harness::start(&[("node.yaml", node)]).await;
    assert_eq!(first[0], "node n1 Some(\"z1\")");
    harness.replace("node.yaml", &node.replace("z1", "z2"));
    harness.expect(&["node n1 Some(\"z2\")"]).await;
    fs::remove_file(harness.path("node.yaml")).unwrap();
    harness.expect(&["node n1 None"]).await;
}

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
        ("02.yaml", b"\n\napiVersion: v1\nkind: Service\nspec: {}\n", "document 1, line 3: a Service needs metadata.name"),
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
async fn a_write_in_progress_is_not_read() {
    use std::io::Write as _;
    let (mut harness, _) =
        Harness::start(&[("a.yaml", &format!("{}---\n{}", service("a", 1), service("b", 2)))]).await;
    let mut file = fs::File::create(harness.path("a.yaml")).unwrap();
    harness.expect_quiet().await;
    file.write_all(service("a", 10).as_bytes()).unwrap();
    file.flush().unwrap();
    harness.expect_quiet().await;
    file.write_all(format!("---\n{}", service("b", 2)).as_bytes()).unwrap();
    drop(file);
    harness.expect(&["service default/a:10"]).await;
    harness.expect_quiet().await;
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
async fn a_config_map_is_swapped_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |version: &str, port: u16| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("a.yaml"), service("a", port)).unwrap();
        fs::write(at(version).join("b.yaml"), service("b", port)).unwrap();
    };
    version("..1", 1);
    symlink("..1", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    symlink("..data/b.yaml", at("b.yaml")).unwrap();
    version("..2", 2);
    let (mut harness, first) = Harness::start_in(dir, |_| {}).await;
    assert_eq!(first[1], "all services [default/a:1 default/b:1]");
    symlink("..2", harness.path("..data_tmp")).unwrap();
    fs::rename(harness.path("..data_tmp"), harness.path("..data")).unwrap();
    fs::remove_dir_all(harness.path("..1")).unwrap();
    harness.expect(&["service default/a:2", "service default/b:2"]).await;
    // A key taken out of the map.
    fs::create_dir(harness.path("..3")).unwrap();
    fs::write(harness.path("..3/a.yaml"), service("a", 2)).unwrap();
    symlink("..3", harness.path("..data_tmp")).unwrap();
    fs::rename(harness.path("..data_tmp"), harness.path("..data")).unwrap();
    harness.expect(&["service gone default/b"]).await;
    fs::remove_file(harness.path("b.yaml")).unwrap();
    harness.expect_quiet().await;
}

#[tokio::test]
async fn links_put_in_place_are_read() {
    let (mut harness, _) = Harness::start(&[]).await;
    let elsewhere = tempfile::tempdir_in(harness.dir.path()).unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, service("a", 1)).unwrap();
    symlink(&target, harness.path("a.yaml")).unwrap();
    harness.expect(&["service default/a:1"]).await;
    fs::write(&target, service("b", 2)).unwrap();
    fs::hard_link(&target, harness.path("b.yaml")).unwrap();
    harness.expect(&["service default/b:2"]).await;
}

#[tokio::test]
async fn a_directory_that_is_moved_away_takes_nothing_along() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("manifests");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), service("a", 1)).unwrap();
    fs::write(inner.join("b.yaml"), service("b", 2)).unwrap();
    let (mut harness, _) = Harness::start_in(dir, |config| config.dir = inner.clone()).await;
    fs::rename(&inner, harness.path("elsewhere")).unwrap();
    let failing = |health: &SourceHealth| health.snapshot().resources[0].failing.is_some();
    harness.wait_until("missed", failing).await;
    harness.expect_quiet().await;
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), service("a", 10)).unwrap();
    // Its removal is true, and it may be noticed before the new file is taken for whole.
    let mut events = harness.next(2).await;
    events.sort();
    assert_eq!(events, ["service default/a:10", "service gone default/b"]);
    harness.wait_until("back", |health| !failing(health)).await;
    // The new directory is watched like the old one was.
    fs::write(inner.join("a.yaml"), service("a", 11)).unwrap();
    harness.expect(&["service default/a:11"]).await;
}

#[tokio::test]
async fn files_removed_one_by_one_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("manifests");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), service("a", 1)).unwrap();
    let (mut harness, _) = Harness::start_in(dir, |config| config.dir = inner.clone()).await;
    fs::remove_file(inner.join("a.yaml")).unwrap();
    harness.expect(&["service gone default/a"]).await;
    fs::remove_dir(&inner).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), service("a", 2)).unwrap();
    harness.expect(&["service default/a:2"]).await;
}

#[tokio::test]
async fn a_scan_finds_what_inotify_does_not_see() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, service("a", 1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    symlink(&target, dir.path().join("a.yaml")).unwrap();
    let (mut harness, _) =
        Harness::start_in(dir, |config| config.scan_interval = Duration::from_millis(50)).await;
    fs::write(&target, service("a", 2)).unwrap();
    harness.expect(&["service default/a:2"]).await;
    harness.expect_quiet().await;
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

#[tokio::test]
async fn permissions_are_noticed() {
    let (mut harness, _) = Harness::start(&[("a.yaml", &service("a", 1))]).await;
    let path = harness.path("a.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Nothing was written, and root may read it anyway.
    harness.expect_quiet().await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    harness.expect_quiet().await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    async fn start(dir: &Path) -> String {
        let (sender, _events) = mpsc::channel(1);
        let health = Arc::new(SourceHealth::new(SourceKind::Manifests));
        run(ManifestsConfig::new(dir, "n1"), sender, health).await.unwrap_err().to_string()
    }
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert_eq!(
        start(&missing).await,
        format!(
            "manifests directory {} does not exist: create it, or name another with --manifests",
            missing.display()
        )
    );
    fs::write(&missing, "").unwrap();
    assert!(start(&missing).await.contains("is not a directory"));
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let (harness, _) = Harness::start(&[]).await;
    drop(harness.events);
    assert!(timeout(PATIENCE, harness.task).await.unwrap().unwrap().is_ok());
}
