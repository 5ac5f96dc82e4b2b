//! An API server, kube-proxy and an agent on one node.

use std::fs;

use anyhow::Result;
use balancer_tests::{
    agent::{Agent, AgentOptions},
    apiserver::{
        AGENT_ACCOUNT, AGENT_NAMESPACE, Admin, ApiServer as _, RealServer, kubeconfig::Credential, objects,
        rbac_file,
    },
    kubeproxy::{self, KubeProxy, Mode},
    topology::Topology,
};

/// The zone of the node `node-1`.
pub const ZONE: &str = "zone-a";

/// They are dropped in this order.
pub struct Cluster<'t> {
    pub agent: Agent<'t>,
    pub proxy: KubeProxy<'t>,
    server: RealServer<'t>,
}

impl<'t> Cluster<'t> {
    /// Starts all of it; the agent has the rights that it is deployed with, and is ready.
    pub fn start(topology: &'t Topology, mode: Mode, options: AgentOptions) -> Result<Self> {
        let server = RealServer::start(topology)?;
        let admin = server.admin();
        for name in [AGENT_NAMESPACE, objects::NAMESPACE] {
            admin.apply(&objects::namespace(name))?;
        }
        admin.create(&kubeproxy::node(ZONE))?;
        admin.create_yaml(&rbac_file())?;
        let proxy = KubeProxy::start(topology, &server, mode)?;
        let config = server.dir().join("kubeconfig");
        let token = admin.token(AGENT_NAMESPACE, AGENT_ACCOUNT)?;
        fs::write(&config, server.kubeconfig(&Credential::Token(&token)).to_string())?;
        let mut agent = Agent::of_cluster(topology, &config, options)?;
        agent.spawn()?;
        agent.wait_ready()?;
        Ok(Self { agent, proxy, server })
    }

    pub fn admin(&self) -> &Admin {
        self.server.admin()
    }
}
