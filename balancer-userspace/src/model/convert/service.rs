//! Services.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1 as api;

use super::{
    MAX_LABEL, Skip, address, is_port_name, object_name, own_annotations, port_number, protocol, quote,
};
use crate::model::{
    Exclusion, Family, InternalTraffic, PortSpec, ServiceSpec, Uid, annotations, problems::Problems,
};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where absent.
const DEFAULT_AFFINITY_S: u32 = 10_800;
/// The longest affinity that the API server allows.
const MAX_AFFINITY_S: i32 = 86_400;

/// Reads a Service. One that is never balanced comes back with the reason in [`ServiceSpec::barred`].
///
/// # Errors
/// [`Skip`] if it cannot even be named; all other mistakes stand in [`ServiceSpec::problems`].
pub fn service_spec(object: &api::Service) -> Result<ServiceSpec, Skip> {
    let name = object_name(&object.metadata, MAX_LABEL)?;
    let absent = api::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&absent);
    let (annotations, surplus) = own_annotations(&object.metadata);
    let (settings, _) = annotations::parse_service(annotations.iter().copied());

    let mut problems = Problems::default();
    if surplus > 0 {
        problems.add(format_args!("{surplus} annotations {}… too many are ignored", annotations::PREFIX));
    }
    let proxy = "service.kubernetes.io/service-proxy-name";
    let barred = if object.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(proxy)) {
        Some(Exclusion::OtherProxy)
    } else if spec.type_.as_deref() == Some("ExternalName") {
        Some(Exclusion::ExternalName)
    } else if is_headless(spec) {
        Some(Exclusion::Headless)
    } else if &*name.namespace == "default" && &*name.name == "kubernetes" {
        Some(Exclusion::ApiServer)
    } else {
        None
    };
    // The other exclusions keep their addresses: nobody else may claim them.
    let addressed = !matches!(barred, Some(Exclusion::Headless | Exclusion::ExternalName));
    if barred == Some(Exclusion::Headless) && spec.cluster_ip.as_deref().unwrap_or_default().is_empty() {
        problems.add("it has no clusterIP: one is assigned by an API server, or written by hand");
    }
    Ok(ServiceSpec {
        name,
        uid: object.metadata.uid.as_deref().and_then(Uid::parse),
        barred,
        enabled: settings.enabled,
        cluster_ips: if addressed { cluster_ips(spec, &mut problems) } else { Vec::new() },
        external: if addressed { external(object, spec) } else { Box::default() },
        ports: if addressed { ports(spec, &mut problems) } else { Vec::new() },
        affinity: affinity(spec, &mut problems),
        internal_traffic: internal_traffic(spec, &mut problems),
        annotations: annotations
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        created: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        problems: problems.into_vec(),
    })
}

/// The addresses as written: `clusterIPs`, or for want of it `clusterIP`.
fn addresses(spec: &api::ServiceSpec) -> &[String] {
    match &spec.cluster_ips {
        Some(addresses) if !addresses.is_empty() => addresses,
        _ => spec.cluster_ip.as_slice(),
    }
}

fn is_headless(spec: &api::ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
        || addresses(spec).iter().all(|text| text.is_empty() || text == "None")
}

/// At most one address per family. Where `ipFamilies` is given, address `i` must be of family `i`.
fn cluster_ips(spec: &api::ServiceSpec, problems: &mut Problems) -> Vec<IpAddr> {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut accepted: Vec<IpAddr> = Vec::new();
    for (index, text) in addresses(spec).iter().enumerate() {
        let addr = match address::parse(text) {
            Ok(addr) => addr,
            Err(problem) => {
                problems.add(format_args!("clusterIP {problem}; it is ignored"));
                continue;
            }
        };
        let family = Family::of(addr);
        let declared = families.get(index).map(String::as_str);
        if let Some(range) = address::forbidden(addr) {
            problems.add(format_args!("clusterIP {addr} is ignored: it is a {range} address"));
        } else if declared.is_some_and(|declared| declared != family.name()) {
            problems.add(format_args!("clusterIP {addr} is ignored: ipFamilies says another family"));
        } else if accepted.iter().any(|other| Family::of(*other) == family) {
            problems.add(format_args!("clusterIP {addr} is ignored: it is the second of its family"));
        } else {
            accepted.push(addr);
        }
    }
    accepted
}

/// What can be read of them: nothing is sent there, it only must not be taken for a pod's.
fn external(object: &api::Service, spec: &api::ServiceSpec) -> Box<[IpAddr]> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let written = spec.external_ips.iter().flatten().chain(ingress.iter().filter_map(|it| it.ip.as_ref()));
    let mut addresses: Vec<IpAddr> = written.filter_map(|text| address::parse(text).ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}

/// TCP and UDP ports, unique by name and protocol.
fn ports(spec: &api::ServiceSpec, problems: &mut Problems) -> Vec<PortSpec> {
    let written = spec.ports.as_deref().unwrap_or_default();
    if written.is_empty() {
        problems.add("it has no ports: connects to it are left alone");
    }
    let mut accepted: Vec<PortSpec> = Vec::with_capacity(written.len());
    let mut seen = HashSet::new();
    for port in written {
        let name = port.name.as_deref().unwrap_or_default();
        if !is_port_name(name) {
            problems.add(format_args!("port {} is ignored: that is no valid port name", quote(name)));
            continue;
        }
        let read =
            protocol(port.protocol.as_deref()).and_then(|protocol| Ok((protocol, port_number(port.port)?)));
        match read {
            Ok((Some(protocol), number)) if seen.insert((name, protocol)) => {
                accepted.push(PortSpec { name: Arc::from(name), protocol, port: number });
            }
            Ok((Some(protocol), number)) => problems.add(format_args!(
                "port {number}/{protocol} is ignored: another {protocol} port is named {} too",
                quote(name)
            )),
            Ok((None, _)) => {}
            Err(problem) => problems.add(format_args!("port {} is ignored: {problem}", quote(name))),
        }
    }
    accepted
}

fn affinity(spec: &api::ServiceSpec, problems: &mut Problems) -> Option<Duration> {
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {}
        None | Some("None" | "") => return None,
        Some(other) => {
            problems.add(format_args!("sessionAffinity {} is neither ClientIP nor None", quote(other)));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = match config.and_then(|client_ip| client_ip.timeout_seconds) {
        None => DEFAULT_AFFINITY_S,
        Some(seconds @ 1..=MAX_AFFINITY_S) => seconds.unsigned_abs(),
        Some(seconds) => {
            problems.add(format_args!(
                "sessionAffinity timeoutSeconds {seconds} is not within 1 to {MAX_AFFINITY_S}; {DEFAULT_AFFINITY_S} is used"
            ));
            DEFAULT_AFFINITY_S
        }
    };
    Some(Duration::from_secs(seconds.into()))
}

fn internal_traffic(spec: &api::ServiceSpec, problems: &mut Problems) -> InternalTraffic {
    match spec.internal_traffic_policy.as_deref() {
        Some("Local") => InternalTraffic::Local,
        None | Some("Cluster") => InternalTraffic::Cluster,
        Some(other) => {
            problems.add(format_args!(
                "internalTrafficPolicy {} is neither Cluster nor Local; Cluster is used",
                quote(other)
            ));
            InternalTraffic::Cluster
        }
    }
}
