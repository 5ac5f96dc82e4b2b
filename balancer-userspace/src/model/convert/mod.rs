//! From API objects to the compact types of the model. Pure: a source calls it, nothing here does I/O.
//!
//! Defaults are those that the API server applies (an absent protocol is TCP, an absent port name is
//! empty), so that a manifest means here what it would mean in a cluster.

mod address;
mod namespace;
mod pod;
mod service;
mod slice;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;

use super::{ObjectName, Protocol, annotations, quote};

pub use namespace::namespace_spec;
pub use pod::pod_spec;
pub use service::service_spec;
pub use slice::slice_spec;

/// The most bytes of a Service's, namespace's or port's name: DNS labels, as the API server demands.
const MAX_LABEL: usize = 63;
/// The most bytes of any other name: DNS subdomains.
const MAX_NAME: usize = 253;
/// The most `balancer.dev/` annotations that are read of one object.
const MAX_ANNOTATIONS: usize = 16;
/// The most bytes that are kept of an annotation's name and of its value; no valid one is nearly as long.
const MAX_ANNOTATION: usize = 128;

/// Why an object is skipped whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Skip {
    /// `metadata.name` is missing or cannot be the name of such an object.
    #[error("metadata.name {} is not a valid name: lower-case letters, digits, \"-\" (and \".\" for a slice)", quote(.0))]
    Name(String),
    /// `metadata.namespace` cannot be the name of a namespace.
    #[error("metadata.namespace {} is not a valid name: lower-case letters, digits and \"-\"", quote(.0))]
    Namespace(String),
    /// An EndpointSlice without label `kubernetes.io/service-name`.
    #[error("it has no label kubernetes.io/service-name, so it belongs to no Service")]
    NoService,
    /// A Pod without `metadata.uid`.
    #[error("it has no metadata.uid, by which its processes would be recognised")]
    NoUid,
    /// An EndpointSlice with label `service.kubernetes.io/headless`.
    #[error("it belongs to a headless Service (label service.kubernetes.io/headless)")]
    Headless,
    /// An EndpointSlice of host names.
    #[error("addressType FQDN is not balanced: endpoints need IP addresses")]
    Fqdn,
    /// An EndpointSlice of something else.
    #[error("addressType {} is neither \"IPv4\" nor \"IPv6\"", quote(.0))]
    AddressType(String),
}

impl Skip {
    /// Whether healthy clusters hold such objects: worth a count, not a warning.
    pub const fn is_routine(&self) -> bool {
        match self {
            Self::NoService | Self::Headless | Self::Fqdn => true,
            Self::Name(_) | Self::Namespace(_) | Self::NoUid | Self::AddressType(_) => false,
        }
    }
}

/// Namespace (`default` where absent) and name, checked: they end up in tables, labels and fixed-size maps.
fn object_name(meta: &ObjectMeta, limit: usize) -> Result<ObjectName, Skip> {
    let namespace = meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    let name = meta.name.as_deref().unwrap_or_default();
    if !is_name(namespace, MAX_LABEL) {
        return Err(Skip::Namespace(namespace.to_owned()));
    }
    if !is_name(name, limit) {
        return Err(Skip::Name(name.to_owned()));
    }
    Ok(ObjectName::new(namespace, name))
}

/// Labels are up to 63 bytes long and have no dot.
fn is_name(text: &str, limit: usize) -> bool {
    let dots = limit > MAX_LABEL;
    !text.is_empty()
        && text.len() <= limit
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || (dots && byte == b'.')
        })
}

/// Port names are compared as they are written; upper case is let through.
fn is_port_name(text: &str) -> bool {
    text.len() <= MAX_LABEL && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The annotations that begin with `balancer.dev/`, without that, and how many there were too many.
fn own_annotations(meta: &ObjectMeta) -> (Vec<(&str, &str)>, usize) {
    let all: Option<&BTreeMap<String, String>> = meta.annotations.as_ref();
    let mut own: Vec<_> = all
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let name = name.strip_prefix(annotations::PREFIX)?;
            Some((cut(name, MAX_ANNOTATION), cut(value, MAX_ANNOTATION)))
        })
        .collect();
    let surplus = own.len().saturating_sub(MAX_ANNOTATIONS);
    own.truncate(MAX_ANNOTATIONS);
    (own, surplus)
}

/// The longest beginning of `text` that has at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// `Ok(None)` for SCTP, which is left to kube-proxy; an error holds what is wrong with it.
fn protocol(text: Option<&str>) -> Result<Option<Protocol>, String> {
    match text {
        None | Some("TCP") => Ok(Some(Protocol::Tcp)),
        Some("UDP") => Ok(Some(Protocol::Udp)),
        Some("SCTP") => Ok(None),
        Some(other) => Err(format!("protocol {} is not TCP, UDP or SCTP", quote(other))),
    }
}

/// A port number, or what is wrong with it.
fn port_number(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("port number {number} is not within 1 to 65535")),
    }
}

/// `Some` if it could be the name of a pod, node or zone. The API server does not check all of these, and
/// they are shown on terminals.
fn shown_name(text: Option<&String>) -> Option<&str> {
    let text = text?.as_str();
    let fits = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(text)
}
