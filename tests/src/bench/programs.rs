//! What a run of `connect4` costs, by the kernel's own statistics, beside programs that do the least that
//! the same work takes.
//!
//! One link, one worker, one set of maps: between measurements the program behind the link is replaced,
//! and nothing else. An empty program is measured with them; what it "costs" is the kernel's reading of
//! the clock, and is taken off all others.

use std::{collections::BTreeMap, fs, net::SocketAddrV4, ops::Range, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::MapData,
    programs::{
        CgroupSockAddr,
        links::{FdLink, PinnedLink},
    },
    sys::{Stats, enable_stats},
};
use balancer_common::abi::{TCP, UDP};
use serde::Serialize;

use super::{
    child::{Acceptor, Dialler},
    datapath::{Datapath, nobody},
    numbers::Spread,
    worker::Pause,
};
use crate::topology::{Topology, service_v4};

/// Programs that are compared, in the order of the table.
const PROGRAMS: [&str; 5] = ["connect4", "with_state", "choose_real", "choose_only", "empty"];

/// How many connects a measurement has.
const RUNS: usize = 2_000;

/// Backends of a small Service, all of which are compared.
const FEW: u32 = 10;

/// Backends of a large Service, of which two are compared.
const MANY: u32 = 100_000;

/// A destination and a state of the tables.
struct Scenario {
    name: &'static str,
    protocol: u8,
    pause: Pause,
    to: SocketAddrV4,
    /// Backends, and the open connections that they seem to have before the measurement.
    preload: Option<(Range<u32>, u64)>,
}

/// A row of the results.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was dialled.
    pub scenario: &'static str,
    /// Which program.
    pub program: &'static str,
    /// Nanoseconds for a run, less those of the empty program in the same round.
    pub ns: Spread,
}

/// All of the results.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Rounds measured.
    pub rounds: usize,
    /// Connects in each measurement.
    pub runs: usize,
    /// What the empty program read with warm and with cold caches: already taken off.
    pub empty_ns: [Spread; 2],
    /// By scenario, then program.
    pub rows: Vec<Row>,
    /// All real programs together, by scenario.
    pub shares: Vec<Share>,
    /// Ratios, round by round.
    pub ratios: Vec<Ratio>,
}

/// What one of the real programs costs each connection, from connect() to the end of close().
#[derive(Debug, Serialize)]
pub struct Share {
    /// What was dialled.
    pub scenario: &'static str,
    /// Which program.
    pub program: String,
    /// How often it ran for each connection.
    pub runs: f64,
    /// Nanoseconds for each connection, less those of the empty program for as many runs.
    pub ns: Spread,
}

/// One figure held against another.
#[derive(Debug, Serialize)]
pub struct Ratio {
    /// What is compared.
    pub name: String,
    /// Round by round.
    pub ratio: Spread,
}

/// Measures.
///
/// # Errors
/// When a program does not run as often as connects were made: then something else was measured.
pub fn measure(minimal_object: &std::path::Path, rounds: usize) -> Result<Results> {
    let topology = Topology::new()?;
    let (client, server) = (topology.pod("client")?, topology.pod("server")?);
    let ports: Vec<u16> = (8080..8080 + FEW as u16).collect();
    let _acceptor = Acceptor::start(&server, &ports)?;
    let mut dialler = Dialler::start(&client)?;

    let mut datapath = Datapath::attach(client.cgroup().path(), 8, 2 * MANY + 4 * FEW)?;
    let real = || ports.iter().map(|&port| SocketAddrV4::new(server.addresses().v4, port));
    let vip = |n| SocketAddrV4::new(service_v4(n), 80);
    let udp_few = datapath.service(UDP, vip(1), (0..FEW).map(nobody))?;
    let tcp_few = datapath.service(TCP, vip(1), real())?;
    let udp_many = datapath.service(UDP, vip(2), (0..MANY).map(nobody))?;
    // Whichever of them is chosen, there is somebody who answers.
    let tcp_many = datapath.service(TCP, vip(2), real().cycle().take(MANY as usize))?;
    let scenario = |name, protocol, pause, to, preload| Scenario { name, protocol, pause, to, preload };
    let (warm, cold) = (Pause::None, Pause::ColdCaches);
    let (udp, tcp) = (|active| Some((udp_few.clone(), active)), |active| Some((tcp_few.clone(), active)));
    let scenarios = [
        scenario("UDP, 10 backends, all compared", UDP, warm, vip(1), udp(1)),
        scenario("UDP, 10 backends, first one idle", UDP, warm, vip(1), udp(0)),
        scenario("UDP, 100,000 backends", UDP, warm, vip(2), Some((udp_many.clone(), 1))),
        scenario("UDP, not a Service", UDP, warm, nobody(1), None),
        scenario("UDP, cold, 10 backends, all compared", UDP, cold, vip(1), udp(1)),
        scenario("UDP, cold, 10 backends, first one idle", UDP, cold, vip(1), udp(0)),
        scenario("UDP, cold, 100,000 backends", UDP, cold, vip(2), Some((udp_many.clone(), 1))),
        scenario("UDP, cold, not a Service", UDP, cold, nobody(1), None),
        scenario("TCP, 10 backends, all compared", TCP, warm, vip(1), tcp(1)),
        scenario("TCP, 10 backends, first one idle", TCP, warm, vip(1), tcp(0)),
        scenario("TCP, 100,000 backends", TCP, warm, vip(2), Some((tcp_many.clone(), 1))),
        scenario("TCP, not a Service", TCP, warm, SocketAddrV4::new(server.addresses().v4, 8080), None),
    ];

    let mut replaced = Vec::new();
    let mut minimal = load_minimal(minimal_object, &datapath)?;
    let mut shares = Shares::default();
    let _stats = enable_stats(Stats::RunTime).context("the kernel's statistics of programs")?;
    // [program][scenario][round]
    let mut ns = vec![vec![Vec::new(); scenarios.len()]; PROGRAMS.len()];
    for round in 0..=rounds {
        // Where a program lies in memory, and beside what, can make tens of nanoseconds: each round has
        // all of them elsewhere.
        datapath.reload()?;
        let next = load_minimal(minimal_object, &datapath)?;
        replaced.push(std::mem::replace(&mut minimal, next));
        for turn in 0..PROGRAMS.len() {
            let index = (turn + round) % PROGRAMS.len();
            replace(&mut minimal, &mut datapath, PROGRAMS[index])?;
            for turn in 0..scenarios.len() {
                let number = (turn + round) % scenarios.len();
                let scenario = &scenarios[number];
                // A program that records nothing cannot connect to a Service's backends more than once on a
                // socket, nor can the empty one reach a Service by TCP.
                if PROGRAMS[index] == "empty" && scenario.protocol == TCP {
                    continue;
                }
                if let Some((backends, active)) = &scenario.preload {
                    datapath.preload(backends.clone(), *active);
                }
                let before = (PROGRAMS[index] == "connect4").then(|| counts(&datapath)).transpose()?;
                let mean = run(&mut minimal, &mut datapath, PROGRAMS[index], scenario, &mut dialler)?;
                // The first round warms caches up.
                if round > 0 {
                    ns[index][number].push(mean);
                    if let Some(before) = before {
                        shares.add(scenario, &before, &counts(&datapath)?);
                    }
                }
            }
        }
    }
    replace(&mut minimal, &mut datapath, "connect4")?;
    Ok(evaluate(&scenarios, &ns, &shares, rounds))
}

fn load_minimal(object: &std::path::Path, datapath: &Datapath) -> Result<Ebpf> {
    let bytes = fs::read(object).with_context(|| object.display().to_string())?;
    let mut loader = EbpfLoader::new();
    let pinned = fs::read_dir(datapath.pins.version().join("maps")).context("pinned maps")?;
    let names: Vec<String> =
        pinned.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    for name in &names {
        let info = MapData::from_pin(datapath.pins.map(name))?.info()?;
        loader.map_max_entries(name, info.max_entries());
        loader.map_pin_path(name, datapath.pins.map(name));
    }
    let mut minimal = loader.load(&bytes).context("the minimal programs")?;
    for name in &PROGRAMS[1..] {
        program(&mut minimal, name)?.load().with_context(|| format!("program {name}"))?;
    }
    Ok(minimal)
}

fn program<'e>(object: &'e mut Ebpf, name: &str) -> Result<&'e mut CgroupSockAddr> {
    let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// `connect4` is in the real object, the others in the minimal one.
fn find<'e>(minimal: &'e mut Ebpf, datapath: &'e mut Datapath, name: &str) -> Result<&'e mut CgroupSockAddr> {
    program(if name == "connect4" { &mut datapath.installation.object } else { minimal }, name)
}

/// Puts a program behind the link of `connect4`.
fn replace(minimal: &mut Ebpf, datapath: &mut Datapath, name: &str) -> Result<()> {
    let pin = datapath.pins.link("connect4");
    let link = PinnedLink::from_pin(&pin).with_context(|| pin.display().to_string())?;
    let link = FdLink::from(link).try_into().context("the pin is no link of connect4")?;
    find(minimal, datapath, name)?.attach_to_link(link).with_context(|| format!("attaching {name}"))?;
    Ok(())
}

/// Nanoseconds for a run of the program, as the kernel counts them.
fn run(
    minimal: &mut Ebpf,
    datapath: &mut Datapath,
    name: &str,
    scenario: &Scenario,
    dialler: &mut Dialler,
) -> Result<f64> {
    let count = match scenario.pause {
        Pause::None | Pause::ServerSleeps => RUNS,
        Pause::ColdCaches => RUNS / 10,
    };
    let before = find(minimal, datapath, name)?.info()?;
    let answer = match scenario.protocol {
        TCP => dialler.tcp(&[scenario.to], count, scenario.pause)?,
        _ => dialler.udp(&[scenario.to], count, scenario.pause)?,
    };
    let after = find(minimal, datapath, name)?.info()?;
    let runs = after.run_count() - before.run_count();
    ensure!(
        runs == count as u64,
        "{name} ran {runs} times in {count} connects: this kernel does not count as expected"
    );
    // An unconnected UDP socket to a Service that no program translates still connects: it finds no route.
    let expected_to_fail = name == "empty" && !scenario.name.ends_with("not a Service");
    ensure!(
        expected_to_fail || answer.failed.is_empty(),
        "{name}, {}: {:?}",
        scenario.name,
        answer.failed.first()
    );
    Ok((after.run_time() - before.run_time()).as_nanos() as f64 / runs as f64)
}

/// Runs and nanoseconds of every real program so far.
fn counts(datapath: &Datapath) -> Result<BTreeMap<String, (u64, Duration)>> {
    datapath
        .installation
        .object
        .programs()
        .map(|(name, program)| {
            let info = program.info().with_context(|| format!("facts of {name}"))?;
            Ok((name.to_owned(), (info.run_count(), info.run_time())))
        })
        .collect()
}

/// Runs and nanoseconds for each connection, by scenario and program, of each round.
#[derive(Default)]
struct Shares(BTreeMap<(&'static str, String), Vec<(f64, f64)>>);

impl Shares {
    fn add(
        &mut self,
        scenario: &Scenario,
        before: &BTreeMap<String, (u64, Duration)>,
        after: &BTreeMap<String, (u64, Duration)>,
    ) {
        if scenario.protocol != TCP || scenario.pause != Pause::None {
            return;
        }
        for (name, &(runs, time)) in after {
            let (runs_before, time_before) = before.get(name).copied().unwrap_or_default();
            let runs = (runs - runs_before) as f64 / RUNS as f64;
            let ns = (time - time_before).as_nanos() as f64 / RUNS as f64;
            self.0.entry((scenario.name, name.clone())).or_default().push((runs, ns));
        }
    }

    fn evaluate(&self, empty: &[f64]) -> Vec<Share> {
        let ran = self.0.iter().filter(|(_, rounds)| rounds.iter().any(|&(runs, _)| runs > 0.0));
        ran.map(|((scenario, program), rounds)| Share {
            scenario,
            program: program.clone(),
            runs: Spread::of(rounds.iter().map(|&(runs, _)| runs)).median,
            ns: Spread::of(rounds.iter().zip(empty).map(|(&(runs, ns), empty)| ns - runs * empty)),
        })
        .collect()
    }
}

fn evaluate(scenarios: &[Scenario], ns: &[Vec<Vec<f64>>], shares: &Shares, rounds: usize) -> Results {
    let scenario =
        |name: &str| scenarios.iter().position(|scenario| scenario.name == name).unwrap_or_default();
    let index = |name: &str| PROGRAMS.iter().position(|&program| program == name).unwrap_or_default();
    // The same for all scenarios but those with other caches: the program does not look at what is dialled.
    let empty = |pause: Pause| -> Vec<f64> {
        let same =
            || scenarios.iter().zip(&ns[index("empty")]).filter(|(scenario, _)| scenario.pause == pause);
        (0..rounds)
            .map(|round| Spread::of(same().filter_map(|(_, runs)| runs.get(round).copied())).median)
            .collect()
    };
    let (warm, cold) = (empty(Pause::None), empty(Pause::ColdCaches));
    let net = |program: &str, name: &str| -> Vec<f64> {
        let empty = if scenarios[scenario(name)].pause == Pause::None { &warm } else { &cold };
        ns[index(program)][scenario(name)].iter().zip(empty).map(|(ns, empty)| ns - empty).collect()
    };
    let rows = scenarios
        .iter()
        .flat_map(|scenario| {
            PROGRAMS[..4].iter().map(|program| Row {
                scenario: scenario.name,
                program,
                ns: Spread::of(net(program, scenario.name)),
            })
        })
        .collect();
    let mut ratios = Vec::new();
    for scenario in scenarios {
        for (ours, limit) in [("connect4", "with_state"), ("choose_real", "choose_only")] {
            ratios.push(Ratio {
                name: format!("{ours} / {limit}: {}", scenario.name),
                ratio: Spread::of_ratios(&net(ours, scenario.name), &net(limit, scenario.name)),
            });
        }
    }
    for protocol in ["UDP", "TCP", "UDP, cold"] {
        let (many, few) =
            (format!("{protocol}, 100,000 backends"), format!("{protocol}, 10 backends, all compared"));
        for program in &PROGRAMS[..4] {
            ratios.push(Ratio {
                name: format!("{program}, {protocol}: 100,000 backends / 10"),
                ratio: Spread::of_ratios(&net(program, &many), &net(program, &few)),
            });
        }
    }
    let shares = shares.evaluate(&warm);
    Results { rounds, runs: RUNS, empty_ns: [Spread::of(warm), Spread::of(cold)], rows, shares, ratios }
}
