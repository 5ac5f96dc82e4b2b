//! Objects that an API server takes and nobody means, and some that it would not take: each is named with
//! what to do about it, costs no more than its size, and is nothing to the others.

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::EndpointSlice},
    serde::de::DeserializeOwned,
};
use serde_json::{Value, json};

use super::*;
use crate::model::convert::{Skip, namespace_spec, service_spec, slice_spec};

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// An index with a Service that is as it should be.
fn beside_a_good_one() -> Index {
    let mut index = new_index();
    index.apply(set_service(&service("good", "10.96.0.9")));
    index.apply(set_slice(&slice("good-1", "good", &["10.0.9.1"])));
    index
}

/// The good Service is served, and nothing is said of it.
fn check_good(index: &mut Index) {
    let ports = index.resolve(&object("good"));
    assert_eq!(ports.len(), 1);
    assert_eq!((ports[0].backends.len(), &ports[0].problem), (1, &None));
}

fn problems(index: &Index, service: &str) -> Vec<String> {
    let own = index.problems().filter(|(name, _)| &*name.name == service);
    own.map(|(_, problem)| problem.to_owned()).collect()
}

#[test]
fn a_thousand_ports_are_a_thousand_ports() {
    let mut index = beside_a_good_one();
    let ports: Vec<Value> = (1..=1_000).map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    let meta = json!({"name": "many", "namespace": "ns"});
    let spec = json!({"clusterIP": "10.96.0.1", "ports": ports});
    index.apply(set_service(&service_spec(&read(json!({"metadata": meta, "spec": spec}))).unwrap()));
    for slice in 0..50 {
        let endpoints: Vec<Value> =
            (0..10).map(|n| json!({"addresses": [format!("10.1.{slice}.{n}")]})).collect();
        let labels = json!({"kubernetes.io/service-name": "many"});
        let meta = json!({"name": format!("many-{slice}"), "namespace": "ns", "labels": labels});
        let object = json!({"metadata": meta, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
        index.apply(set_slice(&slice_spec(&read(object)).unwrap()));
    }
    let resolved = index.resolve(&object("many"));
    assert_eq!(resolved.len(), 1_000);
    assert!(resolved.iter().all(|port| port.backends.len() == 500 && port.problem.is_none()));
    check_good(&mut index);
}

#[test]
fn what_a_service_takes_has_an_end() {
    let mut index = beside_a_good_one();
    let mut many = service("many", "10.96.0.1");
    many.ports = (1..=1_000).map(|n| port(&format!("p{n}"), n)).collect();
    index.apply(set_service(&many));
    for n in 0..20 {
        let mut large = slice(&format!("many-{n}"), "many", &[]);
        large.ports = many.ports.clone();
        large.endpoints = (0..=255).map(|m| endpoint(&format!("10.1.{n}.{m}"))).collect();
        index.apply(set_slice(&large));
    }
    let resolved = index.resolve(&object("many"));
    let backends: usize = resolved.iter().map(|port| port.backends.len()).sum();
    assert_eq!((resolved.len(), backends), (1_000, 1 << 20));
    let said = problems(&index, "many");
    assert!(said.len() == 1 && said[0].contains("split the Service"), "{said:?}");
    check_good(&mut index);
}

#[test]
fn ten_thousand_slices_are_one_service() {
    let mut index = beside_a_good_one();
    index.apply(set_service(&service("many", "10.96.0.1")));
    for n in 0..10_000 {
        let addr = format!("10.{}.{}.{}", 1 + n / 2_500, n / 50 % 50, n % 50);
        let mut one = slice(&format!("many-{n}"), "many", &[&addr]);
        one.problems = (0..8).map(|n| format!("wrong {n}")).collect();
        index.apply(set_slice(&one));
    }
    assert_eq!(index.take_dirty().len(), 2, "however many slices changed, a Service is resolved once");
    let resolved = index.resolve(&object("many"));
    assert_eq!(resolved[0].backends.len(), 10_000);
    // Eighty thousand mistakes are nine lines.
    assert_eq!(problems(&index, "many").len(), 9);
    assert!(resolved[0].problem.as_ref().unwrap().len() <= 512);
    index.apply(set_slice(&slice("many-x", "many", &["10.9.9.9"])));
    assert_eq!(index.take_dirty().len(), 1);
    for n in 0..10_000 {
        index.apply(Event::SliceGone(object(&format!("many-{n}"))));
    }
    assert_eq!(index.counts().slices, 2);
    check_good(&mut index);
}

#[test]
fn an_annotation_of_any_length_is_cut_and_named() {
    let long = "é".repeat(128 * 1024);
    let annotations = json!({
        "balancer.dev/algorithm": long, "balancer.dev/enabled": long, "example.com/x": long,
    });
    let meta = json!({"name": "a", "namespace": "ns", "annotations": annotations});
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 1}]});
    let spec = service_spec(&read(json!({"metadata": meta, "spec": spec}))).unwrap();
    let kept: usize = spec.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(kept <= 2 * 256, "{kept}");
    assert_eq!(spec.enabled, None);
    let mut index = beside_a_good_one();
    index.apply(set_service(&spec));
    assert_eq!(index.resolve(&object("a")).len(), 1, "it is balanced all the same");
    let said = problems(&index, "a");
    assert_eq!(said.len(), 2);
    for (problem, name) in said.iter().zip(["balancer.dev/algorithm", "balancer.dev/enabled"]) {
        assert!(problem.contains(name) && problem.len() < 400, "{problem}");
    }
    check_good(&mut index);
}

#[test]
fn a_thousand_annotations_are_counted() {
    let annotations: serde_json::Map<_, _> =
        (0..1_000).map(|n| (format!("balancer.dev/x{n}"), json!("y"))).collect();
    let meta = json!({"name": "ns", "annotations": annotations});
    let namespace: core::Namespace = read(json!({"metadata": meta}));
    let spec = namespace_spec(&namespace.metadata).unwrap();
    assert_eq!(spec.problems.len(), 9);
    let mut index = beside_a_good_one();
    index.apply(Event::Namespace(spec));
    assert_eq!(index.namespace_problems().count(), 9);
    let ports = index.resolve(&object("good"));
    let problem = ports[0].problem.as_ref().unwrap();
    assert!(problem.starts_with("its Namespace: ") && problem.len() <= 512, "{problem}");
    assert!(problems(&index, "good").is_empty(), "its owner has nothing to put right");
}

#[test]
fn names_are_names_up_to_their_limits() {
    let named = |name: &str, namespace: &str| {
        let meta = json!({"name": name, "namespace": namespace});
        service_spec(&read(json!({"metadata": meta}))).map(|spec| spec.name.to_string())
    };
    let longest = "x".repeat(63);
    assert_eq!(named(&longest, &longest), Ok(format!("{longest}/{longest}")));
    let too_long = "x".repeat(64);
    assert_eq!(named(&too_long, "ns"), Err(Skip::Name(too_long.clone())));
    assert_eq!(named("x", &too_long), Err(Skip::Namespace(too_long)));
    for name in ["é", "日本", "a\u{301}", "\u{202e}x", "a\0", "A", "a.b", "a/b", ""] {
        let error = named(name, "ns").unwrap_err();
        assert_eq!(error, Skip::Name(name.to_owned()));
        assert!(!error.to_string().chars().any(char::is_control), "{error}");
    }
    let long = "日".repeat(100_000);
    assert!(named(&long, "ns").unwrap_err().to_string().len() < 400);
}

#[test]
fn two_services_want_one_address() {
    let mut index = beside_a_good_one();
    let mut thief = service("thief", "10.96.0.9");
    thief.created = 1;
    index.apply(set_service(&thief));
    index.apply(set_slice(&slice("thief-1", "thief", &["10.0.6.6"])));
    assert!(index.resolve(&object("thief")).is_empty());
    let said = problems(&index, "thief");
    assert_eq!(said, ["10.96.0.9:80/TCP already belongs to ns/good: it is not balanced for this one"]);
    check_good(&mut index);
}

#[test]
fn a_slice_of_nonsense_says_so_once_per_kind() {
    let unusable = (0..1_000).flat_map(|n| {
        [json!({"addresses": [format!("no-{n}")]}), json!({"addresses": [format!("127.0.0.{}", n % 255)]})]
    });
    let usable = json!({"addresses": ["10.0.0.1"], "nodeName": "n".repeat(5_000), "zone": "z\n1"});
    let endpoints: Vec<Value> = unusable.chain([usable]).collect();
    let object: EndpointSlice = read(json!({
        "metadata": {"name": "web-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "a", "port": 1_000_000}, {"name": "b", "port": -1}, {"name": "c", "port": 1}],
        "endpoints": endpoints,
    }));
    let spec = slice_spec(&object).unwrap();
    assert_eq!((spec.ports.len(), spec.endpoints.len()), (1, 1));
    assert_eq!((&spec.endpoints[0].node, &spec.endpoints[0].zone), (&None, &None));
    assert_eq!(
        spec.problems,
        [
            "port \"a\" is ignored: port number 1000000 is not within 1 to 65535",
            "port \"b\" is ignored: port number -1 is not within 1 to 65535",
            "an endpoint is ignored: \"no-0\" is not an IP address (and 999 more like it)",
            "endpoint 127.0.0.0 is ignored: connects are never sent to loopback addresses (and 999 more like it)",
        ]
    );
}
