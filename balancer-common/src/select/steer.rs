//! Steering: another backend in place of one that is to be spared.
//!
//! The algorithms choose without a look at health, because nearly always nothing is wrong. Where their
//! choice has failed of late, or is new and gets its share little by little ([`crate::health`]), this
//! chooses among the others.

use super::{
    least_connections::{after, choose, less_loaded},
    scale, source_hash,
};
use crate::{
    abi::{Algorithm, FULL_SCAN, SlotRange},
    health::Admission,
    tables::{Load, Tables},
};

/// What becomes of an algorithm's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steered {
    /// It stands: it may be chosen after all, or no other is better.
    Keep,
    /// This backend is taken in its place.
    To(u32),
    /// Fewer than half of the backends that were looked at are well. What fails may be on this side, and the
    /// few that are well cannot carry everything: any backend should be taken.
    Panic,
}

/// Which of the backends that are well is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The least loaded for its weight.
    Load,
    /// The first one: a client of source-hash always meets the same.
    First,
}

/// Where [`relieve`] begins to look: at the client's own place in the table of source-hash, else anywhere.
#[inline(always)]
pub fn start<T: Tables>(tables: &T, algorithm: u32, slots: SlotRange) -> u32 {
    if algorithm == Algorithm::SourceHash as u32 {
        source_hash::index(tables.node_offset(), tables.client(), slots.len())
    } else {
        scale(tables.random(), slots.len())
    }
}

/// What becomes of the choice of `picked`, of which something is known: it is let through where it may be
/// chosen, or tried; else another is looked for from slot `start` of the run on.
#[inline(always)]
pub fn relieve<T: Load>(
    tables: &T,
    picked: u32,
    algorithm: u32,
    slots: SlotRange,
    start: u32,
    now_ns: u64,
    slow_start_ms: u32,
) -> Steered {
    let health = tables.health(picked);
    match health.admit(now_ns, slow_start_ms, tables.random()) {
        Admission::Yes => return Steered::Keep,
        Admission::Trial(trial) if tables.begin_trial(picked, health, trial) => return Steered::Keep,
        Admission::Trial(_) | Admission::No => {}
    }
    let order = if algorithm == Algorithm::SourceHash as u32 { Order::First } else { Order::Load };
    scan(tables, slots, start, order, health.failing(), now_ns, slow_start_ms)
}

/// Looks at up to [`FULL_SCAN`] slots from `start` on.
///
/// Where none of them is well, and the choice fails (`picked_fails` is all ones), one that is still getting its share
/// little by little is better than that.
///
/// As in least-connections, nothing in the loop chooses by branching: the verifier would follow every way.
#[inline(always)]
fn scan<T: Load>(
    tables: &T,
    slots: SlotRange,
    start: u32,
    order: Order,
    picked_fails: u64,
    now_ns: u64,
    slow_start_ms: u32,
) -> Steered {
    let (base, len) = (slots.base(), slots.len());
    if len == 0 {
        return Steered::Keep;
    }
    let by_load = if matches!(order, Order::Load) { u64::MAX } else { 0 };
    // Steps are counted in 64 bits, a whole place on the stack: of half a place, beside which the compiler may put the key
    // of a map, the verifier forgets the value, and then sees no end of the loop.
    let looked = u64::from(if len < FULL_SCAN { len } else { FULL_SCAN });
    let mut index = start % len;
    let (mut best, mut best_weight, mut best_active, mut found) = (0_u64, 1_u64, 0_u64, 0_u64);
    let (mut failing, mut best_is_well) = (0_u64, 0_u64);
    for step in 0..u64::from(FULL_SCAN) {
        if step >= looked {
            break;
        }
        let Some((backend, weight)) = tables.slot(base.wrapping_add(index)) else {
            return Steered::Keep;
        };
        let health = tables.health(backend);
        let fails = health.failing();
        failing += fails & 1;
        let active = tables.active(backend) & by_load;
        let weight = choose(by_load, weight as u64, 1);
        let lighter = less_loaded(active, weight as u32, best_active, best_weight as u32);
        let well = !health.spared(now_ns, slow_start_ms);
        let will_do = well | (picked_fails & !fails);
        let alike = !(well ^ best_is_well);
        let better = will_do & (!found | (well & !best_is_well) | (alike & lighter));
        best = choose(better, backend as u64, best);
        best_weight = choose(better, weight, best_weight);
        best_active = choose(better, active, best_active);
        best_is_well = choose(better, well, best_is_well);
        found |= better;
        index = after(index, len);
    }
    if failing * 2 > looked {
        Steered::Panic
    } else if found == 0 {
        Steered::Keep
    } else {
        Steered::To(best as u32)
    }
}
