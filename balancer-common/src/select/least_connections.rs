//! Least-connections: the backend with the fewest open connections for its weight.

use super::{opaque, scale};
use crate::{
    abi::{FULL_SCAN, SlotRange},
    tables::Load,
};

/// Whether the backends of a Service are all of one weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// They are: an idle backend cannot be beaten.
    Uniform,
    /// They may differ.
    Weighted,
}

/// All ones if one more connection loads `(active, weight)` less than it would load `(other,
/// other_weight)`, else 0.
///
/// Compares (active + 1) / weight by cross-multiplication: with equal weights that is a comparison of
/// counts, and an idle backend of weight 2 wins over an idle one of weight 1. Right while both products
/// stay below 2^63, which weights up to 2^16 and counts up to 2^46 do.
///
/// A mask and not a `bool`: the verifier follows both ways of every branch, and a loop that chooses by
/// branching multiplies its states by each round.
#[inline(always)]
pub fn less_loaded(active: u64, weight: u32, other: u64, other_weight: u32) -> u64 {
    let ours = active.wrapping_add(1).wrapping_mul(other_weight as u64);
    let theirs = other.wrapping_add(1).wrapping_mul(weight as u64);
    below(ours, theirs)
}

/// All ones if `a` is below `b`, else 0; both below 2^63.
#[inline(always)]
fn below(a: u64, b: u64) -> u64 {
    (opaque(a.wrapping_sub(b)) as i64 >> 63) as u64
}

/// `new` where the mask is all ones, `old` where it is 0.
#[inline(always)]
const fn choose(mask: u64, new: u64, old: u64) -> u64 {
    old ^ ((old ^ new) & mask)
}

/// Compares all backends; for at most [`FULL_SCAN`] slots.
///
/// Ties go to the first one found from a starting point that moves with every choice and begins at the
/// node's own offset. List order would make every node prefer the same first pods: with 100 nodes of one
/// connection each and 50 pods, 10 pods would hold all of them.
#[inline(always)]
pub fn scan<T: Load>(tables: &T, service: u32, slots: SlotRange, balance: Balance) -> Option<u32> {
    let len = slots.len();
    if len == 0 {
        return None;
    }
    let mut index = tables.node_offset().wrapping_add(tables.take_turn(service)) % len;
    let (mut best, mut best_weight) = tables.slot(slots.base().wrapping_add(index))?;
    let mut best_active = tables.active(best);
    // A count that no other backend can beat; unreachable where a heavier one may.
    let unbeatable = opaque(match balance {
        Balance::Uniform => 0,
        Balance::Weighted => u64::MAX,
    });
    for step in 1..FULL_SCAN {
        if step >= len || best_active == unbeatable {
            break;
        }
        // The next one, or the first after the last; without a branch, as above.
        let next = index as u64 + 1;
        index = choose(below(next, len as u64), next, 0) as u32;
        let (backend, weight) = tables.slot(slots.base().wrapping_add(index))?;
        let active = tables.active(backend);
        let better = less_loaded(active, weight, best_active, best_weight);
        best = choose(better, backend as u64, best as u64) as u32;
        best_weight = choose(better, weight as u64, best_weight as u64) as u32;
        best_active = choose(better, active, best_active);
    }
    Some(best)
}

/// Compares two different random backends; for Services too large to compare all.
#[inline(always)]
pub fn sample<T: Load>(tables: &T, slots: SlotRange) -> Option<u32> {
    let len = slots.len();
    if len < 2 {
        return tables.slot(slots.base()).map(|(backend, _)| backend);
    }
    let one = scale(tables.random(), len);
    // Any other slot, each with the same chance.
    let mut two = scale(tables.random(), len - 1);
    if two >= one {
        two += 1;
    }
    let (first, first_weight) = tables.slot(slots.base().wrapping_add(one))?;
    let (second, second_weight) = tables.slot(slots.base().wrapping_add(two))?;
    let better = less_loaded(tables.active(second), second_weight, tables.active(first), first_weight);
    Some(choose(better, second as u64, first as u64) as u32)
}
