//! What becomes of a Service when there are not slots enough for it: as much as fits, and nothing that
//! was served before is given up for what does not.

use std::{collections::HashSet, time::Instant};

use balancer_common::abi::{Algorithm, Slot, SlotRange};

use super::{
    apply::{Applied, Reconciler},
    kernel::KernelTables,
    layout::{Member, layout},
};

/// The slots that a Service is to have.
pub(super) struct Fit {
    pub(super) range: SlotRange,
    /// Their contents, to be written unless they are [`Fit::written`].
    pub(super) slots: Vec<Slot>,
    pub(super) written: Written,
    /// How many of the members are in them.
    pub(super) backends: usize,
}

/// Whether slots stand in the kernel already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    No,
    Yes,
}

impl<K: KernelTables> Reconciler<K> {
    /// A run for all of `members` or, for want of room, the present run if all that stands in it may stay,
    /// or a run for the first of them. The range is empty where not even one fits.
    pub(super) fn fit(
        &mut self,
        applied: &Applied,
        algorithm: Algorithm,
        members: &[Member],
        now: Instant,
    ) -> Fit {
        let slots = layout(algorithm, members);
        if let Some(range) = self.runs.take(slots.len() as u32, now) {
            return Fit { range, slots, written: Written::No, backends: members.len() };
        }
        if applied.desired.algorithm == algorithm
            && let Some(fit) = self.present(applied.slots, members)
        {
            return fit;
        }
        let mut count = members.len();
        while count > 1 {
            count /= 2;
            let slots = layout(algorithm, &members[..count]);
            if let Some(range) = self.runs.take(slots.len() as u32, now) {
                return Fit { range, slots, written: Written::No, backends: count };
            }
        }
        Fit { range: SlotRange::new(0, 0), slots: Vec::new(), written: Written::Yes, backends: 0 }
    }

    /// What stands in `range`, if it is not empty and all of it is among `members`.
    fn present(&self, range: SlotRange, members: &[Member]) -> Option<Fit> {
        let ids: HashSet<u32> = members.iter().map(|member| member.id).collect();
        let slots: Vec<Slot> =
            (range.base()..).take(range.len() as usize).map(|index| self.kernel.slot(index)).collect();
        let there: HashSet<u32> = slots.iter().map(|slot| slot.backend).collect();
        (!there.is_empty() && there.is_subset(&ids)).then_some(Fit {
            range,
            slots,
            written: Written::Yes,
            backends: there.len(),
        })
    }
}
