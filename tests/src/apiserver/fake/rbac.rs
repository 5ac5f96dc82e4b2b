//! Who may do what, by the ClusterRoles, Roles and bindings in the store.

use std::sync::Arc;

use serde_json::Value;

use super::{
    answer::Denied,
    request::Asked,
    store::{Key, Store},
};

/// May do everything.
pub(super) const MASTERS: &str = "system:masters";

const GROUP: &str = "rbac.authorization.k8s.io";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    /// A service account.
    pub(super) fn account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()],
        }
    }
}

/// Whether a user may do what was asked, by the words of the API server if not.
pub(super) fn authorize(store: &Store, user: &User, asked: &Asked) -> Result<(), Denied> {
    if user.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let everywhere =
        bindings(store, "clusterrolebindings", "").any(|binding| grants(store, &binding, user, asked));
    let within = !asked.namespace.is_empty()
        && bindings(store, "rolebindings", &asked.namespace)
            .any(|binding| grants(store, &binding, user, asked));
    if everywhere || within {
        return Ok(());
    }
    let place = match asked.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    Err(Denied::new(
        403,
        "Forbidden",
        &format!(
            "{} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
            asked.resource,
            user.name,
            asked.verb.name(),
            asked.plural,
            asked.group
        ),
    ))
}

fn bindings(store: &Store, plural: &str, namespace: &str) -> impl Iterator<Item = Arc<Value>> {
    let found: Vec<_> = store.all(&format!("{plural}.{GROUP}").into(), namespace).cloned().collect();
    found.into_iter()
}

/// Whether a binding is about this user, and its role allows what was asked.
fn grants(store: &Store, binding: &Value, user: &User, asked: &Asked) -> bool {
    let is_subject = |subject: &Value| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("ServiceAccount") => {
                let namespace = subject["namespace"].as_str().unwrap_or_default();
                User::account(namespace, name).name == user.name
            }
            Some("User") => user.name == name,
            Some("Group") => user.groups.iter().any(|group| group == name),
            _ => false,
        }
    };
    if !items(&binding["subjects"]).any(is_subject) {
        return false;
    }
    let reference = &binding["roleRef"];
    let (plural, namespace) = match reference["kind"].as_str() {
        Some("ClusterRole") => ("clusterroles", ""),
        _ => ("roles", binding["metadata"]["namespace"].as_str().unwrap_or_default()),
    };
    let key = Key {
        resource: format!("{plural}.{GROUP}").into(),
        namespace: namespace.to_owned(),
        name: reference["name"].as_str().unwrap_or_default().to_owned(),
    };
    store.get(&key).is_some_and(|role| items(&role["rules"]).any(|rule| allows(rule, asked)))
}

fn allows(rule: &Value, asked: &Asked) -> bool {
    let has = |field: &str, wanted: &str| {
        items(&rule[field]).filter_map(Value::as_str).any(|value| value == "*" || value == wanted)
    };
    let names = &rule["resourceNames"];
    has("apiGroups", &asked.group)
        && has("resources", &asked.plural)
        && has("verbs", asked.verb.name())
        && (items(names).next().is_none() || items(names).any(|name| name.as_str() == Some(&asked.name)))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
