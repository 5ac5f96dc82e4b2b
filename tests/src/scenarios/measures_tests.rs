//! Measures beside exhaustive enumeration, and intervals beside simulated experiments.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn near(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance, "{a} is not {b} (by {tolerance})");
}

#[track_caller]
fn check(counts: &[u64], max_over_mean: f64, cv: f64, jain: f64, unused: f64) {
    let measures = Measures::of(counts).expect("something to spread");
    near(measures.max_over_mean, max_over_mean, 5e-4);
    near(measures.cv, cv, 5e-4);
    near(measures.jain, jain, 5e-4);
    near(measures.unused, unused, 0.0);
}

#[test]
fn counts_are_measured() {
    check(&[10, 10, 10], 1.0, 0.0, 1.0, 0.0);
    check(&[20, 20, 20, 0, 0, 0], 2.0, 1.0, 0.5, 3.0);
    check(&[4, 1], 1.6, 0.6, 0.7353, 0.0);
    check(&[1, 1, 0, 0, 0], 2.5, 1.2247, 0.4, 3.0);
}

#[test]
fn nothing_to_spread_has_no_measures() {
    for counts in [&[][..], &[0, 0]] {
        assert_eq!(Measures::of(counts), None);
    }
    assert_eq!(Measures::best(0, 3), None);
    assert_eq!(Measures::best(3, 0), None);
    assert_eq!(Measures::at_random(0, 3), None);
    assert_eq!(Measures::at_random(3, 0), None);
}

/// Means over all `backends`^`total` ways to choose.
fn exact(total: u32, backends: usize) -> [f64; 4] {
    let ways = backends.pow(total);
    let mut sums = [0.0; 4];
    for way in 0..ways {
        let mut counts = vec![0; backends];
        let mut rest = way;
        for _ in 0..total {
            counts[rest % backends] += 1;
            rest /= backends;
        }
        let measures = Measures::of(&counts).expect("something to spread");
        let figures = [measures.max_over_mean, measures.cv, measures.jain, measures.unused];
        sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
    }
    sums.map(|sum| sum / ways as f64)
}

#[test]
fn chance_is_what_all_ways_to_choose_give_together() {
    for (total, backends) in [(1, 4), (2, 5), (5, 2), (6, 3), (7, 4)] {
        let [max, cv, jain, unused] = exact(total, backends);
        let drawn = Measures::at_random(total.into(), backends).expect("something to spread");
        near(drawn.max_over_mean, max, 0.02);
        near(drawn.cv, cv, 0.02);
        near(drawn.jain, jain, 0.01);
        near(drawn.unused, unused, 1e-9);
    }
}

#[test]
fn two_at_random_on_five_meet_every_fifth_time() {
    let drawn = Measures::at_random(2, 5).expect("something to spread");
    near(drawn.unused, 3.2, 1e-9);
    near(drawn.max_over_mean, 3.0, 0.03);
}

#[test]
fn a_median_is_the_middle_or_between_the_middle_two() {
    let median = |values: &[f64]| Median::of(values.iter().copied()).map(|median| median.value);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(median(&[]), None);
}

#[test]
fn intervals_are_those_of_the_tables() {
    // As in tables of the sign test: n, and the rank from either end.
    let known = [(6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (30, 10), (50, 18), (100, 40)];
    for (n, rank) in known {
        assert_eq!(interval_rank(n), Some(rank), "of {n}");
    }
    for few in 0..6 {
        assert_eq!(interval_rank(few), None, "of {few}");
    }
    assert!(interval_rank(5000).is_some_and(|rank| (2425..2435).contains(&rank)));
    let median = Median::of((1..=30).map(f64::from)).expect("values");
    assert_eq!(median.interval, Some((10.0, 21.0)));
    assert_eq!(Median::of([1.0; 5]).expect("values").interval, None);
}

#[test]
fn an_interval_holds_the_median_as_often_as_it_says() {
    let mut rng = fastrand::Rng::with_seed(1);
    for n in [6, 11, 30] {
        let held = (0..4000)
            .filter(|_| {
                // Skewed, with a median of 0.25.
                let median = Median::of((0..n).map(|_| rng.f64().powi(2))).expect("values");
                median.interval.is_some_and(|(low, high)| (low..=high).contains(&0.25))
            })
            .count();
        assert!(held as f64 / 4000.0 > 0.94, "of {n}: {held} of 4000");
    }
}

#[test]
fn what_never_happened_takes_longer_than_anything() {
    let of = |values: &[Option<f64>]| Median::censored(values.iter().copied()).expect("values");
    let some = of(&[Some(1.0), None, Some(2.0)]);
    assert_eq!((some.value, some.never, some.runs), (2.0, 1, 3));
    assert_eq!(of(&[Some(1.0), None]).value, f64::INFINITY);
    let none = of(&[None; 6]);
    assert_eq!((none.value, none.interval), (f64::INFINITY, Some((f64::INFINITY, f64::INFINITY))));
    let most = of(&[Some(1.0), Some(2.0), Some(3.0), Some(4.0), Some(5.0), None]);
    assert_eq!((most.value, most.interval), (3.5, Some((1.0, f64::INFINITY))));
}

proptest! {
    #[test]
    fn nothing_is_better_than_the_best(counts in prop::collection::vec(0_u64..40, 1..9)) {
        let Some(measures) = Measures::of(&counts) else { return Ok(()) };
        let best = Measures::best(measures.total, measures.backends).expect("something to spread");
        prop_assert!(best.max_over_mean <= measures.max_over_mean + 1e-9);
        prop_assert!(best.cv <= measures.cv + 1e-9);
        prop_assert!(best.jain >= measures.jain - 1e-9);
        prop_assert!(best.unused <= measures.unused);
    }

    #[test]
    fn the_best_is_reached_by_counts_that_differ_by_one(total in 1_u64..100, backends in 1_usize..14) {
        let counts: Vec<u64> =
            (0..backends as u64).map(|n| (total + n) / backends as u64).collect();
        let reached = Measures::of(&counts).expect("something to spread");
        let best = Measures::best(total, backends).expect("something to spread");
        prop_assert_eq!(reached.total, total);
        for (a, b) in [
            (reached.max_over_mean, best.max_over_mean),
            (reached.cv, best.cv),
            (reached.jain, best.jain),
            (reached.unused, best.unused),
        ] {
            prop_assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn jain_and_variation_are_as_defined(counts in prop::collection::vec(0_u64..1000, 1..9)) {
        let Some(measures) = Measures::of(&counts) else { return Ok(()) };
        let n = counts.len() as f64;
        let mean = counts.iter().sum::<u64>() as f64 / n;
        let variance = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum::<f64>() / n;
        prop_assert!((measures.cv - variance.sqrt() / mean).abs() < 1e-6);
        prop_assert!((measures.jain - 1.0 / (1.0 + measures.cv.powi(2))).abs() < 1e-9);
    }

    #[test]
    fn a_median_lies_within_its_interval(values in prop::collection::vec(prop::option::of(0.0..1e6), 1..60)) {
        let median = Median::censored(values.iter().copied()).expect("values");
        prop_assert_eq!(median.never, values.iter().filter(|value| value.is_none()).count());
        prop_assert_eq!(median.interval.is_some(), values.len() >= 6);
        if let Some((low, high)) = median.interval {
            prop_assert!(low <= median.value && median.value <= high);
        }
    }
}
