//! Which Services are ours to balance: what bars them, and what their owners and the node's operator ask for.

use std::sync::Arc;

use super::ServiceSpec;

/// Whether a Service is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It is.
    Balanced,
    /// It is not, for this reason; connects to it are passed through.
    Excluded(Exclusion),
}

/// Why a Service is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exclusion {
    /// `clusterIP: None` or none assigned.
    Headless,
    /// `type: ExternalName`.
    ExternalName,
    /// Label `service.kubernetes.io/service-proxy-name`.
    OtherProxy,
    /// `default/kubernetes`: the way to the API server must not depend on us.
    ApiServer,
    /// Annotation `balancer.dev/enabled: "false"` on the Service.
    OptedOut,
    /// Annotation `balancer.dev/enabled: "false"` on its Namespace, and none on the Service.
    NamespaceOptedOut,
    /// `--select annotated`, and neither the Service nor its Namespace asks for it.
    NotSelected,
}

impl Exclusion {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Headless,
        Self::ExternalName,
        Self::OtherProxy,
        Self::ApiServer,
        Self::OptedOut,
        Self::NamespaceOptedOut,
        Self::NotSelected,
    ];

    /// The label that metrics and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Headless => "headless",
            Self::ExternalName => "external-name",
            Self::OtherProxy => "other-proxy",
            Self::ApiServer => "api-server",
            Self::OptedOut => "opted-out",
            Self::NamespaceOptedOut => "namespace-opted-out",
            Self::NotSelected => "not-selected",
        }
    }
}

/// What an owner asks for with `balancer.dev/enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Participation {
    /// `"true"`.
    OptedIn,
    /// `"false"`.
    OptedOut,
}

/// Which Services are balanced of which nobody says anything (`--select`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// Those that carry `balancer.dev/enabled: "true"`, or whose Namespace does.
    Annotated,
}

/// What the model needs of a Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Name.
    pub name: Arc<str>,
    /// `balancer.dev/enabled`; `None` where absent or malformed.
    pub enabled: Option<Participation>,
    /// What was found wrong while reading the object.
    pub problems: Vec<String>,
}

impl NamespaceSpec {
    /// Whether it says anything at all: most Namespaces do not, and are not kept.
    pub(super) const fn says_something(&self) -> bool {
        self.enabled.is_some() || !self.problems.is_empty()
    }
}

/// The Service's own word beats its Namespace's, which beats the node's. What bars a Service beats all.
///
/// A Namespace of which nothing is known has said nothing.
pub(super) fn scope(service: &ServiceSpec, namespace: Option<&NamespaceSpec>, selection: Selection) -> Scope {
    if let Some(reason) = service.barred {
        return Scope::Excluded(reason);
    }
    match (service.enabled, namespace.and_then(|namespace| namespace.enabled), selection) {
        (Some(Participation::OptedIn), _, _)
        | (None, Some(Participation::OptedIn), _)
        | (None, None, Selection::All) => Scope::Balanced,
        (Some(Participation::OptedOut), _, _) => Scope::Excluded(Exclusion::OptedOut),
        (None, Some(Participation::OptedOut), _) => Scope::Excluded(Exclusion::NamespaceOptedOut),
        (None, None, Selection::Annotated) => Scope::Excluded(Exclusion::NotSelected),
    }
}
