//! `balancer check`: everything that must be right for connects to be balanced.

use std::{fs, os::unix::process::CommandExt, path::Path, process::Command, time::Duration};

use super::liveness;
use crate::{
    cli::node::SelfProbe,
    datapath::{self, Access, DatapathError, Maps, Neighbour, Pins, ProbeOutcome},
    lifecycle::rights::Rights,
    sockets::{self, Scope},
    view::{AgentView, CheckItem, CheckReport, MapFill, Outcome, Snapshot},
};

/// A map that is fuller than this is worth a warning.
const FILL_WARNING: f64 = 0.8;
/// How often counters and sockets are compared before a difference counts: sockets come and go meanwhile.
const COMPARISONS: u32 = 3;

/// Looks at everything, in an order in which each finding explains those after it.
pub(super) fn check(pins: &Pins, probe: SelfProbe) -> CheckReport {
    let mut items = vec![kernel(), mounts(pins)];
    match Maps::open(pins, Access::Read).and_then(|maps| {
        let snapshot = datapath::snapshot(pins, &maps)?;
        Ok((maps, snapshot))
    }) {
        Ok((maps, snapshot)) => {
            items.extend(installed(pins, &maps, &snapshot));
            if probe == SelfProbe::Connect {
                items.push(self_probe(pins, &maps, &snapshot.agent));
            }
        }
        Err(error) => items.push(item(
            "pins",
            Outcome::Failed,
            error.to_string(),
            "start `balancer agent` on this node, or name its --pins directory",
        )),
    }
    CheckReport { items }
}

pub(super) fn item(name: &str, outcome: Outcome, detail: impl Into<String>, remedy: &str) -> CheckItem {
    let remedy = if outcome == Outcome::Ok { String::new() } else { remedy.to_owned() };
    CheckItem { name: name.to_owned(), outcome, detail: detail.into(), remedy }
}

fn kernel() -> CheckItem {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match datapath::check_features() {
        Ok(()) => item("kernel", Outcome::Ok, format!("{release} has all that the programs need"), ""),
        Err(error) => item("kernel", Outcome::Failed, error.to_string(), "see the message"),
    }
}

fn mounts(pins: &Pins) -> CheckItem {
    let cgroup = datapath::find_cgroup2(None);
    match (&cgroup, datapath::find_bpffs(pins.root())) {
        (Ok(cgroup), true) => {
            let what = if cgroup.is_root() { "the root of cgroup2" } else { "a part of cgroup2" };
            let at = cgroup.path.display();
            let detail = format!("{what} at {at}, bpffs at {}", pins.root().display());
            item("mounts", Outcome::Ok, detail, "")
        }
        (Ok(_), false) => item(
            "mounts",
            Outcome::Failed,
            format!("{} is not in a bpf file system", pins.root().display()),
            "mount -t bpf -o mode=0700 bpf /sys/fs/bpf",
        ),
        (Err(error), _) => {
            let remedy = match error {
                DatapathError::NoCgroup2 => "mount -t cgroup2 none /sys/fs/cgroup/unified",
                _ => "see the message",
            };
            item("mounts", Outcome::Failed, error.to_string(), remedy)
        }
    }
}

fn installed(pins: &Pins, maps: &Maps, snapshot: &Snapshot) -> Vec<CheckItem> {
    let agent = &snapshot.agent;
    let mut items = vec![
        liveness::agent(agent),
        liveness::lease(agent),
        liveness::sync(agent),
        attachment(pins, agent),
        neighbours(pins, agent),
    ];
    items.extend(snapshot.maps.iter().map(fill));
    items.push(skipped(snapshot));
    items.push(counters(maps));
    items.push(open_connections(snapshot));
    items.push(super::lane::check(pins, snapshot));
    items
}

/// Whether the agent can do what Services ask for with connections that are open already.
fn open_connections(snapshot: &Snapshot) -> CheckItem {
    const NAME: &str = "connections";
    let asking = snapshot.services.iter().filter(|service| service.lifecycle.is_on()).count();
    let missing = Rights::of(snapshot.agent.pid).missing().join("; ");
    match (asking, missing.is_empty()) {
        (0, true) => item(NAME, Outcome::Ok, "no Service asks for open ones to be moved", ""),
        (0, false) => {
            item(NAME, Outcome::Ok, format!("no Service asks for open ones to be moved; {missing}"), "")
        }
        (count, true) => {
            item(NAME, Outcome::Ok, format!("open ones of {count} Service ports may be moved"), "")
        }
        (_, false) => item(
            NAME,
            Outcome::Warning,
            missing,
            "give the agent these rights (deploy/kustomize/overlays/long-lived)",
        ),
    }
}

/// Whether every program is attached, all to one cgroup, and to the root of the hierarchy.
fn attachment(pins: &Pins, agent: &AgentView) -> CheckItem {
    let attachments = datapath::attachments(pins);
    let missing: Vec<_> =
        attachments.iter().filter(|(_, cgroup)| cgroup.is_none()).map(|(name, _)| *name).collect();
    let remedy = "restart the agent: it attaches what is missing";
    if !missing.is_empty() {
        return item("programs", Outcome::Failed, format!("not attached: {}", missing.join(", ")), remedy);
    }
    let attached = attachments[0].1.unwrap_or(0);
    if attachments.iter().any(|(_, cgroup)| *cgroup != Some(attached)) || attached == 0 {
        let detail = "attached to different cgroups, or to one that is gone";
        return item("programs", Outcome::Failed, detail, remedy);
    }
    if attached == datapath::ROOT_CGROUP {
        let detail = format!("all {} attached to the root of the hierarchy", attachments.len());
        return item("programs", Outcome::Ok, detail, "");
    }
    let remedy = match datapath::find_cgroup2(None) {
        Ok(cgroup) if cgroup.is_root() => "leave out --cgroup to balance every process of the node",
        _ => {
            "right for a node that is itself a container (kind); elsewhere mount the host's /sys/fs/cgroup into \
             the agent's container"
        }
    };
    item(
        "programs",
        Outcome::Warning,
        format!(
            "attached to {}, which is not the root of the hierarchy: processes outside are not balanced",
            agent.cgroup.display()
        ),
        remedy,
    )
}

/// Whether somebody else rewrites connects too.
fn neighbours(pins: &Pins, agent: &AgentView) -> CheckItem {
    let name = "neighbours";
    let skipped = |why: String| item(name, Outcome::Skipped, why, "run `balancer check` as root on the host");
    let attached = datapath::attachments(pins).into_iter().find_map(|(_, cgroup)| cgroup).unwrap_or(0);
    let Some(cgroup) = datapath::reach_cgroup(attached, &agent.cgroup) else {
        return skipped(format!("{} cannot be reached from here", agent.cgroup.display()));
    };
    let found = match datapath::neighbours(pins, &cgroup, &[]) {
        Ok(found) => found,
        Err(error) => return skipped(error.to_string()),
    };
    if let Some((program, product)) = found.iter().find_map(|it| Some((it.describe(), it.product()?))) {
        let detail = format!(
            "{} rewrites connects too: {program}; of the two, whichever was attached first balances",
            product.name()
        );
        return item(name, Outcome::Warning, detail, product.remedy());
    }
    let others: Vec<_> = found.iter().map(Neighbour::describe).collect();
    if found.iter().any(|neighbour| neighbour.name.is_none()) {
        let detail = format!("beside ours, of somebody else that cannot be told: {}", others.join(", "));
        let remedy =
            "run `balancer check` as root: if it is another socket load balancer, switch one of the two off";
        return item(name, Outcome::Warning, detail, remedy);
    }
    let detail = if others.is_empty() {
        "nobody else has a program where connects are rewritten".to_owned()
    } else {
        format!("beside ours, no socket load balancer by its name: {}", others.join(", "))
    };
    item(name, Outcome::Ok, detail, "")
}

fn fill(map: &MapFill) -> CheckItem {
    let share = map.used as f64 / map.capacity.max(1) as f64;
    let detail = format!("{} of {} ({:.0}%)", map.used, map.capacity, share * 100.0);
    // A full CLIENTS map forgets the clients that were silent longest, as it should.
    let outcome = if share > FILL_WARNING && map.name != "CLIENTS" { Outcome::Warning } else { Outcome::Ok };
    item(
        &format!("map {}", map.name),
        outcome,
        detail,
        &format!("raise --{} (after `balancer detach`)", map.flag),
    )
}

fn skipped(snapshot: &Snapshot) -> CheckItem {
    let problems = snapshot.services.iter().filter(|service| service.has_problem()).count();
    match (snapshot.agent.skipped, problems) {
        (0, 0) => item("objects", Outcome::Ok, "all are served as they are written", ""),
        (skipped, problems) => item(
            "objects",
            Outcome::Warning,
            format!("{skipped} skipped, {problems} Service ports with a problem"),
            "`balancer services -A` and the agent's log say which and why",
        ),
    }
}

/// Whether the counters of open connections agree with the sockets that are open.
fn counters(maps: &Maps) -> CheckItem {
    let name = "counters";
    let mut last = String::new();
    for _ in 0..COMPARISONS {
        let before = total_active(maps);
        let listing = match sockets::live_sockets(maps.sockets(), Some(maps.flows()), Scope::Node) {
            Ok(listing) => listing,
            Err(error) => return item(name, Outcome::Skipped, error.to_string(), "run as root"),
        };
        let found = listing.sockets.iter().filter(|socket| socket.is_open()).count() as u64;
        let after = total_active(maps);
        if (before.min(after)..=before.max(after)).contains(&found) {
            return item(name, Outcome::Ok, format!("{found} open connections, {found} sockets"), "");
        }
        // What could not be looked at may explain the difference.
        if let Some(problem) = listing.incomplete.first() {
            let detail =
                format!("{after} open connections by the counters, {found} sockets found: {problem}");
            return item(name, Outcome::Skipped, detail, "run as root, in the host's PID namespace");
        }
        last = format!("{before} to {after} open connections by the counters, but {found} sockets");
        std::thread::sleep(Duration::from_millis(50));
    }
    item(
        name,
        Outcome::Warning,
        last,
        "sockets of network namespaces without a process or a name cannot be listed; otherwise please report it",
    )
}

fn total_active(maps: &Maps) -> u64 {
    let active = |(id, _)| maps.backend_stats.get(id).map_or(0, |stats| stats.active);
    maps.backends.iter().filter(|(_, backend)| backend.state != 0).map(active).sum()
}

/// Connects from a process in the cgroup that the programs are attached to.
fn self_probe(pins: &Pins, maps: &Maps, agent: &AgentView) -> CheckItem {
    let name = "self-probe";
    let attached = datapath::attachments(pins).into_iter().find_map(|(_, cgroup)| cgroup).unwrap_or(0);
    let outcome = match datapath::is_in_cgroup(attached) {
        Some(true) => datapath::probe(maps),
        _ => {
            let probed = datapath::reach_cgroup(attached, &agent.cgroup)
                .ok_or_else(|| std::io::Error::other("it cannot be reached from here"))
                .and_then(|cgroup| probe_from(&cgroup, pins));
            match probed {
                Ok(outcome) => outcome,
                Err(error) => {
                    let detail = format!("no process could be put into {}: {error}", agent.cgroup.display());
                    return item(name, Outcome::Skipped, detail, "run `balancer check` as root on the host");
                }
            }
        }
    };
    match outcome {
        ProbeOutcome::Works => {
            item(name, Outcome::Ok, "a UDP and a TCP connect were translated and counted", "")
        }
        ProbeOutcome::LeaseLapsed => {
            item(name, Outcome::Failed, "connects are passed through: the lease has lapsed", "see the lease")
        }
        ProbeOutcome::Failed(why) => item(name, Outcome::Failed, why, "restart the agent and read its log"),
    }
}

/// Runs the probe in a process of its own that moves into `cgroup` first.
fn probe_from(cgroup: &Path, pins: &Pins) -> std::io::Result<ProbeOutcome> {
    let procs = fs::OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--pins").arg(pins.root()).arg("probe");
    // SAFETY: between fork and exec only write(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            rustix::io::write(&procs, b"0")?;
            Ok(())
        });
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(match text.trim() {
        "works" => ProbeOutcome::Works,
        "lapsed" => ProbeOutcome::LeaseLapsed,
        "" => ProbeOutcome::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        why => ProbeOutcome::Failed(why.to_owned()),
    })
}

/// The other end of [`probe_from`]: what the hidden subcommand `probe` prints.
pub(super) fn probe_here(pins: &Pins) -> String {
    match Maps::open(pins, Access::Read).map(|maps| datapath::probe(&maps)) {
        Ok(ProbeOutcome::Works) => "works".to_owned(),
        Ok(ProbeOutcome::LeaseLapsed) => "lapsed".to_owned(),
        Ok(ProbeOutcome::Failed(why)) => why,
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_service_without_ready_backends_is_served_as_written() {
        let mut snapshot = fixture::snapshot();
        snapshot.agent.skipped = 0;
        assert_eq!(skipped(&snapshot).outcome, Outcome::Warning);
        for service in &mut snapshot.services {
            service.problem = Some("no ready endpoints".into());
        }
        assert_eq!(skipped(&snapshot).outcome, Outcome::Ok);
    }
}
