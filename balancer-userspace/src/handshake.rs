//! Reading the handshake histogram of [`BackendStats`](balancer_common::abi::BackendStats).

use balancer_common::abi::{HANDSHAKE_BUCKETS, handshake_bound_ns};

/// A quantile, as far as buckets tell: bounds that double are at most a factor of two off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// It is at most so many nanoseconds.
    AtMost(u64),
    /// It is more than so many nanoseconds: it lies in the last, unbounded bucket.
    Above(u64),
}

/// The smallest bucket bound that a share `q` (0 to 1) of all handshakes stays within; `None` without handshakes.
pub fn quantile(buckets: &[u64; HANDSHAKE_BUCKETS], q: f64) -> Option<Quantile> {
    let total = crate::evenness::total(buckets);
    if total == 0 {
        return None;
    }
    let rank = ((total as f64 * q).ceil() as u64).clamp(1, total);
    let mut seen = 0_u64;
    for (index, count) in buckets.iter().enumerate() {
        seen = seen.saturating_add(*count);
        if seen >= rank {
            return Some(match handshake_bound_ns(index) {
                Some(bound) => Quantile::AtMost(bound),
                None => Quantile::Above(handshake_bound_ns(index.saturating_sub(1)).unwrap_or(0)),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use balancer_common::abi::handshake_bucket;

    use super::*;

    fn of(times_us: &[u64]) -> [u64; HANDSHAKE_BUCKETS] {
        let mut buckets = [0; HANDSHAKE_BUCKETS];
        for time in times_us {
            buckets[handshake_bucket(time * 1000)] += 1;
        }
        buckets
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        assert_eq!(quantile(&of(&[]), 0.5), None);
        assert_eq!(quantile(&of(&[10]), 0.99), Some(Quantile::AtMost(1 << 14)));
        assert_eq!(quantile(&of(&[10, 10, 40, 1000]), 0.5), Some(Quantile::AtMost(1 << 14)));
        assert_eq!(quantile(&of(&[10, 10, 40, 1000]), 0.51), Some(Quantile::AtMost(1 << 16)));
        assert_eq!(quantile(&of(&[10, 10, 40, 1000]), 0.99), Some(Quantile::AtMost(1 << 20)));
    }

    #[test]
    fn the_last_bucket_has_only_a_lower_bound() {
        assert_eq!(quantile(&of(&[60_000_000]), 0.5), Some(Quantile::Above(1 << 32)));
    }
}
