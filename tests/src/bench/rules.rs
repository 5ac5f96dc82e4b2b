//! The rules that kube-proxy would install, in its shape: its chains, their order and their matches, of
//! Kubernetes 1.36 with a cluster CIDR.
//!
//! They go into the node's namespace, as on a real node: a pod's packet meets them in PREROUTING, once it
//! has left the pod's veth.

use std::{
    fmt::Write as _,
    io::{Read as _, Seek as _, Write as _},
    net::{SocketAddr, SocketAddrV4},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use balancer_common::abi::{TCP, UDP};

use super::check_interrupt;
use crate::topology::{Netns, POD_CIDR_V4, POD_CIDR_V6, interrupted};

/// How long a tool may take where nobody says.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two looks at whether it is ready.
const LOOK: Duration = Duration::from_millis(5);

/// How much of what a tool says of its failure is passed on, in bytes.
const SAID: usize = 1000;

/// A Service and its endpoints.
#[derive(Clone, Debug)]
pub struct Service<A = SocketAddrV4> {
    /// What is dialled.
    pub address: A,
    /// Where it may go.
    pub endpoints: Vec<A>,
}

/// Which of kube-proxy's modes, and which tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// iptables over nf_tables: what distributions install as `iptables`.
    IptablesNft,
    /// iptables over the older x_tables.
    IptablesLegacy,
    /// nftables.
    Nftables,
}

/// What rules are for: all of them are of one address family and one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Of the addresses.
    pub family: Family,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
}

impl Kind {
    /// What most Services are.
    pub const TCP_V4: Self = Self { family: Family::V4, protocol: TCP };

    const fn protocol(self) -> &'static str {
        if self.protocol == UDP { "udp" } else { "tcp" }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    const fn pods(self) -> &'static str {
        match self {
            Self::V4 => POD_CIDR_V4,
            Self::V6 => POD_CIDR_V6,
        }
    }

    /// The prefix that is one address.
    const fn host(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// What nft calls it.
    const fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// What nft calls the type of its addresses.
    const fn address(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::IptablesNft, Self::IptablesLegacy, Self::Nftables];

    /// What tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IptablesNft => "iptables (nft)",
            Self::IptablesLegacy => "iptables (legacy)",
            Self::Nftables => "nftables",
        }
    }

    const fn tool(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::IptablesNft, Family::V4) => "iptables-nft-restore",
            (Self::IptablesNft, Family::V6) => "ip6tables-nft-restore",
            (Self::IptablesLegacy, Family::V4) => "iptables-legacy-restore",
            (Self::IptablesLegacy, Family::V6) => "ip6tables-legacy-restore",
            (Self::Nftables, _) => "nft",
        }
    }

    /// Whether its tool and what it needs of the kernel are there.
    pub fn available(self, netns: &Netns) -> Result<(), String> {
        self.available_for(Kind::TCP_V4, netns)
    }

    /// The same for rules of this kind.
    pub fn available_for(self, kind: Kind, netns: &Netns) -> Result<(), String> {
        let address = match kind.family {
            Family::V4 => SocketAddr::from(([10, 96, 0, 1], 80)),
            Family::V6 => SocketAddr::from(([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1], 80)),
        };
        let probe = [Service { address, endpoints: Vec::new() }];
        self.install_within(PATIENCE, kind, netns, &probe).map(drop).map_err(|error| format!("{error:#}"))
    }

    /// Installs the rules for these Services, TCP over IPv4, in place of all others of this kind.
    ///
    /// # Errors
    /// What the tool says.
    pub fn install(self, netns: &Netns, services: &[Service]) -> Result<()> {
        self.install_within(PATIENCE, Kind::TCP_V4, netns, services).map(drop)
    }

    /// Installs the rules for these Services in place of all others of this kind, and says how long that took.
    ///
    /// # Errors
    /// What the tool says; that it was not ready in time, and was ended.
    pub fn install_within<A: Copy + Into<SocketAddr>>(
        self,
        limit: Duration,
        kind: Kind,
        netns: &Netns,
        services: &[Service<A>],
    ) -> Result<Duration> {
        let services: Vec<Service<SocketAddr>> = services
            .iter()
            .map(|service| Service {
                address: service.address.into(),
                endpoints: service.endpoints.iter().map(|&endpoint| endpoint.into()).collect(),
            })
            .collect();
        let text = match self {
            Self::IptablesNft | Self::IptablesLegacy => iptables(kind, &services),
            Self::Nftables => nftables(kind, &services),
        };
        let tool = self.tool(kind.family);
        // A file and not a pipe: nobody has to feed it while the time is looked at.
        let mut file = tempfile::tempfile().context("a file for rules")?;
        file.write_all(text.as_bytes()).and_then(|()| file.rewind()).context("a file for rules")?;
        let mut errors = tempfile::tempfile().context("a file for errors")?;
        // Enters the namespace and becomes the tool, so that what is ended below is the tool itself.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns.name(), tool]);
        if self == Self::Nftables {
            command.args(["-f", "-"]);
        }
        let begun = Instant::now();
        command.stdin(file).stdout(Stdio::null()).stderr(errors.try_clone().context("a file for errors")?);
        let mut child = command.spawn().with_context(|| tool.to_owned())?;
        let status = loop {
            if let Some(status) = child.try_wait().with_context(|| tool.to_owned())? {
                break status;
            }
            if begun.elapsed() > limit || interrupted() {
                child.kill().and_then(|()| child.wait()).with_context(|| tool.to_owned())?;
                check_interrupt()?;
                bail!("{tool} was not ready with {} Services after {} s", services.len(), limit.as_secs());
            }
            thread::sleep(LOOK);
        };
        if !status.success() {
            errors.rewind()?;
            let mut said = String::new();
            errors.read_to_string(&mut said)?;
            let said = said.trim();
            bail!("{tool}: {}", said.get(..SAID).unwrap_or(said));
        }
        Ok(begun.elapsed())
    }
}

/// Writing to a string cannot fail.
macro_rules! line {
    ($text:expr, $($arg:tt)*) => { _ = writeln!($text, $($arg)*) };
}

fn iptables(kind: Kind, services: &[Service<SocketAddr>]) -> String {
    let (pods, host, protocol) = (kind.family.pods(), kind.family.host(), kind.protocol());
    let mut text = String::from(
        "*filter\n:KUBE-FORWARD - [0:0]\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n",
    );
    for (index, service) in services.iter().enumerate() {
        line!(text, ":KUBE-SVC-{index:016} - [0:0]");
        for number in 0..service.endpoints.len() {
            line!(text, ":KUBE-SEP-{index:012}{number:04} - [0:0]");
        }
    }
    text.push_str(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for (index, service) in services.iter().enumerate() {
        let (ip, port) = (service.address.ip(), service.address.port());
        let name = format!("default/service-{index}");
        line!(
            text,
            "-A KUBE-SERVICES -d {ip}/{host} -p {protocol} -m comment --comment \"{name} cluster IP\" -m {protocol} --dport {port} -j KUBE-SVC-{index:016}"
        );
        line!(
            text,
            "-A KUBE-SVC-{index:016} ! -s {pods} -d {ip}/{host} -p {protocol} -m comment --comment \"{name} cluster IP\" -m {protocol} --dport {port} -j KUBE-MARK-MASQ"
        );
        for (number, endpoint) in service.endpoints.iter().enumerate() {
            let left = service.endpoints.len() - number;
            let chance = if left > 1 {
                format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64)
            } else {
                String::new()
            };
            line!(
                text,
                "-A KUBE-SVC-{index:016} -m comment --comment \"{name} -> {endpoint}\"{chance} -j KUBE-SEP-{index:012}{number:04}"
            );
            line!(
                text,
                "-A KUBE-SEP-{index:012}{number:04} -s {}/{host} -m comment --comment \"{name}\" -j KUBE-MARK-MASQ",
                endpoint.ip()
            );
            line!(
                text,
                "-A KUBE-SEP-{index:012}{number:04} -p {protocol} -m comment --comment \"{name}\" -m {protocol} -j DNAT --to-destination {endpoint}"
            );
        }
    }
    text.push_str(
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         COMMIT\n",
    );
    text
}

fn nftables(kind: Kind, services: &[Service<SocketAddr>]) -> String {
    let (ip, pods, address, protocol) =
        (kind.family.word(), kind.family.pods(), kind.family.address(), kind.protocol());
    let mut text =
        format!("add table {ip} kube-proxy\ndelete table {ip} kube-proxy\ntable {ip} kube-proxy {{\n");
    text.push_str(
        "  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n\
         \x20 chain masquerading {\n\
         \x20   meta mark & 0x4000 == 0 return\n\
         \x20   meta mark set meta mark xor 0x4000\n\
         \x20   masquerade fully-random\n\
         \x20 }\n",
    );
    for (index, service) in services.iter().enumerate() {
        let (vip, port) = (service.address.ip(), service.address.port());
        for (number, endpoint) in service.endpoints.iter().enumerate() {
            let addr = endpoint.ip();
            line!(text, "  chain endpoint-{index}-{number} {{");
            line!(text, "    {ip} saddr {addr} jump mark-for-masquerade");
            line!(text, "    meta l4proto {protocol} dnat to {endpoint}");
            line!(text, "  }}");
        }
        line!(text, "  chain service-{index} {{");
        line!(
            text,
            "    {ip} daddr {vip} {protocol} dport {port} {ip} saddr != {pods} jump mark-for-masquerade"
        );
        let count = service.endpoints.len();
        if count > 0 {
            let elements: Vec<_> =
                (0..count).map(|number| format!("{number} : goto endpoint-{index}-{number}")).collect();
            line!(text, "    numgen random mod {count} vmap {{ {} }}", elements.join(", "));
        }
        line!(text, "  }}");
    }
    let ips: Vec<_> = services.iter().map(|service| service.address.ip().to_string()).collect();
    line!(text, "  set cluster-ips {{ type {address}; elements = {{ {} }} }}", ips.join(", "));
    let verdicts: Vec<_> = services
        .iter()
        .enumerate()
        .map(|(index, service)| {
            format!(
                "{} . {protocol} . {} : goto service-{index}",
                service.address.ip(),
                service.address.port()
            )
        })
        .collect();
    line!(
        text,
        "  map service-ips {{ type {address} . inet_proto . inet_service : verdict; elements = {{ {} }} }}",
        verdicts.join(", ")
    );
    let tail = "  map no-endpoint-services { type ADDRESS . inet_proto . inet_service : verdict; }\n\
         \x20 map service-nodeports { type inet_proto . inet_service : verdict; }\n\
         \x20 map firewall-ips { type ADDRESS . inet_proto . inet_service : verdict; }\n\
         \x20 chain services {\n\
         \x20   IP daddr . meta l4proto . th dport vmap @service-ips\n\
         \x20   fib daddr type local meta l4proto . th dport vmap @service-nodeports\n\
         \x20 }\n\
         \x20 chain cluster-ips-check { IP daddr @cluster-ips reject; }\n\
         \x20 chain service-endpoints-check { IP daddr . meta l4proto . th dport vmap @no-endpoint-services; }\n\
         \x20 chain firewall-check { IP daddr . meta l4proto . th dport vmap @firewall-ips; }\n\
         \x20 chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }\n\
         \x20 chain filter-forward { type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }\n\
         \x20 chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }\n\
         \x20 chain nat-output { type nat hook output priority -100; jump services; }\n\
         \x20 chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }\n\
         }\n";
    text.push_str(&tail.replace("ADDRESS", address).replace("IP ", &format!("{ip} ")));
    text
}
