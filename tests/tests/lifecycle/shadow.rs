//! The record of what moving would have done: it tells a server that is quick, or ends what is idle, from one whose silence is
//! work, and from one that speaks unasked.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use balancer_tests::{
    agent::{Agent, AgentOptions},
    kernel::require_kernel,
    manifests::ManifestDir,
    topology::{Pod, Process, Topology, service_v4},
};
use serde_json::Value;

use crate::{PORT, eventually};

/// Connections to each server.
const CONNECTIONS: u64 = 10;

/// What its Service is told, in milliseconds.
const QUIET_MS: f64 = 500.0;

/// Starts `shadow.py`.
fn python(pod: &Pod, arguments: &[&str]) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", include_str!("shadow.py")]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    pod.spawn(command).unwrap()
}

/// What is on record of a Service.
fn record(agent: &Agent<'_>, service: &str) -> Value {
    let status = agent.json(["rebalance", "status", service]).unwrap();
    status["items"][0]["lifecycle"].clone()
}

#[test]
fn silence_that_is_work_is_told_from_silence_that_is_idleness() {
    require_kernel();
    let node = Topology::new().unwrap();
    let manifests = ManifestDir::new().unwrap();
    let client = node.pod("client").unwrap();
    let kinds = ["quick", "closing", "slow", "pushing"];
    let pods = node.pods("server", kinds.len()).unwrap();
    let addresses = [1, 2, 3, 4].map(|number| SocketAddr::new(service_v4(number).into(), 80));
    let mut processes = Vec::new();
    for ((kind, pod), vip) in kinds.iter().zip(&pods).zip(addresses) {
        processes.push(python(pod, &["serve", &PORT.to_string(), kind]));
        let service = manifests.service(kind).cluster_ip(vip.ip()).port(vip.port());
        service
            .annotation("balancer.dev/rebalance", "dry-run")
            .annotation("balancer.dev/rebalance-quiet", &format!("{QUIET_MS}ms"))
            .annotation("balancer.dev/rebalance-min-age", "0s")
            .write()
            .unwrap();
        manifests.backends(kind, PORT, std::slice::from_ref(pod)).unwrap();
    }
    let probe = client.client().unwrap();
    for pod in &pods {
        eventually("a server listens", Duration::from_secs(10), || probe.connect(pod.v4(PORT)).is_ok());
    }
    let agent = Agent::with(&node, &manifests, AgentOptions::default()).unwrap();
    for vip in addresses {
        let (address, port) = (vip.ip().to_string(), vip.port().to_string());
        processes.push(python(&client, &["ask", &address, &port, &CONNECTIONS.to_string()]));
    }

    let count = |record: &Value, what: &str| record[what].as_u64().unwrap();
    let patience = Duration::from_secs(60);
    for kind in ["quick", "closing"] {
        eventually(kind, patience, || count(&record(&agent, kind), "harmless") >= 2 * CONNECTIONS);
    }
    for kind in ["slow", "pushing"] {
        eventually(kind, patience, || {
            let record = record(&agent, kind);
            count(&record, "harmful") >= 1 && record["quietSeconds"].as_f64() > Some(QUIET_MS / 1e3)
        });
        let record = record(&agent, kind);
        assert!((1..=count(&record, "harmful")).contains(&count(&record, "pushes")), "{record:#}");
        // Twice the longest silence that was broken. Where the client spoke again before anybody looked, what counts is until
        // then: about a second more.
        let (push, quiet) = (&record["longestPushSeconds"], &record["quietSeconds"]);
        let (push, quiet) = (push.as_f64().unwrap(), quiet.as_f64().unwrap());
        assert!((0.9..=4.0).contains(&push), "{record:#}");
        assert!((quiet - 2.0 * push).abs() < 0.01, "{record:#}");
        // The first lesson may make that longer than any silence; where there are three, no silence is long enough.
        if !record["stopped"].is_null() {
            assert_eq!(record["stopped"]["reason"], "server-speaks-first", "{record:#}");
            assert!(count(&record, "harmful") >= 3, "{record:#}");
        }
    }
    for kind in ["quick", "closing"] {
        let record = record(&agent, kind);
        assert_eq!((count(&record, "harmful"), &record["stopped"]), (0, &Value::Null), "{kind}: {record:#}");
    }
    for (kind, vip) in kinds.iter().zip(addresses).filter(|(kind, _)| **kind != "closing") {
        assert_eq!(count(&record(&agent, kind), "moved"), 0);
        assert_eq!(agent.stats_of(vip).unwrap().backends[0].opened, CONNECTIONS, "{kind}: none was lost");
    }
}
