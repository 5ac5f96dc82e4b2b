//! Which pods of this node are left alone as clients: their connects are not touched, wherever they go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{NamespaceSpec, ObjectName, Participation};

/// What the model needs of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// Namespace and name.
    pub name: ObjectName,
    /// The UID in the names of its cgroups: `metadata.uid`, but for a static pod the hash that the kubelet uses.
    pub uid: Arc<str>,
    /// `balancer.dev/enabled`; `None` where absent or malformed.
    pub enabled: Option<Participation>,
    /// The service mesh that it is part of.
    pub mesh: Option<Mesh>,
    /// What was found wrong while reading the object.
    pub problems: Vec<String>,
}

/// A service mesh whose proxy takes a pod's connects over and must see what was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mesh {
    /// Istio, with a sidecar.
    Istio,
    /// Istio in ambient mode.
    IstioAmbient,
    /// Linkerd.
    Linkerd,
    /// Kuma.
    Kuma,
    /// Consul.
    Consul,
}

impl Mesh {
    /// What each mesh writes on the pods that it has taken in, and nobody else: annotation and value; an empty value
    /// stands for any.
    const MARKS: [(Self, &'static str, &'static str); 5] = [
        (Self::Istio, "sidecar.istio.io/status", ""),
        (Self::IstioAmbient, "ambient.istio.io/redirection", "enabled"),
        (Self::Linkerd, "linkerd.io/proxy-version", ""),
        (Self::Kuma, "kuma.io/sidecar-injected", "true"),
        (Self::Consul, "consul.hashicorp.com/connect-inject-status", "injected"),
    ];

    /// The mesh that has marked a pod with these annotations.
    pub fn of(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let found = Self::MARKS.into_iter().find(|(_, name, expected)| {
            annotations.get(*name).is_some_and(|value| expected.is_empty() || value == expected)
        });
        found.map(|(mesh, ..)| mesh)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Istio => "istio",
            Self::IstioAmbient => "istio-ambient",
            Self::Linkerd => "linkerd",
            Self::Kuma => "kuma",
            Self::Consul => "consul",
        }
    }
}

/// Why a pod is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PodExclusion {
    /// `balancer.dev/enabled: "false"` on the Pod.
    OptedOut,
    /// It is part of a service mesh.
    Mesh(Mesh),
    /// `balancer.dev/enabled: "false"` on its Namespace.
    NamespaceOptedOut,
}

impl PodExclusion {
    /// The word that logs use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OptedOut => "opted-out",
            Self::Mesh(mesh) => mesh.name(),
            Self::NamespaceOptedOut => "namespace-opted-out",
        }
    }
}

/// A pod that is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExcludedPod {
    /// Namespace and name.
    pub name: ObjectName,
    /// [`PodSpec::uid`].
    pub uid: Arc<str>,
    /// Why.
    pub reason: PodExclusion,
}

/// The pod's own word beats its mesh and its Namespace. `--select` is about Services, not about clients.
pub(super) fn exclusion(pod: &PodSpec, namespace: Option<&NamespaceSpec>) -> Option<PodExclusion> {
    match (pod.enabled, pod.mesh, namespace.and_then(|namespace| namespace.enabled)) {
        (Some(Participation::OptedIn), _, _) => None,
        (Some(Participation::OptedOut), _, _) => Some(PodExclusion::OptedOut),
        (None, Some(mesh), _) => Some(PodExclusion::Mesh(mesh)),
        (None, None, Some(Participation::OptedOut)) => Some(PodExclusion::NamespaceOptedOut),
        (None, None, Some(Participation::OptedIn) | None) => None,
    }
}

/// The pods of this node, once the source has listed them.
#[derive(Debug, Default)]
pub(super) struct Pods {
    known: Option<HashMap<ObjectName, PodSpec>>,
    changed: bool,
}

impl Pods {
    pub(super) fn replace(&mut self, specs: Vec<PodSpec>) {
        let new = specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        if self.known.as_ref() != Some(&new) {
            self.known = Some(new);
            self.changed = true;
        }
    }

    pub(super) fn set(&mut self, spec: PodSpec) {
        if let Some(known) = &mut self.known
            && known.get(&spec.name) != Some(&spec)
        {
            known.insert(spec.name.clone(), spec);
            self.changed = true;
        }
    }

    pub(super) fn remove(&mut self, name: &ObjectName) {
        if let Some(known) = &mut self.known {
            self.changed |= known.remove(name).is_some();
        }
    }

    /// What a Namespace says has changed.
    pub(super) const fn reconsider(&mut self) {
        self.changed |= self.known.is_some();
    }

    /// Those that are left alone, in the order of their names, if that may have changed since the last call.
    pub(super) fn take_excluded(
        &mut self,
        namespaces: &HashMap<Arc<str>, NamespaceSpec>,
    ) -> Option<Vec<ExcludedPod>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let excluded = |pod: &PodSpec| {
            let reason = exclusion(pod, namespaces.get(&pod.name.namespace))?;
            Some(ExcludedPod { name: pod.name.clone(), uid: pod.uid.clone(), reason })
        };
        let mut found: Vec<_> = self.known.iter().flat_map(HashMap::values).filter_map(excluded).collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Some(found)
    }

    /// What the pods say that somebody should put right. In no order.
    pub(super) fn problems(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.known
            .iter()
            .flat_map(HashMap::values)
            .flat_map(|pod| pod.problems.iter().map(|problem| (&pod.name, problem.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, enabled: Option<Participation>, mesh: Option<Mesh>) -> PodSpec {
        PodSpec {
            name: ObjectName::new("shop", name),
            uid: format!("uid-{name}").into(),
            enabled,
            mesh,
            problems: Vec::new(),
        }
    }

    fn shop(enabled: Option<Participation>) -> HashMap<Arc<str>, NamespaceSpec> {
        let spec = NamespaceSpec { name: "shop".into(), enabled, problems: Vec::new() };
        HashMap::from([("shop".into(), spec)])
    }

    #[test]
    fn the_nearest_word_counts() {
        use Participation::{OptedIn, OptedOut};
        let check = |pod_says, mesh, namespace_says, expect| {
            let namespaces = shop(namespace_says);
            let found = exclusion(&pod("a", pod_says, mesh), namespaces.get("shop"));
            assert_eq!(found, expect, "{pod_says:?} {mesh:?} {namespace_says:?}");
        };
        let mesh = Some(Mesh::Linkerd);
        for namespace in [None, Some(OptedIn), Some(OptedOut)] {
            for mesh in [None, mesh] {
                check(Some(OptedIn), mesh, namespace, None);
                check(Some(OptedOut), mesh, namespace, Some(PodExclusion::OptedOut));
            }
            check(None, mesh, namespace, Some(PodExclusion::Mesh(Mesh::Linkerd)));
        }
        check(None, None, None, None);
        check(None, None, Some(OptedIn), None);
        check(None, None, Some(OptedOut), Some(PodExclusion::NamespaceOptedOut));
    }

    #[test]
    fn a_mesh_is_known_by_what_it_writes() {
        let of = |name: &str, value: &str| Mesh::of(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(of("sidecar.istio.io/status", "{}"), Some(Mesh::Istio));
        assert_eq!(of("ambient.istio.io/redirection", "enabled"), Some(Mesh::IstioAmbient));
        assert_eq!(of("ambient.istio.io/redirection", "disabled"), None);
        assert_eq!(of("linkerd.io/proxy-version", "2.14"), Some(Mesh::Linkerd));
        assert_eq!(of("kuma.io/sidecar-injected", "true"), Some(Mesh::Kuma));
        assert_eq!(of("kuma.io/sidecar-injected", "false"), None);
        // What asks for a sidecar is not one.
        assert_eq!(of("linkerd.io/inject", "enabled"), None);
        assert_eq!(of("sidecar.istio.io/inject", "true"), None);
    }

    #[test]
    fn only_changes_are_told() {
        let names = |names: &[&str]| Some(names.iter().map(|name| ObjectName::new("shop", *name)).collect());
        let excluded = |pods: &mut Pods, namespaces: &HashMap<_, _>| {
            let found: Option<Vec<_>> =
                pods.take_excluded(namespaces).map(|found| found.into_iter().map(|pod| pod.name).collect());
            found
        };
        let mut pods = Pods::default();
        let none = shop(None);
        pods.set(pod("early", Some(Participation::OptedOut), None));
        pods.reconsider();
        assert_eq!(excluded(&mut pods, &none), None, "before the list nothing is known");
        let all = vec![pod("a", Some(Participation::OptedOut), None), pod("b", None, None)];
        pods.replace(all.clone());
        assert_eq!(excluded(&mut pods, &none), names(&["a"]));
        pods.replace(all);
        pods.set(pod("b", None, None));
        assert_eq!(excluded(&mut pods, &none), None, "delivered again");
        let out = shop(Some(Participation::OptedOut));
        pods.reconsider();
        assert_eq!(excluded(&mut pods, &out), names(&["a", "b"]));
        pods.remove(&ObjectName::new("shop", "a"));
        assert_eq!(excluded(&mut pods, &out), names(&["b"]));
        pods.set(pod("b", Some(Participation::OptedIn), None));
        assert_eq!(excluded(&mut pods, &out), names(&[]));
    }
}
