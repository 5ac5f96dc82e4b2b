mod convert;
mod golden;
mod index;
mod nonsense;
mod order;

use std::net::IpAddr;

use balancer_common::abi::Algorithm;

use super::*;

/// Changes before this instant were there before the agent.
const STARTED_MS: i64 = 1_000;

fn new_index() -> Index {
    Index::new(Defaults {
        algorithm: Algorithm::LeastConnections,
        connections: ConnectionSettings::default(),
        selection: Selection::All,
        started_ms: STARTED_MS,
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn object(name: &str) -> ObjectName {
    ObjectName::new("ns", name)
}

fn port(name: &str, port: u16) -> PortSpec {
    PortSpec { name: name.into(), protocol: Protocol::Tcp, port }
}

/// Service `ns/NAME` at `addr:80`.
fn service(name: &str, addr: &str) -> ServiceSpec {
    ServiceSpec {
        name: object(name),
        uid: None,
        barred: None,
        enabled: None,
        cluster_ips: vec![ip(addr)],
        external: Box::default(),
        ports: vec![port("", 80)],
        affinity: None,
        internal_traffic: InternalTraffic::Cluster,
        annotations: vec![],
        created: 0,
        problems: vec![],
    }
}

fn endpoint(addr: &str) -> EndpointSpec {
    EndpointSpec {
        addr: ip(addr),
        conditions: Conditions { ready: true, serving: true, terminating: false },
        node: None,
        zone: None,
        pod: None,
        node_hints: vec![],
        zone_hints: vec![],
    }
}

/// Slice `ns/NAME` of Service `ns/SERVICE`, port 8080.
fn slice(name: &str, service: &str, addrs: &[&str]) -> SliceSpec {
    SliceSpec {
        name: object(name),
        service: service.into(),
        family: Family::V4,
        ports: vec![port("", 8080)],
        endpoints: addrs.iter().map(|addr| endpoint(addr)).collect(),
        weight: 1,
        triggered_ms: None,
        problems: vec![],
    }
}

fn set_service(spec: &ServiceSpec) -> Event {
    Event::Service(Box::new(spec.clone()))
}

fn set_slice(spec: &SliceSpec) -> Event {
    Event::Slice(Box::new(spec.clone()))
}
