//! What is left alone on purpose: everything while the agent only observes, and cgroups that are excluded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use balancer_common::abi::PassReason;
use balancer_tests::peer::{Client, protocol::Close};
use balancer_userspace::{
    datapath::read_snapshot,
    view::{ServiceView, Snapshot},
};

use crate::{
    lease::beside_a_proxy,
    set::{Set, vip4, wait_for, without_end},
};

fn snapshot(set: &Set) -> Snapshot {
    read_snapshot(set.pins()).unwrap()
}

/// The IPv4 Service.
fn service(set: &Set) -> ServiceView {
    let found = snapshot(set).services.into_iter().find(|service| service.frontend == vip4(1));
    found.expect("the Service is in the tables")
}

fn passes(set: &Set, reason: PassReason) -> u64 {
    service(set).passes[reason as usize]
}

/// Open connections by pod, those of removed backends under the names that these have then.
fn active(set: &Set) -> BTreeMap<String, u64> {
    let service = service(set);
    let counts = service.backends.iter().map(|backend| (backend.pod.to_string(), backend.stats.active));
    counts.filter(|(_, active)| *active > 0).collect()
}

fn by_pod<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(pod, count)| (pod.to_owned(), count)).collect()
}

#[test]
fn observing_rewrites_nothing_and_counts_what_would_have_been() {
    let set = beside_a_proxy(3);
    let agent = set.agent_with(&["--mode", "observe"]);
    let client = set.client.client().unwrap();
    assert_eq!(client.hold(9, vip4(1)).unwrap().held, 9);
    // kube-proxy's choice is what they got; balancing would have spread them.
    assert_eq!(client.ask_held().unwrap().pods, by_pod([("web-1", 9)]));
    assert_eq!(active(&set), by_pod([("web-1", 3), ("web-2", 3), ("web-3", 3)]));
    assert_eq!(passes(&set, PassReason::Observed), 9);
    let socket = client.connect(vip4(1)).unwrap();
    assert_eq!(socket.peer().unwrap(), vip4(1));
    socket.close(Close::Graceful).unwrap();

    let stats = agent.cli(["stats", "-A"]).unwrap();
    let warning = String::from_utf8(stats.stderr).unwrap();
    assert!(warning.contains("only observes"), "{warning}");
    let explained = agent.json(["explain", &vip4(1).to_string()]).unwrap();
    assert_eq!(explained["items"][0]["verdict"], "observe", "{explained}");
    let check = agent.cli(["check"]).unwrap();
    let text = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(0), "the probe is translated all the same: {text}");
    let metrics = agent.http("/metrics").unwrap().1;
    assert!(metrics.contains("balancer_observing 1\n"), "{metrics}");

    client.release(9, Close::Graceful).unwrap();
    wait_for("every close is counted", || active(&set).is_empty());
    let service = service(&set);
    let (opened, closed) = service
        .backends
        .iter()
        .fold((0, 0), |sum, backend| (sum.0 + backend.stats.opened, sum.1 + backend.stats.closed));
    assert_eq!((opened, closed), (10, 10));
}

#[test]
fn a_change_of_mode_fails_no_connect_and_mixes_no_counts() {
    let set = beside_a_proxy(3);
    let mut agent = set.agent_with(&["--mode", "observe"]);
    let client = set.client.client().unwrap();
    client.hold(6, vip4(1)).unwrap();
    let other = set.client.client().unwrap();
    let running = other.start(without_end(vip4(1))).unwrap();

    agent.options_mut().arguments = Vec::new();
    agent.restart().unwrap();
    // First: one that is open for a moment makes another tie of those that are held.
    assert_eq!(running.stop().unwrap().failures, BTreeMap::new());
    let holder = set.client.client().unwrap();
    assert_eq!(holder.hold(3, vip4(1)).unwrap().held, 3);
    assert_eq!(
        holder.ask_held().unwrap().pods.len(),
        3,
        "balanced now, by counts that know nothing of what was observed"
    );
    let observed = [("web-1 (observe)", 2), ("web-2 (observe)", 2), ("web-3 (observe)", 2)];
    let balanced = [("web-1", 1), ("web-2", 1), ("web-3", 1)];
    let mut all = by_pod(observed);
    all.extend(by_pod(balanced));
    wait_for("both are counted apart", || active(&set) == all);

    // And back again; a restart in the same mode changes nothing.
    agent.restart().unwrap();
    assert_eq!(active(&set), all);
    agent.options_mut().arguments = vec!["--mode".to_owned(), "observe".to_owned()];
    agent.restart().unwrap();
    let mut all = by_pod(observed);
    all.extend(by_pod([("web-1 (balance)", 1), ("web-2 (balance)", 1), ("web-3 (balance)", 1)]));
    assert_eq!(active(&set), all);
    client.release(6, Close::Graceful).unwrap();
    holder.release(3, Close::Graceful).unwrap();
    wait_for("every close is counted", || active(&set).is_empty());
    wait_for("what is over is freed", || service(&set).backends.len() == 3);
}

#[test]
fn processes_in_an_excluded_cgroup_are_left_alone() {
    let set = beside_a_proxy(3);
    let neighbour = set.node.pod("neighbour").unwrap();
    neighbour.route_services_to_node().unwrap();
    // The client's processes are in cgroups below: all of it counts.
    let excluded = set.client.cgroup().path().to_str().unwrap().to_owned();
    let mut agent = set.agent_with(&["--exclude-cgroup", &excluded]);
    let (client, other) = (set.client.client().unwrap(), neighbour.client().unwrap());
    assert_eq!(snapshot(&set).agent.excluded, 1);
    assert_eq!(client.hold(4, vip4(1)).unwrap().held, 4);
    assert_eq!(client.ask_held().unwrap().pods, by_pod([("web-1", 4)]), "kube-proxy's choice");
    assert_eq!(passes(&set, PassReason::Excluded), 4);
    other.hold(3, vip4(1)).unwrap();
    assert_eq!(other.ask_held().unwrap().pods.len(), 3, "the neighbour is balanced");
    let metrics = agent.http("/metrics").unwrap().1;
    assert!(metrics.contains("balancer_excluded_cgroups 1\n"), "{metrics}");

    // The flag is gone: what it excluded is balanced again.
    agent.options_mut().arguments = Vec::new();
    agent.restart().unwrap();
    assert_eq!(snapshot(&set).agent.excluded, 0);
    client.hold(3, vip4(1)).unwrap();
    assert_eq!(passes(&set, PassReason::Excluded), 4);
    assert_eq!(active(&set).values().sum::<u64>(), 6);
}

/// A cgroup as the kubelet makes it, with this process in it.
fn into_pod(set: &Set, uid: &str, process: u32) {
    let slice = format!(
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
        uid.replace('-', "_")
    );
    let container = set.node.cgroup().join(slice).join("cri-containerd-0123456789ab.scope");
    fs::create_dir_all(&container).unwrap();
    fs::write(container.join("cgroup.procs"), process.to_string()).unwrap();
}

fn pod(name: &str, uid: &str, annotation: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: {uid}, annotations: {{{annotation}}}}}\n\
         spec: {{nodeName: node-1, containers: []}}\n"
    )
}

#[test]
fn pods_that_opt_out_or_are_in_a_mesh_are_left_alone() {
    const OUT: &str = "balancer.dev/enabled: \"false\"";
    const IN: &str = "balancer.dev/enabled: \"true\"";
    const MESH: &str = "linkerd.io/proxy-version: \"2\"";
    const UIDS: [&str; 3] = [
        "0a1b2c3d-0000-4000-8000-000000000001",
        "0a1b2c3d-0000-4000-8000-000000000002",
        "0a1b2c3d-0000-4000-8000-000000000003",
    ];
    let set = beside_a_proxy(3);
    let clients = UIDS.map(|_| set.client.client().unwrap());
    for (client, uid) in clients.iter().zip(UIDS).take(2) {
        into_pod(&set, uid, client.process_id());
    }
    let file = |name: &str| format!("pod-{name}.yaml");
    for (name, uid, annotation) in [("a", UIDS[0], OUT), ("b", UIDS[1], MESH), ("c", UIDS[2], "x: y")] {
        set.manifests.put(&file(name), &pod(name, uid, annotation)).unwrap();
    }
    let mut agent = set.agent_with(&["--watch-pods"]);
    // From the first moment on.
    assert_eq!(snapshot(&set).agent.excluded, 2);
    let answers = |count: u64| {
        let ask =
            |client: &Client| (0..count).map(|_| client.ask(vip4(1)).unwrap().pod).collect::<BTreeSet<_>>();
        clients.iter().map(|client| ask(client).len()).collect::<Vec<_>>()
    };
    assert_eq!(answers(6), [1, 1, 3], "kube-proxy's choice, or spread");
    assert_eq!(passes(&set, PassReason::Excluded), 12);

    // A mesh takes a pod in whose cgroup is still to come; another wants to be balanced in spite of its mesh.
    set.manifests.put(&file("c"), &pod("c", UIDS[2], MESH)).unwrap();
    set.manifests.put(&file("b"), &pod("b", UIDS[1], &format!("{IN}, {MESH}"))).unwrap();
    wait_for("b is balanced", || snapshot(&set).agent.excluded == 1);
    into_pod(&set, UIDS[2], clients[2].process_id());
    wait_for("c is left alone", || snapshot(&set).agent.excluded == 2);
    assert_eq!(answers(6), [1, 3, 1]);

    // Without an agent it stays so, and a new one changes nothing.
    agent.kill().unwrap();
    assert_eq!(answers(6), [1, 3, 1]);
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    assert_eq!(answers(6), [1, 3, 1]);

    // The Namespace's word holds for the pods that say nothing, and for its Services.
    let namespace =
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{{OUT}}}}}\n");
    for name in ["a", "b"] {
        set.manifests.remove(&file(name)).unwrap();
    }
    set.manifests.put(&file("c"), &pod("c", UIDS[2], "x: y")).unwrap();
    wait_for("nobody is left alone", || snapshot(&set).agent.excluded == 0);
    set.manifests.put("namespace.yaml", &namespace).unwrap();
    wait_for("c is left alone", || snapshot(&set).agent.excluded == 1);
    wait_for("the Service is gone", || snapshot(&set).services.is_empty());
    assert_eq!(answers(6), [1, 1, 1]);
}
