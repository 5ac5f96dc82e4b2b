//! Random: any backend, its share of the schedule as its chance.

use super::scale;
use crate::{abi::SlotRange, tables::Tables};

/// Takes a random slot.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, slots: SlotRange) -> Option<u32> {
    if slots.is_empty() {
        return None;
    }
    let index = scale(tables.random(), slots.len());
    tables.slot(slots.base().wrapping_add(index)).map(|(backend, _)| backend)
}
