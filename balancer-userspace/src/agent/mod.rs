//! The agent of a node: events in, tables out, and a lease that says it is alive.
//!
//! [`run`] sets the data path up, then turns in one loop: events of the source are applied as they come,
//! the lease is renewed, what nothing refers to is freed. Everything that must outlive the agent is in
//! pinned maps, so it may end at any point of the loop, in any way.

mod control;
mod engine;
mod express;
mod left_alone;
mod notices;
mod offset;
mod place;
mod status;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use balancer_common::abi::{Mode, Rebalance};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

pub use self::offset::node_offset;
use self::{
    control::{ControlWriter, Pace, Renewal},
    engine::{Engine, Reading},
    express::ExpressLane,
    left_alone::LeftAlone,
    notices::Notices,
    place::{Place, part_of_the_machine, tell_of},
    status::AgentStatus,
};
use crate::{
    cli::{
        agent::{AgentArgs, EventsChoice, SourceChoice},
        exit::{Exit, Failure},
        values::{HttpListen, LeaseTerm},
    },
    datapath::{self, Cgroup, DatapathError, Installation, Neighbour, Pins, Sizes, boot_ns},
    exclusion,
    history::Sampler,
    http::Server,
    lifecycle::{Lifecycle, rights::Rights},
    metrics::{AgentMetrics, Outcome},
    model::{Defaults, Drain, Event, Index, NodeInfo},
    reconcile::Reconciler,
    source::{
        NOTICES, Notice, Source, SourceError, SourceHealth, SourceKind,
        kubernetes::{Access, KubernetesConfig, ReadPods, Timing},
        manifests::ManifestsConfig,
    },
};

/// Events that wait between the source and the tables.
const QUEUE: usize = 4096;
/// Events that are applied in one go.
const BATCH: usize = 4096;
/// How often what nothing refers to is freed, and the source's freshness is noted.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How many of those lie between two looks at whether the programs are still attached.
const LOOK_EVERY: u32 = 5;
/// How long the end waits for what cannot be interrupted: a name that is being resolved, a scrape.
const PARTING: Duration = Duration::from_millis(500);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// Whatever stands in the way of a start, by name and with its remedy.
pub fn run(pins: &Path, args: &AgentArgs) -> Result<(), Failure> {
    let pins = Pins::new(pins);
    let source = source(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Before anything is attached: an agent that cannot start should leave nothing behind.
    runtime.block_on(source.check()).map_err(|error| Failure::new(Exit::Usage, error))?;
    let cgroup = datapath::find_cgroup2(args.cgroup.as_deref()).map_err(failure)?;
    datapath::check_features().map_err(failure)?;
    datapath::mount_bpffs(pins.root()).map_err(failure)?;
    let Some(_lock) = pins.lock().map_err(failure)? else {
        return Err(failure(DatapathError::SecondAgent(control::describe_holder(&pins))));
    };
    let neighbours = datapath::neighbours(&pins, &cgroup.path, &[]).map_err(failure)?;
    if !args.beside_socket_lb {
        datapath::refuse_socket_load_balancer(&neighbours, &cgroup).map_err(failure)?;
    }
    let sizes = Sizes {
        services: args.max_services,
        backends: args.max_backends,
        slots: args.max_slots,
        clients: args.max_clients,
    };
    // Before anything is attached, as above.
    let server = match args.http {
        HttpListen::At(addr) => Some(runtime.block_on(Server::bind(addr)).map_err(anyhow::Error::from)?),
        HttpListen::Off => None,
    };
    let installation = datapath::install(&pins, &cgroup.path, &sizes, kernel_log_level()).map_err(failure)?;
    log::info!(
        "balancer {} on node {}: programs attached to {} ({} of them took over), pinned under {}",
        env!("CARGO_PKG_VERSION"),
        args.node_name(),
        cgroup.path.display(),
        installation.replaced,
        pins.root().display(),
    );
    for note in &installation.notes {
        log::warn!("{note}");
    }
    neighbours.iter().for_each(tell_of);
    if !cgroup.is_root() {
        log::warn!("{}", part_of_the_machine(&cgroup, args.cgroup.as_deref()));
    }
    let asked = args.connections().rebalance != Rebalance::Off || args.connections().drain == Drain::Idle;
    for missing in Rights::of(std::process::id()).missing() {
        // Services may ask for it by annotation.
        log::log!(if asked { log::Level::Warn } else { log::Level::Info }, "{missing}");
    }
    if datapath::boot_offset_ns() != 0 {
        log::info!(
            "this process is in a time namespace, {} s off: the lease goes by the kernel's clock",
            datapath::boot_offset_ns() / 1_000_000_000
        );
    }
    let place = Place { pins: &pins, cgroup: &cgroup, neighbours };
    let result = runtime.block_on(serve(place, args, source, server, installation));
    runtime.shutdown_timeout(PARTING);
    result
}

/// The exit code that goes with what is wrong.
pub(crate) fn failure(error: DatapathError) -> Failure {
    let exit = match &error {
        DatapathError::NotInstalled(_) => Exit::NotInstalled,
        DatapathError::Permission { .. }
        | DatapathError::Capability { .. }
        | DatapathError::Refused { .. } => Exit::NoPermission,
        DatapathError::SecondAgent(_) => Exit::AlreadyRunning,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

/// What the programs log: as much as the agent's own log shows.
fn kernel_log_level() -> u8 {
    // aya-log counts from 1 (errors) to 5 (traces), as log does.
    log::max_level() as u8
}

async fn serve(
    Place { pins, cgroup, neighbours }: Place<'_>,
    args: &AgentArgs,
    source: Source,
    server: Option<Server>,
    mut installation: Installation,
) -> Result<(), Failure> {
    // Before anything else: a signal must find somebody who listens.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let kernel_log = forward_kernel_log(&mut installation);
    let mut maps = installation.maps;
    datapath::set_up_probe(&mut maps).map_err(failure)?;
    let mut control = ControlWriter::new(args, &cgroup.path, &describe(&source));
    let changes_mode = control.changes_mode(&maps);
    if changes_mode {
        // Before anything else changes: what was observed must not be mistaken for what was balanced.
        control.suspend(&maps);
    }
    let mut recovered = Reconciler::recover(maps, Instant::now()).map_err(failure)?;
    log_recovered(&recovered);
    // It has looked at every entry; from now on few are of interest.
    if let Err(error) = recovered.kernel_mut().release() {
        log::debug!("memory of the maps is kept: {error}");
    }
    if changes_mode {
        let earlier = Mode::from_u32(recovered.kernel().control().mode);
        recovered.disband(earlier.name(), Instant::now()).map_err(failure)?;
        log::info!(
            "the mode changes from {} to {}: connects are left alone until everything has been listed, and counts \
             of backends begin anew",
            earlier.name(),
            args.mode.name()
        );
    }
    let metrics = Arc::new(AgentMetrics::default());
    let lane = ExpressLane::start(args, pins, recovered.kernel().control().lane);
    let notices = Notices::new(Arc::clone(&metrics), announcer(args, &source));
    let mut engine =
        Engine::new(recovered, empty_index(args), args.zone.clone(), Arc::clone(&metrics), notices, lane);
    control.start(engine.maps());
    let mut left_alone = LeftAlone::new(args, &cgroup.path);
    left_alone.refresh(&mut engine, &control);

    let mut history = Sampler::default();
    let maps = datapath::Maps::open(pins, datapath::Access::Write).map_err(failure)?;
    let mut lifecycle =
        Lifecycle::start(maps).context("cannot start the thread that looks after open connections")?;

    let (mut task, mut events, mut health) = start(&source);
    let status = Arc::new(AgentStatus::new(pins, cgroup.id, Arc::clone(&metrics), args.metrics_max_series));
    let (stop_web, web_stopped) = oneshot::channel::<()>();
    if let Some(server) = server {
        log::info!("serving /metrics, /livez and /readyz on http://{}", server.addr());
        tokio::spawn(server.run(Arc::clone(&status) as _, async {
            // Either way, told or dropped, it is over.
            let _ = web_stopped.await;
        }));
    }
    let mut watchman = Watchman { status: Arc::clone(&status), turns: 0, seen: None, neighbours, errors: 0 };

    let mut renew = interval(renewal(args.lease));
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut housekeeping = interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut search = interval(exclusion::SEARCH);
    search.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch: Vec<Event> = Vec::with_capacity(BATCH);
    let mut pace = Pace::new(args.lease.duration());
    let stopped_by = loop {
        let stood_still = tokio::select! {
            count = events.recv_many(&mut batch, BATCH), if !events.is_closed() || !events.is_empty() => {
                let stood_still = pace.stood_still(boot_ns());
                if stood_still {
                    batch.clear();
                } else if count > 0 {
                    let (changed, as_of_ns) =
                        pace.work(|| engine.handle(batch.drain(..), reading(&health), Instant::now()));
                    // Before the lease is taken: nobody who is to be left alone is balanced for a moment.
                    if args.watch_pods
                        && let Some(uids) = engine.take_excluded_pods()
                    {
                        left_alone.set_pods(uids);
                        left_alone.refresh(&mut engine, &control);
                    }
                    if changed {
                        lifecycle.update(engine.lifecycle());
                        control.changed(engine.maps());
                        if engine.is_synced() && control.synced(engine.maps(), as_of_ns) {
                            metrics.lease_renewed(Outcome::Ok);
                            engine.lane().renew(engine.maps());
                            status.synced();
                        }
                    }
                }
                stood_still
            }
            _ = renew.tick() => {
                let now_ns = boot_ns();
                pace.stood_still(now_ns)
                    || match control.renew(engine.maps(), now_ns) {
                        Renewal::Done => {
                            metrics.lease_renewed(Outcome::Ok);
                            engine.lane().renew(engine.maps());
                            false
                        }
                        // Before the first list it waits for that.
                        Renewal::TooLate => engine.is_synced(),
                    }
            }
            _ = search.tick(), if left_alone.is_searching() => {
                left_alone.refresh(&mut engine, &control);
                false
            }
            _ = housekeeping.tick() => {
                let stood_still = pace.stood_still(boot_ns());
                if !engine.maps().are_pinned(pins) {
                    engine.into_lane().remove();
                    return Err(failure(DatapathError::Removed(pins.root().into())));
                }
                engine.sweep(Instant::now());
                lifecycle.update(engine.lifecycle());
                engine.report(lifecycle.reports());
                history.pass(engine.maps());
                left_alone.refresh(&mut engine, &control);
                // In this order: what could be read at last was sent before it counted as read.
                if reading(&health) == Reading::Whole && events.is_empty() && engine.settle(Instant::now()) {
                    control.changed(engine.maps());
                }
                control.source(engine.maps(), &health);
                engine.lane().report(&control, engine.maps(), &metrics);
                metrics.source_errors(watchman.new_errors(&health));
                watchman.look(pins, cgroup);
                stood_still
            }
            result = &mut task => {
                result.context("the source failed")?.map_err(anyhow::Error::from)?;
                return Err(Failure::from(anyhow::anyhow!("the source ended by itself")));
            }
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
        };
        if stood_still {
            metrics.lease_renewed(Outcome::Failed);
            log::warn!(
                "the lease lapsed while this agent stood still: connects are left alone until everything has been \
                 listed again"
            );
            task.abort();
            engine.start_over(empty_index(args));
            control.start_over(engine.maps());
            (task, events, health) = start(&source);
            watchman.errors = 0;
        }
    };
    drop(stop_web);
    task.abort();
    kernel_log.abort();
    let now_ns = boot_ns();
    if !pace.stood_still(now_ns) && control.renew(engine.maps(), now_ns) == Renewal::Done {
        engine.lane().renew(engine.maps());
    }
    engine.into_lane().finish();
    log::info!(
        "{stopped_by}: the agent ends, the programs stay and balance on for {}; \
         `balancer detach --pins {}` removes them",
        match args.lease {
            LeaseTerm::Endless => "ever (--lease 0)".to_owned(),
            LeaseTerm::Lasts(term) => format!("{} s, then they leave connects alone", term.as_secs()),
        },
        pins.root().display(),
    );
    Ok(())
}

/// Sees to it that the agent does not go on as if all were well when its programs were taken away.
struct Watchman {
    status: Arc<AgentStatus>,
    turns: u32,
    /// What was found to be wrong last.
    seen: Option<String>,
    /// Programs of others that were told of.
    neighbours: Vec<Neighbour>,
    /// Errors of the source that were counted.
    errors: u64,
}

impl Watchman {
    /// Looks now and then whether the programs are attached, and who else is. What is wrong is logged once.
    fn look(&mut self, pins: &Pins, cgroup: &Cgroup) {
        self.status.turned();
        self.turns += 1;
        if !self.turns.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let found = self.status.detached();
        if let Some(what) = &found
            && found != self.seen
        {
            log::error!("{what}: connects are not balanced as they should be; restart the agent");
        }
        self.seen = found;
        if let Ok(neighbours) = datapath::neighbours(pins, &cgroup.path, &self.neighbours) {
            let new = neighbours.iter().filter(|it| !self.neighbours.contains(it));
            new.for_each(tell_of);
            self.neighbours = neighbours;
        }
    }

    /// How many errors the source has met since the last call.
    fn new_errors(&mut self, health: &SourceHealth) -> u64 {
        let all = health.errors();
        let new = all.saturating_sub(self.errors);
        self.errors = all;
        new
    }
}

/// Where notices go; `None` if nobody is to be told.
fn announcer(args: &AgentArgs, source: &Source) -> Option<mpsc::Sender<Notice>> {
    if args.events == EventsChoice::Off || source.kind() != SourceKind::Kubernetes {
        return None;
    }
    let (sender, notices) = mpsc::channel(NOTICES);
    // It ends with the last sender, and with the runtime.
    tokio::spawn(source.clone().announce(args.node_name().into(), notices));
    Some(sender)
}

/// What is known before the source has said anything.
fn empty_index(args: &AgentArgs) -> Index {
    #[expect(clippy::disallowed_methods, reason = "compared with triggers, for a metric alone")]
    let started_ms = jiff::Timestamp::now().as_millisecond();
    let defaults = Defaults {
        algorithm: args.algorithm,
        connections: args.connections(),
        selection: args.select.into(),
        started_ms,
    };
    let mut index = Index::new(defaults);
    let zone = args.zone.as_deref().map(Into::into);
    index.apply(Event::Node(NodeInfo { name: args.node_name().into(), zone }));
    index
}

fn reading(health: &SourceHealth) -> Reading {
    if health.is_partial() { Reading::Partial } else { Reading::Whole }
}

fn describe(source: &Source) -> String {
    match source {
        Source::Manifests(config) => format!("manifests in {}", config.dir.display()),
        Source::Kubernetes(_) => "the Kubernetes API server".to_owned(),
    }
}

fn log_recovered(reconciler: &Reconciler<datapath::Maps>) {
    let (services, backends, _) = reconciler.used();
    if services > 0 {
        log::info!(
            "took over {services} Service ports and {backends} backends from an earlier agent; nothing is \
             removed before the source has listed everything"
        );
    }
}

/// Several renewals per lease: one that comes late must not let it lapse.
fn renewal(lease: LeaseTerm) -> Duration {
    const SLOWEST: Duration = Duration::from_secs(5);
    lease.duration().map_or(SLOWEST, |term| (term / 4).min(SLOWEST))
}

/// A running source: its task, what it sends, and how it is.
type Running = (JoinHandle<Result<(), SourceError>>, mpsc::Receiver<Event>, Arc<SourceHealth>);

fn start(source: &Source) -> Running {
    let (sender, events) = mpsc::channel(QUEUE);
    let health = Arc::new(SourceHealth::new(source.kind()));
    (tokio::spawn(source.clone().run(sender, Arc::clone(&health))), events, health)
}

/// Where Services come from, as the flags say.
fn source(args: &AgentArgs) -> Result<Source, Failure> {
    Ok(match args.source()? {
        SourceChoice::Manifests { dir } => {
            let dir = std::path::absolute(&dir).unwrap_or(dir);
            Source::Manifests(ManifestsConfig::new(dir, args.node_name()))
        }
        SourceChoice::Kubernetes { kubeconfig, context } => Source::Kubernetes(KubernetesConfig {
            access: Access { kubeconfig, context },
            node_name: args.node_name().into(),
            pods: if args.watch_pods { ReadPods::Yes } else { ReadPods::No },
            timing: Timing::new(args.api_timeout, args.relist),
        }),
    })
}

/// Shows the programs' own log lines in the agent's log.
fn forward_kernel_log(installation: &mut Installation) -> JoinHandle<()> {
    let logger = aya_log::EbpfLogger::init(&mut installation.object)
        .map_err(|error| log::warn!("the programs' log cannot be read: {error}"))
        .ok()
        .and_then(|logger| {
            // SAFETY: the logger owns the ring buffer, whose descriptor stays open and the same for as
            // long as it lives.
            unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }.ok()
        });
    tokio::spawn(async move {
        let Some(mut logger) = logger else { return };
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    })
}
