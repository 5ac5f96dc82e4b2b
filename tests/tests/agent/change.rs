//! Services and endpoints change under an agent that runs.

use std::net::SocketAddr;

use balancer_common::abi::BackendState;
use balancer_tests::{
    manifests::Endpoint,
    peer::protocol::{Close, LoopPlan, Until},
};
use balancer_userspace::model::Protocol;

use crate::{
    set::{PORT, Set, vip4, vip6, wait_for, without_end},
    tables::{Tables, reach, settle},
};

const WEB: &str = "shop/web";

#[test]
fn scaling_fails_no_connect_and_keeps_what_stays() {
    let set = Set::new(4);
    let agent = set.agent_with(&["--close-removed", "false"]);
    let (long, short) = (set.client.client().unwrap(), set.client.client().unwrap());
    let before = settle(set.pins(), set.expect(WEB, 1, 0..4));
    assert_eq!(long.hold(8, vip4(1)).unwrap().failures.len(), 0);
    let gone = set.pods[3].v4(PORT);
    let row = before.backend(vip4(1), gone);

    // Over IPv6 nobody is connected: who is away for over a second has another id then.
    let connected = |tables: &Tables| {
        let mut ids = tables.ids();
        ids.retain(|(vip, _), _| *vip == vip4(1));
        ids
    };
    let running = short.start(without_end(vip4(1))).unwrap();
    for pods in [0..2, 0..3, 0..1, 0..3] {
        set.backends(WEB, pods.clone());
        let tables = reach(set.pins(), set.expect(WEB, 1, pods.clone()));
        for (place, id) in connected(&tables) {
            assert_eq!(before.ids().get(&place), Some(&id), "{pods:?}: {place:?}");
        }
    }
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");

    // The pod that went for good is there for as long as somebody is connected to it.
    let rows = Tables::read(set.pins()).rows(vip4(1), gone).to_vec();
    assert_eq!(
        rows.iter().map(|row| (row.id, row.state, row.stats.active)).collect::<Vec<_>>(),
        [(row.id, BackendState::Removed, 2)]
    );
    assert_eq!(long.ask_held().unwrap().pods.get("web-4"), Some(&2));
    let web = agent.stats_of(vip4(1)).unwrap();
    assert_eq!(web.backend(gone.ip()).unwrap().state, "removed");
    assert_eq!(web.active, 8);
    // It comes back while they are: the same backend, with its counts.
    set.backends(WEB, 0..4);
    let tables = reach(set.pins(), set.expect(WEB, 1, 0..4));
    assert_eq!(connected(&tables), connected(&before));
    assert_eq!(tables.backend(vip4(1), gone).stats.active, 2);
    set.backends(WEB, 0..3);
    reach(set.pins(), set.expect(WEB, 1, 0..3));
    long.release(8, Close::Graceful).unwrap();
    let after = settle(set.pins(), set.expect(WEB, 1, 0..3));
    assert_eq!(after.rows(vip4(1), gone).len(), 0);
    assert_eq!(after.total(|stats| stats.active), 0);
}

#[test]
fn to_zero_and_back() {
    let set = Set::new(2);
    let agent = set.agent();
    let client = set.client.client().unwrap();
    let before = settle(set.pins(), set.expect(WEB, 1, 0..2));
    for zero in ["no endpoints", "no slices"] {
        match zero {
            "no endpoints" => set.backends(WEB, 0..0),
            _ => set.manifests.remove_slices(WEB).unwrap(),
        }
        reach(set.pins(), set.expect(WEB, 1, 0..0));
        // Left alone: what answers then is kube-proxy's REJECT, here a route.
        let report = client.run(LoopPlan::tcp(vip4(1), Until::Count(10))).unwrap();
        assert_eq!(report.failures.get("connect EHOSTUNREACH"), Some(&10), "{zero}");
        set.backends(WEB, 0..2);
        let tables = reach(set.pins(), set.expect(WEB, 1, 0..2));
        assert_eq!(tables.served, before.served, "{zero}: the Service has another id");
        client.ask(vip4(1)).unwrap();
        client.ask(vip6(1)).unwrap();
    }
    let web = agent.stats_of(vip4(1)).unwrap();
    assert_eq!(web.pass_throughs.get("no-backends"), Some(&20));
}

#[test]
fn a_service_moves_to_another_address() {
    let set = Set::new(2);
    let _agent = set.agent();
    let client = set.client.client().unwrap();
    let before = settle(set.pins(), set.expect(WEB, 1, 0..2));
    assert_eq!(client.hold(4, vip4(1)).unwrap().failures.len(), 0);
    set.service(WEB, 2);
    let tables = settle(set.pins(), set.expect(WEB, 2, 0..2));
    assert_eq!(tables.served[&vip4(2)], before.served[&vip4(1)]);
    assert_eq!(tables.total(|stats| stats.active), 4, "those that are open are still counted");
    client.ask(vip4(2)).unwrap();
    client.ask(vip6(2)).unwrap();
    assert!(client.ask(vip4(1)).is_err(), "the old address still leads somewhere");
    client.release(4, Close::Reset).unwrap();
    wait_for("they are counted down", || Tables::read(set.pins()).total(|stats| stats.active) == 0);
}

#[test]
fn a_service_goes_while_connections_are_open() {
    let set = Set::new(2);
    let agent = set.agent();
    let client = set.client.client().unwrap();
    let before = settle(set.pins(), set.expect(WEB, 1, 0..2));
    assert_eq!(client.hold(6, vip4(1)).unwrap().failures.len(), 0);
    set.manifests.remove_service(WEB).unwrap();
    reach(set.pins(), []);
    assert!(client.ask(vip4(1)).is_err(), "it still leads somewhere");

    // Connections live on, are counted and shown, with the name of what is gone.
    let asked = client.ask_held().unwrap();
    assert_eq!((asked.broken, asked.pods.values().sum::<u64>()), (0, 6));
    let listed = agent.json(["connections", "-A"]).unwrap();
    let listed = listed["items"].as_array().unwrap();
    assert_eq!(listed.len(), 6);
    assert!(
        listed.iter().all(|it| it["service"]["name"] == "web" && it["backendRemoved"] == true),
        "{listed:#?}"
    );
    let states: Vec<_> = Tables::read(set.pins()).backends.values().flatten().map(|row| row.state).collect();
    // Its pods may be well: nobody closes these connections.
    assert!(states.iter().all(|state| *state == BackendState::Unused), "{states:?}");

    // It comes back meanwhile: the same Service, with the same counts.
    set.service(WEB, 1);
    let back = reach(set.pins(), set.expect(WEB, 1, 0..2));
    assert_eq!(back.ids()[&(vip4(1), None)], before.ids()[&(vip4(1), None)]);
    assert_eq!(back.total(|stats| stats.active), 6);
    client.ask(vip4(1)).unwrap();

    set.manifests.remove_service(WEB).unwrap();
    set.manifests.remove_slices(WEB).unwrap();
    reach(set.pins(), []);
    client.release(6, Close::Graceful).unwrap();
    let after = settle(set.pins(), []);
    assert_eq!((after.slots, after.backends.len()), (0, 0));
    // And once more, with other ids or the same: it starts from nothing.
    set.service(WEB, 1);
    set.backends(WEB, 0..2);
    let again = settle(set.pins(), set.expect(WEB, 1, 0..2));
    assert_eq!(again.total(|stats| stats.opened), 0);
    client.ask(vip4(1)).unwrap();
}

#[test]
fn another_pod_gets_the_address() {
    let set = Set::new(2);
    let _agent = set.agent();
    let client = set.client.client().unwrap();
    let before = settle(set.pins(), set.expect(WEB, 1, 0..2));
    assert_eq!(client.hold(4, vip4(1)).unwrap().failures.len(), 0);
    let addr = set.pods[0].v4(PORT);
    let old = before.backend(vip4(1), addr);
    let write = |pod: &str| {
        let slice = set.manifests.slice(WEB).port("", Protocol::Tcp, PORT);
        let slice = slice.endpoint(Endpoint::ready(addr.ip()).pod(pod));
        slice
            .pod(&set.pods[1])
            .endpoint(Endpoint::ready(set.pods[0].addresses().v6).pod(pod))
            .write()
            .unwrap();
    };
    write("web-1-again");
    wait_for("the address has another backend", || {
        Tables::read(set.pins()).rows(vip4(1), addr).iter().any(|row| row.id != old.id)
    });
    let tables = reach(set.pins(), set.expect(WEB, 1, 0..2));
    let new = tables.backend(vip4(1), addr);
    assert_eq!((new.stats.opened, new.stats.active), (0, 0), "it inherited what was counted");
    let rows = tables.rows(vip4(1), addr);
    let gone = rows.iter().find(|row| row.id == old.id).unwrap();
    assert_eq!((gone.state, gone.stats.active), (BackendState::Removed, 2));
    // Least connections: the new one has none.
    for _ in 0..2 {
        let socket = client.connect(vip4(1)).unwrap();
        assert_eq!(socket.ask().unwrap().local, addr);
        std::mem::forget(socket);
    }
    client.release(4, Close::Graceful).unwrap();
    wait_for("the old one is gone", || Tables::read(set.pins()).rows(vip4(1), addr).len() == 1);
}

#[test]
fn two_services_swap_addresses() {
    let set = Set::bare(4);
    set.service("shop/one", 1);
    set.service("shop/two", 2);
    set.backends("shop/one", 0..2);
    set.backends("shop/two", 2..4);
    let _agent = set.agent();
    let client = set.client.client().unwrap();
    let expect = |one: u16, two: u16| {
        set.expect("shop/one", one, 0..2).into_iter().chain(set.expect("shop/two", two, 2..4))
    };
    let before = settle(set.pins(), expect(1, 2));
    let who = |vip: SocketAddr| client.ask(vip).unwrap().pod;
    for (one, two) in [(2, 1), (1, 2), (2, 1)] {
        set.service("shop/one", one);
        set.service("shop/two", two);
        let tables = settle(set.pins(), expect(one, two));
        assert_eq!(tables.served[&vip4(one)], before.served[&vip4(1)], "a Service keeps its id");
        for (vip, pods) in [(one, ["web-1", "web-2"]), (two, ["web-3", "web-4"])] {
            for vip in [vip4(vip), vip6(vip)] {
                assert!(pods.contains(&who(vip).as_str()), "{vip} leads to another Service");
            }
        }
    }
}
