//! `balancer rebalance`.

use super::{check, on};
use crate::cli::{exit::Exit, fixture};

#[test]
fn rebalancing() {
    check("rebalance-status", "rebalance status -A");
    check("rebalance-status-wide", "rebalance status -o wide -A");
    check("rebalance-status-json", "rebalance status web -o json");
    check("rebalance-plan", "rebalance plan -A");
    check("rebalance-plan-json", "rebalance plan web -o json");
    check("rebalance-now", "rebalance now web --max 5");
    check("rebalance-now-json", "rebalance now shop/api --max 1 -o json");
    let (exit, stdout, stderr) = on(fixture::snapshot(), "rebalance status web:http -n default -o yaml");
    assert_eq!((exit, stderr.as_str()), (Exit::Ok, ""));
    assert!(stdout.contains("kind: RebalanceStatus"));
    let (exit, stdout, stderr) = on(fixture::snapshot(), "rebalance status -n nowhere");
    assert_eq!((exit, stdout.as_str()), (Exit::Ok, ""));
    assert!(stderr.starts_with("no Service is balanced in namespace nowhere"), "{stderr}");
    let mut off = fixture::snapshot();
    off.services.iter_mut().for_each(|service| service.lifecycle = Default::default());
    for line in ["rebalance status", "rebalance plan"] {
        let (exit, stdout, stderr) = on(off.clone(), line);
        assert_eq!((exit, stdout.as_str()), (Exit::Ok, ""));
        assert!(stderr.contains("balancer.dev/rebalance"), "{stderr}");
    }
    let (_, stdout, _) = on(off, "rebalance status web");
    assert!(stdout.contains("default/web:http  off"), "a Service that is named is shown: {stdout}");
}

/// All ports of the Service are tried, one after the other, until enough is moved.
#[test]
fn rebalancing_now_shares_its_bound_among_the_ports_of_a_service() {
    let mut snapshot = fixture::snapshot();
    for (index, port) in ["grpc", "admin"].into_iter().enumerate() {
        let id = 70 + index as u32;
        snapshot.services.push(fixture::service(id, "default", "web", port, "10.96.0.1:81"));
    }
    let moved = |line: &str| -> Vec<u64> {
        let (exit, stdout, _) = on(snapshot.clone(), &format!("rebalance now {line} -o json"));
        assert_eq!(exit, Exit::Ok, "{line}");
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        document["items"].as_array().unwrap().iter().map(|item| item["moved"].as_u64().unwrap()).collect()
    };
    assert_eq!(moved("web --max 3"), [3]);
    assert_eq!(moved("web --max 4"), [3, 1]);
    assert_eq!(moved("web --max 100"), [3, 3, 3]);
    assert_eq!(moved("web:grpc --max 100"), [3]);
    let fails = |line: &str, exit: Exit| {
        let (code, stdout, stderr) = on(snapshot.clone(), line);
        assert_eq!(code, exit, "{line}: {stderr}");
        (stdout, stderr)
    };
    let (_, stderr) = fails("rebalance now dns --max 1", Exit::Problem);
    assert!(stderr.contains("dns has no TCP port"), "{stderr}");
    fails("rebalance now wbe --max 1", Exit::Problem);
    fails("rebalance now web", Exit::Usage);
    fails("rebalance now web --max 0", Exit::Usage);
    fails("rebalance now --max 1", Exit::Usage);
    fails("rebalance now web -A --max 1", Exit::Usage);
    snapshot.services.push(fixture::service(77, "default", "web", "last", "10.96.0.1:82"));
    let (code, stdout, stderr) = on(snapshot, "rebalance now web --max 100");
    assert_eq!(code, Exit::Problem);
    assert_eq!(stdout.matches("3 connections moved").count(), 3, "what was done is told: {stdout}");
    assert!(stderr.contains("agent is not running"), "{stderr}");
}
