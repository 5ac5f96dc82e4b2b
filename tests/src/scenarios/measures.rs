//! How even counts are, how even they could be, how even chance would make them, and what a figure was over many
//! runs with the uncertainty of that. Pure.
//!
//! All backends count alike here: scenarios give no weights.

use balancer_userspace::evenness::{Evenness, Load};

/// How even counts per backend are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Connections, or requests, in all.
    pub total: u64,
    /// Backends in all.
    pub backends: usize,
    /// The largest count over the mean one: 1 when even.
    pub max_over_mean: f64,
    /// Coefficient of variation: the standard deviation of the counts (of all backends, not a sample of them) over
    /// their mean; 0 when even.
    pub cv: f64,
    /// Jain's index: 1 when even, 1 / backends when one has everything. The same as 1 / (1 + cv²).
    pub jain: f64,
    /// Backends that have nothing.
    pub unused: f64,
}

impl Measures {
    /// Of counts by backend; `None` where there is nothing to spread, or nowhere to spread it.
    pub fn of(counts: &[u64]) -> Option<Self> {
        let even = Evenness::of(&loads(counts))?;
        let unused = counts.iter().filter(|&&count| count == 0).count();
        Some(Self::new(&even, even.max_over_mean, even.jain, unused as f64))
    }

    /// The best that `total` whole connections on so many backends allow, in each figure. One spread reaches all of
    /// them: counts that differ by one at most.
    pub fn best(total: u64, backends: usize) -> Option<Self> {
        let mut counts = vec![0; backends];
        *counts.first_mut()? = total;
        let even = Evenness::of(&loads(&counts))?;
        let used = usize::try_from(total).map_or(backends, |total| total.min(backends));
        Some(Self::new(&even, even.best_max_over_mean, even.best_jain, (backends - used) as f64))
    }

    /// What is to be expected of `total` connections that each choose one of `backends` at random: the mean of each
    /// figure over all outcomes.
    ///
    /// The mean of unused backends is exact. The others are means over drawn outcomes, from a fixed seed: 20,000, or as
    /// many as make 4,000,000 connections, but no fewer than 500. Their standard error is below 1% of the
    /// distance to even counts for all but the largest totals, where that distance is small itself.
    pub fn at_random(total: u64, backends: usize) -> Option<Self> {
        if total == 0 || backends == 0 {
            return None;
        }
        let draws = (1_000_000 / total).clamp(500, 20_000);
        let mut rng = fastrand::Rng::with_seed(total ^ ((backends as u64) << 32));
        let mut counts = vec![0_u64; backends];
        let (mut max, mut cv, mut jain) = (0.0, 0.0, 0.0);
        for _ in 0..draws {
            counts.fill(0);
            for _ in 0..total {
                counts[rng.usize(..backends)] += 1;
            }
            let squares: f64 = counts.iter().map(|&count| (count as f64).powi(2)).sum();
            let index = (total as f64).powi(2) / (backends as f64 * squares);
            max += counts.iter().copied().max().unwrap_or(0) as f64;
            jain += index;
            cv += cv_of(index);
        }
        let (draws, total_wide, wide) = (draws as f64, total as f64, backends as f64);
        Some(Self {
            total,
            backends,
            max_over_mean: max / draws * wide / total_wide,
            cv: cv / draws,
            jain: jain / draws,
            unused: wide * (1.0 - 1.0 / wide).powf(total_wide),
        })
    }

    fn new(even: &Evenness, max_over_mean: f64, jain: f64, unused: f64) -> Self {
        Self {
            total: even.connections,
            backends: even.backends,
            max_over_mean,
            cv: cv_of(jain),
            jain,
            unused,
        }
    }
}

fn loads(counts: &[u64]) -> Vec<Load> {
    counts.iter().map(|&connections| Load { connections, weight: 1 }).collect()
}

/// Jain's index says the same as the coefficient of variation.
fn cv_of(jain: f64) -> f64 {
    (1.0 / jain - 1.0).max(0.0).sqrt()
}

/// What a figure was over independent runs: the median, and an interval that holds the true median.
///
/// The interval is between two of the values themselves, and assumes nothing about how they are distributed: the true
/// median lies below a value with the chance of a coin, so that how many of `n` values are below it is binomial. It
/// goes from the j-th lowest to the j-th highest value, where j is the largest for which that holds the true median in
/// at least 95 of 100 experiments (of 30 values: the 10th and the 21st, 95.7%). Fewer than 6 values have no such
/// interval: even the lowest and the highest of 5 hold it in 93.8 of 100 only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    /// Half of the values are below; the mean of the middle two where their number is even. Infinite if it
    /// never happened in half of the runs.
    pub value: f64,
    /// The interval; none for fewer than 6 values. Either end may be infinite.
    pub interval: Option<(f64, f64)>,
    /// How many values there were.
    pub runs: usize,
    /// How many of them never happened.
    pub never: usize,
}

impl Median {
    /// Of values, each of them a number; `None` without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        Self::censored(values.into_iter().map(Some))
    }

    /// Of times until something happened, where `None` is a run in which it never did: longer than any time.
    ///
    /// A run that ended before it happened says no more than that it takes longer, and dropping it would favour whoever
    /// is late: it is counted as infinite, which leaves every order statistic below right.
    pub fn censored(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().map(|value| value.unwrap_or(f64::INFINITY)).collect();
        values.sort_by(f64::total_cmp);
        let runs = values.len();
        let middle = runs / 2;
        let value = match runs {
            0 => return None,
            _ if runs % 2 == 1 || values[middle - 1] == values[middle] => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        let rank = interval_rank(runs);
        Some(Self {
            value,
            interval: rank.map(|rank| (values[rank - 1], values[runs - rank])),
            runs,
            never: values.iter().filter(|value| value.is_infinite()).count(),
        })
    }
}

/// The largest j for which the j-th lowest and the j-th highest of `n` values hold the median with at least 95%.
fn interval_rank(n: usize) -> Option<usize> {
    // Chance that fewer than j of n are below the median, in logarithms: 2^-n is 0 as a number for n above 1074.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut below = 0.0;
    let mut rank = None;
    for j in 1..=n / 2 {
        below += log_term.exp();
        if below > 0.025 {
            break;
        }
        rank = Some(j);
        // From the chance of j - 1 successes to that of j.
        log_term += ((n - j + 1) as f64 / j as f64).ln();
    }
    rank
}

#[cfg(test)]
#[path = "measures_tests.rs"]
mod tests;
