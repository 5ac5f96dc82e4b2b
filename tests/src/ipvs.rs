//! kube-proxy's IPVS mode, in its shape: a dummy interface that has every Service address, and a virtual server for each
//! Service port.
//!
//! kube-proxy also installs a handful of iptables rules with sets, which decide on masquerading and whose cost does not grow
//! with the number of Services. They are left out: a connect through these virtual servers is rather quicker than through
//! kube-proxy's.

use std::{
    fs,
    io::Write as _,
    net::SocketAddrV4,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench::rules::Service,
    topology::{Netns, ip_batch},
};

/// The interface, as kube-proxy calls it.
const INTERFACE: &str = "kube-ipvs0";

/// How a virtual server chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// In turn.
    RoundRobin,
    /// Fewest connections.
    LeastConnections,
    /// Least expected delay: the fewest connections with the new one counted, over the weight.
    ShortestExpectedDelay,
    /// By a hash of the client's address.
    SourceHash,
}

impl Scheduler {
    /// Those that kube-proxy's users choose from.
    pub const ALL: [Self; 4] =
        [Self::RoundRobin, Self::LeastConnections, Self::ShortestExpectedDelay, Self::SourceHash];

    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::LeastConnections => "lc",
            Self::ShortestExpectedDelay => "sed",
            Self::SourceHash => "sh",
        }
    }
}

/// Whether a namespace can have virtual servers; if not, why: what ipvsadm or the kernel says.
///
/// # Errors
/// Why not.
pub fn available(netns: &Netns) -> Result<(), String> {
    load();
    ipvsadm(netns, &["-L", "-n"], "").map_err(|error| format!("not available: {error:#}"))
}

/// Installs virtual servers for these Services, each with its own scheduler, in place of all others. Endpoints are masqueraded, as in kube-proxy: the address of
/// the Service is replaced by theirs, and answers have to come back through the namespace.
///
/// # Errors
/// What the tools say.
pub fn install(netns: &Netns, services: &[(Scheduler, Service)]) -> Result<()> {
    load();
    // The parameters are there once the namespace has virtual servers or might have.
    ipvsadm(netns, &["-C"], "")?;
    netns.sysctl(&[
        ("net/ipv4/vs/conntrack", "1"),
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/vs/expire_quiescent_template", "1"),
    ])?;
    if netns.run(|| fs::exists(format!("/proc/sys/net/ipv4/conf/{INTERFACE}")))?? {
        ip_batch(Some(netns), &[format!("link delete {INTERFACE}")])?;
    }
    let mut commands =
        vec![format!("link add {INTERFACE} type dummy"), format!("link set {INTERFACE} arp off")];
    commands.extend(
        services
            .iter()
            .map(|(_, service)| format!("address add {}/32 dev {INTERFACE}", service.address.ip())),
    );
    ip_batch(Some(netns), &commands)?;
    let mut rules = String::new();
    for (scheduler, service) in services {
        rules.push_str(&format!("-A -t {} -s {}\n", service.address, scheduler.name()));
        for endpoint in &service.endpoints {
            rules.push_str(&format!("-a -t {} -r {endpoint} -m -w 1\n", service.address));
        }
    }
    ipvsadm(netns, &["-R"], &rules)
}

/// Changes the endpoints of a virtual server as kube-proxy does: those that are gone get no more connections and keep
/// what they have, those that are new are added, the others are not touched.
///
/// # Errors
/// What ipvsadm says.
pub fn change(netns: &Netns, service: &Service, before: &[SocketAddrV4]) -> Result<()> {
    let mut rules = String::new();
    for gone in before.iter().filter(|endpoint| !service.endpoints.contains(endpoint)) {
        rules.push_str(&format!("-e -t {} -r {gone} -m -w 0\n", service.address));
    }
    for come in service.endpoints.iter().filter(|endpoint| !before.contains(endpoint)) {
        rules.push_str(&format!("-a -t {} -r {come} -m -w 1\n", service.address));
    }
    if rules.is_empty() { Ok(()) } else { ipvsadm(netns, &["-R"], &rules) }
}

/// Asks for the module with the kernel's own program for that. Where it is built in, or there is none, nothing is lost: the next
/// command says what is missing.
fn load() {
    let program = fs::read_to_string("/proc/sys/kernel/modprobe").unwrap_or_default();
    if !program.trim().is_empty() {
        let mut modprobe = Command::new(program.trim());
        _ = modprobe.arg("ip_vs").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Runs ipvsadm in a namespace.
fn ipvsadm(netns: &Netns, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.name(), "ipvsadm"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("ip (install iproute2)")?;
    let mut stdin = child.stdin.take().context("stdin of ipvsadm")?;
    // A tool that refuses the rules closes its end; what it says is worth more than that.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().context("ipvsadm")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ipvsadm {}: {}", arguments.join(" "), said.lines().next().unwrap_or("it failed").trim());
    }
    written.context("ipvsadm")
}
