//! What open connections cost: bytes, requests and processor time, without the programs, with them, and with those that
//! follow every segment (`rebalance` on).

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use balancer_common::abi::TCP;
use serde::Serialize;

use super::{
    check_interrupt,
    child::{Acceptor, Dialler},
    datapath::Datapath,
    numbers::Spread,
    progress,
    worker::{Answer, Requests},
};
use crate::topology::{Topology, service_v4};

/// What is sent at a time where bytes are counted: one request, of so many bytes.
const BULK: usize = 64 << 20;

/// Bytes of a small request, and of its answer.
const SMALL: usize = 100;

/// Requests of each variant whose runs of programs are counted.
const COUNTED: usize = 1_000;

/// The port that the server listens on.
const PORT: u16 = 8080;

/// A variant.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Where the connection goes, and what is attached.
    pub variant: &'static str,
    /// GiB per second, from the client to the server.
    pub gib_per_second: Spread,
    /// The same over that of a direct connection without programs, in the same round.
    pub gib_ratio: Spread,
    /// Processor seconds of client and server for each GiB, what the kernel did in their name included.
    pub cpu_s_per_gib: Spread,
    /// The same over that of a direct connection in the same round.
    pub cpu_ratio: Spread,
    /// Requests per second, each answered before the next.
    pub requests_per_second: Spread,
    /// The same over that of a direct connection in the same round.
    pub requests_ratio: Spread,
    /// Processor time of client and server for each request, in nanoseconds.
    pub request_cpu_ns: Spread,
    /// The same over that of a direct connection in the same round.
    pub request_cpu_ratio: Spread,
    /// How often the client's programs ran for each request.
    pub runs_per_request: f64,
    /// How long they took for it, in nanoseconds.
    pub program_ns_per_request: f64,
}

/// All results.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Rounds measured.
    pub rounds: usize,
    /// Bytes that each variant sends in each round.
    pub bytes: usize,
    /// Small requests of each variant in each round.
    pub requests: usize,
    /// By variant.
    pub rows: Vec<Row>,
}

/// A connection that stays open.
struct Variant {
    name: &'static str,
    connection: usize,
    /// Whose programs its socket meets.
    datapath: Option<usize>,
}

/// What a variant did in a round.
#[derive(Clone, Copy)]
struct Sample {
    gib_per_second: f64,
    cpu_s_per_gib: f64,
    requests_per_second: f64,
    request_cpu_ns: f64,
}

/// Measures.
///
/// # Errors
/// When a connection cannot be opened, or breaks.
pub fn measure(rounds: usize, requests: usize) -> Result<Results> {
    progress("open connections: bytes and requests");
    let topology = Topology::new()?;
    let (client, server) = (topology.pod("client")?, topology.pod("server")?);
    let _acceptor = Acceptor::answering(&server, &[PORT])?;
    let mut dialler = Dialler::start(&client)?;
    let (vip, direct) = (SocketAddr::from((service_v4(1), 80)), server.v4(PORT));
    let cgroup = |name: &str| client.cgroup().child(name);
    let (plain, attached, followed) = (cgroup("plain")?, cgroup("attached")?, cgroup("followed")?);
    let mut datapaths = [&attached, &followed]
        .into_iter()
        .map(|cgroup| Datapath::attach(cgroup.path(), 1, 1))
        .collect::<Result<Vec<_>>>()?;
    datapaths[1].follow_connections();
    for datapath in &mut datapaths {
        datapath.service(TCP, vip, [direct])?;
    }
    let mut open = |name, cgroup: PathBuf, to, datapath| -> Result<Variant> {
        dialler.enter(&cgroup)?;
        Ok(Variant { name, connection: dialler.open(to).context(name)?, datapath })
    };
    let variants = [
        open("direct", plain.path().into(), direct, None)?,
        open("direct, a second one", plain.path().into(), direct, None)?,
        open("direct, programs attached", attached.path().into(), direct, Some(0))?,
        open("balancer", attached.path().into(), vip, Some(0))?,
        open("balancer, rebalance on", followed.path().into(), vip, Some(1))?,
    ];
    let mut samples: Vec<Vec<Sample>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for turn in 0..variants.len() {
            check_interrupt()?;
            let index = (turn + round) % variants.len();
            let sample = sample(&mut dialler, variants[index].connection, requests)?;
            // The first round fills caches and opens windows.
            if round > 0 {
                samples[index].push(sample);
            }
        }
    }
    let rows = variants
        .iter()
        .enumerate()
        .map(|(index, variant)| {
            let datapath = variant.datapath.map(|index| &datapaths[index]);
            let (runs, ns) = count(&mut dialler, variant.connection, datapath)?;
            Ok(row(variant.name, &samples[index], &samples[0], runs, ns))
        })
        .collect::<Result<_>>()?;
    drop((datapaths, plain, attached, followed));
    Ok(Results { rounds, bytes: BULK, requests, rows })
}

fn sample(dialler: &mut Dialler, connection: usize, requests: usize) -> Result<Sample> {
    let bulk = dialler.request(connection, Requests { count: 1, size: BULK, answer: 8 })?;
    let small = dialler.request(connection, Requests { count: requests, size: SMALL, answer: SMALL })?;
    let gib = BULK as f64 / f64::from(1 << 30);
    let seconds = |answer: &Answer| answer.total_ns.max(1) as f64 / 1e9;
    Ok(Sample {
        gib_per_second: gib / seconds(&bulk),
        cpu_s_per_gib: bulk.cpu_ns as f64 / 1e9 / gib,
        requests_per_second: requests as f64 / seconds(&small),
        request_cpu_ns: small.cpu_ns as f64 / requests as f64,
    })
}

/// How often programs run for a request, and for how long, by the kernel's own statistics. Apart from the rest, because
/// taking them costs time.
fn count(dialler: &mut Dialler, connection: usize, datapath: Option<&Datapath>) -> Result<(f64, f64)> {
    let Some(datapath) = datapath else { return Ok((0.0, 0.0)) };
    let _stats = enable_stats(Stats::RunTime).context("the kernel's statistics of programs")?;
    let before = ran(datapath)?;
    dialler.request(connection, Requests { count: COUNTED, size: SMALL, answer: SMALL })?;
    let after = ran(datapath)?;
    // Two more requests ask for the server's time.
    let requests = (COUNTED + 2) as f64;
    Ok(((after.0 - before.0) as f64 / requests, (after.1 - before.1) as f64 / requests))
}

/// Runs of all programs, and the nanoseconds that they took.
fn ran(datapath: &Datapath) -> Result<(u64, u64)> {
    datapath.installation.object.programs().try_fold((0, 0), |sum, (name, program)| {
        let info = program.info().with_context(|| format!("facts of {name}"))?;
        Ok((sum.0 + info.run_count(), sum.1 + info.run_time().as_nanos() as u64))
    })
}

fn row(variant: &'static str, ours: &[Sample], direct: &[Sample], runs: f64, ns: f64) -> Row {
    let of = |samples: &[Sample], value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<f64>>();
    let spread = |value| Spread::of(of(ours, value));
    let ratio = |value| Spread::of_ratios(&of(ours, value), &of(direct, value));
    Row {
        variant,
        gib_per_second: spread(|sample| sample.gib_per_second),
        gib_ratio: ratio(|sample| sample.gib_per_second),
        cpu_s_per_gib: spread(|sample| sample.cpu_s_per_gib),
        cpu_ratio: ratio(|sample| sample.cpu_s_per_gib),
        requests_per_second: spread(|sample| sample.requests_per_second),
        requests_ratio: ratio(|sample| sample.requests_per_second),
        request_cpu_ns: spread(|sample| sample.request_cpu_ns),
        request_cpu_ratio: ratio(|sample| sample.request_cpu_ns),
        runs_per_request: runs,
        program_ns_per_request: ns,
    }
}
