//! Endpoints in shorthand: `a R z:{x,y} n:{n1} @n2`: name, condition (R ready, ST serving and terminating,
//! T terminating, S serving, n none), zone hints, node hints, node.

use super::*;
use InternalTraffic::{Cluster, Local};

fn names(list: &str) -> Vec<Arc<str>> {
    list.split(',').map(Arc::from).collect()
}

fn endpoint(text: &str) -> EndpointSpec {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap();
    let (ready, serving, terminating) = match words.next().unwrap() {
        "R" => (true, true, false),
        "ST" => (false, true, true),
        "T" => (false, false, true),
        "S" => (false, true, false),
        "n" => (false, false, false),
        // What publishNotReadyAddresses makes of a pod that is going.
        "RT" => (true, true, true),
        other => panic!("condition {other}"),
    };
    let mut spec = EndpointSpec {
        addr: IpAddr::from([10, 0, 0, name.as_bytes()[0]]),
        conditions: Conditions { ready, serving, terminating },
        node: None,
        zone: None,
        pod: Some(name.into()),
        node_hints: vec![],
        zone_hints: vec![],
    };
    for word in words {
        let list = |prefix: &str| Some(names(word.strip_prefix(prefix)?.strip_suffix('}')?));
        if let Some(list) = list("z:{") {
            spec.zone_hints = list;
        } else if let Some(list) = list("n:{") {
            spec.node_hints = list;
        } else {
            spec.node = Some(word.strip_prefix('@').unwrap().into());
        }
    }
    spec
}

/// `node` is a name, a slash and a zone; both may be empty.
fn check(policy: InternalTraffic, node: &str, endpoints: &str, expect: &str) {
    let (name, zone) = node.split_once('/').unwrap();
    let specs: Vec<_> = endpoints.split(';').filter(|text| !text.trim().is_empty()).map(endpoint).collect();
    // No zone and an empty one mean the same.
    let zones = if zone.is_empty() { vec![None, Some("".into())] } else { vec![Some(zone.into())] };
    for zone in zones {
        let node = NodeInfo { name: name.into(), zone };
        let mut candidates: Vec<_> =
            specs.iter().rev().map(|endpoint| Candidate { endpoint, port: 80, weight: 1 }).collect();
        sort_and_merge(&mut candidates);
        select(&mut candidates, policy, &node);
        let used: Vec<_> =
            candidates.iter().map(|candidate| candidate.endpoint.pod.as_deref().unwrap()).collect();
        assert_eq!(used.join(","), expect, "{policy:?} on {node:?}: {endpoints}");
    }
}

#[test]
fn zone_hints_count_only_if_all_ready_endpoints_have_them_and_one_is_for_us() {
    check(Cluster, "n1/a", "a R z:{a}; b R z:{b}; c R z:{c}; d R z:{a}", "a,d");
    check(Cluster, "n1/b", "a R z:{a}", "a");
    check(Cluster, "n1/", "a R z:{a}", "a");
    check(Cluster, "n1/", "a R z:{a}; b R z:{b}", "a,b");
    check(Cluster, "n1/a", "a n z:{a}; b R z:{b}; c R z:{c}; d n z:{a}", "b,c");
    check(Cluster, "n1/a", "a R z:{a}; b R z:{b}; c R; d R z:{a}", "a,b,c,d");
    check(Cluster, "n1/c", "a R z:{a,b,c}; b R z:{b,c}; c R z:{b,d}; d R z:{c}", "a,b,d");
    check(Cluster, "n1/a", "a R z:{a}; b n; c R z:{b}; d ST", "a");
}

#[test]
fn an_empty_hint_is_for_nobody() {
    check(Cluster, "/", "a R z:{} n:{}; b R z:{b} n:{n1}", "a,b");
}

#[test]
fn node_hints_come_before_zone_hints() {
    let three = "a R n:{n1} z:{a}; b R n:{n2} z:{a}; c R n:{n3} z:{b}";
    check(Cluster, "n1/a", three, "a");
    check(Cluster, "n4/a", three, "a,b");
    check(Cluster, "n4/c", three, "a,b,c");
    check(Cluster, "/a", three, "a,b");
    check(Cluster, "n1/a", "a R n:{n1} z:{b}; b R z:{a}; c R n:{n3} z:{b}", "b");
    check(Cluster, "n1/a", "a n n:{n1}; b R n:{n2}; c R n:{n3}", "b,c");
}

#[test]
fn terminating_endpoints_serve_only_where_nothing_is_ready() {
    check(Cluster, "n1/a", "a ST @n1; b ST", "a,b");
    check(Cluster, "n1/a", "a ST @n1; b R", "b");
    check(Cluster, "n1/a", "a ST; b T; c S; d n", "a");
    check(Cluster, "n1/a", "b T; c S; d n", "");
    check(Cluster, "n1/a", "", "");
    check(Cluster, "n1/a", "a RT; b ST", "a");
}

#[test]
fn hints_do_not_hold_in_the_terminating_fallback() {
    check(Cluster, "n1/a", "a ST z:{a} n:{n1}; b ST z:{b} n:{n2}", "a,b");
}

#[test]
fn local_means_this_node_alone_whatever_the_hints_say() {
    check(Local, "n1/a", "a R @n1 z:{b}; b R @n2 z:{a}; c R", "a");
    check(Local, "n1/a", "a R @n1 z:{a}; b R @n1 z:{b}", "a,b");
    check(Local, "n1/a", "a R @n2", "");
    check(Local, "n1/a", "a n @n1; b R @n2", "");
}

#[test]
fn local_has_a_terminating_fallback_of_its_own() {
    check(Local, "n1/a", "a ST @n1; b R @n2; c n @n1", "a");
    check(Local, "n1/a", "a ST @n1; b R @n1", "b");
    check(Local, "n1/a", "a ST @n2", "");
}

#[test]
fn a_node_without_a_name_has_no_local_endpoints() {
    check(Local, "/a", "a R @n1; b R; c R @", "");
}

#[test]
fn of_one_address_and_port_the_better_copy_counts() {
    // In either order: a copy stands here before the other, and check() turns them round.
    check(Cluster, "n1/a", "a n; a R; b R", "a,b");
    check(Cluster, "n1/a", "a R; a n", "a");
    check(Cluster, "n1/a", "a T; a ST", "a");
    check(Cluster, "n1/a", "a ST; a R; b ST", "a");
    check(Cluster, "n1/a", "a n; b n; a n", "");
    // Had the copy without hints been kept, b would be used too.
    check(Cluster, "n1/a", "a n; a R z:{a}; b R z:{b}", "a");
}

#[test]
fn a_pod_that_is_going_does_not_speak_for_the_next_pod_at_its_address() {
    // The new one is not ready yet: nobody may be sent there.
    check(Cluster, "n1/a", "a ST; a n", "");
    check(Cluster, "n1/a", "a RT; a n; b ST", "b");
    check(Cluster, "n1/a", "a RT; a S", "");
    check(Cluster, "n1/a", "a RT z:{a}; a R z:{b}; b R z:{a}", "b");
}

/// The situations that kube-proxy's own tests of its choice tell apart, as far as they concern connects to
/// a cluster IP: `externalTrafficPolicy` has no say in those, so its cases stand here as what they come to.
#[test]
fn what_kube_proxy_distinguishes() {
    let zones = "c R z:{a}; d R z:{b}; e R z:{c}; f R z:{a}";
    // All have hints, and some are for this zone.
    check(Cluster, "n1/a", zones, "c,f");
    // externalTrafficPolicy: Local, with local endpoints in other zones.
    check(Cluster, "n1/a", "c R z:{a} @n1; d R z:{b} @n1; e R z:{c}; f R z:{a}", "c,f");
    check(Cluster, "n1/a", "a R z:{a} @n1; b R z:{b} @n1; c R z:{a} @n2; d R z:{b} @n2", "a,c");
    // internalTrafficPolicy: Local sees no hints.
    check(Local, "n1/a", "c R z:{a} @n1; d R z:{b} @n1; e R z:{c}; f R z:{a}", "c,d");
    // A node without a zone, with an empty one, in a zone that no hint names.
    check(Cluster, "n1/", "c R z:{a}", "c");
    check(Cluster, "n1/b", "c R z:{a}", "c");
    // One that is not ready is not used, and its hint counts for nothing.
    check(Cluster, "n1/a", "c R z:{a}; d R z:{b}; e R z:{c}; f n z:{a}", "c");
    check(Cluster, "n1/a", "c n z:{a}; d R z:{b}; e R z:{c}; f n z:{a}", "d,e");
    // One ready endpoint without a hint.
    check(Cluster, "n1/a", "c R z:{a}; d R z:{b}; e R; f R z:{a}", "c,d,e,f");
    // Several zones per hint.
    check(Cluster, "n1/c", "c R z:{a,b,c}; d R z:{b,c}; e R z:{b,d}; f R z:{c}", "c,d,f");
    // Node hints: for this node, incomplete, for other nodes.
    let nodes = "c R z:{a} n:{n1}; d R z:{b} n:{n2}; e R z:{c} n:{n3}; f R z:{a} n:{n4}";
    check(Cluster, "n1/a", nodes, "c");
    check(Cluster, "n1/a", "c R z:{a} n:{n1}; d R; e R z:{c} n:{n3}; f R z:{a} n:{n4}", "c,d,e,f");
    check(Cluster, "n0/a", nodes, "c,f");
    // internalTrafficPolicy: Local: none, all remote, all local, some local.
    check(Local, "n1/", "", "");
    check(Local, "n1/", "a R @n2; b R @n2", "");
    check(Local, "n1/", "a R @n1; b R @n1", "a,b");
    check(Local, "n1/", "a R @n1; b R @n2", "a");
    check(Local, "n1/", "a R @n2; b R @n1", "b");
    check(Local, "n1/", "a ST @n2; b ST @n2", "");
    // Cluster: none ready, some ready, all terminating.
    check(Cluster, "n1/", "a n; b n", "");
    check(Cluster, "n1/", "a n; b R", "b");
    check(Cluster, "n1/", "a ST @n1; b ST @n2", "a,b");
    check(Cluster, "n1/", "a R @n1; b R @n2", "a,b");
    check(Cluster, "n1/", "a R @n2; b n @n1; c ST @n1; d ST @n2", "a");
    check(Cluster, "n1/", "", "");
    check(Cluster, "n1/a", "a n", "");
}
