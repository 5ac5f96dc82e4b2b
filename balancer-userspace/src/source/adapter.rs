//! Stands in for `model::convert` until that is here.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use crate::model::{
    Conditions, EndpointSpec, Exclusion, Family, InternalTraffic, ObjectName, PortSpec, Protocol, Scope,
    ServiceSpec, SliceSpec,
};

pub(super) fn service_spec(object: &Service) -> ServiceSpec {
    let spec = object.spec.clone().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let ip = spec.cluster_ip.and_then(|ip| ip.parse().ok());
    ServiceSpec {
        name: ObjectName::new(namespace, object.metadata.name.as_deref().unwrap_or_default()),
        scope: ip.map_or(Scope::Excluded(Exclusion::Headless), |_| Scope::Balanced),
        cluster_ips: ip.into_iter().collect(),
        ports: spec
            .ports
            .iter()
            .flatten()
            .map(|port| PortSpec {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: Protocol::Tcp,
                port: u16::try_from(port.port).unwrap_or_default(),
            })
            .collect(),
        affinity: None,
        internal_traffic: InternalTraffic::Cluster,
        annotations: Vec::new(),
        created: 0,
        problems: Vec::new(),
    }
}

pub(super) fn slice_spec(object: &EndpointSlice) -> Result<SliceSpec, String> {
    let labels = object.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
    let service = service.ok_or("it has no label kubernetes.io/service-name")?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    Ok(SliceSpec {
        name: ObjectName::new(namespace, object.metadata.name.as_deref().unwrap_or_default()),
        service: service.as_str().into(),
        family: Family::V4,
        ports: object
            .ports
            .iter()
            .flatten()
            .map(|port| PortSpec {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: Protocol::Tcp,
                port: port.port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default(),
            })
            .collect(),
        endpoints: object
            .endpoints
            .iter()
            .flatten()
            .filter_map(|endpoint| {
                Some(EndpointSpec {
                    addr: endpoint.addresses.first()?.parse().ok()?,
                    conditions: Conditions { ready: true, serving: true, terminating: false },
                    node: None,
                    zone: None,
                    pod: None,
                    node_hints: Vec::new(),
                    zone_hints: Vec::new(),
                })
            })
            .collect(),
        weight: 1,
        triggered_ms: None,
        problems: Vec::new(),
    })
}
