//! What peers count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a loop came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopReport {
    /// Connections tried.
    pub attempts: u64,
    /// Those that failed, by step and error name (`connect ECONNREFUSED`, `answer EAGAIN`).
    pub failures: BTreeMap<String, u64>,
    /// Those that worked but whose connect() took more than 100 ms.
    pub slow: u64,
    /// Who answered how often, where asked.
    pub pods: BTreeMap<String, u64>,
    /// The time that successful connect() calls took.
    pub connect: Percentiles,
    /// How long the whole loop ran, nanoseconds.
    pub elapsed_ns: u64,
}

impl LoopReport {
    /// All that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Attempts a second.
    pub fn rate(&self) -> f64 {
        if self.elapsed_ns == 0 { 0.0 } else { self.attempts as f64 * 1e9 / self.elapsed_ns as f64 }
    }
}

/// Quantiles of durations in nanoseconds; all 0 when there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: u64,
    /// Median.
    pub p50: u64,
    /// 90 of 100 are at most this.
    pub p90: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// 999 of 1,000 are at most this.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Percentiles {
    /// Of samples, which are sorted on the way.
    pub fn of(samples: &mut [u64]) -> Self {
        samples.sort_unstable();
        let (Some(&max), count) = (samples.last(), samples.len()) else { return Self::default() };
        // The smallest sample that at least `permille` of all do not exceed.
        let at = |permille: usize| samples[(count * permille).div_ceil(1000).max(1) - 1];
        let mean = samples.iter().sum::<u64>() / count as u64;
        Self { count: count as u64, mean, p50: at(500), p90: at(900), p99: at(990), p999: at(999), max }
    }
}

/// What became of connections that are held open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Held now, broken ones included.
    pub held: u64,
    /// Of these, ended by the other side.
    pub broken: u64,
    /// What failed since the last report, by step and error name.
    pub failures: BTreeMap<String, u64>,
    /// Who answered how many of them, where asked.
    pub pods: BTreeMap<String, u64>,
}

/// What a server process says: once when it listens, and as the reply to each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStats {
    /// Connections accepted so far.
    pub accepted: u64,
    /// Open now.
    pub open: u64,
    /// Questions answered on connections.
    pub answers: u64,
    /// Datagrams answered.
    pub datagrams: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut samples: Vec<u64> = (1..=1000).rev().collect();
        let p = Percentiles::of(&mut samples);
        assert_eq!((p.count, p.p50, p.p90, p.p99, p.p999, p.max), (1000, 500, 900, 990, 999, 1000));
        assert_eq!(Percentiles::of(&mut [7]).p999, 7);
        assert_eq!(Percentiles::of(&mut []), Percentiles::default());
    }
}
