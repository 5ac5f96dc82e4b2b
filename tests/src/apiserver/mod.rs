//! API servers to run an agent against: a real one, and one of our own that fails on command.
//!
//! Both listen in the node's network namespace of a [`Topology`], speak TLS with certificates made for the test, and
//! know the agent by a token of its service account, whose rights are those of `deploy/`. What a test writes, it
//! writes by HTTP ([`Admin`]), so that one test serves both.
//!
//! [`Topology`]: crate::topology::Topology

mod admin;
pub mod kubeconfig;
pub mod objects;
pub mod pki;
mod real;

pub use self::{
    admin::{Admin, Refused, code, documents},
    real::RealServer,
};

/// Name of the variable that says where `kube-apiserver` and `etcd` are.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The namespace of the agent's service account.
pub const AGENT_NAMESPACE: &str = "balancer-system";

/// The agent's service account.
pub const AGENT_ACCOUNT: &str = "balancer";

/// The token of the tests' own client.
const ADMIN_TOKEN: &str = "admin-of-the-tests";

/// The rights of the agent, as they are deployed.
pub fn rbac_file() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base/rbac.yaml")
}
