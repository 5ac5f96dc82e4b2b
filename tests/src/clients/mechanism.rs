//! How idle connections are moved, or other connections harmed.

use std::{collections::BTreeMap, ops::RangeInclusive, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::server::PORT;
use crate::{agent::Agent, topology::Pod};

/// What is done to a client's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// `balancer rebalance now`: idle ones are moved, through the agent's gate
    RebalanceNow,
    /// The agent moves idle ones by itself, because servers were added, until connections are even again; `--moves` means nothing
    RebalanceIdle,
    /// Any are destroyed with `ss -K`, idle or not: the control, which shows that the suite sees harm where there is some
    SsKillUngated,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Connections moved.
    pub moved: u64,
    /// Others, by the reason why they were not.
    pub refused: BTreeMap<String, u64>,
}

/// What `balancer rebalance now` says: an item for each port of the Service in each family.
#[derive(Deserialize)]
struct Said {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    moved: u64,
    refused: BTreeMap<String, u64>,
}

impl Moves {
    /// All that was done to a Service since it was made, whoever asked for it.
    pub fn of_service(scene: Scene<'_>) -> Result<Self> {
        let said = scene.agent.json(["rebalance", "status", scene.service])?;
        let items = said["items"].as_array().cloned().unwrap_or_default();
        let counts: Vec<&Value> = items.iter().map(|item| &item["lifecycle"]).collect();
        let mut moves = Self::read(&json!({ "items": counts }))?;
        moves.refused.retain(|_, count| *count > 0);
        Ok(moves)
    }

    fn read(said: &Value) -> Result<Self> {
        let Said { items } = Said::deserialize(said).with_context(|| format!("unexpected answer: {said}"))?;
        ensure!(!items.is_empty(), "the Service is unknown: {said}");
        let mut moves = Self::default();
        for item in items {
            moves.moved += item.moved;
            moves.add(item.refused);
        }
        Ok(moves)
    }

    /// Counts refusals.
    pub fn add(&mut self, refused: BTreeMap<String, u64>) {
        for (reason, count) in refused {
            *self.refused.entry(reason).or_default() += count;
        }
    }
}

/// How client and servers behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long a connection is silent.
    pub think: RangeInclusive<Duration>,
    /// How long a request takes at most.
    pub delay: Duration,
}

/// Where it happens.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'r> {
    /// The agent of the client's node.
    pub agent: &'r Agent<'r>,
    /// The Service, `namespace/name`.
    pub service: &'r str,
    /// Where the client runs.
    pub client: &'r Pod,
}

impl Mechanism {
    /// What client and servers do, for a quiet time. Requests are far quicker than it, and silences longer; for the control
    /// neither is so, because idle connections could be destroyed without harm.
    pub fn pace(self, quiet: Duration) -> Pace {
        match self {
            Self::RebalanceNow | Self::RebalanceIdle => {
                let shortest = quiet + (quiet / 4).max(Duration::from_millis(200));
                let longest = shortest + (quiet * 3 / 4).max(Duration::from_millis(800));
                Pace { think: shortest..=longest, delay: Duration::from_millis(40) }
            }
            Self::SsKillUngated => Pace {
                think: Duration::from_millis(50)..=Duration::from_millis(200),
                delay: Duration::from_millis(150),
            },
        }
    }

    /// Does it to at most `max` connections. What the agent does by itself is none of this.
    pub fn provoke(self, scene: Scene<'_>, max: u64) -> Result<Moves> {
        match self {
            Self::RebalanceNow => {
                let max = max.to_string();
                Moves::read(&scene.agent.json(["rebalance", "now", scene.service, "--max", &max])?)
            }
            Self::RebalanceIdle => Ok(Moves::default()),
            Self::SsKillUngated => kill(scene.client, max),
        }
    }
}

/// Destroys random connections of a pod.
fn kill(pod: &Pod, max: u64) -> Result<Moves> {
    let mut ports = local_ports(&ss(pod, &[&format!("( dport = :{PORT} )")])?);
    fastrand::shuffle(&mut ports);
    let mut moves = Moves::default();
    for port in ports.into_iter().take(usize::try_from(max).unwrap_or(usize::MAX)) {
        // One that has ended in the meantime is not listed as killed.
        let killed = ss(pod, &["--kill", &format!("( sport = :{port} )")])?;
        moves.moved += local_ports(&killed).len() as u64;
    }
    Ok(moves)
}

/// `ss` of established TCP connections.
fn ss(pod: &Pod, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("ss");
    let (options, filter) = arguments.split_at(arguments.len() - 1);
    command
        .args(["--tcp", "--numeric", "--no-header"])
        .args(options)
        .args(["state", "established"])
        .args(filter);
    let output = pod.output(command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ss failed ({}): {}", output.status, said.trim());
    String::from_utf8(output.stdout).context("ss: not UTF-8")
}

/// The local port in each line of `ss` (queue, queue, local, remote).
fn local_ports(listed: &str) -> Vec<u16> {
    let port = |line: &str| line.split_ascii_whitespace().nth(2)?.rsplit_once(':')?.1.parse().ok();
    listed.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ss_is_read_in_both_families() {
        let listed = "0      0               10.244.0.2:46022         10.244.0.3:8080 \n\
            0      0      [::ffff:10.244.0.2]:46024 [::ffff:10.244.0.3]:8080 \n";
        assert_eq!(local_ports(listed), [46022, 46024]);
    }

    #[test]
    fn silences_are_longer_than_the_quiet_time_and_requests_shorter() {
        for quiet in [500, 1000, 2000].map(Duration::from_millis) {
            let pace = Mechanism::RebalanceNow.pace(quiet);
            assert!(*pace.think.start() >= quiet + Duration::from_millis(200), "{pace:?}");
            assert!(pace.delay * 5 < quiet, "{pace:?}");
            // httpx gives up a connection that was idle for five seconds.
            assert!(*pace.think.end() < Duration::from_secs(5), "{pace:?}");
        }
    }

    #[test]
    fn an_answer_is_the_sum_of_its_items() {
        let item = |moved| json!({"moved": moved, "refused": {"busy": 2}, "name": "web"});
        let moves = Moves::read(&json!({"kind": "RebalanceMoved", "items": [item(3), item(1)]})).unwrap();
        assert_eq!((moves.moved, moves.refused["busy"]), (4, 4));
        for said in [json!({"items": []}), json!({"moved": 3}), json!({"items": [{"refused": {}}]})] {
            assert!(Moves::read(&said).is_err(), "{said}");
        }
    }
}
