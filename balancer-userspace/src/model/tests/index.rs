//! Which events mark which Services, and what a relist means.

use super::*;

/// Applies `events` and names the Services that are dirty after them.
fn dirty(index: &mut Index, events: impl IntoIterator<Item = Event>) -> String {
    events.into_iter().for_each(|event| index.apply(event));
    let names: Vec<_> = index.take_dirty().iter().map(|dirty| dirty.service.name.to_string()).collect();
    names.join(" ")
}

fn backends(index: &mut Index, service: &str) -> Vec<String> {
    let ports = index.resolve(&object(service));
    ports.iter().flat_map(|port| &port.backends).map(|backend| backend.addr.to_string()).collect()
}

#[test]
fn an_event_marks_its_own_service_alone() {
    let mut index = new_index();
    let services = [service("a", "10.96.0.1"), service("b", "10.96.0.2")];
    assert_eq!(dirty(&mut index, services.iter().map(set_service)), "a b");
    assert_eq!(dirty(&mut index, [set_slice(&slice("a-1", "a", &["10.0.0.1"]))]), "a");
    assert_eq!(dirty(&mut index, [Event::SliceGone(object("a-1"))]), "a");
    assert_eq!(dirty(&mut index, [Event::ServiceGone(object("b"))]), "b");
    assert_eq!(dirty(&mut index, []), "");
}

/// Endpoints are gone if the slices do not have them, not if there are no slices: a Service that is deleted and made anew has
/// none until its controller comes.
#[test]
fn without_any_slice_nobody_is_known_to_have_left() {
    let mut index = new_index();
    let left = |index: &mut Index| index.resolve(&object("a")).remove(0).departing;
    dirty(&mut index, [set_service(&service("a", "10.96.0.1"))]);
    assert_eq!(left(&mut index), None);
    dirty(&mut index, [set_slice(&slice("a-1", "a", &[]))]);
    assert_eq!(left(&mut index), Some(Vec::new()), "it has none");
    dirty(&mut index, [Event::SliceGone(object("a-1"))]);
    assert_eq!(left(&mut index), None);
    let other_family = SliceSpec { family: Family::V6, ..slice("a-2", "a", &[]) };
    dirty(&mut index, [set_slice(&other_family)]);
    assert_eq!(left(&mut index), None);
}

#[test]
fn what_is_delivered_again_marks_nothing() {
    let mut index = new_index();
    let a = service("a", "10.96.0.1");
    let a1 = slice("a-1", "a", &["10.0.0.1"]);
    let node = NodeInfo { name: "n1".into(), zone: None };
    dirty(&mut index, [Event::Node(node.clone()), set_service(&a), set_slice(&a1)]);
    let again = [
        Event::Node(node),
        set_service(&a),
        set_slice(&a1),
        Event::AllServices(vec![a]),
        Event::AllSlices(vec![a1]),
        Event::ServiceGone(object("unknown")),
        Event::SliceGone(object("unknown")),
        Event::Skipped { what: "ns/x".to_owned(), why: "because".to_owned() },
    ];
    assert_eq!(dirty(&mut index, again), "");
}

#[test]
fn a_relist_produces_the_deletions_that_were_missed() {
    let mut index = new_index();
    let all = ["a", "b", "c"].map(|name| service(name, &format!("10.96.0.{}", name.as_bytes()[0])));
    let slices = ["a", "b", "c"].map(|name| slice(&format!("{name}-1"), name, &["10.0.0.1"]));
    dirty(&mut index, [Event::AllServices(all.to_vec()), Event::AllSlices(slices.to_vec())]);

    let [a, b, c] = &all;
    let moved = service("c", "10.96.0.3");
    let relist = Event::AllServices(vec![a.clone(), moved.clone(), service("d", "10.96.0.4")]);
    assert_eq!(dirty(&mut index, [relist]), "b c d");
    assert_eq!(index.service(&object("b")), None);
    assert_eq!(index.service(&object("c")), Some(&moved));
    assert_eq!(backends(&mut index, "b"), [""; 0]);
    assert_eq!(backends(&mut index, "a"), ["10.0.0.1"]);
    assert_eq!(index.counts().orphan_slices, 1);

    let relist = Event::AllSlices(vec![slices[0].clone(), slice("c-2", "c", &["10.0.0.2"])]);
    assert_eq!(dirty(&mut index, [relist]), "c");
    assert_eq!(backends(&mut index, "c"), ["10.0.0.2"]);
    assert_eq!(index.counts().orphan_slices, 0);

    // The slices that came before their Service are not lost.
    assert_eq!(dirty(&mut index, [set_slice(&slice("b-1", "b", &["10.0.0.3"]))]), "");
    assert_eq!(dirty(&mut index, [Event::AllServices(vec![a.clone(), b.clone(), c.clone()])]), "b c d");
    assert_eq!(backends(&mut index, "b"), ["10.0.0.3"]);
}

#[test]
fn of_two_objects_with_one_name_the_last_in_a_list_counts() {
    let mut index = new_index();
    let list = vec![service("a", "10.96.0.1"), service("a", "10.96.0.2")];
    assert_eq!(dirty(&mut index, [Event::AllServices(list.clone())]), "a");
    assert_eq!(index.resolve(&object("a"))[0].frontend.addr, ip("10.96.0.2"));
    assert_eq!(dirty(&mut index, [Event::AllServices(list)]), "");
}

#[test]
fn the_index_is_complete_once_both_lists_came() {
    for lists in [
        [Event::AllServices(vec![]), Event::AllSlices(vec![])],
        [Event::AllSlices(vec![]), Event::AllServices(vec![])],
    ] {
        let mut index = new_index();
        index.apply(set_service(&service("a", "10.96.0.1")));
        index.apply(set_slice(&slice("a-1", "a", &["10.0.0.1"])));
        index.apply(Event::Node(NodeInfo::default()));
        assert!(!index.is_complete());
        let [first, second] = lists;
        index.apply(first.clone());
        index.apply(first);
        assert!(!index.is_complete());
        index.apply(second);
        assert!(index.is_complete());
    }
}

#[test]
fn a_slice_that_changes_its_service_marks_both() {
    let mut index = new_index();
    let services = [service("a", "10.96.0.1"), service("b", "10.96.0.2")];
    dirty(&mut index, services.iter().map(set_service));
    dirty(&mut index, [set_slice(&slice("x", "a", &["10.0.0.1"]))]);
    assert_eq!(dirty(&mut index, [set_slice(&slice("x", "b", &["10.0.0.1"]))]), "a b");
    assert_eq!((backends(&mut index, "a"), backends(&mut index, "b")), (vec![], vec!["10.0.0.1".to_owned()]));
}

#[test]
fn a_slice_belongs_to_the_service_in_its_own_namespace() {
    let mut index = new_index();
    let mut other = slice("x", "a", &["10.0.0.1"]);
    other.name = ObjectName::new("other", "x");
    dirty(&mut index, [set_service(&service("a", "10.96.0.1"))]);
    assert_eq!(dirty(&mut index, [set_slice(&other)]), "");
    assert_eq!(backends(&mut index, "a"), [""; 0]);
    assert_eq!(index.counts().orphan_slices, 1);
}

#[test]
fn the_slices_of_an_excluded_service_mark_nothing() {
    let mut index = new_index();
    let mut a = service("a", "10.96.0.1");
    a.enabled = Some(Participation::OptedOut);
    assert_eq!(dirty(&mut index, [set_service(&a)]), "a");
    assert_eq!(dirty(&mut index, [set_slice(&slice("x", "a", &["10.0.0.1"]))]), "");
    assert_eq!(index.resolve(&object("a")), []);
    assert_eq!(index.excluded().collect::<Vec<_>>(), [(&object("a"), Exclusion::OptedOut)]);
    let counts = Counts { services: 1, slices: 1, orphan_slices: 0, endpoints: 1 };
    assert_eq!(index.counts(), counts);

    a.enabled = None;
    assert_eq!(dirty(&mut index, [set_service(&a)]), "a");
    assert_eq!(backends(&mut index, "a"), ["10.0.0.1"]);
}

#[test]
fn a_change_of_the_node_marks_what_depends_on_it() {
    let mut index = new_index();
    let mut local = service("local", "10.96.0.1");
    local.internal_traffic = InternalTraffic::Local;
    let mut zones = slice("z", "zones", &["10.0.0.1"]);
    zones.endpoints[0].zone_hints = vec!["a".into()];
    let mut nodes = slice("n", "nodes", &["10.0.0.1"]);
    nodes.endpoints[0].node_hints = vec!["n1".into()];
    let plain = slice("p", "plain", &["10.0.0.1"]);
    let named = ["zones", "nodes", "plain"].map(|name| service(name, "10.96.0.2"));
    dirty(&mut index, named.iter().chain([&local]).map(set_service));
    dirty(&mut index, [&zones, &nodes, &plain].map(set_slice));

    let node = |name: &str| Event::Node(NodeInfo { name: name.into(), zone: Some("a".into()) });
    assert_eq!(dirty(&mut index, [node("n1")]), "local nodes zones");
    assert_eq!(dirty(&mut index, [node("n1")]), "");
    assert_eq!(index.node().name.as_ref(), "n1");
}

#[test]
fn problems_are_forgotten_with_the_service() {
    let mut index = new_index();
    let mut a = service("a", "10.96.0.1");
    a.problems = vec!["it is odd".to_owned()];
    let mut slice = slice("x", "a", &["10.0.0.1"]);
    slice.problems = vec!["so is this".to_owned()];
    dirty(&mut index, [set_service(&a), set_slice(&slice)]);
    let ports = index.resolve(&object("a"));
    assert_eq!(ports[0].problem.as_deref(), Some("it is odd; EndpointSlice x: so is this"));
    let found: Vec<_> = index.problems().map(|(name, problem)| format!("{name}: {problem}")).collect();
    assert_eq!(found, ["ns/a: it is odd", "ns/a: EndpointSlice x: so is this"]);
    dirty(&mut index, [Event::ServiceGone(object("a"))]);
    assert_eq!(index.problems().count(), 0);
}

/// A port shows why it has no backends; whether somebody should put that right can be told from the text alone.
#[test]
fn what_passes_or_is_meant_is_told_from_mistakes() {
    let mut index = new_index();
    let shown = |index: &mut Index, spec: &ServiceSpec| {
        index.apply(set_service(spec));
        let problem = index.resolve(&spec.name).remove(0).problem.unwrap();
        let mistakes = index.problems_of(&spec.name).len();
        assert_eq!(resolve::is_state(&problem), mistakes == 0, "{problem}");
        problem
    };
    let mut a = service("a", "10.96.0.1");
    let mut unready = slice("x", "a", &["10.0.0.1"]);
    unready.endpoints[0].conditions = Conditions { ready: false, serving: false, terminating: false };
    index.apply(set_slice(&unready));
    assert_eq!(shown(&mut index, &a), "no ready endpoints");
    index.apply(Event::Node(NodeInfo { name: "n1".into(), zone: None }));
    a.internal_traffic = InternalTraffic::Local;
    assert_eq!(shown(&mut index, &a), "no ready endpoints on this node (internalTrafficPolicy: Local)");
    a.problems = vec!["it is odd".to_owned()];
    assert!(shown(&mut index, &a).starts_with("no ready endpoints on this node"));
    let v6 = service("a", "fd00::1");
    assert_eq!(shown(&mut index, &v6), "no IPv6 endpoints, although there are IPv4 ones");
    let mut other = slice("x", "a", &["10.0.0.1"]);
    other.ports = vec![port("other", 8080)];
    index.apply(set_slice(&other));
    assert!(shown(&mut index, &service("a", "10.96.0.1")).contains("no EndpointSlice has"));
}

#[test]
fn the_text_of_a_port_is_bounded() {
    let mut index = new_index();
    let mut a = service("a", "10.96.0.1");
    a.problems = vec!["é".repeat(1_000)];
    dirty(&mut index, [set_service(&a)]);
    let problem = index.resolve(&object("a")).remove(0).problem.unwrap();
    assert_eq!(problem, "é".repeat(256));
}

/// The triggers of Service `a` after `events`.
fn triggers(index: &mut Index, events: impl IntoIterator<Item = Event>) -> Vec<i64> {
    events.into_iter().for_each(|event| index.apply(event));
    let dirty = index.take_dirty().into_iter().find(|dirty| dirty.service == object("a"));
    dirty.map_or_else(Vec::new, |dirty| dirty.triggers)
}

fn triggered(name: &str, addrs: &[&str], time: i64) -> Event {
    let mut spec = slice(name, "a", addrs);
    spec.triggered_ms = Some(time);
    set_slice(&spec)
}

#[test]
fn latency_counts_from_changes_of_slices_since_the_start() {
    let mut index = new_index();
    assert_eq!(triggers(&mut index, [set_service(&service("a", "10.96.0.1"))]), [0i64; 0]);
    // Before the process started.
    assert_eq!(triggers(&mut index, [triggered("x", &["10.0.0.1"], STARTED_MS)]), [0i64; 0]);
    // Two changes of one slice and one of another, out of order.
    let events = [
        triggered("x", &["10.0.0.2"], 3_000),
        triggered("y", &["10.0.0.3"], 2_000),
        triggered("x", &["10.0.0.4"], 4_000),
    ];
    assert_eq!(triggers(&mut index, events), [2_000, 3_000, 4_000]);
    // They are reported once.
    assert_eq!(triggers(&mut index, [set_slice(&slice("y", "a", &[]))]), [0i64; 0]);
}

#[test]
fn a_trigger_without_a_change_is_none() {
    let mut index = new_index();
    dirty(&mut index, [set_service(&service("a", "10.96.0.1"))]);
    assert_eq!(triggers(&mut index, [triggered("x", &["10.0.0.1"], 2_000)]), [2_000]);
    index.apply(triggered("x", &["10.0.0.1"], 3_000));
    assert!(!index.has_dirty());
}

#[test]
fn deletions_are_no_triggers() {
    let mut index = new_index();
    dirty(&mut index, [set_service(&service("a", "10.96.0.1"))]);
    let events = [
        triggered("x", &["10.0.0.1"], 2_000),
        triggered("y", &["10.0.0.2"], 2_500),
        Event::SliceGone(object("x")),
    ];
    assert_eq!(triggers(&mut index, events), [2_500]);
    assert_eq!(triggers(&mut index, [Event::AllSlices(vec![])]), [0i64; 0]);
}

#[test]
fn the_number_of_triggers_is_bounded() {
    let mut index = new_index();
    dirty(&mut index, [set_service(&service("a", "10.96.0.1"))]);
    let events = (0..1_000).map(|n| triggered("x", &[["10.0.0.1", "10.0.0.2"][n % 2]], 2_000 + n as i64));
    assert_eq!(triggers(&mut index, events), (2_000..2_064).collect::<Vec<_>>());
}
