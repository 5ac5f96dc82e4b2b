//! Client-round-robin: every backend in turn, one turn per client.
//!
//! A pool of k connections opened by one pod covers min(k, n) of n backends, whatever other clients do.

use super::{mix, scale};
use crate::{
    abi::{ClientKey, SlotRange},
    tables::Tables,
};

/// Takes the client's next slot. Clients start at different places, so that pools of one do not meet.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, service: u32, slots: SlotRange) -> Option<u32> {
    let len = slots.len();
    if len == 0 {
        return None;
    }
    let client = tables.client();
    let key = ClientKey { netns_cookie: client, service, pad: 0 };
    let turn = tables.take_client_turn(&key);
    let start = scale(mix(client ^ ((service as u64) << 32) ^ tables.node_offset() as u64), len);
    let index = start.wrapping_add(turn % len) % len;
    tables.slot(slots.base().wrapping_add(index)).map(|(backend, _)| backend)
}
