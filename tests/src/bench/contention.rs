//! How connects scale with processors: all dial one Service at once, and count at the same backends.
//!
//! UDP sockets are connected, and nothing is sent: so nothing but the programs and the kernel's sockets is shared. TCP says
//! nothing here: on few processors the server takes its share of them, and with one dialler it sleeps between connects, from
//! which waking it costs more than with two.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Result, ensure};
use balancer_common::abi::UDP;
use serde::Serialize;

use super::{
    check_interrupt,
    child::{Dialler, dial},
    datapath::Datapath,
    numbers::Spread,
    progress,
    worker::{Command, Pause, cpus},
};
use crate::topology::{Cgroup, Topology, service_v4};

/// Backends of the Service.
const BACKENDS: u16 = 4;

/// What is dialled.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Where to.
    pub variant: &'static str,
    /// Connects per second from one processor.
    pub one: Spread,
    /// Connects per second from all of them together.
    pub all: Spread,
    /// `all` over `one`, round by round: as many as there are processors, if they share nothing.
    pub scaling: Spread,
    /// `scaling` over that of direct connects in the same round.
    pub scaling_ratio: Spread,
}

/// All results.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Processors.
    pub cpus: usize,
    /// Rounds measured.
    pub rounds: usize,
    /// By variant.
    pub rows: Vec<Row>,
    /// Why nothing was measured.
    pub missing: Option<String>,
}

/// Something to dial.
struct Variant {
    name: &'static str,
    cgroup: PathBuf,
    to: Vec<SocketAddr>,
}

/// Connects per second of a variant in a round.
#[derive(Clone, Copy)]
struct Sample {
    one: f64,
    all: f64,
}

/// Measures, with so many connects of each processor in each round.
///
/// # Errors
/// When a connect fails.
pub fn measure(rounds: usize, connects: usize) -> Result<Results> {
    let cpus = cpus()?;
    if cpus < 2 {
        let missing = Some("there is one processor only".into());
        return Ok(Results { cpus, rounds: 0, rows: Vec::new(), missing });
    }
    progress(&format!("connects from 1 and from {cpus} processors"));
    let topology = Topology::new()?;
    let (client, server) = (topology.pod("client")?, topology.pod("server")?);
    let ports: Vec<u16> = (8080..8080 + BACKENDS).collect();
    let mut diallers = (0..cpus).map(|cpu| Dialler::on_cpu(&client, cpu)).collect::<Result<Vec<_>>>()?;
    let endpoints: Vec<SocketAddr> = ports.iter().map(|&port| server.v4(port)).collect();
    let vip = SocketAddr::from((service_v4(1), 80));
    let (plain, ours) = (client.cgroup().child("plain")?, client.cgroup().child("balancer")?);
    let mut datapath = Datapath::attach(ours.path(), 1, u32::from(BACKENDS))?;
    datapath.service(UDP, vip, endpoints.iter().copied())?;
    let variant = |name, cgroup: &Cgroup, to: &[SocketAddr]| Variant {
        name,
        cgroup: cgroup.path().into(),
        to: to.into(),
    };
    let variants = [variant("direct", &plain, &endpoints), variant("balancer", &ours, &[vip])];
    let mut samples: Vec<Vec<Sample>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for turn in 0..variants.len() {
            check_interrupt()?;
            let index = (turn + round) % variants.len();
            let variant = &variants[index];
            for dialler in &mut diallers {
                dialler.enter(&variant.cgroup)?;
            }
            let one = rate(&mut diallers[..1], variant, connects)?;
            let all = rate(&mut diallers, variant, connects)?;
            if round > 0 {
                samples[index].push(Sample { one, all });
            }
        }
    }
    drop((datapath, plain, ours));
    let rows = variants.iter().zip(&samples).map(|(variant, ours)| row(variant, ours, &samples[0]));
    Ok(Results { cpus, rounds, rows: rows.collect(), missing: None })
}

/// Connects per second of all these diallers together.
fn rate(diallers: &mut [Dialler], variant: &Variant, count: usize) -> Result<f64> {
    let command = Command::Udp(dial(&variant.to, count, Pause::None));
    for dialler in &mut *diallers {
        dialler.begin(&command)?;
    }
    let mut rate = 0.0;
    for dialler in diallers {
        let answer = dialler.end()?;
        ensure!(answer.failed.is_empty(), "{}: {:?}", variant.name, answer.failed.first());
        rate += count as f64 / answer.total_ns.max(1) as f64 * 1e9;
    }
    Ok(rate)
}

fn row(variant: &Variant, ours: &[Sample], direct: &[Sample]) -> Row {
    let of = |samples: &[Sample], value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<f64>>();
    let scaling = |sample: &Sample| sample.all / sample.one;
    Row {
        variant: variant.name,
        one: Spread::of(of(ours, |sample| sample.one)),
        all: Spread::of(of(ours, |sample| sample.all)),
        scaling: Spread::of(of(ours, scaling)),
        scaling_ratio: Spread::of_ratios(&of(ours, scaling), &of(direct, scaling)),
    }
}
