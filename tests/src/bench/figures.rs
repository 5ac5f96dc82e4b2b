//! The figures that one run can be compared with another by: named, with their spread.

use serde::{Deserialize, Serialize};

use super::{
    established, latency,
    latency::thousands,
    numbers::Spread,
    report::{Report, questions_name},
};

/// A figure with its spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is; the same in every run that measures it.
    pub name: String,
    /// What it is in; empty for ratios.
    pub unit: String,
    /// Which way is worse.
    pub better: Better,
    /// Whether it means the same on another machine.
    pub basis: Basis,
    /// The median of the rounds with the lowest and the highest.
    pub value: Spread,
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// The lower one.
    Lower,
    /// The higher one.
    Higher,
}

/// What a figure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// How something relates to something else that was measured in the same round: the machine cancels out, mostly.
    Ratio,
    /// A time, a rate or a size of this machine.
    Absolute,
}

/// Collects figures.
#[derive(Default)]
struct Figures(Vec<Figure>);

impl Figures {
    fn ratio(&mut self, name: impl Into<String>, better: Better, value: Spread) {
        self.add(name.into(), "", better, Basis::Ratio, value);
    }

    fn absolute(&mut self, name: impl Into<String>, unit: &str, better: Better, value: Spread) {
        self.add(name.into(), unit, better, Basis::Absolute, value);
    }

    fn add(&mut self, name: String, unit: &str, better: Better, basis: Basis, value: Spread) {
        // What could not be divided says nothing, and JSON has no word for it.
        if ![value.median, value.min, value.max].into_iter().all(f64::is_finite) {
            return;
        }
        self.0.push(Figure { name, unit: unit.into(), better, basis, value });
    }
}

/// Those of a report.
pub fn of(report: &Report) -> Vec<Figure> {
    let mut figures = Figures::default();
    let (lower, higher) = (Better::Lower, Better::Higher);
    if let Some(programs) = &report.programs {
        for row in &programs.rows {
            let name = |what: &str| format!("programs: {what} ({})", row.scenario);
            figures.ratio(name("connect4 / minimal"), lower, row.with_state);
            figures.ratio(name("choice / minimal choice"), lower, row.choice);
            figures.absolute(name("connect4"), "ns", lower, row.real_ns);
        }
        for growth in &programs.growth {
            figures.ratio(format!("programs: 100,000 backends / 10 ({})", growth.how), lower, growth.real);
        }
    }
    for (what, results) in [("connects", &report.connects), ("ipv6", &report.ipv6), ("udp", &report.udp)] {
        let Some(results) = results else { continue };
        results.rows.iter().for_each(|row| latency(&mut figures, what, row));
    }
    if let Some(established) = &report.established {
        established.rows.iter().for_each(|row| open_connections(&mut figures, row));
    }
    if let Some(contention) = &report.contention {
        for row in &contention.rows {
            let name = |what: &str| format!("contention: {what} ({} CPUs)", contention.cpus);
            if row.variant == "balancer" {
                figures.ratio(name("scaling through balancer / direct"), higher, row.scaling_ratio);
            }
            let rate = name(&format!("connects by all, {}", row.variant));
            figures.absolute(rate, "/s", higher, row.all);
        }
    }
    for row in report.lane.iter().flat_map(|results| &results.rows).filter(|row| row.lane) {
        let name = format!("express lane beside {}: many Services / 1, to {}", row.rules, row.dialled);
        figures.ratio(name, lower, row.growth);
    }
    for row in &report.propagation {
        let name = |what: &str| format!("agent: {what} ({} Services)", thousands(row.services));
        figures.absolute(name("a change to the kernel, median"), "ms", lower, row.batches_ms);
        figures.absolute(name("resident"), "MiB", lower, Spread::single(row.rss_mib));
    }
    for row in &report.load {
        let name = |what: &str| format!("load: {what} ({} Services)", thousands(row.services.into()));
        figures.absolute(name("processor time for a change of a slice"), "us", lower, row.cpu_us_per_change);
        figures.absolute(name("resident"), "MiB", lower, Spread::single(row.rss_mib));
    }
    if let Some(memory) = &report.memory {
        let single = Spread::single;
        figures.absolute("memory: for a Service port", "bytes", lower, single(memory.service_bytes));
        figures.absolute("memory: for a backend", "bytes", lower, single(memory.backend_bytes));
        figures.absolute("memory: all maps, empty", "bytes", lower, single(memory.empty_bytes as f64));
    }
    figures.0
}

fn latency(figures: &mut Figures, what: &str, row: &latency::Row) {
    let services = match row.services {
        0 => String::new(),
        count => format!(", {} Services", thousands(count)),
    };
    let action = questions_name(row.action);
    let name = |of: &str| format!("{what}: {of} ({action}{}{services})", row.variant);
    if row.variant != latency::DIRECT {
        figures.ratio(name("p50 / direct"), Better::Lower, row.p50_ratio);
        figures.ratio(name("per second / direct"), Better::Higher, row.per_second_ratio);
    }
    figures.absolute(name("p50"), "ns", Better::Lower, row.p50_ns);
}

fn open_connections(figures: &mut Figures, row: &established::Row) {
    let name = |of: &str| format!("established: {of} ({})", row.variant);
    if row.variant != "direct" {
        figures.ratio(name("bytes per second / direct"), Better::Higher, row.gib_ratio);
        figures.ratio(name("processor time for bytes / direct"), Better::Lower, row.cpu_ratio);
        figures.ratio(name("requests per second / direct"), Better::Higher, row.requests_ratio);
        figures.ratio(name("processor time of a request / direct"), Better::Lower, row.request_cpu_ratio);
    }
    figures.absolute(name("bytes per second"), "GiB/s", Better::Higher, row.gib_per_second);
    figures.absolute(name("processor time for bytes"), "s/GiB", Better::Lower, row.cpu_s_per_gib);
}
