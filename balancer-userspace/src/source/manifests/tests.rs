//! The source run on a real directory.

mod directory;
mod faults;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

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
        Event::AllNamespaces(all) => {
            list("all namespaces ", all.iter().map(|n| format!("{}:{:?}", n.name, n.enabled)).collect())
        }
        Event::Namespace(spec) => format!("namespace {}:{:?}", spec.name, spec.enabled),
        Event::NamespaceGone(name) => format!("namespace gone {name}"),
        Event::AllPods(all) => list("all pods ", all.iter().map(|pod| pod.name.to_string()).collect()),
        Event::Pod(spec) => format!("pod {} {}", spec.name, spec.uid),
        Event::PodGone(name) => format!("pod gone {name}"),
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
        let mut first = harness.next(5).await;
        // Few tests have any.
        first.retain(|event| event != "all namespaces []" && event != "all pods []");
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
async fn namespaces_come_before_services_and_are_followed() {
    let namespace = |enabled: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations: {{balancer.dev/enabled: \"{enabled}\"}}\n"
        )
    };
    let out = namespace("false");
    let (mut harness, first) = Harness::start(&[("a.yaml", &service("a", 1)), ("z.yaml", &out)]).await;
    assert_eq!(
        first,
        [
            "node n1 None",
            "all namespaces [shop:Some(OptedOut)]",
            "all services [default/a:1]",
            "all slices []"
        ]
    );
    harness.replace("z.yaml", &format!("{}---\n{}", service("z", 2), namespace("true")));
    harness.expect(&["namespace shop:Some(OptedIn)", "service default/z:2"]).await;
    fs::remove_file(harness.path("z.yaml")).unwrap();
    harness.expect(&["namespace gone shop", "service gone default/z"]).await;
}

#[tokio::test]
async fn pods_of_this_node_come_before_services_and_are_followed() {
    let pod = |name: &str, uid: &str, node: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: {uid}}}\nspec: {{nodeName: {node}, containers: []}}\n"
        )
    };
    let written = "apiVersion: v1\nkind: Pod\nmetadata: {name: new}\n";
    let files = [
        ("a.yaml", pod("a", "u-1", "n1")),
        ("b.yaml", pod("b", "u-2", "other")),
        ("c.yaml", written.to_owned()),
        ("z.yaml", service("z", 1)),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (mut harness, first) = Harness::start(&files).await;
    assert_eq!(
        first,
        ["node n1 None", "all pods [default/a]", "all services [default/z:1]", "all slices []"]
    );
    harness.replace("b.yaml", &pod("b", "u-2", "n1"));
    harness.expect(&["pod default/b u-2"]).await;
    harness.replace("b.yaml", &pod("b", "u-2", "other"));
    harness.expect(&["pod gone default/b"]).await;
    fs::remove_file(harness.path("a.yaml")).unwrap();
    harness.expect(&["pod gone default/a"]).await;
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
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: {clusterIP: 10.0.0.1, ports: [{port: 1}]}\n\
                - apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: x}\n\
                - apiVersion: v1\n  kind: Node\n  metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n\
                - apiVersion: v1\n  kind: Node\n  metadata: {name: n2, labels: {topology.kubernetes.io/zone: z2}}\n";
    let services = "kind: ServiceList\napiVersion: v1\nitems:\n- metadata: {name: b}\n  spec: {clusterIP: 10.0.0.1, ports: [{port: 2}]}\n";
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
