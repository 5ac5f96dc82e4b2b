//! A report for tests: figures made up so that every case occurs, and none of them measured.

use std::collections::BTreeMap;

use super::{
    outcome::{Arm, Cell, Outcome, Run, Sample},
    report::{Origin, Report},
};
use crate::bench::facts::Facts;

pub fn facts(kernel: &str) -> Facts {
    Facts {
        kernel: kernel.into(),
        architecture: "x86_64".into(),
        cpu: "Some CPU".into(),
        cpus: 2,
        virtual_machine: true,
        governor: None,
        memory_mib: 4096,
        jit: Some("1".into()),
        load_before: "0.10 0.20 0.30".into(),
        load_after: "0.40 0.50 0.60".into(),
        build: "release".into(),
    }
}

pub fn origin(kernel: &str) -> Origin {
    Origin {
        date: "2026-11-26".into(),
        commit: "0123abc".into(),
        machine: facts(kernel),
        seeds: (1..=7).collect(),
    }
}

/// A run that ended with these connections.
pub fn run(seed: u64, connections: &[u64]) -> Run {
    Run {
        seed,
        connections: connections.to_vec(),
        requests: connections.iter().map(|count| count * 100).collect(),
        even_after: None,
        moves: 0,
        failed: 0,
        tried: 6000,
        p50_us: 210.0 + seed as f64,
        p99_us: 1900.0 + seed as f64,
        samples: Vec::new(),
        extra: BTreeMap::new(),
    }
}

/// Sixty connections over two minutes; `backends` of them from the 20th second on, where they are moved one by one.
fn samples(before: usize, backends: usize, moved: bool) -> Vec<Sample> {
    let open = |second: usize, backend: usize| {
        let old = 60 / before as u32;
        let even = 60 / backends as u32;
        let done = (second.saturating_sub(20) as u32 / 3).min(old - even);
        match (second >= 20 && moved, backend < before) {
            (true, true) => old - done,
            (true, false) => (done * before as u32 / (backends - before) as u32).min(even),
            (false, true) => old,
            (false, false) => 0,
        }
    };
    let sample = |second| Sample {
        seconds: second as f64,
        open: (0..backends).map(|backend| open(second, backend)).collect(),
    };
    (0..=120).map(sample).collect()
}

/// Seven runs of 3 -> 6 backends, in every arm.
pub fn scale_up() -> Outcome {
    let stuck = |samples: &[Sample]| {
        let run = |seed| Run { samples: samples.to_vec(), ..run(seed, &[20, 20, 20, 0, 0, 0]) };
        Cell::Ran((1..=7).map(run).collect())
    };
    let moved = samples(3, 6, true);
    let rebalanced = |seed: u64| Run {
        even_after: (seed != 7).then_some(30.0 + seed as f64),
        moves: 30,
        samples: moved.clone(),
        extra: BTreeMap::from([("held requests".into(), if seed == 3 { 1.0 } else { 0.0 })]),
        ..run(seed, &[10, 10, 10, 10, 10, 10])
    };
    let before = samples(3, 6, false);
    let absent = || Cell::NotRun("no module ip_vs | in this kernel".into());
    Outcome {
        name: "scale-up".into(),
        title: "3 -> 6 servers under 60 held connections".into(),
        story: "Clients hold 60 connections; then three more servers come up.".into(),
        change: Some("3 servers become 6".into()),
        simulated: false,
        arms: vec![
            (Arm::Direct, stuck(&before)),
            (Arm::Iptables, Cell::Ran(vec![Run { failed: 3, ..run(1, &[25, 20, 15, 0, 0, 0]) }])),
            (Arm::Nftables, stuck(&before)),
            (Arm::IpvsRr, absent()),
            (Arm::ConnectOnly, stuck(&before)),
            (Arm::Rebalancing, Cell::Ran((1..=7).map(rebalanced).collect())),
        ],
    }
}

/// Five clients on two backends, which cannot be even.
pub fn five_on_two() -> Outcome {
    Outcome {
        name: "five-on-two".into(),
        title: "5 clients to 2 servers".into(),
        story: "Each client holds one connection.".into(),
        change: None,
        simulated: false,
        arms: vec![
            (Arm::Iptables, Cell::Ran((1..=7).map(|seed| run(seed, &[4, 1])).collect())),
            (Arm::ConnectOnly, Cell::Ran((1..=7).map(|seed| run(seed, &[3, 2])).collect())),
        ],
    }
}

pub fn report() -> Report {
    Report::new(origin("6.18.44"), vec![scale_up(), five_on_two()])
}
