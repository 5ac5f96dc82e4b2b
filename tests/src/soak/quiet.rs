//! Quiet points: everybody stands still, and what is in the kernel is compared with what should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_common::abi::{FIRST_BACKEND, FIRST_SERVICE};
use balancer_userspace::{
    datapath::{self, Maps, Pins},
    sockets::{self, Listing, Scope},
    view::Snapshot,
};

use super::{
    invariants::{self, Bound, Compared, Counters},
    pressure,
    run::Soak,
    services::NAMESPACE,
    tally::Invariant,
    world::View,
};
use crate::agent::Usage;

/// How long the tables may take to follow once the API server answers again: a watch that hears nothing is begun anew by
/// `--relist`, 10 s and a fifth.
const FOLLOW: Duration = Duration::from_secs(40);

/// How long counters may move after everybody stands still, and ids and sockets may take to go.
const SETTLE: Duration = Duration::from_secs(30);

/// What may not grow.
pub struct Bounds {
    fds: Bound,
    threads: Bound,
    memory: Bound,
    own_memory: Bound,
    pins: Option<BTreeSet<String>>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            fds: Bound::new("open descriptors of the agent", 4, 0, 12),
            threads: Bound::new("threads of the agent", 4, 0, 6),
            memory: Bound::new("resident memory of the agent, KiB", 6, 25, 8192),
            own_memory: Bound::new("resident memory of the soak itself, KiB", 6, 100, 65_536),
            pins: None,
        }
    }
}

/// Whether connections are closed too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// They stay open.
    Held,
    /// All are closed, and nothing of them may be left.
    Empty,
}

impl Soak<'_> {
    /// Undoes all trouble, lets everybody stand still, compares, and goes on.
    pub fn rest(&mut self, depth: Depth) -> Result<()> {
        self.ledger.note(format!("quiet point ({depth:?})"));
        self.undo_all()?;
        self.agents.runs()?;
        self.crew.all_run()?;
        let held = self.crew.pause()?;
        self.held = held;
        self.agents.spawn()?;
        let agent = self.agents.current().wait_ready();
        self.tally.judge(Invariant::Tables, agent.map_err(|error| format!("{error:#}")));
        self.ledger.note("everybody stands still".to_owned());
        self.wait_for_judge();
        self.follow()?;
        self.ledger.note("the tables were compared".to_owned());
        self.counters()?;
        if depth == Depth::Empty {
            self.crew.drop_all()?;
            self.counters()?;
            self.emptied()?;
        }
        self.ledger.note("the counters were compared".to_owned());
        self.leaks()?;
        self.ledger.note("leaks were looked for".to_owned());
        self.world.backup = Some(self.world.api.backup());
        for open in self.absent.drain(..) {
            self.ledger.end(open);
        }
        self.crew.go()
    }

    /// Waits until what workers wrote down has been judged.
    fn wait_for_judge(&self) {
        let deadline = Instant::now() + SETTLE;
        while self.pending.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let left = self.pending.load(Ordering::SeqCst);
        if left > 0 {
            self.tally
                .found(Invariant::NoFailure, format!("{left} records were not judged within {SETTLE:?}"));
        }
    }

    /// The tables become what the objects say, and nothing is reported of these Services.
    fn follow(&self) -> Result<()> {
        let outcome = eventually(FOLLOW, || {
            let snapshot = self.snapshot()?;
            let problem = snapshot.services.iter().find_map(|it| Some((it, it.problem.as_ref()?)));
            Ok(match problem {
                Some((service, problem)) => Err(format!("{}/{}: {problem}", service.namespace, service.name)),
                None => invariants::tables(&self.world.view(), &found(&snapshot)),
            })
        })?;
        self.tally.judge(Invariant::Tables, outcome);
        Ok(())
    }

    /// Whether the tables hold what these Services should be now, whatever else is in them.
    pub fn unhurt(&self) -> Result<Result<(), String>> {
        Ok(invariants::tables(&self.world.view(), &found(&self.snapshot()?)))
    }

    /// Reads everything.
    pub fn snapshot(&self) -> Result<Snapshot> {
        datapath::snapshot(&Pins::new(self.agents.pins()), &self.maps).context("tables")
    }

    /// Active counts and open sockets, and the balance of counts.
    fn counters(&self) -> Result<()> {
        let mut balance = Ok(());
        let outcome = eventually(SETTLE, || {
            let before = counters(&self.maps);
            let listing = listing(&self.maps)?;
            let after = counters(&self.maps);
            let listed = sockets::active_by_backend(&listing.sockets);
            let compared = invariants::active_is_open(&before, &listed, &after);
            balance = invariants::opened_closed(&after);
            Ok(match compared {
                Compared::Same => Ok(()),
                Compared::Moving => Err("the counters do not come to rest".to_owned()),
                Compared::Differ(text) => Err(text),
            })
        })?;
        self.tally.judge(Invariant::ActiveIsOpen, outcome);
        self.tally.judge(Invariant::OpenedClosed, balance);
        Ok(())
    }

    /// Nothing is open any more: no count, no socket, no offer, no backend that was kept for the sake of one.
    fn emptied(&self) -> Result<()> {
        let outcome = eventually(SETTLE, || {
            let counters = counters(&self.maps);
            let active: u64 = counters.values().map(|stats| stats.active).sum();
            let open = listing(&self.maps)?.sockets.len();
            let offers = self.maps.offers()?.len();
            let snapshot = self.snapshot()?;
            let kept = backends(&snapshot, |usable| !usable);
            let left = [
                ("active", active),
                ("sockets", open as u64),
                ("offers", offers as u64),
                ("backends out of use", kept),
            ];
            let left: Vec<_> = left.iter().filter(|(_, count)| *count > 0).collect();
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(format!("all is closed, and there are still {left:?}"))
            })
        })?;
        self.tally.judge(Invariant::NoLeak, outcome);
        Ok(())
    }

    /// Ids, pins, descriptors, threads, memory, processes.
    fn leaks(&mut self) -> Result<()> {
        let services = self.world.view().len() as u64;
        let outcome = eventually(SETTLE, || self.ids(services))?;
        self.tally.judge(Invariant::NoLeak, outcome);

        let mut pins = BTreeSet::new();
        names(&self.agents.pins(), "", &mut pins)?;
        let first = self.bounds.pins.get_or_insert_with(|| pins.clone());
        self.tally.judge(Invariant::NoLeak, invariants::same("pins", first, &pins));

        let (usage, threads) = self.floor()?;
        let own = Usage::of(std::process::id())?;
        let fds = self.bounds.fds.see(usage.fds as u64);
        let pid = self.agents.current().process()?.id();
        let fds = fds.map_err(|text| format!("{text}: {:?}", descriptors(pid).unwrap_or_default()));
        self.tally.judge(Invariant::NoLeak, fds);
        self.tally.judge(Invariant::NoLeak, self.bounds.threads.see(threads as u64));
        self.tally.judge(Invariant::NoLeak, self.bounds.memory.see(usage.rss / 1024));
        self.tally.judge(Invariant::NoLeak, self.bounds.own_memory.see(own.rss / 1024));
        self.usage = Some((usage, threads));

        let panicked = self.agents.logs().iter().any(|log| log.contains("panicked at"));
        let outcome = if panicked { Err("the agent's log tells of a panic".to_owned()) } else { Ok(()) };
        self.tally.judge(Invariant::NoLeak, outcome);

        let expected = self.processes();
        let outcome = eventually(SETTLE, || {
            let found = processes(self.world.topology.cgroup())?;
            Ok(invariants::ids("processes", found, expected))
        })?;
        self.tally.judge(Invariant::NoLeak, outcome);

        let attached =
            datapath::neighbours(&Pins::new(self.agents.pins()), self.world.topology.cgroup(), &[])?;
        let attached: Vec<_> = attached.iter().map(datapath::Neighbour::describe).collect();
        let outcome = if attached.is_empty() {
            Ok(())
        } else {
            Err(format!("programs are attached that no pin holds: {}", attached.join(", ")))
        };
        self.tally.judge(Invariant::NoLeak, outcome);
        Ok(())
    }

    /// What the agent costs at least over a second, or for longer if that is too much: while it lists sockets it has a few
    /// descriptors for each namespace, and a listing may take seconds where others have the processors.
    fn floor(&mut self) -> Result<(Usage, usize)> {
        let (mut least, mut threads) = self.agents.usage()?;
        let begun = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(50));
            let (usage, now) = self.agents.usage()?;
            threads = threads.min(now);
            least = Usage { fds: least.fds.min(usage.fds), rss: least.rss.min(usage.rss), ..usage };
            let patience =
                if self.bounds.fds.allows(least.fds as u64) { Duration::from_secs(1) } else { SETTLE };
            if begun.elapsed() >= patience {
                return Ok((least, threads));
            }
        }
    }

    /// Ids of Services and backends, frontends and names.
    fn ids(&self, services: u64) -> Result<Result<(), String>> {
        let snapshot = self.snapshot()?;
        let fill = |name: &str| snapshot.maps.iter().find(|map| map.name == name).map_or(0, |map| map.used);
        let all = backends(&snapshot, |_| true);
        let kept = snapshot.services.iter().flat_map(|it| &it.backends).filter(|it| !it.state.is_usable());
        let idle = kept.filter(|backend| backend.stats.active == 0).count() as u64;
        let frontends = self.maps.frontends()?.into_iter().filter(|(_, id)| *id >= FIRST_SERVICE).count();
        let mut named = 0;
        for (id, _) in self.maps.backends.iter().skip(FIRST_BACKEND as usize) {
            named += u64::from(self.maps.backend_meta(id)?.is_some());
        }
        let checks = [
            invariants::ids("Service ids", fill("SERVICES"), services),
            invariants::ids("frontends", frontends as u64, services),
            invariants::ids("backend ids", fill("BACKENDS"), all),
            invariants::ids("names of backends", named, all),
            invariants::ids("backends that are out of use, with no socket open", idle, 0),
        ];
        Ok(checks.into_iter().collect())
    }

    /// How many processes there should be: servers, workers, the agent.
    fn processes(&self) -> u64 {
        let servers = self.world.targets.iter().filter(|target| target.server.is_some()).count();
        (servers + self.crew.len() + usize::from(self.agents.running())) as u64
    }
}

/// Tries until it is so, or the time is over; then the last reason why it is not.
pub fn eventually(
    patience: Duration,
    mut look: impl FnMut() -> Result<Result<(), String>>,
) -> Result<Result<(), String>> {
    let mut last = Ok(());
    let so = pressure::wait_for(patience, || {
        last = look()?;
        Ok(last.is_ok())
    })?;
    Ok(if so { Ok(()) } else { last.map_err(|text| format!("after {} s: {text}", patience.as_secs())) })
}

/// What the tables hold of the Services that are dialled.
fn found(snapshot: &Snapshot) -> View {
    let ours = snapshot.services.iter().filter(|service| &*service.namespace == NAMESPACE);
    ours.map(|service| {
        let usable = service.backends.iter().filter(|backend| backend.state.is_usable());
        let leads: BTreeSet<SocketAddr> = usable.map(|backend| backend.addr).collect();
        ((service.protocol.to_string(), service.frontend), leads)
    })
    .collect()
}

/// Backends of all Services, by whether they may be chosen.
fn backends(snapshot: &Snapshot, wanted: impl Fn(bool) -> bool) -> u64 {
    let all = snapshot.services.iter().flat_map(|service| &service.backends);
    all.filter(|backend| wanted(backend.state.is_usable())).count() as u64
}

/// Counters of all backends that there are, the self-probe's too.
fn counters(maps: &Maps) -> Counters {
    let mut counters = BTreeMap::new();
    for (id, backend) in maps.backends.iter().filter(|(_, backend)| backend.state != 0) {
        counters.insert((id, backend.generation), maps.backend_stats.get(id).unwrap_or_default());
    }
    counters
}

fn listing(maps: &Maps) -> Result<Listing> {
    sockets::live_sockets(maps.sockets(), Some(maps.flows()), Scope::Node).context("listing of sockets")
}

/// Everything below a directory.
fn names(dir: &Path, prefix: &str, into: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            names(&entry.path(), &format!("{name}/"), into)?;
        }
        into.insert(name);
    }
    Ok(())
}

/// How many descriptors of each kind a process has; of sockets also which protocol.
fn descriptors(pid: u32) -> io::Result<BTreeMap<String, u32>> {
    let mut protocols = BTreeMap::new();
    for protocol in ["tcp", "udp", "unix", "netlink"] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{protocol}"))?;
        for word in table.lines().flat_map(str::split_whitespace) {
            // The inode number is the only number of its size in these tables.
            if word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_digit()) {
                protocols.insert(word.to_owned(), protocol);
            }
        }
    }
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        let kind = match inode {
            Some(inode) => format!("socket {}", protocols.get(inode).unwrap_or(&"of another namespace")),
            None => target.split(":[").next().unwrap_or(&target).to_owned(),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    Ok(kinds)
}

/// Processes in a cgroup and below.
fn processes(cgroup: &Path) -> io::Result<u64> {
    let mut count = fs::read_to_string(cgroup.join("cgroup.procs"))?.lines().count() as u64;
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += processes(&entry.path())?;
        }
    }
    Ok(count)
}
