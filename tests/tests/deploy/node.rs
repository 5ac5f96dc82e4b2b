//! A node for the agent as the manifests run it: a client, pods that answer, one Service.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use balancer_tests::{
    agent::{Agent, AgentOptions, HTTP, binary, get},
    kernel::require_kernel,
    manifests::ManifestDir,
    peer::Server,
    topology::{Pod, Scratch, Topology, service_v4},
};

/// Where pods listen.
const PORT: u16 = 8080;

/// A node with `shop/web` in front of two pods.
pub struct Node {
    pub manifests: ManifestDir,
    _servers: Vec<Server>,
    pub client: Pod,
    _pods: Vec<Pod>,
    pub files: Scratch,
    pub topology: Topology,
}

impl Node {
    /// Sets it up.
    pub fn new() -> Self {
        require_kernel();
        let topology = Topology::new().unwrap();
        let client = topology.pod("client").unwrap();
        let pods = topology.pods("web", 2).unwrap();
        let servers = pods.iter().map(|pod| pod.server(PORT).unwrap()).collect();
        let manifests = ManifestDir::new().unwrap();
        manifests.service("shop/web").cluster_ip(service_v4(1)).port(80).write().unwrap();
        manifests.backends("shop/web", PORT, &pods).unwrap();
        Self { manifests, _servers: servers, client, _pods: pods, files: Scratch::files().unwrap(), topology }
    }

    /// The Service's frontend.
    pub fn frontend() -> SocketAddr {
        SocketAddr::new(service_v4(1).into(), 80)
    }

    /// An agent that is not started yet; `wrapper` stands in front of the binary, as in `exec WRAPPER balancer …`.
    pub fn agent(&self, wrapper: &str) -> Agent<'_> {
        let options = AgentOptions { binary: Some(self.wrapped(wrapper)), ..AgentOptions::default() };
        Agent::stopped(&self.topology, &self.manifests, options).unwrap()
    }

    /// GET from the agent's HTTP server, in the node's network: status and body.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.topology.host().netns().run(|| get(HTTP, path))?
    }

    fn wrapped(&self, wrapper: &str) -> PathBuf {
        let path = self.files.path().join("balancer");
        let binary = binary().unwrap();
        fs::write(&path, format!("#!/bin/sh\nexec {wrapper} {} \"$@\"\n", binary.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}
