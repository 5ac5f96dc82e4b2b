//! Least-connections: the backend with the fewest open connections for its weight.

use super::scale;
use crate::{
    abi::{FULL_SCAN, SlotRange},
    tables::Tables,
};

/// Whether one more connection loads `(active, weight)` less than it would load `(other, other_weight)`.
///
/// Compares (active + 1) / weight by cross-multiplication: with equal weights that is a comparison of
/// counts, and an idle backend of weight 2 wins over an idle one of weight 1.
#[inline(always)]
pub const fn less_loaded(active: u64, weight: u32, other: u64, other_weight: u32) -> bool {
    active.wrapping_add(1).wrapping_mul(other_weight as u64)
        < other.wrapping_add(1).wrapping_mul(weight as u64)
}

/// Compares all backends; for at most [`FULL_SCAN`] slots.
///
/// Ties go to the first one found from a starting point that moves with every choice and begins at the
/// node's own offset. List order would make every node prefer the same first pods: with 100 nodes of one
/// connection each and 50 pods, 10 pods would hold all of them.
#[inline(always)]
pub fn scan<T: Tables>(tables: &T, service: u32, slots: SlotRange, uniform: bool) -> Option<u32> {
    let len = slots.len();
    if len == 0 {
        return None;
    }
    let mut index = tables.node_offset().wrapping_add(tables.take_turn(service)) % len;
    let (mut best, mut best_weight) = tables.slot(slots.base().wrapping_add(index))?;
    let mut best_active = tables.active(best);
    for step in 1..FULL_SCAN {
        if step >= len || (uniform && best_active == 0) {
            break;
        }
        index += 1;
        if index >= len {
            index = 0;
        }
        let (backend, weight) = tables.slot(slots.base().wrapping_add(index))?;
        let active = tables.active(backend);
        if less_loaded(active, weight, best_active, best_weight) {
            best = backend;
            best_weight = weight;
            best_active = active;
        }
    }
    Some(best)
}

/// Compares two different random backends; for Services too large to compare all.
#[inline(always)]
pub fn sample<T: Tables>(tables: &T, slots: SlotRange) -> Option<u32> {
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
    if less_loaded(tables.active(second), second_weight, tables.active(first), first_weight) {
        Some(second)
    } else {
        Some(first)
    }
}
