//! A namespace and a cgroup with addresses: where an application runs.

use std::{
    fs::{File, OpenOptions},
    net::{IpAddr, SocketAddr},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    addresses::{Addresses, NODE, POD_CIDR_V4, POD_CIDR_V6, SERVICE_CIDR_V4, SERVICE_CIDR_V6},
    cgroup::Cgroup,
    netns::{Netns, complain, ip_batch},
    owner::Owner,
    process::Process,
};

/// How long a command run to its end may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What all pods of a topology hang on. Fields are dropped in order: processes end before their namespace.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) cgroup: Cgroup,
    pub(super) netns: Arc<Netns>,
    owner: String,
}

/// Where a pod is plugged in.
#[derive(Clone, Copy, Debug)]
pub(super) struct PodLink {
    pub(super) index: u16,
    pub(super) addresses: Addresses,
}

impl Node {
    pub(super) fn new(owner: &Owner) -> Result<Self> {
        let cgroup = Cgroup::top(&owner.to_string())?;
        let netns = Arc::new(Netns::new(format!("{owner}-node"))?);
        netns.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Every refused route is answered: an answer that is rate-limited away costs the client a second.
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ])?;
        // A limit for the whole machine before Linux 6.11, where it cannot be set here and is 1,000 a second.
        _ = netns
            .sysctl(&[("net/ipv4/icmp_msgs_per_sec", "1000000"), ("net/ipv4/icmp_msgs_burst", "1000000")]);
        tune(&netns)?;
        ip_batch(
            Some(&netns),
            &[
                format!("route add unreachable {SERVICE_CIDR_V4}"),
                format!("route add unreachable {SERVICE_CIDR_V6}"),
            ],
        )?;
        Ok(Self { cgroup, netns, owner: owner.to_string() })
    }
}

/// Room for benchmarks: ports, and their early reuse.
fn tune(netns: &Netns) -> Result<()> {
    netns.sysctl(&[
        ("net/ipv4/ip_local_port_range", "10000 65535"),
        ("net/ipv4/tcp_tw_reuse", "1"),
        ("net/core/somaxconn", "65535"),
        ("net/ipv4/tcp_max_syn_backlog", "65535"),
        // A failed handshake must not make the next one to that address start differently.
        ("net/ipv4/tcp_no_metrics_save", "1"),
    ])
}

/// A place for processes: network namespace, cgroup and addresses. Dropping it ends what runs in it and unplugs it.
#[derive(Debug)]
pub struct Pod {
    name: String,
    cgroup: Cgroup,
    netns: Arc<Netns>,
    addresses: Addresses,
    procs: File,
    /// Name of the node's end of the link; none for the host.
    link: Option<String>,
    node: Arc<Node>,
}

impl Pod {
    pub(super) fn new(node: &Arc<Node>, part: &Cgroup, name: &str, link: PodLink) -> Result<Self> {
        let netns = Netns::new(format!("{}-{name}", node.owner))?;
        tune(&netns)?;
        let Addresses { v4, v6 } = link.addresses;
        let Addresses { v4: gw4, v6: gw6 } = NODE;
        let far = format!("pod{}", link.index);
        let inside = netns.name();
        ip_batch(
            Some(&node.netns),
            &[
                format!("link add name {far} type veth peer name eth0 netns {inside}"),
                format!("link set {far} up"),
                format!("address add {gw4}/32 dev {far}"),
                format!("address add {gw6}/128 dev {far} nodad"),
                format!("route add {v4}/32 dev {far} src {gw4}"),
                format!("route add {v6}/128 dev {far} src {gw6}"),
            ],
        )?;
        ip_batch(
            Some(&netns),
            &[
                format!("address add {v4}/32 dev eth0"),
                format!("address add {v6}/128 dev eth0 nodad"),
                "link set eth0 up".into(),
                format!("route add {gw4}/32 dev eth0"),
                format!("route add {gw6}/128 dev eth0"),
                format!("route add {POD_CIDR_V4} via {gw4} dev eth0"),
                format!("route add {POD_CIDR_V6} via {gw6} dev eth0"),
                // The node would say the same, but its ICMP error arrives while connect() still holds the socket, is
                // therefore ignored, and the connect fails a second later, at the first retransmission.
                format!("route add unreachable {SERVICE_CIDR_V4}"),
                format!("route add unreachable {SERVICE_CIDR_V6}"),
            ],
        )?;
        let cgroup = part.child(name)?;
        Self::assemble(node, cgroup, name, Arc::new(netns), link.addresses, Some(far))
    }

    pub(super) fn host(node: &Arc<Node>) -> Result<Self> {
        let cgroup = node.cgroup.child("node")?;
        Self::assemble(node, cgroup, "node", Arc::clone(&node.netns), NODE, None)
    }

    fn assemble(
        node: &Arc<Node>,
        cgroup: Cgroup,
        name: &str,
        netns: Arc<Netns>,
        addresses: Addresses,
        link: Option<String>,
    ) -> Result<Self> {
        let file = cgroup.path().join("cgroup.procs");
        let procs = OpenOptions::new().write(true).open(&file).with_context(|| file.display().to_string())?;
        Ok(Self { name: name.to_owned(), cgroup, netns, addresses, procs, link, node: Arc::clone(node) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its IPv4 address with a port.
    pub fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.addresses.v4), port)
    }

    /// Its IPv6 address with a port.
    pub fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.addresses.v6), port)
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Starts a command in it.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        Process::start(command, self.netns.file(), &self.procs)
            .with_context(|| format!("in pod {}", self.name))
    }

    /// Runs a command in it to its end and returns what it printed; the exit status is the caller's to judge.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(command)?.output(COMMAND_TIMEOUT)
    }

    /// Sends what it dials at Service addresses to the node, where kube-proxy's kind of rules can catch it. Without such rules a
    /// connect then fails with EHOSTUNREACH (IPv6: ENETUNREACH) after a second instead of at once.
    pub fn route_services_to_node(&self) -> Result<()> {
        let Addresses { v4, v6 } = NODE;
        ip_batch(
            Some(&self.netns),
            &[
                format!("route replace {SERVICE_CIDR_V4} via {v4} dev eth0"),
                format!("route delete unreachable {SERVICE_CIDR_V6}"),
                format!("route add {SERVICE_CIDR_V6} via {v6} dev eth0"),
            ],
        )
    }

    /// Cuts its link as when its node dies: packets to it are swallowed, not refused, until [`Pod::plug`].
    pub fn unplug(&self) -> Result<()> {
        let Addresses { v4, v6 } = self.addresses;
        ip_batch(
            Some(&self.node.netns),
            &[format!("route replace blackhole {v4}/32"), format!("route replace blackhole {v6}/128")],
        )
    }

    /// Undoes [`Pod::unplug`].
    pub fn plug(&self) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let (pod, gateway) = (self.addresses, NODE);
        ip_batch(
            Some(&self.node.netns),
            &[
                format!("route replace {}/32 dev {link} src {}", pod.v4, gateway.v4),
                format!("route replace {}/128 dev {link} src {}", pod.v6, gateway.v6),
            ],
        )
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // In the order of a real pod's end: processes first, so that their peers see connections closed; then the link, by name,
        // because the namespace itself goes only some time after its last user.
        let result = self.cgroup.kill().and_then(|()| match &self.link {
            Some(link) => ip_batch(Some(&self.node.netns), &[format!("link delete {link}")]),
            None => Ok(()),
        });
        if let Err(error) = result {
            complain(&error.context(format!("pod {}", self.name)));
        }
    }
}
