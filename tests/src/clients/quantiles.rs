//! Times, summed up.

use std::time::Duration;

use serde::Serialize;

/// Milliseconds that half of the times, 99 of 100, and all of them do not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many times there are.
    pub count: usize,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Quantiles {
    /// Of at least one time.
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort_unstable();
        let at = |share: f64| {
            // The smallest time that this share of all does not exceed.
            let rank = (share * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).map(|time| time.as_secs_f64() * 1e3)
        };
        Some(Self { count: times.len(), p50: at(0.5)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let of = |range: std::ops::RangeInclusive<u64>| Quantiles::of(range.map(Duration::from_millis));
        assert_eq!(of(1..=200), Some(Quantiles { count: 200, p50: 100.0, p99: 198.0, max: 200.0 }));
        assert_eq!(of(7..=7), Some(Quantiles { count: 1, p50: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!(Quantiles::of([]), None);
    }
}
