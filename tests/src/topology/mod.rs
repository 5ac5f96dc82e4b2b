//! A cluster node in namespaces.
//!
//! ```text
//!              node netns (router, 10.244.0.1, fd00:10:244::1; "host" processes, the agent)
//!             veth│        veth│        veth│        unreachable 10.96.0.0/16, fd00:10:96::/112
//!           client        backend-1     backend-2    …each with a cgroup below the topology's own
//!         10.244.0.2      10.244.0.3    10.244.0.4
//! ```
//!
//! A connect to a Service address that nobody translates fails at once with EHOSTUNREACH, one to anywhere else
//! outside with ENETUNREACH, and nothing can leave the machine. Everything is named after the process that made it, is removed on drop (also while
//! unwinding), and what a killed process left behind is removed by the next one ([`sweep`]).

mod addresses;
mod cgroup;
mod netns;
mod owner;
mod pod;
mod process;

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};

use self::{
    addresses::Allocator,
    pod::{Node, PodLink},
};
pub use self::{
    addresses::{
        Addresses, NODE, POD_CIDR_V4, POD_CIDR_V6, SERVICE_CIDR_V4, SERVICE_CIDR_V6, service_v4, service_v6,
    },
    cgroup::Cgroup,
    netns::{Netns, ip_batch},
    owner::{Owner, Scratch, remains_of, sweep},
    pod::Pod,
    process::{Process, interrupted, on_signals},
};

/// A node with its pods. Dropping it and all of its [`Pod`]s removes everything.
#[derive(Debug)]
pub struct Topology {
    host: Pod,
    node: Arc<Node>,
    addresses: Allocator,
}

impl Topology {
    /// Makes the node: its namespace, routes and cgroups. Sweeps what dead processes left first.
    ///
    /// # Errors
    ///
    /// Whatever [`crate::kernel::check`] finds missing, or the `ip` command that failed with its own words.
    pub fn new() -> Result<Self> {
        crate::kernel::check()?;
        sweep()?;
        let owner = Owner::unique();
        let node = Arc::new(Node::new(&owner).context("node")?);
        let host = Pod::host(&node)?;
        Ok(Self { host, node, addresses: Allocator::default() })
    }

    /// Adds a pod: a namespace linked to the node, an IPv4 and an IPv6 address, and a cgroup.
    ///
    /// The pod lives as long as the value, which may outlive the [`Topology`].
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_in(&self.node.cgroup, name)
    }

    /// Makes a part of the node that an agent of its own may attach to, as if it were a node by itself: pods of
    /// [`Topology::pod_in`] are in its cgroup. It must outlive them.
    pub fn part(&self, name: &str) -> Result<Cgroup> {
        self.node.cgroup.child(name)
    }

    /// Like [`Topology::pod`], in a part of the node.
    pub fn pod_in(&self, part: &Cgroup, name: &str) -> Result<Pod> {
        let (index, addresses) = self.addresses.next();
        Pod::new(&self.node, part, name, PodLink { index, addresses }).with_context(|| format!("pod {name}"))
    }

    /// Adds `count` pods named `prefix-1`, `prefix-2`, ….
    pub fn pods(&self, prefix: &str, count: usize) -> Result<Vec<Pod>> {
        (1..=count).map(|n| self.pod(&format!("{prefix}-{n}"))).collect()
    }

    /// The node itself, as a host-network pod: the agent belongs here.
    pub fn host(&self) -> &Pod {
        &self.host
    }

    /// The cgroup above all pods and the host: what the agent attaches to.
    pub fn cgroup(&self) -> &Path {
        self.node.cgroup.path()
    }

    /// An IPv4 and an IPv6 pod address that swallow every packet: connects there time out.
    pub fn blackhole(&self) -> Result<Addresses> {
        let (_, addresses) = self.addresses.next();
        ip_batch(
            Some(&self.node.netns),
            &[
                format!("route add blackhole {}/32", addresses.v4),
                format!("route add blackhole {}/128", addresses.v6),
            ],
        )?;
        Ok(addresses)
    }

    /// An IPv4 and an IPv6 pod address that nobody has: connects there fail with ENETUNREACH after a second.
    pub fn nobody(&self) -> Addresses {
        self.addresses.next().1
    }
}
