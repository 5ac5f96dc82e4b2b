//! EndpointSlices.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::discovery::v1::{self as api, EndpointSlice},
    jiff::Timestamp,
};

use super::{
    MAX_NAME, Skip, address, cut, is_port_name, object_name, own_annotations, port_number, protocol, quote,
    shown_name,
};
use crate::model::{Conditions, EndpointSpec, Family, PortSpec, SliceSpec, annotations, problems::Problems};

/// Names the Service that a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Marks the slices of a headless Service.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// When the change that led to this state of the slice happened.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Reads an EndpointSlice. Endpoints that may not be dialled are left out and stand in
/// [`SliceSpec::problems`], grouped by what is wrong with them.
///
/// # Errors
/// [`Skip`] if the slice belongs to no Service that could be balanced.
pub fn slice_spec(object: &EndpointSlice) -> Result<SliceSpec, Skip> {
    let name = object_name(&object.metadata, MAX_NAME)?;
    let labels = object.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(HEADLESS_LABEL)) {
        return Err(Skip::Headless);
    }
    let service = labels.and_then(|labels| labels.get(SERVICE_LABEL)).filter(|name| !name.is_empty());
    let service = service.ok_or(Skip::NoService)?;
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return Err(Skip::Fqdn),
        other => return Err(Skip::AddressType(other.to_owned())),
    };

    let mut problems = Problems::default();
    let (annotations, surplus) = own_annotations(&object.metadata);
    let (weight, errors) = annotations::parse_slice(annotations.iter().copied());
    problems.extend(errors);
    if surplus > 0 {
        problems.add(format_args!("{surplus} annotations {}… too many are ignored", annotations::PREFIX));
    }
    let triggered = object.metadata.annotations.as_ref().and_then(|all| all.get(TRIGGER_ANNOTATION));
    Ok(SliceSpec {
        name,
        service: cut(service, MAX_NAME).into(),
        family,
        ports: ports(object.ports.as_deref().unwrap_or_default(), &mut problems),
        endpoints: endpoints(object.endpoints.as_deref().unwrap_or_default(), family, &mut problems),
        weight,
        triggered_ms: triggered
            .and_then(|time| time.parse::<Timestamp>().ok())
            .map(|time| time.as_millisecond()),
        problems: problems.into_vec(),
    })
}

fn ports(written: &[api::EndpointPort], problems: &mut Problems) -> Vec<PortSpec> {
    let mut accepted = Vec::with_capacity(written.len());
    for port in written {
        let name = port.name.as_deref().unwrap_or_default();
        if !is_port_name(name) {
            problems.add(format_args!("port {} is ignored: that is no valid port name", quote(name)));
            continue;
        }
        let read = protocol(port.protocol.as_deref()).and_then(|protocol| {
            let number = port.port.ok_or("it has no number")?;
            Ok((protocol, port_number(number)?))
        });
        match read {
            Ok((Some(protocol), port)) => accepted.push(PortSpec { name: name.into(), protocol, port }),
            Ok((None, _)) => {}
            Err(problem) => problems.add(format_args!("port {} is ignored: {problem}", quote(name))),
        }
    }
    accepted
}

/// What can be wrong with the address of an endpoint.
#[derive(Clone, Copy)]
enum Flaw {
    Absent,
    Unreadable,
    OtherFamily,
    Forbidden,
}

/// How many endpoints have each [`Flaw`], and what is wrong with the first.
#[derive(Default)]
struct Flaws([(usize, String); 4]);

impl Flaws {
    fn add(&mut self, flaw: Flaw, words: impl FnOnce() -> String) {
        let (count, first) = &mut self.0[flaw as usize];
        if *count == 0 {
            *first = words();
        }
        *count += 1;
    }

    fn report(self, problems: &mut Problems) {
        for (count, first) in self.0 {
            match count {
                0 => {}
                1 => problems.add(first),
                _ => problems.add(format_args!("{first} (and {} more like it)", count - 1)),
            }
        }
    }
}

fn endpoints(written: &[api::Endpoint], family: Family, problems: &mut Problems) -> Vec<EndpointSpec> {
    let mut flaws = Flaws::default();
    let mut names = Names::default();
    let mut accepted = Vec::with_capacity(written.len());
    for endpoint in written {
        if let Some(addr) = endpoint_addr(endpoint, family, &mut flaws) {
            accepted.push(endpoint_spec(endpoint, addr, &mut names));
        }
    }
    flaws.report(problems);
    accepted.shrink_to_fit();
    accepted
}

/// The first address: endpoints with several are not balanced by kube-proxy either.
fn endpoint_addr(endpoint: &api::Endpoint, family: Family, flaws: &mut Flaws) -> Option<IpAddr> {
    let Some(text) = endpoint.addresses.first() else {
        flaws.add(Flaw::Absent, || "an endpoint without an address is ignored".to_owned());
        return None;
    };
    let addr = match address::parse(text) {
        Ok(addr) => addr,
        Err(problem) => {
            flaws.add(Flaw::Unreadable, || format!("an endpoint is ignored: {problem}"));
            return None;
        }
    };
    if Family::of(addr) != family {
        flaws.add(Flaw::OtherFamily, || format!("endpoint {addr} is ignored: it is not {}", family.name()));
        return None;
    }
    if let Some(range) = address::forbidden(addr) {
        flaws.add(Flaw::Forbidden, || {
            format!("endpoint {addr} is ignored: connects are never sent to {range} addresses")
        });
        return None;
    }
    Some(addr)
}

fn endpoint_spec(endpoint: &api::Endpoint, addr: IpAddr, names: &mut Names) -> EndpointSpec {
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    EndpointSpec {
        addr,
        conditions: Conditions {
            ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
            serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
            terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        },
        node: shown_name(endpoint.node_name.as_ref()).map(|name| names.share(name)),
        zone: shown_name(endpoint.zone.as_ref()).map(|name| names.share(name)),
        pod: shown_name(pod.and_then(|target| target.name.as_ref())).map(Arc::from),
        node_hints: hints
            .and_then(|hints| hints.for_nodes.as_ref())
            .into_iter()
            .flatten()
            .map(|hint| names.share(cut(&hint.name, MAX_NAME)))
            .collect(),
        zone_hints: hints
            .and_then(|hints| hints.for_zones.as_ref())
            .into_iter()
            .flatten()
            .map(|hint| names.share(cut(&hint.name, MAX_NAME)))
            .collect(),
    }
}

/// Node and zone names, of which a slice repeats a few many times.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}
