//! How evenly connections are spread, and how evenly they could be.
//!
//! Five connections cannot be spread over four backends any better than 2-1-1-1. A measure of
//! evenness alone would call that uneven; each one here therefore stands beside the best value that
//! whole connections allow. Weights count: a backend of weight 2 stands for two units of capacity.
//!
//! With `a` connections on a backend of weight `w`, `K` connections and a weight of `W` in all:
//! - *max/mean* is `max(a/w) / (K/W)`: 1 when even, `n` when one of `n` equal backends has everything;
//! - *Jain's index* is `K² / (W · Σ a²/w)`: 1 when even, `1/n` when one of `n` equal backends has everything
//!   (R. Jain, D. Chiu, W. Hawe, "A quantitative measure of fairness and discrimination", 1984; with
//!   each unit of weight counted as one user).
//!
//! Both are separable, so the best spread hands out connections one by one, each to the backend where
//! it costs least. For max/mean that is the smallest `(a+1)/w` (the divisor method of D'Hondt, and
//! the rule of least-connections); for Jain's index the smallest `(2a+1)/w` (Sainte-Laguë). The method of largest
//! remainders agrees with both for equal weights, and with neither for others.

use std::{cmp::Ordering, cmp::Reverse, collections::BinaryHeap};

/// What one backend carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Open connections.
    pub connections: u64,
    /// Weight; 0 counts as 1.
    pub weight: u32,
}

/// How even a set of [`Load`]s is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evenness {
    /// Connections in all, at least 1.
    pub connections: u64,
    /// Backends in all, at least 1.
    pub backends: usize,
    /// The largest load over the mean one, for its weight. Never below [`Self::best_max_over_mean`].
    pub max_over_mean: f64,
    /// The smallest `max_over_mean` that as many connections allow.
    pub best_max_over_mean: f64,
    /// Jain's index. Never above [`Self::best_jain`].
    pub jain: f64,
    /// The largest `jain` that as many connections allow.
    pub best_jain: f64,
}

impl Evenness {
    /// Measures; `None` where there is nothing to spread or nowhere to spread it.
    pub fn of(loads: &[Load]) -> Option<Self> {
        let weights: Vec<u64> = loads.iter().map(|load| u64::from(load.weight.max(1))).collect();
        let actual: Vec<u64> = loads.iter().map(|load| load.connections).collect();
        let connections = total(&actual);
        if connections == 0 {
            return None;
        }
        Some(Self {
            connections,
            backends: loads.len(),
            max_over_mean: max_over_mean(&actual, &weights),
            best_max_over_mean: max_over_mean(&spread(&weights, connections, Goal::Max), &weights),
            jain: jain(&actual, &weights),
            best_jain: jain(&spread(&weights, connections, Goal::Jain), &weights),
        })
    }

    /// [`Self::max_over_mean`] alone, in linear time.
    pub fn max_over_mean_of(loads: &[Load]) -> Option<f64> {
        let weights: Vec<u64> = loads.iter().map(|load| u64::from(load.weight.max(1))).collect();
        let actual: Vec<u64> = loads.iter().map(|load| load.connections).collect();
        (total(&actual) > 0).then(|| max_over_mean(&actual, &weights))
    }
}

/// The sum of counts, which may be anything that stands in a map.
pub fn total(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |total, count| total.saturating_add(*count))
}

fn max_over_mean(loads: &[u64], weights: &[u64]) -> f64 {
    let capacity: u64 = weights.iter().sum();
    let max =
        loads.iter().zip(weights).map(|(&load, &weight)| load as f64 / weight as f64).fold(0.0, f64::max);
    max * capacity as f64 / total(loads) as f64
}

fn jain(loads: &[u64], weights: &[u64]) -> f64 {
    let capacity: u64 = weights.iter().sum();
    let squares: f64 =
        loads.iter().zip(weights).map(|(&load, &weight)| (load as f64).powi(2) / weight as f64).sum();
    (total(loads) as f64).powi(2) / (capacity as f64 * squares)
}

/// What the best spread is to be best at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// The smallest maximum.
    Max,
    /// The largest Jain's index.
    Jain,
}

/// The cost of a backend's next connection, as an exact fraction.
#[derive(Clone, Copy)]
struct Cost {
    numerator: u128,
    weight: u128,
}

impl Cost {
    fn of_next(load: u64, weight: u64, goal: Goal) -> Self {
        let numerator = match goal {
            Goal::Max => u128::from(load) + 1,
            Goal::Jain => 2 * u128::from(load) + 1,
        };
        Self { numerator, weight: weight.into() }
    }
}

impl Ord for Cost {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.numerator * other.weight).cmp(&(other.numerator * self.weight))
    }
}

impl PartialOrd for Cost {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cost {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Cost {}

/// The best spread of `total` connections. Takes `O(n log n)`, whatever `total` is.
fn spread(weights: &[u64], total: u64, goal: Goal) -> Vec<u64> {
    let capacity: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let count = weights.len() as u128;
    let total_wide = u128::from(total);
    // Every connection below a certain cost is part of the best spread, as costs rise with the load.
    // The bound is chosen such that these are never more than `total`, and at most 2n short of it.
    let mut loads: Vec<u64> = weights
        .iter()
        .map(|&weight| {
            let weight = u128::from(weight);
            let sure = match goal {
                Goal::Max => total_wide * weight / capacity,
                Goal::Jain if total_wide < count => 0,
                Goal::Jain => (2 * (total_wide - count) * weight + capacity) / (2 * capacity),
            };
            u64::try_from(sure).unwrap_or(total)
        })
        .collect();
    let given: u64 = loads.iter().sum();
    let mut next: BinaryHeap<Reverse<(Cost, usize)>> = weights
        .iter()
        .zip(&loads)
        .enumerate()
        .map(|(index, (&weight, &load))| Reverse((Cost::of_next(load, weight, goal), index)))
        .collect();
    for _ in given..total {
        if let Some(Reverse((_, index))) = next.pop() {
            loads[index] += 1;
            next.push(Reverse((Cost::of_next(loads[index], weights[index], goal), index)));
        }
    }
    loads
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn measure(loads: &[(u64, u32)]) -> Option<Evenness> {
        let loads: Vec<Load> =
            loads.iter().map(|&(connections, weight)| Load { connections, weight }).collect();
        Evenness::of(&loads)
    }

    #[track_caller]
    fn check(loads: &[(u64, u32)], max: (f64, f64), jain: (f64, f64)) {
        let even = measure(loads).expect("there are connections");
        let near = |a: f64, b: f64| (a - b).abs() < 5e-4;
        assert!(
            near(even.max_over_mean, max.0) && near(even.best_max_over_mean, max.1),
            "max/mean {} (best {}), expected {max:?}",
            even.max_over_mean,
            even.best_max_over_mean,
        );
        assert!(
            near(even.jain, jain.0) && near(even.best_jain, jain.1),
            "Jain {} (best {}), expected {jain:?}",
            even.jain,
            even.best_jain,
        );
    }

    #[test]
    fn nothing_to_spread_has_no_evenness() {
        assert_eq!(measure(&[]), None);
        assert_eq!(measure(&[(0, 1), (0, 1)]), None);
    }

    #[test]
    fn one_backend_is_always_even() {
        check(&[(1, 1)], (1.0, 1.0), (1.0, 1.0));
        check(&[(7, 3)], (1.0, 1.0), (1.0, 1.0));
    }

    #[test]
    fn fewer_connections_than_backends_cannot_reach_all() {
        check(&[(1, 1), (1, 1), (0, 1), (0, 1), (0, 1)], (2.5, 2.5), (0.4, 0.4));
        check(&[(2, 1), (0, 1), (0, 1), (0, 1), (0, 1)], (5.0, 2.5), (0.2, 0.4));
    }

    #[test]
    fn an_odd_connection_is_nobodys_fault() {
        check(&[(2, 1), (1, 1), (1, 1), (1, 1)], (1.6, 1.6), (0.8929, 0.8929));
        check(&[(4, 1), (1, 1), (0, 1), (0, 1)], (3.2, 1.6), (0.3676, 0.8929));
    }

    #[test]
    fn weights_ask_for_their_share() {
        check(&[(20, 2), (10, 1), (10, 1)], (1.0, 1.0), (1.0, 1.0));
        check(&[(10, 2), (10, 1), (10, 1)], (1.3333, 1.0667), (0.9, 0.9978));
        check(&[(10, 0), (10, 1)], (1.0, 1.0), (1.0, 1.0));
    }

    #[test]
    fn large_numbers_neither_overflow_nor_take_long() {
        let loads: Vec<(u64, u32)> = (0..50_000).map(|n| (1 << 40, 1 + n % 65_535)).collect();
        let even = measure(&loads).expect("there are connections");
        assert!(even.best_max_over_mean <= even.max_over_mean && even.best_jain >= even.jain);
        assert!(even.best_jain > 0.999_999);
    }

    /// Calls `f` with every way to spread `total` over `n` backends.
    fn every_spread(n: usize, total: u64, so_far: &mut Vec<u64>, f: &mut impl FnMut(&[u64])) {
        if n == 1 {
            so_far.push(total);
            f(so_far);
            so_far.pop();
            return;
        }
        for load in 0..=total {
            so_far.push(load);
            every_spread(n - 1, total - load, so_far, f);
            so_far.pop();
        }
    }

    proptest! {
        #[test]
        fn the_best_is_the_best_of_all_spreads(
            weights in prop::collection::vec(1_u64..12, 1..5),
            total in 1_u64..14,
        ) {
            let mut least_max = f64::MAX;
            let mut most_jain = 0.0_f64;
            every_spread(weights.len(), total, &mut Vec::new(), &mut |loads| {
                least_max = least_max.min(max_over_mean(loads, &weights));
                most_jain = most_jain.max(jain(loads, &weights));
            });
            let by_max = spread(&weights, total, Goal::Max);
            let by_jain = spread(&weights, total, Goal::Jain);
            prop_assert_eq!(by_max.iter().sum::<u64>(), total);
            prop_assert_eq!(by_jain.iter().sum::<u64>(), total);
            prop_assert!((max_over_mean(&by_max, &weights) - least_max).abs() < 1e-9);
            prop_assert!((jain(&by_jain, &weights) - most_jain).abs() < 1e-9);
        }
    }
}
