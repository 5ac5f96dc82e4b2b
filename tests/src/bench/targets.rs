//! What the results must reach.

use serde::Serialize;

use super::{
    churn, established, lane,
    latency::{self, BALANCER, DIRECT_ATTACHED},
    load, open, programs, propagation,
};

/// A bound on a figure.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// Of what.
    pub what: String,
    /// The figure must not be above it.
    pub limit: f64,
    /// The figure.
    pub measured: f64,
    /// What both are in; empty for ratios.
    pub unit: &'static str,
    /// Whether it is not above.
    pub met: bool,
}

impl Target {
    fn new(what: impl Into<String>, measured: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.into(), limit, measured, unit, met: measured <= limit }
    }
}

/// Of many changes at an API server.
pub fn load(outcome: &load::Outcome) -> Vec<Target> {
    vec![
        Target::new("many changes: median from a slice to the kernel", outcome.median_ms, 10.0, "ms"),
        Target::new("many changes: processor time of the agent", outcome.cores, 0.5, "cores"),
        Target::new("many changes: memory of the agent", outcome.rss_mib, 100.0, "MiB"),
    ]
}

/// Of bytes and requests on open connections: there is no cost per packet.
pub fn established(results: &established::Results) -> Vec<Target> {
    let rows = results.rows.iter().filter(|row| row.variant == "balancer");
    rows.map(|row| {
        let name = "programs run for each request on an open connection, rebalance off";
        Target::new(name, row.runs_per_request, 0.0, "")
    })
    .collect()
}

/// Of connections that are open.
pub fn open(outcome: &open::Outcome) -> Vec<Target> {
    let name =
        |what| format!("{} open connections: processor time of the agent while {what}", outcome.connections);
    vec![
        Target::new(name("they are watched"), outcome.watching_cores, 0.02, "cores"),
        Target::new(name("they are moved"), outcome.moving_cores, 0.02, "cores"),
    ]
}

/// Of a program's cost.
pub fn programs(results: &programs::Results) -> Vec<Target> {
    let scans = || results.rows.iter().filter(|row| programs::FULL_SCANS.contains(&row.scenario));
    let mut targets = Vec::new();
    for row in scans() {
        let name = format!("connect4 / minimal program with the same record ({})", row.scenario);
        targets.push(Target::new(name, row.with_state.median, 1.25, ""));
    }
    for row in scans() {
        let name = format!("look-up and choice / minimal ones ({})", row.scenario);
        targets.push(Target::new(name, row.choice.median, 1.15, ""));
    }
    for growth in &results.growth {
        let name = format!("connect4 at 100,000 backends / at 10 ({})", growth.how);
        targets.push(Target::new(name, growth.real.median, 1.2, ""));
    }
    targets
}

/// Of connects.
pub fn latency(results: &latency::Results) -> Vec<Target> {
    let mut targets = Vec::new();
    for row in &results.rows {
        if row.variant == BALANCER {
            let name = format!("connect p50 through balancer / direct ({} Services)", row.services);
            targets.push(Target::new(name, row.p50_ratio.median, 1.04, ""));
        } else if row.variant == DIRECT_ATTACHED {
            let name = "direct connect p50, programs attached / not attached";
            targets.push(Target::new(name, row.p50_ratio.median, 1.01, ""));
        }
    }
    targets
}

/// Of connects beside iptables rules.
pub fn lane(results: &lane::Results) -> Vec<Target> {
    let with = results.rows.iter().filter(|row| row.lane);
    with.map(|row| {
        let name =
            format!("beside {}, lane: p50 to {}, {} Services / 1", row.rules, row.dialled, results.services);
        Target::new(name, row.growth.median, 1.3, "")
    })
    .collect()
}

/// Of connects while everything changes.
pub fn churn(results: &churn::Results) -> Vec<Target> {
    let mut targets: Vec<Target> = results
        .rows
        .iter()
        .map(|row| {
            let name = match row.restarts {
                0 => format!("failed or slow of {} connects under churn", row.connects),
                restarts => {
                    format!("failed or slow of {} connects during {restarts} agent restarts", row.connects)
                }
            };
            Target::new(name, (row.failed + row.slow) as f64, 0.0, "")
        })
        .collect();
    targets.push(Target::new(
        "active connections counted once all are closed",
        results.active as f64,
        0.0,
        "",
    ));
    let unclosed = results.unclosed.unsigned_abs() as f64;
    targets.push(Target::new("opened less closed once all are closed", unclosed, 0.0, ""));
    targets
}

/// The number of Services that targets of the agent are set for.
const SERVICES: usize = 5_000;

/// Of the agent.
pub fn propagation(rows: &[propagation::Row]) -> Vec<Target> {
    let large = rows.iter().find(|row| row.services == SERVICES);
    let (Some(small), Some(large)) = (rows.first(), large) else { return Vec::new() };
    let size = format!("{} Services, {} endpoints", large.services, large.endpoints);
    let mut targets = vec![
        Target::new(format!("a change is in the kernel, median ({size})"), large.median_ms, 5.0, "ms"),
        Target::new(
            format!("the same / at {} Services", small.services),
            large.median_ms / small.median_ms,
            1.25,
            "",
        ),
    ];
    if let Some(sync) = large.first_sync_ms {
        targets.push(Target::new(format!("first sync once all is read ({size})"), sync, 1000.0, "ms"));
    }
    targets.push(Target::new(format!("agent, resident ({size})"), large.rss_mib, 60.0, "MiB"));
    targets
}
