//! All scenarios that are run with sockets.

use super::{
    outcome::Arm,
    process::{Protocol, Reconnect, Work},
    script::{Change, Scenario, Step, Surge, rolling},
};

/// What a Service says for its connections to be moved soon: nothing here but pools that come back.
const MOVED: &[(&str, &str)] =
    &[("rebalance", "idle"), ("rebalance-trust", "immediate"), ("rebalance-quiet", "500ms")];

/// The same where transactions pause for up to four seconds: longer than any of their pauses.
const PATIENT: &[(&str, &str)] =
    &[("rebalance", "idle"), ("rebalance-trust", "immediate"), ("rebalance-quiet", "6s")];

/// Pauses of a pool that is in use, in milliseconds.
const IN_USE: (u64, u64) = (1_000, 3_000);

/// How long a pod terminates, in seconds: half of Kubernetes' default. A process loses a quarter of what it holds in five seconds
/// at most, and may hold half of it to one pod.
const GRACE: u32 = 15;

/// A node of IPVS has virtual servers of its own, and all nodes of the stage share one network namespace.
const ONE_TABLE: [(Arm, &str); 4] = {
    let why = "both nodes of the stage would have one table of virtual servers; `two-nodes` simulates what two have";
    [(Arm::IpvsRr, why), (Arm::IpvsLc, why), (Arm::IpvsSed, why), (Arm::IpvsSh, why)]
};

fn pool(connections: u32) -> Work {
    Work::Pool { connections, pause_ms: IN_USE, reconnect: Reconnect::WhenNeeded }
}

fn at(at: u32, change: Change) -> Step {
    Step { at, change }
}

fn endpoints(ready: std::ops::Range<usize>, terminating: std::ops::Range<usize>) -> Change {
    Change::Endpoints { ready: ready.collect(), terminating: terminating.collect() }
}

/// What most have in common.
fn scenario(name: &'static str, title: &'static str, story: &'static str) -> Scenario {
    Scenario {
        name,
        title,
        story,
        change: None,
        protocol: Protocol::Http1,
        servers: 0,
        delay_ms: 20,
        slow: None,
        clients: Vec::new(),
        ready: Vec::new(),
        steps: Vec::new(),
        seconds: 6,
        at_once: 30,
        annotations: MOVED,
        without: &[],
    }
}

/// Connections are opened, and stay.
fn opened(
    name: &'static str,
    title: &'static str,
    story: &'static str,
    servers: usize,
    clients: Vec<(usize, Work)>,
) -> Scenario {
    Scenario { servers, clients, ready: (0..servers).collect(), ..scenario(name, title, story) }
}

/// All of them, in the order of the documentation.
pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(connects());
    all.extend(changes());
    all.extend(failures());
    all.extend(limits());
    all
}

fn connects() -> [Scenario; 4] {
    [
        opened(
            "pool",
            "One client with a pool of 12 connections to 3 servers",
            "Whoever chooses at random for each connection leaves one server with six of twelve as often as not. The best is 4, 4, 4.",
            3,
            vec![(0, pool(12))],
        ),
        opened(
            "five-to-two",
            "Five clients with one connection each to 2 servers",
            "The best is 3 to 2. At random it is 4 to 1 or 5 to 0 in three of eight cases.",
            2,
            vec![(0, pool(1)); 5],
        ),
        opened(
            "two-to-five",
            "Two clients with one connection each to 5 servers, on one node",
            "At random both take the same server in one of five cases.",
            5,
            vec![(0, pool(1)); 2],
        ),
        Scenario {
            at_once: 6,
            without: &ONE_TABLE,
            ..opened(
                "two-to-five-nodes",
                "Two clients with one connection each to 5 servers, on two nodes",
                "Nobody sees both connections. Nodes of balancer that are numbered begin at different servers, so that they do not meet all \
                 the same; the nodes' numbers change from six runs to the next.",
                5,
                vec![(0, pool(1)), (1, pool(1))],
            )
        },
    ]
}

fn changes() -> Vec<Scenario> {
    let mut all = vec![
        Scenario {
            servers: 6,
            clients: vec![(0, pool(20)); 3],
            ready: (0..3).collect(),
            steps: vec![at(8, endpoints(0..6, 0..0)), at(8, Change::Mark)],
            change: Some("3 -> 6 servers"),
            seconds: 138,
            at_once: 15,
            ..scenario(
                "scale-up",
                "3 servers become 6 under 60 open connections",
                "Who chooses at connects alone gives the new servers nothing, because nobody connects: max/mean goes from 1.0 to 2.0 and stays \
                 there, however well the connections were spread before.",
            )
        },
        Scenario {
            servers: 6,
            clients: vec![(0, pool(20)); 3],
            ready: (0..6).collect(),
            steps: vec![
                at(8, Change::Mark),
                at(8, endpoints(0..3, 3..6)),
                at(8 + GRACE, Change::End(3)),
                at(8 + GRACE, Change::End(4)),
                at(8 + GRACE, Change::End(5)),
                at(8 + GRACE, endpoints(0..3, 0..0)),
            ],
            change: Some("6 -> 3 servers"),
            seconds: 52,
            at_once: 15,
            ..scenario(
                "scale-down",
                "6 servers become 3 under 60 open connections",
                "Three pods terminate for fifteen seconds, then end as well-made servers do: they finish what is under way and close what is idle. A \
                 request that is sent at that moment is lost, unless its connection has gone elsewhere before.",
            )
        },
    ];
    for (count, name, title) in [
        (
            3,
            ["roll-3", "roll-3-surge"],
            ["A rolling restart of 3, none at a time more", "A rolling restart of 3, one at a time more"],
        ),
        (
            6,
            ["roll-6", "roll-6-surge"],
            ["A rolling restart of 6, none at a time more", "A rolling restart of 6, one at a time more"],
        ),
    ] {
        for (index, surge) in [Surge::None, Surge::One].into_iter().enumerate() {
            let (steps, over) = rolling(count, surge, 5, GRACE);
            all.push(Scenario {
                servers: 2 * count,
                clients: vec![(0, pool(10 * count as u32 / 3)); 3],
                ready: (0..count).collect(),
                steps,
                change: Some("the last pod has come"),
                seconds: over + 90,
                at_once: 15,
                ..scenario(
                    name[index],
                    title[index],
                    "One pod after the other terminates for fifteen seconds and ends; another takes its place. Whoever came up first is left with \
                     most of the connections, and the last with none.",
                )
            });
        }
    }
    all
}

fn failures() -> [Scenario; 3] {
    let short = || vec![(0, Work::Short { per_second: 25 }); 2];
    let base = |name, title, story| Scenario {
        servers: 5,
        clients: short(),
        ready: (0..5).collect(),
        seconds: 24,
        at_once: 6,
        ..scenario(name, title, story)
    };
    [
        Scenario {
            steps: vec![at(3, Change::Refuse(4)), at(3, Change::Mark)],
            ..base(
                "refuses",
                "One of 5 servers refuses connections; 50 connects a second",
                "Its endpoint stays ready, as it does until a probe has failed often enough. At random one connect in five fails.",
            )
        },
        Scenario {
            steps: vec![at(3, Change::Unplug(4)), at(3, Change::Mark)],
            ..base(
                "blackholed",
                "One of 5 servers swallows packets; 50 connects a second",
                "As when its node is gone. Each connect that meets it waits for its time-out, here one second.",
            )
        },
        Scenario {
            slow: Some((4, 400)),
            steps: vec![at(3, Change::Mark)],
            ..base(
                "slow",
                "One of 5 servers takes 400 ms for a request, the others 20; 50 requests a second",
                "Each request has a connection of its own. Whoever counts open connections gives the slow one fewer.",
            )
        },
    ]
}

fn limits() -> [Scenario; 3] {
    let busy = Work::Pool { connections: 6, pause_ms: (100, 300), reconnect: Reconnect::WhenNeeded };
    let idle = Work::Pool { connections: 6, pause_ms: (7_000, 12_000), reconnect: Reconnect::WhenNeeded };
    let transactions = Work::Transactions { connections: 6, pause_ms: (500, 4_000) };
    let pools = [vec![busy; 2], vec![idle; 4], vec![transactions; 4]].concat();
    [
        Scenario {
            servers: 4,
            delay_ms: 5,
            clients: pools.into_iter().map(|work| (0, work)).collect(),
            ready: (0..3).collect(),
            steps: vec![at(8, endpoints(0..4, 0..0)), at(8, Change::Mark)],
            change: Some("3 -> 4 replicas"),
            seconds: 128,
            at_once: 15,
            annotations: PATIENT,
            ..scenario(
                "databases",
                "3 database replicas become 4 under 10 pools: 2 busy, 4 in use now and then, 4 idle in transactions",
                "A connection that is idle in a transaction looks idle. What tells them apart is time alone: servers end transactions that pause \
                 for too long (idle_in_transaction_session_timeout), and the quiet time is set above that, here 6 s above 4 s. No transaction may \
                 be lost. What is in use all the time stays where it is; pools that are quiet for longer are moved.",
            )
        },
        Scenario {
            servers: 4,
            clients: vec![(0, Work::Pool { connections: 20, pause_ms: IN_USE, reconnect: Reconnect::Never })],
            ready: (0..2).collect(),
            steps: vec![at(8, endpoints(0..4, 0..0)), at(8, Change::Mark)],
            change: Some("2 -> 4 servers"),
            seconds: 80,
            at_once: 30,
            ..scenario(
                "never-reconnects",
                "2 servers become 4 under a client that does not reconnect",
                "A client that does with fewer connections gains nothing by being moved. balancer notices that they do not come back, and stops.",
            )
        },
        Scenario {
            protocol: Protocol::Http2,
            servers: 3,
            clients: vec![(0, Work::Multiplexed { streams: 30, pause_ms: (200, 600) })],
            ready: (0..3).collect(),
            seconds: 12,
            ..scenario(
                "multiplexed",
                "To be lost: one HTTP/2 connection that carries 30 streams, to 3 servers",
                "All requests go where the connection goes, and no choice at connects makes that three. balancer is no better here than anybody \
                 else. What helps is somebody who knows where a request ends: gRPC's own round_robin over a headless Service (the arm `direct`: \
                 one connection to each server, requests in turn), xDS, or a proxy that speaks the protocol.",
            )
        },
    ]
}

/// An arm that a name on the command line means.
pub fn arm(name: &str) -> Option<Arm> {
    serde_json::from_value(serde_json::Value::from(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_server_that_is_mentioned_exists() {
        let all = all();
        for (index, scenario) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other.name != scenario.name), "{}", scenario.name);
            let ready = scenario.ready.iter().chain(scenario.ready_at_last());
            let mut servers: Vec<usize> = ready.copied().collect();
            for step in &scenario.steps {
                assert!(step.at < scenario.seconds, "{}: {step:?}", scenario.name);
                match &step.change {
                    Change::Endpoints { ready, terminating } => {
                        servers.extend(ready.iter().chain(terminating));
                    }
                    Change::End(server) | Change::Refuse(server) | Change::Unplug(server) => {
                        servers.push(*server)
                    }
                    Change::Mark => {}
                }
            }
            assert!(servers.iter().all(|server| *server < scenario.servers), "{}", scenario.name);
            assert!(scenario.steps.is_sorted_by_key(|step| step.at), "{}", scenario.name);
        }
    }

    #[test]
    fn scaling_is_under_sixty_connections() {
        let sixty = ["scale-up", "scale-down", "databases"];
        for scenario in all().iter().filter(|scenario| sixty.contains(&scenario.name)) {
            assert_eq!(scenario.connections(), 60, "{}", scenario.name);
        }
    }

    #[test]
    fn arms_have_the_names_of_the_report() {
        assert_eq!(arm("ipvs-lc"), Some(Arm::IpvsLc));
        assert_eq!(arm("connect-only"), Some(Arm::ConnectOnly));
        assert_eq!(arm("envoy"), None);
    }
}
