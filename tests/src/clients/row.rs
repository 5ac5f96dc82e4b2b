//! One library with one quiet time: servers, client, moves, and the count.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;

use super::{
    client::{Client, Load},
    join::Tally,
    library::Library,
    mechanism::{Mechanism, Moves, Scene},
    parts::Places,
    quantiles::Quantiles,
    reconnect::Watch,
    server::{PORT, Servers, Setting},
};
use crate::{
    agent::Agent,
    manifests::ManifestDir,
    topology::{Scratch, Topology, interrupted},
};

/// Connections that a client holds.
const CONNECTIONS: usize = 24;

/// The same where the agent evens out by itself, which has a budget of five in a hundred.
const CONNECTIONS_EVENED: usize = 60;

/// Servers that they are spread over; where the agent evens out, as many come to these.
const SERVERS: usize = 3;

/// What is even: the fullest server's connections over the mean.
const EVEN: f64 = 1.1;

/// Connections that are moved at once, at most; and of a pool that its workers share. psycopg_pool looks at a connection before
/// it hands it out, and waits 1, 2, 4 seconds if it finds one ended after another: its ten seconds are over after five.
const AT_ONCE: u64 = 6;
const AT_ONCE_SHARED: u64 = 1;

/// Time between two moves.
const EVERY: Duration = Duration::from_secs(1);

/// Minimum age of a connection that is moved.
const MIN_AGE: &str = "1s";

/// What a row is run on.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'s> {
    /// The node.
    pub topology: &'s Topology,
    /// Its agent.
    pub agent: &'s Agent<'s>,
    /// What the agent reads.
    pub manifests: &'s ManifestDir,
    /// Where programs are.
    pub places: &'s Places,
}

/// What a row shall show.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'p> {
    /// With which library.
    pub library: &'p Library,
    /// How long a connection has to be quiet before it is moved.
    pub quiet: Duration,
    /// How.
    pub mechanism: Mechanism,
    /// After how many moves it ends.
    pub moves: u64,
    /// After what time of moving it ends at the latest.
    pub limit: Duration,
}

/// What a row has shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// Name and version of the library, in its own words.
    pub library: String,
    /// Connections moved.
    pub moves: u64,
    /// Others that could not be, by reason.
    pub refused: BTreeMap<String, u64>,
    /// What became of the requests.
    pub tally: Tally,
    /// Milliseconds from the end of a connection until the client had another.
    pub reconnected: Option<Quantiles>,
    /// Connections that it did not replace.
    pub not_reconnected: usize,
    /// Milliseconds from a request to its answer or error.
    pub took: Option<Quantiles>,
    /// How long connections were moved.
    pub seconds: f64,
    /// How even they became, where that was the aim.
    pub even: Option<Evenness>,
}

/// How even connections became.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evenness {
    /// Seconds from the new servers on; `None` if they never were even.
    pub after: Option<f64>,
    /// The fullest server's connections over the mean, in the end.
    pub max_over_mean: f64,
    /// Connections of each server, in the end.
    pub spread: Vec<u64>,
}

impl Stage<'_> {
    /// Runs a row. `number` is its own: no two rows share an address.
    ///
    /// # Errors
    ///
    /// When it cannot be carried out, or was interrupted; nothing is known of the library then.
    pub fn run(&self, plan: Plan<'_>, number: u16) -> Result<Measured> {
        let target = SocketAddr::new(crate::topology::service_v4(1000 + number).into(), 80);
        let service = format!("clients/row-{number}");
        let pace = plan.mechanism.pace(plan.quiet);
        let scratch = Scratch::files()?;
        let evened = plan.mechanism == Mechanism::RebalanceIdle;
        let (count, connections) =
            if evened { (2 * SERVERS, CONNECTIONS_EVENED) } else { (SERVERS, CONNECTIONS) };
        let pods = self.topology.pods(&format!("server{number}"), count)?;
        let setting =
            Setting { places: self.places, scratch: scratch.path(), dialled: target, delay: pace.delay };
        let kind = plan.library.server;
        let servers = Servers::start(kind, &pods, setting)?;
        self.publish(&service, target, plan)?;
        self.manifests.backends(&service, PORT, &pods[..SERVERS])?;
        self.agent.wait_for(target, Duration::from_secs(10), |stats| {
            stats.backends.iter().filter(|backend| backend.state == "ready").count() == SERVERS
        })?;

        let pod = self.topology.pod(&format!("client{number}"))?;
        let authority = Servers::authority(kind, scratch.path());
        let load = Load {
            target,
            connections,
            think: pace.think.clone(),
            delay: pace.delay,
            authority: authority.as_deref(),
        };
        let mut client = Client::start(&pod, plan.library, self.places, &load)?;
        let watch = Watch::start(client.id(), PORT);
        let scene = Scene { agent: self.agent, service: &service, client: &pod };
        let begun = Instant::now();
        let (moves, even) = if evened {
            self.manifests.backends(&service, PORT, &pods)?;
            let even = become_even(plan, scene, target, &mut client)?;
            (Moves::of_service(scene)?, Some(even))
        } else {
            (provoke(plan, scene, &mut client)?, None)
        };
        let seconds = begun.elapsed().as_secs_f64();
        // Every connection that was moved is asked for once more.
        pause(*pace.think.end() + Duration::from_millis(500))?;
        let reconnects = watch.finish();
        let said = client.stop()?;
        let executed = servers.executed()?;
        self.manifests.remove_service(&service)?;
        self.manifests.remove_slices(&service)?;

        let ends = said.requests.iter().filter_map(|request| Some(request.end.as_ref()?.0 - request.sent));
        Ok(Measured {
            moves: moves.moved,
            refused: moves.refused,
            tally: Tally::of(&said.requests, executed.iter().map(String::as_str)),
            reconnected: Quantiles::of(reconnects.took),
            not_reconnected: reconnects.waiting.len(),
            took: Quantiles::of(ends),
            seconds,
            even,
            library: said.library,
        })
    }

    /// A Service whose connections may be moved as soon and as often as they are quiet.
    fn publish(&self, service: &str, target: SocketAddr, plan: Plan<'_>) -> Result<()> {
        let service = self.manifests.service(service).cluster_ip(target.ip()).port(target.port());
        let quiet = format!("{}ms", plan.quiet.as_millis());
        let annotations = [
            ("balancer.dev/rebalance", "idle"),
            ("balancer.dev/rebalance-trust", "immediate"),
            ("balancer.dev/rebalance-quiet", &quiet),
            ("balancer.dev/rebalance-min-age", MIN_AGE),
        ];
        annotations.into_iter().fold(service, |service, (key, value)| service.annotation(key, value)).write()
    }
}

/// Moves connections until enough have been, or time is up.
fn provoke(plan: Plan<'_>, scene: Scene<'_>, client: &mut Client) -> Result<Moves> {
    let end = Instant::now() + plan.limit;
    let most = if plan.library.burst == 1 { AT_ONCE_SHARED } else { AT_ONCE };
    let mut done = Moves::default();
    while done.moved < plan.moves && Instant::now() < end {
        pause(EVERY)?;
        client.check_runs()?;
        let now = plan.mechanism.provoke(scene, most.min(plan.moves - done.moved))?;
        done.moved += now.moved;
        done.add(now.refused);
    }
    Ok(done)
}

/// Waits until all servers have their share of the connections, or time is up.
fn become_even(
    plan: Plan<'_>,
    scene: Scene<'_>,
    target: SocketAddr,
    client: &mut Client,
) -> Result<Evenness> {
    let begun = Instant::now();
    loop {
        pause(EVERY)?;
        client.check_runs()?;
        let stats = scene.agent.stats_of(target)?;
        let spread: Vec<u64> = stats.backends.iter().map(|backend| backend.active).collect();
        let max_over_mean = stats.evenness.map_or(f64::INFINITY, |evenness| evenness.max_over_mean);
        let even = spread.len() == 2 * SERVERS && max_over_mean <= EVEN;
        if even || begun.elapsed() >= plan.limit {
            let after = even.then(|| begun.elapsed().as_secs_f64());
            return Ok(Evenness { after, max_over_mean, spread });
        }
    }
}

/// Waits, unless this process is asked to end.
fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        if interrupted() {
            bail!("interrupted");
        }
        thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}
