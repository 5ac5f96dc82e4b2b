//! A real kube-proxy in the node's network namespace of a [`Topology`], and what its rules say.
//!
//! It is the judge of what the agent does: [`KubeProxy::rules`] reads from the kernel which endpoints each Service
//! address leads to.

mod iptables;
mod nftables;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use balancer_userspace::model::Frontend;
use serde_json::json;

use crate::{
    agent::get,
    apiserver::{ASSETS, ApiServer, kubeconfig::Credential},
    topology::{
        NODE, Netns, POD_CIDR_V4, POD_CIDR_V6, Process, SERVICE_CIDR_V4, SERVICE_CIDR_V6, Scratch, Topology,
        ip_batch,
    },
};

/// Where it says whether its rules are in place.
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10_256);

/// How long it gets to put its first rules in place.
const START: Duration = Duration::from_secs(60);

/// What it writes its rules with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// nftables.
    Nftables,
    /// iptables.
    Iptables,
}

/// What happens to a packet for one address, port and protocol. What is not mentioned goes its way as it is.
pub type Rules = BTreeMap<Frontend, Verdict>;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to one of these.
    Endpoints {
        /// Which.
        endpoints: BTreeSet<SocketAddr>,
        /// `sessionAffinity: ClientIP`, and for how long.
        affinity: Option<Duration>,
    },
    /// It is answered with an error.
    Reject,
    /// It is swallowed.
    Drop,
}

/// A running kube-proxy. Dropping it ends it; its rules go with the namespace.
#[derive(Debug)]
pub struct KubeProxy<'t> {
    netns: &'t Netns,
    mode: Mode,
    process: Process,
    scratch: Scratch,
}

impl<'t> KubeProxy<'t> {
    /// Starts it for the node `node-1`, which must exist, as a service account with the rights of its own role, and
    /// waits until its rules are in place. The node then has a route for Service addresses, as it would in a cluster.
    ///
    /// # Errors
    ///
    /// When `KUBEBUILDER_ASSETS` names no kube-proxy, or it does not start, with the end of its log.
    pub fn start(topology: &'t Topology, server: &impl ApiServer, mode: Mode) -> Result<Self> {
        let assets = assets()?;
        let netns = topology.host().netns();
        // A packet that no rule catches is lost, as in a cluster, and one that is to be rejected is routed first.
        ip_batch(
            Some(netns),
            &[
                "link add name services type veth peer name nowhere".into(),
                "link set services arp off".into(),
                "link set services up".into(),
                "link set nowhere up".into(),
                format!("route delete unreachable {SERVICE_CIDR_V4}"),
                format!("route delete unreachable {SERVICE_CIDR_V6}"),
                format!("route add {SERVICE_CIDR_V4} dev services"),
                format!("route add {SERVICE_CIDR_V6} dev services"),
            ],
        )?;
        let scratch = Scratch::files()?;
        let kubeconfig = scratch.path().join("kubeconfig");
        let token = account(server)?;
        fs::write(&kubeconfig, server.kubeconfig(&Credential::Token(&token)).to_string())?;
        let config = scratch.path().join("config.json");
        let name = match mode {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
        };
        let configuration = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": kubeconfig, "qps": 1_000, "burst": 1_000},
            "mode": name, "hostnameOverride": "node-1",
            "detectLocalMode": "ClusterCIDR", "clusterCIDR": format!("{POD_CIDR_V4},{POD_CIDR_V6}"),
            // The limits of connection tracking are the machine's.
            "conntrack": {
                "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            },
            "nftables": {"minSyncPeriod": "50ms"}, "iptables": {"minSyncPeriod": "50ms"},
            "healthzBindAddress": HEALTH.to_string(), "metricsBindAddress": "127.0.0.1:10249",
        });
        fs::write(&config, configuration.to_string())?;
        let log = File::create(scratch.path().join("kube-proxy.log"))?;
        let mut command = Command::new(assets.join("kube-proxy"));
        command.arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = topology.host().spawn(command)?;
        let mut this = Self { netns, mode, process, scratch };
        this.wait_ready()?;
        Ok(this)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.process.exited()? {
                bail!("kube-proxy ended ({status}); its log ends with\n{}", self.log_end());
            }
            if let Ok((200, _)) = self.netns.run(|| get(HEALTH, "/healthz"))? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("kube-proxy is not ready after {START:?}; its log ends with\n{}", self.log_end());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What its rules say, of both families.
    ///
    /// # Errors
    ///
    /// When they cannot be listed, or hold something that is not understood.
    pub fn rules(&self) -> Result<Rules> {
        match self.mode {
            Mode::Nftables => nftables::rules(self.netns),
            Mode::Iptables => iptables::rules(self.netns),
        }
    }

    /// Its process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The end of its log.
    pub fn log_end(&self) -> String {
        let log = fs::read(self.scratch.path().join("kube-proxy.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Its version: major and minor.
///
/// # Errors
///
/// When `KUBEBUILDER_ASSETS` names no kube-proxy, or it says something else.
pub fn version() -> Result<(u32, u32)> {
    let assets = assets()?;
    let said = Command::new(assets.join("kube-proxy")).arg("--version").output().context("kube-proxy")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    parse_version(&said).with_context(|| format!("kube-proxy --version says {said:?}"))
}

/// `Kubernetes v1.36.2`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim().strip_prefix("Kubernetes v")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The directory that has it.
fn assets() -> Result<PathBuf> {
    let assets = std::env::var_os(ASSETS);
    assets
        .map(PathBuf::from)
        .with_context(|| format!("{ASSETS} is not set: name a directory with kube-proxy"))
}

/// A service account with the rights that Kubernetes defines for it; its token.
fn account(server: &impl ApiServer) -> Result<String> {
    let (namespace, name) = ("kube-system", "kube-proxy");
    let admin = server.admin();
    admin.apply(&crate::apiserver::objects::namespace(namespace))?;
    admin.apply(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace},
    }))?;
    admin.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier",
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }))?;
    admin.token(namespace, name)
}

/// The Node `node-1` as a kubelet would write it: kube-proxy takes addresses from it, both take the zone.
pub fn node(zone: &str) -> serde_json::Value {
    let addresses = NODE.both().map(|address| json!({"type": "InternalIP", "address": address}));
    let mut node = crate::apiserver::objects::node("node-1", zone);
    node["spec"] = json!({"podCIDR": POD_CIDR_V4, "podCIDRs": [POD_CIDR_V4, POD_CIDR_V6]});
    node["status"] = json!({"addresses": addresses});
    node
}

/// What a command prints in a namespace.
fn output(netns: &Netns, program: &str, arguments: &[&str]) -> Result<String> {
    let output = netns
        .run(|| Command::new(program).args(arguments).stdin(Stdio::null()).output())?
        .with_context(|| format!("{program} (install it)"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), error.trim());
    String::from_utf8(output.stdout).with_context(|| format!("{program}: not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("Kubernetes v1.36.2\n"), Some((1, 36)));
        assert_eq!(parse_version("Kubernetes v1.35.0-rc.1+k3s1"), Some((1, 35)));
        assert_eq!(parse_version("kube-proxy"), None);
    }
}
