//! The Services that are dialled, and the API objects that say so.

use std::net::{IpAddr, SocketAddr};

use balancer_common::{
    abi::{FrontendKey, TCP, UDP},
    addr::{Ip, PortBe},
};
use balancer_userspace::model::Protocol;
use serde_json::{Value, json};

use super::record::Transport;
use crate::topology::{service_v4, service_v6};

/// The namespace of all of them.
pub const NAMESPACE: &str = "soak";

/// What every server listens on.
pub const TARGET_PORT: u16 = 8080;

/// A Service, of both families.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// Its annotations.
    annotations: &'static [(&'static str, &'static str)],
    /// Seconds of `sessionAffinity: ClientIP`; 0 for none.
    affinity: u32,
    /// Its ports.
    pub protocols: &'static [Protocol],
    /// Whether idle connections to it may be ended.
    pub moves: bool,
}

const fn spec(name: &'static str, annotations: &'static [(&'static str, &'static str)]) -> Spec {
    Spec { name, annotations, affinity: 0, protocols: &[Protocol::Tcp], moves: false }
}

const BOTH: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];

const ALGORITHM: &str = "balancer.dev/algorithm";

/// Every algorithm, affinity, moving, draining and slow start; TCP, and UDP where that goes another way.
pub const SPECS: [Spec; 9] = [
    Spec { protocols: BOTH, ..spec("least", &[]) },
    spec("turns", &[(ALGORITHM, "round-robin")]),
    spec("own-turns", &[(ALGORITHM, "client-round-robin")]),
    Spec { protocols: BOTH, ..spec("chance", &[(ALGORITHM, "random")]) },
    Spec { protocols: BOTH, ..spec("hash", &[(ALGORITHM, "source-hash")]) },
    Spec { protocols: BOTH, affinity: 5, ..spec("sticky", &[]) },
    Spec {
        moves: true,
        ..spec(
            "moving",
            &[
                ("balancer.dev/rebalance", "idle"),
                ("balancer.dev/rebalance-trust", "immediate"),
                ("balancer.dev/rebalance-quiet", "300ms"),
                ("balancer.dev/rebalance-min-age", "0s"),
                ("balancer.dev/rebalance-budget", "50%"),
            ],
        )
    },
    Spec { moves: true, ..spec("drained", &[("balancer.dev/drain", "idle")]) },
    spec("slow", &[("balancer.dev/slow-start", "5s"), ("balancer.dev/rebalance", "dry-run")]),
];

/// Something that is dialled: one port of a Service at one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// Index among [`SPECS`].
    pub service: usize,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where.
    pub addr: SocketAddr,
}

impl Front {
    /// What the programs look up.
    pub fn key(&self) -> FrontendKey {
        let protocol = match self.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        FrontendKey::new(Ip::from(self.addr.ip()), PortBe::from_host(self.addr.port()), protocol)
    }

    /// How a worker is told.
    pub const fn transport(&self) -> Transport {
        match self.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        }
    }

    /// As people say it.
    pub fn name(&self) -> String {
        format!("{} {} {}", SPECS[self.service].name, self.protocol, self.addr)
    }
}

/// All that can be dialled, in a fixed order.
pub fn fronts() -> Vec<Front> {
    let mut fronts = Vec::new();
    for (service, spec) in SPECS.iter().enumerate() {
        for &protocol in spec.protocols {
            for address in addresses(service) {
                fronts.push(Front { service, protocol, addr: SocketAddr::new(address, port(protocol)) });
            }
        }
    }
    fronts
}

/// The addresses of a Service.
fn addresses(service: usize) -> [IpAddr; 2] {
    let number = 1 + service as u16;
    [service_v4(number).into(), service_v6(number).into()]
}

const fn port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 80,
        Protocol::Udp => 53,
    }
}

const fn port_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "http",
        Protocol::Udp => "dns",
    }
}

/// The Service as an API object, perhaps with another algorithm than its own.
pub fn object(service: usize, algorithm: Option<&str>) -> Value {
    let spec = &SPECS[service];
    let ports: Vec<Value> = spec
        .protocols
        .iter()
        .map(|&protocol| {
            json!({
                "name": port_name(protocol), "port": port(protocol), "protocol": protocol.to_string(),
                "targetPort": TARGET_PORT,
            })
        })
        .collect();
    let mut annotations: serde_json::Map<String, Value> =
        spec.annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    if let Some(algorithm) = algorithm {
        annotations.insert(ALGORITHM.to_owned(), json!(algorithm));
    }
    let [v4, v6] = addresses(service);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": spec.name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {
            "type": "ClusterIP", "clusterIP": v4, "clusterIPs": [v4, v6],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack", "ports": ports,
        },
    });
    if spec.affinity > 0 {
        object["spec"]["sessionAffinity"] = json!("ClientIP");
        object["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": spec.affinity}});
    }
    object
}

/// What a slice says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It takes connections.
    Ready,
    /// It serves, and is about to go.
    Terminating,
    /// It does not serve yet.
    NotReady,
}

/// A slice of one family: addresses and pod names, with their conditions.
pub fn slice(service: usize, suffix: &str, endpoints: &[(IpAddr, String, Condition)]) -> Value {
    let spec = &SPECS[service];
    let family = if suffix.starts_with("v4") { "IPv4" } else { "IPv6" };
    let ports: Vec<Value> = spec
        .protocols
        .iter()
        .map(|&protocol| {
            json!({"name": port_name(protocol), "port": TARGET_PORT, "protocol": protocol.to_string()})
        })
        .collect();
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, pod, condition)| {
            let (ready, serving, terminating) = match condition {
                Condition::Ready => (true, true, false),
                Condition::Terminating => (false, true, true),
                Condition::NotReady => (false, false, false),
            };
            json!({
                "addresses": [address],
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": NAMESPACE},
                "nodeName": "node-1",
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{suffix}", spec.name), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": spec.name},
        },
        "addressType": family, "ports": ports, "endpoints": endpoints,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everything_that_is_dialled_is_dialled_once() {
        let fronts = fronts();
        let keys: HashSet<_> = fronts.iter().map(Front::key).collect();
        assert_eq!(keys.len(), fronts.len());
        assert!(fronts.iter().any(|front| front.protocol == Protocol::Udp && front.addr.is_ipv6()));
    }

    #[test]
    fn another_algorithm_takes_the_place_of_its_own() {
        let turns = SPECS.iter().position(|spec| spec.name == "turns").unwrap();
        let algorithm = |object: Value| object["metadata"]["annotations"][ALGORITHM].clone();
        assert_eq!(algorithm(object(turns, None)), "round-robin");
        assert_eq!(algorithm(object(turns, Some("random"))), "random");
    }
}
