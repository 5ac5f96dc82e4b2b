//! Pauses between attempts.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The pause after the `failures`-th failure in a row, counted from 1.
pub(super) fn pause(first: Duration, cap: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = first.saturating_mul(1 << doublings).min(cap);
    full.mul_f64(1.0 - random() / 2.0)
}

/// `duration`, give or take a fifth.
pub(super) fn about(duration: Duration) -> Duration {
    duration.mul_f64(0.8 + random() * 0.4)
}

/// Anything up to `longest`.
pub(super) fn up_to(longest: Duration) -> Duration {
    longest.mul_f64(random())
}

/// From 0 to below 1. Good enough to spread agents out.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    // 53 bits fill a double's mantissa.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_are_spread() {
        let (first, cap) = (Duration::from_millis(500), Duration::from_secs(30));
        for (failures, full) in
            [(1, 500), (2, 1_000), (3, 2_000), (6, 16_000), (7, 30_000), (u32::MAX, 30_000)]
        {
            let full = Duration::from_millis(full);
            let pauses: Vec<_> = (0..100).map(|_| pause(first, cap, failures)).collect();
            assert!(pauses.iter().all(|pause| *pause <= full && *pause >= full / 2), "{failures}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{failures}");
        }
    }

    #[test]
    fn about_is_within_a_fifth() {
        let hour = Duration::from_secs(3600);
        for _ in 0..100 {
            let about = about(hour);
            assert!(about >= hour.mul_f64(0.8) && about < hour.mul_f64(1.2));
        }
    }
}
