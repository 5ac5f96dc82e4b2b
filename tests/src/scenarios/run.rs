//! Plays a scenario: all arms at the same time, on the same servers, some seeds at once.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use balancer_userspace::datapath::boot_ns;
use serde::Deserialize;

use super::{
    outcome::{Arm, Cell, Outcome, Run, Sample},
    process::{Client, ClientPlan, ClientReport, Served, Server, Work},
    script::{Change, Scenario},
    stage::{Key, Stage, look},
};
use crate::{agent::Agent, bench::numbers::percentile, topology::interrupted};

/// How often connections are counted.
const SAMPLE: Duration = Duration::from_millis(500);

/// Connections are spread well enough.
pub const EVEN: f64 = 1.1;

/// How long after a server has ended a client may take to notice.
const AFTER_ITS_END_NS: u64 = 200_000_000;

/// The arms, in the order of tables.
pub const ARMS: [Arm; 9] = [
    Arm::Direct,
    Arm::Iptables,
    Arm::Nftables,
    Arm::IpvsRr,
    Arm::IpvsLc,
    Arm::IpvsSed,
    Arm::IpvsSh,
    Arm::ConnectOnly,
    Arm::Rebalancing,
];

/// Plays a scenario in these arms, once for each seed from 1 to `seeds`.
///
/// # Errors
/// When something does not start, or ends by itself. An arm that cannot be had here is no error.
pub fn play(scenario: &Scenario, arms: &[Arm], seeds: u64, say: &dyn Fn(&str)) -> Result<Outcome> {
    let mut cells: BTreeMap<Arm, Cell> = BTreeMap::new();
    let seeds: Vec<u64> = (1..=seeds).collect();
    for batch in seeds.chunks(scenario.at_once.max(1)) {
        say(&format!("{}: seeds {} to {}", scenario.name, batch[0], batch[batch.len() - 1]));
        let stage = Stage::new(scenario)?;
        let mut here = Vec::new();
        for arm in arms {
            let lacks = scenario.leaves_out(*arm).map(str::to_owned).or_else(|| stage.lacks(*arm));
            match lacks {
                Some(why) => drop(cells.insert(*arm, Cell::NotRun(why))),
                None => here.push(*arm),
            }
        }
        for (arm, run) in batch_of(scenario, &stage, &here, batch)? {
            match cells.entry(arm).or_insert_with(|| Cell::Ran(Vec::new())) {
                Cell::Ran(runs) => runs.push(run),
                Cell::NotRun(why) => bail!("{arm:?} ran although {why}"),
            }
        }
    }
    Ok(Outcome {
        name: scenario.name.into(),
        title: scenario.title.into(),
        story: scenario.story.split_whitespace().collect::<Vec<_>>().join(" "),
        change: scenario.change.map(str::to_owned),
        simulated: false,
        arms: cells.into_iter().collect(),
    })
}

/// A run under way.
struct Player {
    key: Key,
    clients: Vec<Client>,
    samples: Vec<Sample>,
}

fn batch_of(scenario: &Scenario, stage: &Stage, arms: &[Arm], seeds: &[u64]) -> Result<Vec<(Arm, Run)>> {
    let pairs = seeds.iter().flat_map(|seed| arms.iter().map(move |arm| (*arm, *seed)));
    let keys: Vec<Key> = pairs.zip(0_u16..).map(|((arm, seed), index)| Key { arm, seed, index }).collect();
    let mut servers = stage.serve(scenario, keys.len() as u16)?;
    stage.announce(scenario, &keys)?;
    stage.endpoints(&keys, &scenario.ready, &[])?;
    // Nodes of other names, so that it is not the names that it is owed to.
    let agents = stage.agents(usize::try_from(seeds[0])?)?;
    let mut players: Vec<Player> =
        keys.iter().map(|key| Player::start(scenario, stage, *key)).collect::<Result<_>>()?;
    for player in &mut players {
        player
            .clients
            .iter_mut()
            .try_for_each(Client::wait_ready)
            .with_context(|| format!("{:?}", player.key))?;
    }
    let timeline = act(scenario, stage, &keys, &mut servers, &mut players)?;
    let moved: Vec<BTreeMap<String, u64>> = agents.iter().map(moves).collect::<Result<_>>()?;
    let ready = scenario.ready_at_last();
    let mut runs = Vec::new();
    for player in players {
        let moves = moved.iter().filter_map(|moved| moved.get(&player.key.name())).sum();
        let arm = player.key.arm;
        runs.push((arm, player.end(scenario, ready, &timeline, moves)?));
    }
    Ok(runs)
}

/// What was counted of all runs.
struct Timeline {
    /// When counting began, in seconds.
    marked: f64,
    /// By server: what it had answered then.
    before: Vec<Served>,
    /// The same at the end.
    after: Vec<Served>,
    /// Servers that were told to end.
    ends: Vec<End>,
}

/// A server that was told to end.
struct End {
    /// What it had open just before.
    left: Served,
    /// From when to when it ended, in nanoseconds since boot.
    during_ns: RangeInclusive<u64>,
}

impl Timeline {
    /// Whether a server was ending at this time, in nanoseconds since boot.
    fn ends_at(&self, at_ns: u64) -> bool {
        self.ends.iter().any(|end| end.during_ns.contains(&at_ns))
    }
}

/// Lets everything happen at its time.
fn act(
    scenario: &Scenario,
    stage: &Stage,
    keys: &[Key],
    servers: &mut [Option<Server>],
    players: &mut [Player],
) -> Result<Timeline> {
    let begun = Instant::now();
    let mut ended: Vec<Served> = servers
        .iter_mut()
        .map(|server| server.as_mut().map_or_else(|| Ok(Served::default()), Server::stats))
        .collect::<Result<_>>()?;
    let mut timeline = Timeline { marked: 0.0, before: ended.clone(), after: Vec::new(), ends: Vec::new() };
    let mut steps = scenario.steps.iter().peekable();
    let end = Duration::from_secs(scenario.seconds.into());
    let mut next = Duration::ZERO;
    loop {
        if interrupted() {
            bail!("interrupted");
        }
        while let Some(step) = steps.next_if(|step| begun.elapsed() >= Duration::from_secs(step.at.into())) {
            match &step.change {
                Change::Endpoints { ready, terminating } => {
                    stage.endpoints(keys, ready, terminating)?;
                    for player in players.iter_mut().filter(|player| player.key.arm == Arm::Direct) {
                        let targets = stage.targets(player.key, ready);
                        player.clients.iter_mut().try_for_each(|client| client.targets(targets.clone()))?;
                    }
                }
                Change::Mark => {
                    timeline.marked = begun.elapsed().as_secs_f64();
                    timeline.before = look(servers, &ended)?;
                    for player in players.iter_mut() {
                        player.clients.iter_mut().try_for_each(Client::mark)?;
                    }
                }
                Change::End(index) => {
                    let mut server = servers[*index].take().context("a server ends twice")?;
                    let left = server.stats()?;
                    let from = boot_ns();
                    ended[*index] = server.end()?;
                    timeline.ends.push(End { left, during_ns: from..=boot_ns() + AFTER_ITS_END_NS });
                }
                Change::Refuse(index) => {
                    servers[*index].as_mut().context("a server that has ended refuses")?.refuse()?;
                }
                Change::Unplug(index) => stage.pods[*index].unplug()?,
            }
        }
        let served = look(servers, &ended)?;
        let seconds = begun.elapsed().as_secs_f64();
        for player in players.iter_mut() {
            let index = usize::from(player.key.index);
            let open = served.iter().map(|served| served.open[index]).collect();
            player.samples.push(Sample { seconds, open });
        }
        if begun.elapsed() >= end {
            timeline.after = served;
            return Ok(timeline);
        }
        next += SAMPLE;
        thread::sleep(next.saturating_sub(begun.elapsed()));
    }
}

impl Player {
    fn start(scenario: &Scenario, stage: &Stage, key: Key) -> Result<Self> {
        let mut clients = Vec::new();
        // The ideal: turns are dealt out, as no real client could.
        let mut turn = usize::try_from(key.seed).unwrap_or(0);
        let mut number = vec![0; stage.clients.len()];
        for (position, (node, work)) in scenario.clients.iter().enumerate() {
            let pod = &stage.clients[*node][number[*node]];
            number[*node] += 1;
            let plan = ClientPlan {
                targets: stage.targets(key, &scenario.ready),
                start: turn,
                seed: key.seed.wrapping_mul(1_000).wrapping_add(position as u64),
                work: *work,
            };
            turn += match work {
                Work::Pool { connections, .. } | Work::Transactions { connections, .. } => {
                    *connections as usize
                }
                Work::Short { .. } | Work::Multiplexed { .. } => 1,
            };
            clients.push(Client::start(pod, &plan)?);
        }
        Ok(Self { key, clients, samples: Vec::new() })
    }

    fn end(self, scenario: &Scenario, ready: &[usize], timeline: &Timeline, moves: u64) -> Result<Run> {
        let index = usize::from(self.key.index);
        let mut report = ClientReport::default();
        for client in self.clients {
            add(&mut report, client.end()?);
        }
        let last = self.samples.last().context("nothing was counted")?;
        // What short connections leave open at some moment says nothing.
        let kept = if scenario.connections() == 0 { &[][..] } else { ready };
        let connections: Vec<u64> = kept.iter().map(|server| last.open[*server].into()).collect();
        let requests = ready
            .iter()
            .map(|server| timeline.after[*server].requests[index] - timeline.before[*server].requests[index])
            .collect();
        let mut latencies: Vec<u64> = report.latencies_us.iter().map(|us| u64::from(*us)).collect();
        latencies.sort_unstable();
        let even_after = scenario.change.and_then(|_| even_after(&self.samples, ready, timeline.marked));
        // A server that fails at once is of interest from then on, a request that a change cuts off whenever it happens.
        let (failed, tried) = match scenario
            .steps
            .iter()
            .any(|step| matches!(step.change, Change::Refuse(_) | Change::Unplug(_)))
        {
            true => (report.failed_since_mark, report.tried_since_mark),
            false => (report.failed, report.tried),
        };
        Ok(Run {
            seed: self.key.seed,
            extra: extra(scenario, &connections, &report, timeline, index),
            connections,
            requests,
            even_after,
            moves,
            failed,
            tried,
            p50_us: percentile(&latencies, 0.5),
            p99_us: percentile(&latencies, 0.99),
            samples: self.samples,
        })
    }
}

/// Adds up what the clients of a run say.
fn add(sum: &mut ClientReport, report: ClientReport) {
    sum.tried += report.tried;
    sum.failed += report.failed;
    sum.failed_since_mark += report.failed_since_mark;
    sum.tried_since_mark += report.tried_since_mark;
    sum.failed_after_a_second += report.failed_after_a_second;
    sum.tried_after_a_second += report.tried_after_a_second;
    sum.reopened += report.reopened;
    sum.given_up += report.given_up;
    sum.lost_transactions += report.lost_transactions;
    sum.transactions += report.transactions;
    sum.latencies_us.extend(report.latencies_us);
    sum.failed_at_ns.extend(report.failed_at_ns);
    for (error, count) in report.errors {
        *sum.errors.entry(error).or_default() += count;
    }
}

/// Figures that only some scenarios have, of the run of this index.
fn extra(
    scenario: &Scenario,
    connections: &[u64],
    report: &ClientReport,
    timeline: &Timeline,
    index: usize,
) -> BTreeMap<String, f64> {
    let mut extra = BTreeMap::new();
    if usize::try_from(scenario.connections()).is_ok_and(|count| (2..connections.len()).contains(&count)) {
        // Each could have had a server of its own.
        let collisions: u64 = connections.iter().map(|count| count.saturating_sub(1)).sum();
        extra.insert("collisions".into(), collisions as f64);
    }
    let works = |wanted: fn(&Work) -> bool| scenario.clients.iter().any(|(_, work)| wanted(work));
    if works(|work| matches!(work, Work::Short { .. })) {
        let share = report.failed_after_a_second as f64 / report.tried_after_a_second.max(1) as f64;
        extra.insert("failures per 1,000 after the first second".into(), 1_000.0 * share);
    }
    if works(|work| matches!(work, Work::Transactions { .. })) {
        extra.insert("transactions lost".into(), report.lost_transactions as f64);
        extra.insert("transactions".into(), report.transactions as f64);
    }
    if report.given_up > 0 {
        extra.insert("connections ended and not opened anew".into(), report.given_up as f64);
    }
    if !timeline.ends.is_empty() {
        let left: u32 = timeline.ends.iter().map(|end| end.left.open[index]).sum();
        extra.insert("connections open as their pod ended".into(), left.into());
        let cut = report.failed_at_ns.iter().filter(|at| timeline.ends_at(**at)).count();
        extra.insert("requests that failed as a pod ended".into(), cut as f64);
    }
    for (error, count) in &report.errors {
        extra.insert(format!("failed: {error}"), *count as f64);
    }
    extra
}

/// From when on, in seconds after a mark, connections were even and stayed so.
fn even_after(samples: &[Sample], ready: &[usize], marked: f64) -> Option<f64> {
    let even = |sample: &Sample| {
        let open: Vec<f64> = ready.iter().map(|server| sample.open[*server].into()).collect();
        let sum: f64 = open.iter().sum();
        let max = open.iter().copied().fold(0.0, f64::max);
        sum > 0.0 && max * open.len() as f64 / sum <= EVEN + 1e-9
    };
    let later: Vec<&Sample> = samples.iter().filter(|sample| sample.seconds >= marked).collect();
    let first = match later.iter().rposition(|sample| !even(sample)) {
        Some(last_uneven) => later.get(last_uneven + 1)?,
        None => later.first()?,
    };
    Some((first.seconds - marked).max(0.0))
}

/// Connections that an agent has moved and drained, by Service.
fn moves(agent: &Agent<'_>) -> Result<BTreeMap<String, u64>> {
    #[derive(Deserialize)]
    struct Item {
        name: String,
        lifecycle: Counts,
    }
    #[derive(Deserialize)]
    struct Counts {
        moved: u64,
        drained: u64,
    }
    let said = agent.json(["rebalance", "status", "-A"])?;
    let items =
        Vec::<Item>::deserialize(&said["items"]).with_context(|| format!("unexpected answer: {said}"))?;
    Ok(items.into_iter().map(|item| (item.name, item.lifecycle.moved + item.lifecycle.drained)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(open: &[[u32; 2]]) -> Vec<Sample> {
        let sample =
            |(index, open): (usize, &[u32; 2])| Sample { seconds: index as f64, open: open.to_vec() };
        open.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn it_is_even_once_it_stays_so() {
        let after = |open: &[[u32; 2]], marked| even_after(&samples(open), &[0, 1], marked);
        assert_eq!(after(&[[2, 0], [1, 1], [2, 0], [1, 1], [1, 1]], 1.0), Some(2.0));
        assert_eq!(after(&[[1, 1], [1, 1]], 0.0), Some(0.0));
        assert_eq!(after(&[[1, 1], [2, 0]], 0.0), None);
        assert_eq!(after(&[[11, 9], [11, 9]], 1.0), Some(0.0));
        assert_eq!(after(&[[0, 0]], 0.0), None);
    }
}
