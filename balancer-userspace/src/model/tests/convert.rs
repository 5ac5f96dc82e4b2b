//! What the golden cases do not show of reading objects.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::{self as core},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    serde::de::DeserializeOwned,
};
use serde_json::json;

use super::*;
use crate::model::convert::{Skip, service_spec, slice_spec};

fn read<T: DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn all_that_the_model_needs_of_a_service() {
    let object: core::Service = read(json!({
        "metadata": {
            "name": "web", "namespace": "shop", "creationTimestamp": "1970-01-02T00:00:01Z",
            "uid": "7f3c1a2e-0b4d-4c5e-8f60-a1b2c3d4e5f6",
            "annotations": {"balancer.dev/algorithm": "random", "balancer.dev/": "", "example.com/x": "y"},
        },
        "spec": {
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}},
            "internalTrafficPolicy": "Local",
            "externalIPs": ["192.0.2.9", "none"],
            "ports": [{"port": 80}, {"name": "dns", "port": 65535, "protocol": "UDP"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "::ffff:192.0.2.1"}, {"hostname": "a"}, {"ip": "192.0.2.9"}]}},
    }));
    let expect = ServiceSpec {
        name: ObjectName::new("shop", "web"),
        uid: Uid::parse("7f3c1a2e-0b4d-4c5e-8f60-a1b2c3d4e5f6"),
        barred: None,
        enabled: None,
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00::1")],
        external: [ip("192.0.2.1"), ip("192.0.2.9")].into(),
        ports: vec![port("", 80), PortSpec { name: "dns".into(), protocol: Protocol::Udp, port: 65_535 }],
        affinity: Some(Duration::from_secs(86_400)),
        internal_traffic: InternalTraffic::Local,
        annotations: vec![(String::new(), String::new()), ("algorithm".to_owned(), "random".to_owned())],
        created: 86_401,
        problems: vec![],
    };
    assert_eq!(service_spec(&object), Ok(expect));
}

#[test]
fn all_that_the_model_needs_of_a_slice() {
    let object: EndpointSlice = read(json!({
        "metadata": {
            "name": "web-1.x", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {
                "balancer.dev/weight": "7",
                "endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:00:02.345678Z",
            },
        },
        "addressType": "IPv6",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": ["fd00::2", "fd00::3"],
            "conditions": {"ready": false, "serving": true, "terminating": true},
            "nodeName": "n1", "zone": "a",
            "hints": {"forZones": [{"name": "a"}, {"name": ""}], "forNodes": [{"name": "n1"}]},
            "targetRef": {"kind": "Pod", "name": "web-1"},
        }],
    }));
    let expect = SliceSpec {
        name: ObjectName::new("shop", "web-1.x"),
        service: "web".into(),
        family: Family::V6,
        ports: vec![port("http", 8080)],
        endpoints: vec![EndpointSpec {
            addr: ip("fd00::2"),
            conditions: Conditions { ready: false, serving: true, terminating: true },
            node: Some("n1".into()),
            zone: Some("a".into()),
            pod: Some("web-1".into()),
            node_hints: vec!["n1".into()],
            // An empty hint is one: that the hints are complete depends on it.
            zone_hints: vec!["a".into(), "".into()],
        }],
        weight: 7,
        triggered_ms: Some(2_345),
        problems: vec![],
    };
    assert_eq!(slice_spec(&object), Ok(expect));
}

#[test]
fn a_trigger_time_that_is_none_is_no_problem_of_the_user() {
    let object: EndpointSlice = read(json!({
        "metadata": {
            "name": "x", "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "yesterday"},
        },
        "addressType": "IPv4",
    }));
    let spec = slice_spec(&object).unwrap();
    assert_eq!((spec.triggered_ms, spec.problems), (None, vec![]));
}

#[test]
fn names_that_repeat_are_kept_once_per_slice() {
    let mut object: EndpointSlice = read(json!({
        "metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
    }));
    let endpoint = |n: u8| Endpoint {
        addresses: vec![format!("10.0.0.{n}")],
        node_name: Some("node".to_owned()),
        zone: Some("zone".to_owned()),
        ..Endpoint::default()
    };
    object.endpoints = Some((1..=200).map(endpoint).collect());
    let spec = slice_spec(&object).unwrap();
    let [first, .., last] = &spec.endpoints[..] else { panic!() };
    let same =
        |a: &Option<Arc<str>>, b: &Option<Arc<str>>| Arc::ptr_eq(a.as_ref().unwrap(), b.as_ref().unwrap());
    assert!(same(&first.node, &last.node) && same(&first.zone, &last.zone));
}

#[test]
fn what_is_kept_of_an_object_is_bounded() {
    let long = "x".repeat(100_000);
    let annotations: serde_json::Map<_, _> =
        (0..1_000).map(|n| (format!("balancer.dev/{n:04}{long}"), json!(long))).collect();
    let ports: Vec<_> = (0..1_000).map(|n| json!({"name": format!("{n}{long}"), "port": 1})).collect();
    let object: core::Service = read(json!({
        "metadata": {"name": "web", "annotations": annotations},
        "spec": {"clusterIP": "10.96.0.1", "ports": ports, "sessionAffinity": long},
    }));
    let spec = service_spec(&object).unwrap();
    let bytes: usize = spec.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(bytes < 10_000, "{bytes} bytes of annotations");
    let bytes: usize = spec.problems.iter().map(String::len).sum();
    assert!(bytes < 1_500, "{bytes} bytes of problems: {:?}", spec.problems);

    let mut index = new_index();
    index.apply(Event::Service(Box::new(spec)));
    index.resolve(&ObjectName::new("default", "web"));
    let bytes: usize = index.problems().map(|(_, problem)| problem.len()).sum();
    assert!(bytes < 3_000, "{bytes} bytes of problems");
}

/// The names that are too long, or hold what no name holds.
fn check_name(name: &str, namespace: &str, expect: Result<(), Skip>) {
    let object: core::Service =
        read(json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": "10.96.0.1"}}));
    assert_eq!(service_spec(&object).map(|_| ()), expect);
}

#[test]
fn names_fit_the_maps_that_keep_them() {
    let (fits, long) = ("x".repeat(63), "x".repeat(64));
    check_name(&fits, &fits, Ok(()));
    check_name(&long, "ns", Err(Skip::Name(long.clone())));
    check_name("web", &long, Err(Skip::Namespace(long.clone())));
    for bad in ["Web", "a.b", "a/b", "a b", "é", "a\0"] {
        check_name(bad, "ns", Err(Skip::Name(bad.to_owned())));
        check_name("web", bad, Err(Skip::Namespace(bad.to_owned())));
    }
}

#[test]
fn an_empty_service_is_not_balanced() {
    let object: core::Service = read(json!({"metadata": {"name": "web"}}));
    let spec = service_spec(&object).unwrap();
    assert_eq!(spec.name, ObjectName::new("default", "web"));
    assert_eq!(spec.barred, Some(Exclusion::Headless));
    assert_eq!((spec.cluster_ips, spec.ports), (vec![], vec![]));
}
