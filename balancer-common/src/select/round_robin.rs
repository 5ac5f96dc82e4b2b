//! Round-robin: every backend in turn, one turn per Service and node.
//!
//! Weights are in the schedule that the agent lays out in the slots.

use crate::{abi::SlotRange, tables::Tables};

/// Takes the next slot of the Service, beginning at the node's own offset.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, service: u32, slots: SlotRange) -> Option<u32> {
    if slots.is_empty() {
        return None;
    }
    let index = tables.node_offset().wrapping_add(tables.take_turn(service)) % slots.len();
    tables.slot(slots.base().wrapping_add(index)).map(|(backend, _)| backend)
}
