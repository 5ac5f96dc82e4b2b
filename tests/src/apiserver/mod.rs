//! API servers to run an agent against: a real one, and one of our own that fails on command.
//!
//! Both listen in the node's network namespace of a [`Topology`], speak TLS with certificates made for the test, and
//! know the agent by a token of its service account, whose rights are those of `deploy/`. What a test writes, it
//! writes by HTTP ([`Admin`]), so that one test serves both.
//!
//! [`Topology`]: crate::topology::Topology

mod admin;
pub mod fake;
pub mod kubeconfig;
pub mod objects;
pub mod pki;
mod real;

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use self::kubeconfig::Credential;
pub use self::{
    admin::{Admin, Refused, code, documents},
    fake::FakeServer,
    real::{Part, RealServer},
};

/// What a test can do to any API server.
///
/// Between [`ApiServer::pause`] and [`ApiServer::resume`], and between [`ApiServer::stop`] and [`ApiServer::start`], its
/// [`Admin`] may get no answer.
pub trait ApiServer {
    /// The tests' client.
    fn admin(&self) -> &Admin;

    /// A directory for files of a test.
    fn dir(&self) -> &Path;

    /// A kubeconfig for an agent.
    fn kubeconfig(&self, credential: &Credential<'_>) -> Value;

    /// It answers nothing, and keeps its connections (SIGSTOP).
    fn pause(&mut self) -> Result<()>;

    /// It goes on (SIGCONT).
    fn resume(&mut self) -> Result<()>;

    /// It dies: connections break, and new ones are refused.
    fn stop(&mut self) -> Result<()>;

    /// It is there again, with the same objects and without a memory of what changed before.
    fn start(&mut self) -> Result<()>;

    /// Keeps its state for [`ApiServer::go_back`]. Connections may break.
    fn save(&mut self) -> Result<()>;

    /// It dies and comes back with the state that was saved, its versions included: a backup was restored.
    fn go_back(&mut self) -> Result<()>;
}

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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base/rbac.yaml")
}
