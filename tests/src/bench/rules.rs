//! The rules that kube-proxy would install, in its shape: its chains, their order and their matches, of
//! Kubernetes 1.36 with a cluster CIDR.
//!
//! They go into the node's namespace, as on a real node: a pod's packet meets them in PREROUTING, once it
//! has left the pod's veth.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::SocketAddrV4,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::topology::{Netns, POD_CIDR_V4};

/// A Service and its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    /// What is dialled.
    pub address: SocketAddrV4,
    /// Where it may go.
    pub endpoints: Vec<SocketAddrV4>,
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

    const fn tool(self) -> &'static str {
        match self {
            Self::IptablesNft => "iptables-nft-restore",
            Self::IptablesLegacy => "iptables-legacy-restore",
            Self::Nftables => "nft",
        }
    }

    /// Whether its tool and what it needs of the kernel are there.
    pub fn available(self, netns: &Netns) -> Result<(), String> {
        let probe = Service { address: SocketAddrV4::new([10, 96, 0, 1].into(), 80), endpoints: Vec::new() };
        self.install(netns, &[probe]).map_err(|error| format!("{error:#}"))
    }

    /// Installs the rules for these Services in place of all others of this kind.
    ///
    /// # Errors
    /// What the tool says.
    pub fn install(self, netns: &Netns, services: &[Service]) -> Result<()> {
        let text = match self {
            Self::IptablesNft | Self::IptablesLegacy => iptables(services),
            Self::Nftables => nftables(services),
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns.name(), self.tool()]);
        if self == Self::Nftables {
            command.args(["-f", "-"]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| self.tool().to_owned())?;
        let mut stdin = child.stdin.take().context("stdin")?;
        // A tool that refuses the rules closes its end; what it says is worth more than that.
        let written = stdin.write_all(text.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(|| self.tool().to_owned())?;
        if !output.status.success() {
            bail!("{}: {}", self.tool(), String::from_utf8_lossy(&output.stderr).trim());
        }
        written.with_context(|| self.tool().to_owned())
    }
}

/// Writing to a string cannot fail.
macro_rules! line {
    ($text:expr, $($arg:tt)*) => { _ = writeln!($text, $($arg)*) };
}

fn iptables(services: &[Service]) -> String {
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
            "-A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {port} -j KUBE-SVC-{index:016}"
        );
        line!(
            text,
            "-A KUBE-SVC-{index:016} ! -s {POD_CIDR_V4} -d {ip}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {port} -j KUBE-MARK-MASQ"
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
                "-A KUBE-SEP-{index:012}{number:04} -s {}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ",
                endpoint.ip()
            );
            line!(
                text,
                "-A KUBE-SEP-{index:012}{number:04} -p tcp -m comment --comment \"{name}\" -m tcp -j DNAT --to-destination {endpoint}"
            );
        }
    }
    text.push_str(
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         COMMIT\n",
    );
    text
}

fn nftables(services: &[Service]) -> String {
    let mut text =
        String::from("add table ip kube-proxy\ndelete table ip kube-proxy\ntable ip kube-proxy {\n");
    text.push_str(
        "  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n\
         \x20 chain masquerading {\n\
         \x20   meta mark & 0x4000 == 0 return\n\
         \x20   meta mark set meta mark xor 0x4000\n\
         \x20   masquerade fully-random\n\
         \x20 }\n",
    );
    for (index, service) in services.iter().enumerate() {
        let (ip, port) = (service.address.ip(), service.address.port());
        for (number, endpoint) in service.endpoints.iter().enumerate() {
            let (addr, to) = (endpoint.ip(), endpoint.port());
            line!(text, "  chain endpoint-{index}-{number} {{");
            line!(text, "    ip saddr {addr} jump mark-for-masquerade");
            line!(text, "    meta l4proto tcp dnat to {addr}:{to}");
            line!(text, "  }}");
        }
        line!(text, "  chain service-{index} {{");
        line!(text, "    ip daddr {ip} tcp dport {port} ip saddr != {POD_CIDR_V4} jump mark-for-masquerade");
        let count = service.endpoints.len();
        if count > 0 {
            let elements: Vec<_> =
                (0..count).map(|number| format!("{number} : goto endpoint-{index}-{number}")).collect();
            line!(text, "    numgen random mod {count} vmap {{ {} }}", elements.join(", "));
        }
        line!(text, "  }}");
    }
    let ips: Vec<_> = services.iter().map(|service| service.address.ip().to_string()).collect();
    line!(text, "  set cluster-ips {{ type ipv4_addr; elements = {{ {} }} }}", ips.join(", "));
    let verdicts: Vec<_> = services
        .iter()
        .enumerate()
        .map(|(index, service)| {
            format!("{} . tcp . {} : goto service-{index}", service.address.ip(), service.address.port())
        })
        .collect();
    line!(
        text,
        "  map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }} }}",
        verdicts.join(", ")
    );
    text.push_str(
        "  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         \x20 map service-nodeports { type inet_proto . inet_service : verdict; }\n\
         \x20 map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         \x20 chain services {\n\
         \x20   ip daddr . meta l4proto . th dport vmap @service-ips\n\
         \x20   fib daddr type local meta l4proto . th dport vmap @service-nodeports\n\
         \x20 }\n\
         \x20 chain cluster-ips-check { ip daddr @cluster-ips reject; }\n\
         \x20 chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }\n\
         \x20 chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }\n\
         \x20 chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }\n\
         \x20 chain filter-forward { type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }\n\
         \x20 chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }\n\
         \x20 chain nat-output { type nat hook output priority -100; jump services; }\n\
         \x20 chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }\n\
         }\n",
    );
    text
}
