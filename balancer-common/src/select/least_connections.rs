//! Least-connections: the backend with the fewest open connections for its weight.

use super::below;
use crate::{
    abi::{FULL_SCAN, SlotRange, WINDOW},
    tables::{Load, Tables},
};

/// Whether the backends of a Service are all of one weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// They are: an idle backend cannot be beaten.
    Uniform,
    /// They may differ.
    Weighted,
}

/// The least loaded backend of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Backend id.
    pub backend: u32,
    /// How far behind the starting point it stands; below [`FULL_SCAN`].
    pub steps: u32,
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

/// `new` where the mask is all ones, `old` where it is 0.
#[inline(always)]
pub(super) const fn choose(mask: u64, new: u64, old: u64) -> u64 {
    old ^ ((old ^ new) & mask)
}

/// Chooses a backend, and lets the next choice begin behind this one.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, service: u32, slots: SlotRange, balance: Balance) -> Option<u32> {
    let Found { backend, steps } = tables.least_connections(service, slots, balance)?;
    if steps != 0 {
        tables.skip_turns(service, steps);
    }
    Some(backend)
}

/// Compares all backends, or [`WINDOW`] of them where there are more than [`FULL_SCAN`].
///
/// The window begins behind the backend that was chosen last, so that it passes over all of them in turn,
/// and what it reads was mostly read for the choice before. The agent lays the slots of so large a Service
/// out in the order of a hash: backends that came together do not stand together.
///
/// The steps are returned and not acted on: a branch on them in here would have the verifier follow every
/// way to every number of them.
///
/// Ties go to the first one found behind the backend that was chosen last, beginning at the node's own
/// offset. List order would make every node prefer the same first pods: with 100 nodes of ten connections
/// each and 50 pods, 10 pods would hold all of them. A starting point that merely moved by one with every
/// choice would favour whichever idle backend stands behind a run of busy ones: short connections would
/// reach it once for each of them.
#[inline(always)]
pub fn scan<T: Load>(tables: &T, service: u32, slots: SlotRange, balance: Balance) -> Option<Found> {
    let len = slots.len();
    if len == 0 {
        return None;
    }
    let start = tables.node_offset().wrapping_add(tables.take_turn(service)) % len;
    match balance {
        Balance::Uniform => fewest(tables, slots, start),
        Balance::Weighted => lightest(tables, slots, start),
    }
}

/// The backend with the fewest connections, the first of them from `start` on, where weights do not differ.
///
/// A round keeps the count and the place of the best alone; its slot is read once more in the end. An idle
/// backend ends the search, for it cannot be beaten.
#[inline(always)]
fn fewest<T: Load>(tables: &T, slots: SlotRange, start: u32) -> Option<Found> {
    let (base, len) = (slots.base(), slots.len());
    let mut index = start;
    let window = window(len);
    let (first, _) = tables.slot(base.wrapping_add(index))?;
    let mut best_active = tables.active(first);
    let mut best_index = index;
    for step in 1..FULL_SCAN {
        if step >= window || best_active == 0 {
            break;
        }
        index = after(index, len);
        let (backend, _) = tables.slot(base.wrapping_add(index))?;
        let active = tables.active(backend);
        let better = below(active, best_active);
        best_active = choose(better, active, best_active);
        best_index = choose(better, index as u64, best_index as u64) as u32;
    }
    let (backend, _) = tables.slot(base.wrapping_add(best_index))?;
    let behind = (best_index as u64).wrapping_sub(start as u64);
    let steps = behind.wrapping_add(len as u64 & below(best_index as u64, start as u64));
    Some(Found { backend, steps: steps as u32 })
}

/// The least loaded backend for its weight, the first of them from `start` on.
#[inline(always)]
fn lightest<T: Load>(tables: &T, slots: SlotRange, start: u32) -> Option<Found> {
    let (base, len) = (slots.base(), slots.len());
    let mut index = start;
    let window = window(len);
    let (mut best, mut best_weight) = tables.slot(base.wrapping_add(index))?;
    let mut best_active = tables.active(best);
    let mut best_step = 0;
    for step in 1..FULL_SCAN {
        if step >= window {
            break;
        }
        index = after(index, len);
        let (backend, weight) = tables.slot(base.wrapping_add(index))?;
        let active = tables.active(backend);
        let better = less_loaded(active, weight, best_active, best_weight);
        best = choose(better, backend as u64, best as u64) as u32;
        best_weight = choose(better, weight as u64, best_weight as u64) as u32;
        best_active = choose(better, active, best_active);
        best_step = choose(better, step as u64, best_step);
    }
    Some(Found { backend: best, steps: best_step as u32 })
}

/// How many of `len` backends are compared.
#[inline(always)]
const fn window(len: u32) -> u32 {
    if len > FULL_SCAN { WINDOW } else { len }
}

/// The slot behind `index`: the next one, or the first after the last.
#[inline(always)]
pub(super) fn after(index: u32, len: u32) -> u32 {
    let next = index as u64 + 1;
    (next & below(next, len as u64)) as u32
}
