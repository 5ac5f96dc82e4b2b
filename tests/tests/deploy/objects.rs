//! Objects as YAML, parsed strictly: a field that the API does not have is an error, as it is with a server that validates.

use std::{collections::BTreeMap, path::PathBuf};

use crate::monitoring::{PrometheusRule, ServiceMonitor};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The directory `deploy` of the repository.
pub fn deploy() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy"))
}

/// The version of the workspace, which is that of the image too.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All objects of one rendering, by kind and name.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects(BTreeMap<(String, String), Value>);

impl Objects {
    /// Parses documents, each of them an object of a type that is known here and has its fields only.
    #[track_caller]
    pub fn parse(yaml: &str) -> Self {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
        let mut objects = BTreeMap::new();
        for object in documents.into_iter().filter(|document| !document.is_null()) {
            strict(&object);
            let text =
                |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let key = (text("/kind"), text("/metadata/name"));
            assert!(objects.insert(key.clone(), object).is_none(), "{key:?} is there twice");
        }
        Self(objects)
    }

    /// Kinds and names, in order.
    pub fn names(&self) -> Vec<(&str, &str)> {
        self.0.keys().map(|(kind, name)| (kind.as_str(), name.as_str())).collect()
    }

    /// Changes every object, or leaves it out; `change` is told its kind.
    pub fn filter_map(self, change: impl Fn(&str, Value) -> Option<Value>) -> Self {
        let changed = self.0.into_iter().filter_map(|(key, object)| {
            let object = change(&key.0, object)?;
            Some((key, object))
        });
        Self(changed.collect())
    }

    /// The one object of this kind and name.
    #[track_caller]
    pub fn get<T: DeserializeOwned>(&self, kind: &str, name: &str) -> T {
        let key = (kind.to_owned(), name.to_owned());
        let object = self.0.get(&key).unwrap_or_else(|| panic!("no {kind} {name} among {:?}", self.names()));
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{kind} {name}: {error}"))
    }

    /// The agent's DaemonSet.
    #[track_caller]
    pub fn daemon_set(&self) -> DaemonSet {
        self.get("DaemonSet", "balancer")
    }
}

/// Fails unless the object is of a known type and has fields of that type only.
#[track_caller]
fn strict(object: &Value) {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "Namespace") => round_trip::<Namespace>(object),
        ("v1", "Service") => round_trip::<Service>(object),
        ("v1", "ServiceAccount") => round_trip::<ServiceAccount>(object),
        ("apps/v1", "DaemonSet") => round_trip::<DaemonSet>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => round_trip::<NetworkPolicy>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => round_trip::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => round_trip::<ClusterRoleBinding>(object),
        ("monitoring.coreos.com/v1", "ServiceMonitor") => round_trip::<ServiceMonitor>(object),
        ("monitoring.coreos.com/v1", "PrometheusRule") => round_trip::<PrometheusRule>(object),
        other => panic!("no type for {other:?}"),
    }
}

/// The types of k8s-openapi drop what they do not know; what is still there afterwards was known.
#[track_caller]
fn round_trip<T: Serialize + DeserializeOwned>(object: &Value) {
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}\n{object:#}"));
    let again = serde_json::to_value(typed).unwrap_or_else(|error| panic!("{error}"));
    if let Some(path) = lost(object, &again, String::new()) {
        panic!("the API has no {path}, or takes another value there:\n{object:#}");
    }
}

/// The first field of `before` that `after` has not got, or has with another value.
fn lost(before: &Value, after: &Value, path: String) -> Option<String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before.iter().find_map(|(key, value)| {
            let path = format!("{path}/{key}");
            match after.get(key) {
                Some(after) => lost(value, after, path),
                None => Some(path),
            }
        }),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            let pairs = before.iter().zip(after).enumerate();
            pairs
                .into_iter()
                .find_map(|(index, (before, after))| lost(before, after, format!("{path}/{index}")))
        }
        (before, after) => (before != after).then_some(path),
    }
}

#[test]
#[should_panic(expected = "/spec/template/spec/containers/0/readinessProbes")]
fn a_field_that_does_not_exist_is_found() {
    let good = std::fs::read_to_string(deploy().join("kustomize/base/daemonset.yaml")).unwrap();
    Objects::parse(&good.replace("readinessProbe:", "readinessProbes:"));
}
