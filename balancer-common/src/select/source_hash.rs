//! Source-hash: the same client always meets the same backend.
//!
//! The slots are a Maglev table (Eisenbud et al., NSDI 2016, section 3.4), laid out by the agent: when
//! backends come or go, few clients change theirs.

use super::mix;
use crate::{abi::SlotRange, tables::Tables};

/// The index in a table of `len` slots that a client (cookie of its network namespace) hashes to.
///
/// The node counts too: every node numbers its namespaces from 1, so that the cookies of a hundred nodes
/// are the same few, and all host-network processes together would meet one backend.
#[inline(always)]
pub const fn index(node_offset: u32, client: u64, len: u32) -> u32 {
    if len == 0 { 0 } else { mix(client ^ ((node_offset as u64) << 32)) % len }
}

/// Takes the client's slot.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, slots: SlotRange) -> Option<u32> {
    if slots.is_empty() {
        return None;
    }
    let index = index(tables.node_offset(), tables.client(), slots.len());
    tables.slot(slots.base().wrapping_add(index)).map(|(backend, _)| backend)
}
