//! What the lane holds: backends in use, and nothing else, whatever happens to it.

use balancer_tests::{manifests::Endpoint, topology::service_v4};
use balancer_userspace::{
    lane,
    model::{Family, Protocol},
};

use super::rules::{Tool, check, endpoints, found, portals, run, wait_for_lane, wait_for_pods};
use crate::set::{PORT, Set, wait_for};

/// With a short lease: beside iptables over nf_tables changes are gathered for a part of it.
const LANE: [&str; 3] = ["--express-lane", "--lease", "4s"];

fn table(set: &Set) -> String {
    lane::table_name(set.pins()).unwrap()
}

#[test]
fn it_follows_the_endpoints() {
    let set = Set::new(3);
    portals(&set.node, Tool::Nft);
    set.backends("shop/web", 0..1);
    let mut agent = set.agent_with(&LANE);
    let expect = |pods: &[usize]| {
        wait_for_pods(&set, &pods.iter().map(|pod| &set.pods[*pod]).collect::<Vec<_>>(), PORT);
    };
    expect(&[0]);
    set.backends("shop/web", 0..3);
    expect(&[0, 1, 2]);
    // Another Service has one of them too; it goes with the last.
    set.service("shop/api", 2);
    set.backends("shop/api", 2..3);
    set.backends("shop/web", 0..2);
    expect(&[0, 1, 2]);
    set.manifests.remove_service("shop/api").unwrap();
    expect(&[0, 1]);
    // One that is left alone has no backends in the tables.
    let ips = [service_v4(1).into()];
    set.manifests
        .service("shop/web")
        .cluster_ips(ips)
        .port(80)
        .annotation("balancer.dev/enabled", "false")
        .write()
        .unwrap();
    expect(&[]);
    // What changed while nobody looked is taken in.
    set.service("shop/web", 1);
    expect(&[0, 1]);
    agent.kill().unwrap();
    set.backends("shop/web", 2..3);
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    expect(&[2]);
    assert!(!agent.log().contains("put back"), "{}", agent.log());
}

#[test]
fn no_address_of_a_service_is_in_it() {
    let set = Set::new(3);
    portals(&set.node, Tool::Nft);
    // Addresses of pods that a Service has too: as its own, as an external one, as a load balancer's.
    let all = |service: &str, addresses: &[std::net::IpAddr]| {
        set.manifests.addresses(service, PORT, addresses.iter().copied()).unwrap();
    };
    let pods: Vec<_> = set.pods.iter().map(|pod| pod.v4(PORT)).collect();
    let ips: Vec<_> = pods.iter().map(|addr| addr.ip()).collect();
    set.service("shop/web", 1);
    all("shop/web", &ips);
    let _agent = set.agent_with(&LANE);
    wait_for_lane(&set, Family::V4, &endpoints(pods.iter().copied()));

    set.manifests.service("shop/own").cluster_ip(ips[0]).port(80).write().unwrap();
    wait_for_lane(&set, Family::V4, &endpoints(pods[1..].iter().copied()));
    let external = format!("[\"{}\"]", ips[1]);
    let other = || set.manifests.service("shop/other").cluster_ip(service_v4(9)).port(80);
    // Whether it is balanced makes no difference.
    other()
        .spec("externalIPs", &external)
        .label("service.kubernetes.io/service-proxy-name", "x")
        .write()
        .unwrap();
    wait_for_lane(&set, Family::V4, &endpoints(pods[2..].iter().copied()));
    other().write().unwrap();
    wait_for_lane(&set, Family::V4, &endpoints(pods[1..].iter().copied()));
    set.manifests.remove_service("shop/own").unwrap();
    wait_for_lane(&set, Family::V4, &endpoints(pods));
}

#[test]
fn ranges_confine_it() {
    let set = Set::new(3);
    portals(&set.node, Tool::Nft);
    let one = set.pods[1].v4(PORT);
    let range = format!("{}/32", one.ip());
    let agent = set.agent_with(&["--express-lane", "--lease", "4s", "--express-lane-cidr", &range]);
    wait_for_lane(&set, Family::V4, &endpoints([one]));
    wait_for_lane(&set, Family::V6, &endpoints([]));
    wait_for("the agent says so", || check(&agent).1.contains("IPv4: 1 endpoints"));
    assert_eq!(check(&agent).0, "ok", "{:?}", check(&agent));
}

#[test]
fn protocols_are_told_apart() {
    let set = Set::new(1);
    portals(&set.node, Tool::Nft);
    let pod = &set.pods[0];
    let service = set.manifests.service("shop/dns").cluster_ip(service_v4(3));
    service.named_port("dns", Protocol::Udp, 53).write().unwrap();
    let slice = set.manifests.slice("shop/dns").port("dns", Protocol::Udp, 5353);
    slice.endpoint(Endpoint::ready(pod.addresses().v4)).write().unwrap();
    let _agent = set.agent_with(&LANE);
    let udp = lane::Endpoint { addr: pod.addresses().v4.into(), protocol: Protocol::Udp, port: 5353 };
    let expect = endpoints([pod.v4(PORT)]).into_iter().chain([udp]).collect();
    wait_for_lane(&set, Family::V4, &expect);
}

#[test]
fn whatever_others_do_to_it_is_put_right() {
    let set = Set::new(3);
    portals(&set.node, Tool::Legacy);
    let agent = set.agent_with(&LANE);
    let all: Vec<_> = set.pods.iter().collect();
    wait_for_pods(&set, &all, PORT);
    let name = table(&set);
    run(&set.node, "nft flush ruleset");
    wait_for_pods(&set, &all, PORT);
    run(&set.node, &format!("nft flush chain ip {name} output"));
    wait_for_pods(&set, &all, PORT);
    run(&set.node, &format!("nft delete table ip6 {name}"));
    wait_for_pods(&set, &all, PORT);
    run(&set.node, &format!("nft add rule ip {name} prerouting accept"));
    wait_for_pods(&set, &all, PORT);
    assert!(agent.log().contains("was taken away or changed by somebody else"), "{}", agent.log());
    wait_for("repairs are counted", || {
        let metrics = agent.http("/metrics").unwrap().1;
        let name = "balancer_express_lane_repairs_total ";
        let repairs = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        repairs.parse::<u32>().unwrap() >= 5
    });

    // An endpoint that is taken away is noticed once it is to go: what remains is compared.
    let addr = set.pods[2].addresses().v4;
    run(&set.node, &format!("nft delete element ip {name} endpoints {{ {addr} . tcp . {PORT} }}"));
    run(&set.node, &format!("nft add element ip {name} endpoints {{ 192.0.2.1 . tcp . 80 }}"));
    wait_for("it is told of", || check(&agent).1.contains("are no backends"));
    set.backends("shop/web", 0..2);
    wait_for_pods(&set, &all[..2], PORT);
}

#[test]
fn nft_shows_what_it_is() {
    let set = Set::new(1);
    portals(&set.node, Tool::Nft);
    let _agent = set.agent_with(&LANE);
    wait_for_pods(&set, &[&set.pods[0]], PORT);
    let name = table(&set);
    for (family, address) in
        [("ip", set.pods[0].addresses().v4.to_string()), ("ip6", set.pods[0].addresses().v6.to_string())]
    {
        let text = run(&set.node, &format!("nft list table {family} {name}"));
        for part in [
            &format!("{address} . tcp . {PORT}"),
            &format!(
                "meta l4proto @alive {family} daddr . meta l4proto . th dport @endpoints fib daddr type != local dnat to {family} daddr"
            ),
            "comment \"balancer express lane",
            "expires",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.matches("dstnat - 1").count() + text.matches("priority -101").count() == 2, "{text}");
    }
    assert!(found(&set, Family::V4).is_some());
}
