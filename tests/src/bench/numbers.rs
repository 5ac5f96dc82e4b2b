//! Medians and their spread.

use serde::{Deserialize, Serialize};

/// What a figure was in all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// In half of the rounds it was lower.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Of one value for each round; all zero without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Self { median: 0.0, min: 0.0, max: 0.0 };
        };
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, min, max }
    }

    /// What was measured once.
    pub const fn single(value: f64) -> Self {
        Self { median: value, min: value, max: value }
    }

    /// Of `a / b`, round by round: what slows a whole round down cancels out.
    pub fn of_ratios(a: &[f64], b: &[f64]) -> Self {
        Self::of(a.iter().zip(b).filter(|&(_, &b)| b > 0.0).map(|(a, b)| a / b))
    }
}

/// The value below which `share` (0 to 1) of the ascending values are.
pub fn percentile(ascending: &[u64], share: f64) -> f64 {
    let Some(last) = ascending.len().checked_sub(1) else { return 0.0 };
    let index = (share * ascending.len() as f64) as usize;
    ascending[index.min(last)] as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_middle_two() {
        let median = |values: &[f64]| Spread::of(values.iter().copied()).median;
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let spread = Spread::of_ratios(&[11.0, 220.0, 33.0], &[10.0, 200.0, 30.0]);
        assert!((spread.median - 1.1).abs() < 1e-9 && (spread.max - spread.min).abs() < 1e-9);
    }

    #[test]
    fn percentiles_stay_within_the_values() {
        let values: Vec<u64> = (0..100).collect();
        assert_eq!(percentile(&values, 0.5), 50.0);
        assert_eq!(percentile(&values, 0.99), 99.0);
        assert_eq!(percentile(&values, 1.0), 99.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
