//! What connections meet: not kube-proxy's rules, and everything else as without a lane.

use std::net::{IpAddr, SocketAddr};

use balancer_tests::{peer::Server, peer::ServerOptions, topology::NODE};
use balancer_userspace::model::Family;

use super::rules::{FAMILIES, Tool, endpoints, portals, run, wait_for_lane, wait_for_pods, walked};
use crate::set::{PORT, Set, vip4, vip6, wait_for};

/// A port that pods listen on, and that no Service has.
const OTHER: u16 = 9090;

/// A set with a lane beside the rules of a tool, and servers on [`OTHER`] that it does not know.
fn beside(tool: Tool) -> (Set, Vec<Server>) {
    let set = Set::new(2);
    portals(&set.node, tool);
    let others = set.pods.iter().map(|pod| pod.server(OTHER).unwrap()).collect();
    (set, others)
}

fn address(set: &Set, family: Family, pod: usize, port: u16) -> SocketAddr {
    match family {
        Family::V4 => set.pods[pod].v4(port),
        Family::V6 => set.pods[pod].v6(port),
    }
}

#[test]
fn connects_pass_by_the_rules_of_services() {
    for tool in Tool::BOTH {
        let (set, _others) = beside(tool);
        let _agent = set.agent_with(&["--express-lane"]);
        wait_for_pods(&set, &set.pods.iter().collect::<Vec<_>>(), PORT);
        let (pod, host) = (set.client.client().unwrap(), set.node.host().client().unwrap());
        for family in FAMILIES {
            let vip = if family == Family::V4 { vip4(1) } else { vip6(1) };
            let direct = address(&set, family, 0, PORT);
            for (client, chain) in [(&pod, "PREROUTING"), (&host, "OUTPUT")] {
                let before = walked(&set.node, tool, family, chain);
                for to in [vip, direct, vip, direct] {
                    client.ask(to).unwrap();
                }
                let walks = walked(&set.node, tool, family, chain) - before;
                assert_eq!(walks, 0, "{tool:?} {family} {chain}");
                // The control: what the lane does not know walks.
                client.ask(address(&set, family, 0, OTHER)).unwrap();
                let walks = walked(&set.node, tool, family, chain) - before;
                assert_eq!(walks, 1, "{tool:?} {family} {chain}");
            }
        }
    }
}

#[test]
fn policies_hold() {
    for tool in Tool::BOTH {
        let (set, _others) = beside(tool);
        let _agent = set.agent_with(&["--express-lane"]);
        wait_for_pods(&set, &set.pods.iter().collect::<Vec<_>>(), PORT);
        let client = set.client.client().unwrap();
        for family in FAMILIES {
            let to = address(&set, family, 0, PORT);
            client.ask(to).unwrap();
            let name = tool.name(family);
            run(
                &set.node,
                &format!("{name} -w -A FORWARD -d {} -p tcp -j REJECT --reject-with tcp-reset", to.ip()),
            );
            assert!(client.ask(to).is_err(), "{tool:?} {family}: a policy was passed by");
            client.ask(address(&set, family, 1, PORT)).unwrap();
        }
    }
}

/// The two tuples of the entries of connections to a port, without what differs from one connection to the next.
fn entries(set: &Set, port: u16) -> Vec<String> {
    let text = set
        .node
        .host()
        .netns()
        .run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"))
        .unwrap()
        .unwrap();
    let of = text.lines().filter(|line| line.contains(&format!("dport={port} ")));
    let plain = |word: &str| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "sport" | "dport" if value == port.to_string() => format!("{name}=server"),
            "sport" | "dport" => format!("{name}=client"),
            "use" | "timeout" => String::new(),
            _ => word.to_owned(),
        }
    };
    // Family, protocol and their numbers, then a time-out.
    of.map(|line| {
        let words: Vec<String> = line
            .split_whitespace()
            .enumerate()
            .filter(|(index, _)| *index != 4)
            .map(|(_, word)| plain(word))
            .collect();
        words.join(" ")
    })
    .collect()
}

#[test]
fn connection_tracking_sees_plain_connections() {
    for tool in Tool::BOTH {
        let (set, _others) = beside(tool);
        // Counts every connection that was given another address, as rules of kube-proxy do.
        for family in ["ip", "ip6"] {
            let table = format!("{family} witness");
            run(&set.node, &format!("nft add table {table}"));
            run(
                &set.node,
                &format!("nft add chain {table} post {{ type filter hook postrouting priority 300 ; }}"),
            );
            run(&set.node, &format!("nft add rule {table} post ct status dnat counter"));
            run(&set.node, &format!("nft add rule {table} post ct status snat counter"));
        }
        let _agent = set.agent_with(&["--express-lane"]);
        wait_for_pods(&set, &set.pods.iter().collect::<Vec<_>>(), PORT);
        let client = set.client.client().unwrap();
        let host = set.node.host().client().unwrap();
        for family in FAMILIES {
            for port in [PORT, OTHER] {
                client.ask(address(&set, family, 0, port)).unwrap();
                host.ask(address(&set, family, 0, port)).unwrap();
            }
        }
        // Their states follow with the last packets.
        let sorted = |port: u16| {
            let mut entries = entries(&set, port);
            entries.sort_unstable();
            entries
        };
        assert_eq!((sorted(PORT).len(), sorted(OTHER).len()), (4, 4), "{tool:?}");
        wait_for("entries are alike", || sorted(PORT) == sorted(OTHER));
        let counted = |family: &str| run(&set.node, &format!("nft list table {family} witness"));
        for family in ["ip", "ip6"] {
            let text = counted(family);
            assert_eq!(text.matches("counter packets 0 ").count(), 2, "{tool:?}: {text}");
        }
        // The control: the witness sees an address that is rewritten.
        let to = set.pods[1].v4(PORT);
        run(&set.node, "nft add chain ip witness pre { type nat hook prerouting priority -150 ; }");
        run(
            &set.node,
            &format!("nft add rule ip witness pre ip daddr 10.244.0.77 tcp dport 80 dnat to {to}"),
        );
        client.ask("10.244.0.77:80".parse().unwrap()).unwrap();
        assert_eq!(counted("ip").matches("counter packets 0 ").count(), 1, "{}", counted("ip"));
    }
}

#[test]
fn masquerading_is_what_it_was() {
    for tool in Tool::BOTH {
        let (set, _others) = beside(tool);
        let _agent = set.agent_with(&["--express-lane"]);
        wait_for_pods(&set, &set.pods.iter().collect::<Vec<_>>(), PORT);
        let client = set.client.client().unwrap();
        for family in FAMILIES {
            let (own, node): (IpAddr, IpAddr) = match family {
                Family::V4 => (set.client.v4(0).ip(), NODE.v4.into()),
                Family::V6 => (set.client.v6(0).ip(), NODE.v6.into()),
            };
            for port in [PORT, OTHER] {
                assert_eq!(client.ask(address(&set, family, 0, port)).unwrap().peer.ip(), own, "{tool:?}");
            }
            let name = tool.name(family);
            run(&set.node, &format!("{name} -w -t nat -A POSTROUTING -s {own} -j MASQUERADE"));
            for port in [PORT, OTHER] {
                let seen = client.ask(address(&set, family, 0, port)).unwrap().peer.ip();
                assert_eq!(seen, node, "{tool:?} {family} {port}");
            }
        }
    }
}

/// A backend in the host's network has the node's own address, and there kube-proxy and CNI plugins answer on ports
/// that nobody listens on: NodePorts and hostPorts. The worst case is one of the same number.
#[test]
fn ports_of_the_node_are_left_to_their_rules() {
    for tool in Tool::BOTH {
        let (set, _others) = beside(tool);
        let node_port = 30_080;
        let host_addr = set.node.host().v4(node_port);
        let options = ServerOptions { tcp: vec![host_addr], ..ServerOptions::default() };
        let _listener = Server::start(set.node.host(), &options).unwrap();
        set.service("shop/host", 7);
        set.manifests.addresses("shop/host", node_port, [host_addr.ip()]).unwrap();
        let to = set.pods[1].v4(PORT);
        let name = tool.name(Family::V4);
        run(&set.node, &format!("{name} -w -t nat -N KUBE-NODEPORTS"));
        run(
            &set.node,
            &format!("{name} -w -t nat -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"),
        );
        run(
            &set.node,
            &format!(
                "{name} -w -t nat -A KUBE-NODEPORTS -p tcp --dport {node_port} -j DNAT --to-destination {to}"
            ),
        );
        let _agent = set.agent_with(&["--express-lane"]);
        let expect = endpoints([set.pods[0].v4(PORT), set.pods[1].v4(PORT), host_addr]);
        wait_for_lane(&set, Family::V4, &expect);
        for client in [set.client.client().unwrap(), set.node.host().client().unwrap()] {
            let answer = client.ask(host_addr).unwrap();
            assert_eq!(answer.pod, set.pods[1].name(), "{tool:?}");
        }
        // Without that rule it is the listener's.
        run(&set.node, &format!("{name} -w -t nat -F KUBE-NODEPORTS"));
        let answer = set.client.client().unwrap().ask(host_addr).unwrap();
        assert_eq!(answer.pod, set.node.host().name(), "{tool:?}");
    }
}
