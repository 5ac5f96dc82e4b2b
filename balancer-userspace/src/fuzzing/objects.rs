//! API objects: as events that the model follows, and as manifests.

use std::collections::BTreeMap;

use arbitrary::Unstructured;

use crate::{
    model::{
        Event, Family, Index, NodeInfo, ObjectName, Participation, Selection, ServiceSpec, SliceSpec,
        story::{self, Delivery, Kernel, Step},
    },
    source::manifests,
};

/// The most text that the problems of one object may come to, in bytes.
const MOST_WORDS: usize = 8_192;

/// A sequence of events: an index that follows it resolves what a fresh one does, and forgets everything in
/// the end.
///
/// # Panics
///
/// If that is not so.
pub fn resolve(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let selection = match u.arbitrary() {
        Ok(true) => Selection::Annotated,
        _ => Selection::All,
    };
    let mut steps = Vec::new();
    while !u.is_empty() {
        let (Ok(step), Ok(delivery)) = (u.arbitrary::<Step>(), u.arbitrary::<Delivery>()) else { break };
        steps.push((step, delivery));
    }
    story::check_following(selection, steps);
}

/// The text of a manifest file: whatever it says, what is made of its objects keeps within bounds.
///
/// # Panics
///
/// If that is not so.
pub fn manifests(data: &[u8]) {
    // JSON and YAML are read by different code.
    for name in ["any.yaml", "any.json"] {
        check_events(manifests::read_once(name, data));
    }
}

fn check_events(events: Vec<Event>) {
    let mut index = story::new_index(Selection::All);
    index.apply(Event::Node(NodeInfo { name: "n1".into(), zone: Some("z1".into()) }));
    let mut slices: BTreeMap<ObjectName, usize> = BTreeMap::new();
    for event in &events {
        match event {
            Event::Service(spec) => check_service(spec),
            Event::Slice(spec) => {
                check_slice(spec);
                slices.insert(spec.name.clone(), spec.endpoints.len());
            }
            Event::Namespace(spec) => {
                assert!(is_label(&spec.name));
                check_words(&spec.problems);
                assert!(matches!(
                    spec.enabled,
                    None | Some(Participation::OptedIn | Participation::OptedOut)
                ));
            }
            _ => {}
        }
    }
    let mut kernel = Kernel::new();
    events.into_iter().for_each(|event| index.apply(event));
    story::follow(&mut index, &mut kernel);
    story::check_kernel(&kernel);
    assert_eq!(index.counts().endpoints, slices.values().sum::<usize>());
    check_problems(&index, &kernel);
}

fn check_problems(index: &Index, kernel: &Kernel) {
    let mut words: BTreeMap<&ObjectName, usize> = BTreeMap::new();
    for (service, problem) in index.problems() {
        *words.entry(service).or_default() += problem.len();
        assert!(!problem.chars().any(char::is_control), "{problem:?}");
    }
    assert!(words.values().all(|words| *words <= 2 * MOST_WORDS));
    for port in kernel.values().flatten() {
        assert!(port.problem.as_ref().is_none_or(|problem| problem.len() <= 512));
    }
}

fn check_service(spec: &ServiceSpec) {
    assert!(is_label(&spec.name.namespace) && is_label(&spec.name.name), "{}", spec.name);
    assert!(spec.cluster_ips.len() <= 2);
    let families: Vec<_> = spec.cluster_ips.iter().map(|addr| Family::of(*addr)).collect();
    assert!(families.len() < 2 || families[0] != families[1]);
    let mut ports: Vec<_> = spec.ports.iter().map(|port| (&port.name, port.protocol)).collect();
    let all = ports.len();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), all, "two ports of {} are alike", spec.name);
    assert!(spec.ports.iter().all(|port| port.port > 0 && port.name.len() <= 63));
    assert!(spec.affinity.is_none_or(|affinity| (1..=86_400).contains(&affinity.as_secs())));
    assert!(spec.annotations.len() <= 16);
    assert!(spec.annotations.iter().all(|(name, value)| name.len() <= 128 && value.len() <= 128));
    check_words(&spec.problems);
}

fn check_slice(spec: &SliceSpec) {
    assert!(spec.name.name.len() <= 253 && spec.service.len() <= 253);
    assert!((1..=65_535).contains(&spec.weight));
    for endpoint in &spec.endpoints {
        assert_eq!(Family::of(endpoint.addr), spec.family);
        assert!(!endpoint.addr.is_loopback() && !endpoint.addr.is_unspecified());
        for name in [&endpoint.node, &endpoint.zone, &endpoint.pod].into_iter().flatten() {
            assert!(name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        }
    }
    check_words(&spec.problems);
}

fn check_words(problems: &[String]) {
    assert!(problems.len() <= 9, "{problems:?}");
    assert!(problems.iter().map(String::len).sum::<usize>() <= MOST_WORDS, "{problems:?}");
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}
