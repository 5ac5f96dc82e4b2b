//! The order of a soak: begin, let things happen, rest now and then, end with nothing left.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_userspace::datapath::{Access, Maps, Pins};

use super::{
    agents::Agents,
    crew::Crew,
    events::Event,
    judge::{Bench, Judge},
    ledger::{Ledger, Open},
    plant::Plant,
    quiet::{Bounds, Depth},
    record::Plan,
    report::Outcome,
    services::{TARGET_PORT, fronts},
    tally::{Invariant, Tally},
    undo::Undo,
    watcher::Watcher,
    world::World,
};
use crate::{
    agent::Usage,
    topology::{Topology, interrupted, remains_of},
};

/// Clients: two in each pod that dials, and two on the node itself.
const WORKERS: usize = 8;

/// Events between two quiet points, and quiet points between two at which everything is closed.
const EVENTS: u32 = 40;
const EMPTY_EVERY: u32 = 4;

/// A progress line is printed so often.
const PROGRESS: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// For how long things happen.
    pub duration: Duration,
    /// What the dice fall by.
    pub seed: u64,
    /// Another build of the agent, to upgrade to and back.
    pub other: Option<PathBuf>,
    /// A bug to plant after the first quiet point.
    pub plant: Option<Plant>,
    /// Who prints progress.
    pub say: fn(&str),
}

/// A soak under way. Fields are dropped in order.
pub struct Soak<'t> {
    judge: Option<Judge>,
    pub(super) crew: Crew,
    pub(super) agents: Agents<'t>,
    pub(super) world: World<'t>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) tally: Arc<Tally>,
    pub(super) watcher: Arc<Watcher>,
    pub(super) maps: Maps,
    pub(super) dice: fastrand::Rng,
    /// What is to be undone, and when.
    pub(super) undos: Vec<(Instant, Undo)>,
    /// Services that do not exist, or did not since the last quiet point.
    pub(super) absent: Vec<Open>,
    pub(super) pending: Arc<AtomicU64>,
    pub(super) bounds: Bounds,
    /// What the agent cost at the last quiet point, with its threads.
    pub(super) usage: Option<(Usage, usize)>,
    /// Connections that were held at the last quiet point.
    pub(super) held: usize,
}

/// Runs one, and removes everything.
///
/// # Errors
///
/// When it cannot even begin. Whatever goes wrong later is in the outcome.
pub fn run(options: &Options) -> Result<Outcome> {
    let begun = Instant::now();
    let topology = Topology::new()?;
    let mut soak = Soak::begin(&topology, options)?;
    let result = soak.go_on(options, begun);
    let mut outcome = Outcome {
        seed: options.seed,
        seconds: begun.elapsed().as_secs_f64(),
        interrupted: interrupted(),
        error: result.err().map(|error| format!("{error:#}")),
        counts: soak.tally.counts(),
        findings: soak.tally.findings(),
        events: soak.ledger.events(),
        agent_log: soak.agents.logs().map(|log| tail(&log, 40)),
        agent_starts: soak.agents.starts,
        slowest_reading_ms: soak.watcher.slowest().as_secs_f64() * 1e3,
        readings: soak.watcher.history().readings(),
        left: Vec::new(),
    };
    drop(soak);
    drop(topology);
    outcome.left = remains_of(std::process::id())?;
    Ok(outcome)
}

impl<'t> Soak<'t> {
    fn begin(topology: &'t Topology, options: &Options) -> Result<Self> {
        let mut dice = fastrand::Rng::with_seed(options.seed);
        let (ledger, tally) = (Arc::new(Ledger::default()), Arc::new(Tally::default()));
        let world = World::new(topology, Arc::clone(&ledger), &mut dice).context("the world")?;
        let agents = Agents::start(topology, &world, options.other.clone()).context("the agent")?;
        let maps = Maps::open(&Pins::new(agents.pins()), Access::Read).context("tables")?;
        let watcher = Arc::new(Watcher::start(agents.pins())?);
        let (crew, records, pending) = Crew::new();
        let bench = Bench {
            ledger: Arc::clone(&ledger),
            watcher: Arc::clone(&watcher),
            tally: Arc::clone(&tally),
            fronts: fronts(),
            pods: world.addresses(),
        };
        let judge = Some(Judge::start(bench, records, Arc::clone(&pending)));
        let mut soak = Self {
            judge,
            crew,
            agents,
            world,
            ledger,
            tally,
            watcher,
            maps,
            dice,
            undos: Vec::new(),
            absent: Vec::new(),
            pending,
            bounds: Bounds::default(),
            usage: None,
            held: 0,
        };
        let served = super::quiet::eventually(Duration::from_secs(20), || soak.unhurt())?;
        served.map_err(anyhow::Error::msg).context("the first list")?;
        for worker in 0..WORKERS {
            let (at, plan) = soak.plan(worker);
            let pod = soak.world.clients.get(at).unwrap_or_else(|| topology.host());
            soak.crew.hire(pod, &plan)?;
        }
        Ok(soak)
    }

    /// Where a worker is (a pod that dials, or else the node) and what it does.
    pub(super) fn plan(&mut self, worker: usize) -> (usize, Plan) {
        let direct = self.world.targets.iter().enumerate().flat_map(|(index, target)| {
            [(index, target.pod.v4(TARGET_PORT)), (index, target.pod.v6(TARGET_PORT))]
        });
        let plan = Plan {
            direct: direct.collect(),
            seed: self.dice.u64(..),
            pins: self.agents.pins(),
            fronts: fronts().iter().map(|front| (front.transport(), front.addr)).collect(),
            hold: 12,
            pause_us: 20_000,
        };
        (worker / 2, plan)
    }

    /// Events and quiet points, until the time is over, something is found, or a signal comes.
    fn go_on(&mut self, options: &Options, begun: Instant) -> Result<()> {
        let (mut events, mut rests) = (0, 0);
        let mut next_progress = PROGRESS;
        // The first quiet point is soon.
        let mut until_rest = if options.plant.is_some() { 5 } else { EVENTS / 2 };
        let over = |soak: &Self| soak.tally.is_broken() || interrupted();
        while begun.elapsed() < options.duration && !over(self) {
            let event = Event::roll(&mut self.dice);
            self.happen(event).with_context(|| format!("{event:?}"))?;
            events += 1;
            let pause = Duration::from_millis(self.dice.u64(50..600));
            self.pause(pause)?;
            until_rest -= 1;
            if until_rest == 0 {
                until_rest = EVENTS;
                rests += 1;
                let depth = if rests % EMPTY_EVERY == 0 { Depth::Empty } else { Depth::Held };
                self.rest(depth).context("quiet point")?;
                if let Some(plant) = options.plant.filter(|_| rests == 1) {
                    self.plant(plant)?;
                    // Nothing else may hide it.
                    self.pause(Duration::from_secs(3))?;
                    if !over(self) {
                        self.rest(Depth::Held).context("quiet point")?;
                    }
                }
            }
            if begun.elapsed() >= next_progress {
                next_progress += PROGRESS;
                (options.say)(&self.progress(begun.elapsed(), events, rests));
            }
        }
        if over(self) {
            return Ok(());
        }
        let pressed = self.tally.counts().checks.contains_key(&Invariant::Pressure);
        if !pressed {
            self.happen(Event::Pressure).context("pressure")?;
        }
        self.rest(Depth::Empty).context("last quiet point")?;
        let missing = Invariant::ALL.into_iter().filter(|it| !self.tally.counts().checks.contains_key(it));
        for invariant in missing.collect::<Vec<_>>() {
            self.tally.found(invariant, "it was never checked".to_owned());
        }
        Ok(())
    }

    /// Waits, and undoes what is due meanwhile.
    fn pause(&mut self, duration: Duration) -> Result<()> {
        let deadline = Instant::now() + duration;
        loop {
            self.undo_due()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || interrupted() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    fn progress(&self, elapsed: Duration, events: u32, rests: u32) -> String {
        let counts = self.tally.counts();
        let of = |what: &str| counts.clients.get(what).copied().unwrap_or(0);
        let usage = self.usage.map_or_else(String::new, |(usage, threads)| {
            format!("; agent: {} MiB, {} fds, {threads} threads", usage.rss >> 20, usage.fds)
        });
        format!(
            "{:3} min: {events} events, {rests} quiet points, {} connects, {} failed, all to be expected; {} held{usage}",
            elapsed.as_secs() / 60,
            of("connects") + of("direct connects"),
            of("failed connects"),
            self.held,
        )
    }
}

impl Drop for Soak<'_> {
    fn drop(&mut self) {
        // Before the workers: what they say at their end is of no interest.
        self.judge = None;
    }
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> Vec<String> {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|&line| line.to_owned()).collect()
}
