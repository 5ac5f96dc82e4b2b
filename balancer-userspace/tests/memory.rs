//! What the agent's memory is spent on, counted by an allocator of its own: a process of its own, since
//! everything that is allocated counts.
//!
//! A directory of manifests is read by the real source, taken in by the real index, and applied to tables
//! that take nothing from the heap. Bounds are per endpoint, of Services with four endpoints each, named as a
//! cluster names them. They stand about a fifth above what was measured, so that a map that keeps room for
//! eleven where one is needed, or a name that is copied where it could be shared, is found out.

#![expect(clippy::print_stderr, reason = "the figures are of interest, met or not")]

mod memory {
    pub mod counting;
    pub mod tables;
}

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use balancer_common::abi::Algorithm;
use balancer_userspace::{
    model::{ConnectionSettings, Defaults, Event, Index, NodeInfo, Selection},
    reconcile::Reconciler,
    source::{Source, SourceHealth, SourceKind, manifests::ManifestsConfig},
};
use memory::{
    counting::{Counting, live, peak, reset_peak},
    tables::Tables,
};
use tokio::sync::mpsc;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 4;

/// Bytes per endpoint that each part may hold, above what the parts before it hold.
const SOURCE: usize = 500;
const INDEX: usize = 615;
const RECONCILER: usize = 360;

/// The manifest of a Service.
fn service(index: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{index}, namespace: shop-{}}}\n\
         spec: {{clusterIP: 10.96.{}.{}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n",
        index % 50,
        index / 250,
        1 + index % 250,
    )
}

/// The manifest of its slice; with another `version` all endpoints are others.
fn slice(index: usize, version: usize) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  \
         name: service-{index}-x7k2q\n  namespace: shop-{}\n  \
         labels: {{kubernetes.io/service-name: service-{index}}}\n\
         ports: [{{name: http, protocol: TCP, port: 8080}}]\nendpoints:\n",
        index % 50
    );
    for endpoint in index * ENDPOINTS..(index + 1) * ENDPOINTS {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "- addresses: [10.{}.{}.{}]\n  nodeName: node-{}\n  zone: zone-{}\n  \
             conditions: {{ready: true}}\n  \
             targetRef: {{kind: Pod, name: service-{index}-6d4cf56db6-{endpoint:05}}}",
            1 + version,
            endpoint / 250,
            1 + endpoint % 250,
            endpoint % 100,
            endpoint % 3,
        );
    }
    text
}

fn put(dir: &Path, file: &str, text: &str) {
    let draft = dir.join(".draft");
    fs::write(&draft, text).expect("the draft is written");
    fs::rename(draft, dir.join(file)).expect("the draft is renamed");
}

fn take_in(index: &mut Index, reconciler: &mut Reconciler<Tables>, event: Event, now: Instant) {
    index.apply(event);
    if index.is_complete() {
        for dirty in index.take_dirty() {
            let desired = index.resolve(&dirty.service);
            reconciler.apply(&dirty.service, desired, now).expect("these tables refuse nothing");
        }
    }
}

/// Whether `held` bytes are within `bound` bytes per endpoint.
fn check(part: &str, held: usize, bound: usize, broken: &mut Vec<String>) {
    let each = held / (SERVICES * ENDPOINTS);
    eprintln!("{part}: {each} bytes per endpoint (at most {bound})");
    if each > bound {
        broken.push(format!("{part} holds {each} bytes per endpoint, which should be at most {bound}"));
    }
}

#[test]
fn an_endpoint_takes_so_many_bytes_and_changes_leak_none() {
    let dir = tempfile::tempdir().expect("a directory");
    for index in 0..SERVICES {
        put(dir.path(), &format!("{index}-service.yaml"), &service(index));
        put(dir.path(), &format!("{index}-slice.yaml"), &slice(index, 0));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let now = Instant::now();
    let mut reconciler = Reconciler::recover(Tables::new(), now).expect("these tables refuse nothing");
    let started_ms = 0;
    let mut index = Index::new(Defaults {
        algorithm: Algorithm::LeastConnections,
        connections: ConnectionSettings::default(),
        selection: Selection::All,
        started_ms,
    });
    index.apply(Event::Node(NodeInfo { name: "node-1".into(), zone: None }));
    let nothing = live();
    reset_peak();

    let (sender, mut events) = mpsc::channel(16);
    let health = Arc::new(SourceHealth::new(SourceKind::Manifests));
    let source = Source::Manifests(ManifestsConfig::new(dir.path(), "node-1"));
    let task = runtime.spawn(source.run(sender, health));
    let mut receive = || runtime.block_on(events.recv()).expect("the source goes on");
    while !index.is_complete() {
        take_in(&mut index, &mut reconciler, receive(), now);
    }
    assert_eq!(reconciler.used().1 as usize, SERVICES * ENDPOINTS);
    // The source has sent what it read; what it only needed for that it drops next.
    let settled = || {
        let mut last = live();
        loop {
            thread::sleep(Duration::from_millis(50));
            let next = live();
            if next.abs_diff(last) < 1024 {
                return next;
            }
            last = next;
        }
    };
    let all = settled();
    let highest = peak() - nothing;

    // Every endpoint of every tenth Service is another one, five times over.
    let mut now = now;
    for version in 1..=5 {
        for index in (0..SERVICES).step_by(10) {
            put(dir.path(), &format!("{index}-slice.yaml"), &slice(index, version % 2));
        }
        for _ in (0..SERVICES).step_by(10) {
            take_in(&mut index, &mut reconciler, receive(), now);
        }
        now += Duration::from_secs(2);
        reconciler.sweep(now).expect("these tables refuse nothing");
    }
    assert_eq!(reconciler.used().1 as usize, SERVICES * ENDPOINTS);
    let after_changes = settled();

    drop(reconciler);
    let without_reconciler = live();
    drop(index);
    let without_index = live();
    let mut broken = Vec::new();
    check("the source", without_index - nothing, SOURCE, &mut broken);
    check("the index", without_reconciler - without_index, INDEX, &mut broken);
    check("the reconciler", after_changes - without_reconciler, RECONCILER, &mut broken);
    check("the most at once", highest, SOURCE + INDEX + RECONCILER, &mut broken);
    let leaked = after_changes.saturating_sub(all);
    if leaked > all / 50 {
        broken.push(format!("500 changes took {leaked} bytes more, beyond the {all} before them"));
    }
    task.abort();
    assert!(broken.is_empty(), "{}", broken.join("; "));
}
