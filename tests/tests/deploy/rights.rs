//! The agent's rights: those that the manual lists, and no others.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};

use crate::{
    kustomize::render,
    objects::{Objects, deploy},
};

/// One right: group, resource, verb.
pub type Right = (String, String, String);

/// What the agent needs wherever it runs.
pub const BASE: [(&str, &str, &[&str]); 5] = [
    ("", "services", &["list", "watch"]),
    ("", "namespaces", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("", "nodes", &["list", "watch"]),
    ("", "events", &["create"]),
];

/// Single rights of a list such as [`BASE`].
pub fn expected(list: &[(&str, &str, &[&str])]) -> BTreeSet<Right> {
    let each = |&(group, resource, verbs): &(&str, &str, &[&str])| {
        let right = |verb: &&str| (group.to_owned(), resource.to_owned(), (*verb).to_owned());
        verbs.iter().map(right).collect::<Vec<_>>()
    };
    list.iter().flat_map(each).collect()
}

/// Single rights of a role; a rule for something else than plain resources is refused.
#[track_caller]
pub fn of_role(role: &ClusterRole) -> BTreeSet<Right> {
    assert!(role.aggregation_rule.is_none());
    let mut rights = BTreeSet::new();
    for rule in role.rules.iter().flatten() {
        assert!(rule.non_resource_urls.is_none() && rule.resource_names.is_none());
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    let right = (group.clone(), resource.clone(), verb.clone());
                    assert!(rights.insert(right.clone()), "{right:?} is given twice");
                }
            }
        }
    }
    rights
}

/// The rights that the agent of a rendering has, through the one binding of its ServiceAccount.
#[track_caller]
pub fn rights(objects: &Objects) -> BTreeSet<Right> {
    let binding: ClusterRoleBinding = objects.get("ClusterRoleBinding", "balancer");
    assert_eq!((binding.role_ref.kind.as_str(), binding.role_ref.name.as_str()), ("ClusterRole", "balancer"));
    let subjects = binding.subjects.unwrap();
    assert_eq!(subjects.len(), 1);
    let daemon_set = objects.daemon_set();
    assert_eq!(subjects[0].kind, "ServiceAccount");
    assert_eq!(subjects[0].namespace, daemon_set.metadata.namespace);
    let pod = daemon_set.spec.unwrap().template.spec.unwrap();
    assert_eq!(Some(&subjects[0].name), pod.service_account_name.as_ref());
    of_role(&objects.get("ClusterRole", "balancer"))
}

#[test]
fn the_base_has_the_rights_that_it_needs() {
    assert_eq!(rights(&render("base")), expected(&BASE));
}

/// The manual shows the role itself.
#[test]
fn the_manual_lists_the_same_rights() {
    let manual = std::fs::read_to_string(deploy().join("../docs/agent.md")).unwrap();
    let start = manual.find("apiVersion: rbac.authorization.k8s.io/v1").expect("a role in docs/agent.md");
    let yaml = &manual[start..];
    let objects = Objects::parse(&yaml[..yaml.find("```").unwrap()]);
    assert_eq!(of_role(&objects.get("ClusterRole", "balancer")), expected(&BASE));
}
