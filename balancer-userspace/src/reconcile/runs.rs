//! Runs of slots: a buddy allocator over the SLOTS map.
//!
//! Runs are powers of two and aligned to their size, so that freed neighbours join again and years of
//! scaling up and down leave no unusable crumbs.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use balancer_common::abi::SlotRange;

use super::ids::QUARANTINE;

/// Which slots are free.
#[derive(Debug)]
pub struct Runs {
    /// Starts of free blocks, by order: a block of order n has 2^n slots.
    free: Vec<BTreeSet<u32>>,
    resting: VecDeque<(Instant, SlotRange)>,
    used: u64,
    grown: bool,
}

impl Runs {
    /// All slots from `first` to `capacity`.
    pub fn new(first: u32, capacity: u32) -> Self {
        let mut runs =
            Self { free: vec![BTreeSet::new(); 32], resting: VecDeque::new(), used: 0, grown: false };
        let mut at = u64::from(first);
        while at < u64::from(capacity) {
            // The largest block that is aligned here and fits.
            let aligned = if at == 0 { 31 } else { at.trailing_zeros().min(31) };
            let fits = (u64::from(capacity) - at).ilog2();
            let order = aligned.min(fits);
            runs.free[order as usize].insert(at as u32);
            at += 1 << order;
        }
        runs
    }

    /// A run of at least `len` slots whose range says exactly `len`; `None` if there is no room.
    /// An empty run takes no slots.
    pub fn take(&mut self, len: u32, now: Instant) -> Option<SlotRange> {
        if len == 0 {
            return Some(SlotRange::new(0, 0));
        }
        self.wake(now);
        let order = order_of(len)?;
        let found = (order..32).find(|&order| !self.free[order as usize].is_empty())?;
        let base = self.free[found as usize].pop_first()?;
        for order in (order..found).rev() {
            self.free[order as usize].insert(base + (1 << order));
        }
        self.used += 1 << order;
        Some(SlotRange::new(base, len))
    }

    /// Marks a run as in use, which a previous agent took; whether it was free.
    pub fn reserve(&mut self, range: SlotRange) -> bool {
        let Some(wanted) = (!range.is_empty()).then(|| order_of(range.len())).flatten() else {
            return range.is_empty();
        };
        let base = range.base();
        if !base.is_multiple_of(1 << wanted) {
            // No run of ours: it would reach beyond the block that it begins in.
            return false;
        }
        for order in wanted..32 {
            let block = base & !((1_u32 << order) - 1);
            if !self.free[order as usize].remove(&block) {
                continue;
            }
            // Split down to the run, keeping the halves that it is not in.
            for half in (wanted..order).rev() {
                let other = if base & (1 << half) == 0 {
                    (base & !((1 << half) - 1)) | (1 << half)
                } else {
                    base & !((1 << (half + 1)) - 1)
                };
                self.free[half as usize].insert(other);
            }
            self.used += 1 << wanted;
            return true;
        }
        false
    }

    /// Gives a run back; it rests for [`QUARANTINE`].
    pub fn give_back(&mut self, range: SlotRange, now: Instant) {
        if let Some(order) = (!range.is_empty()).then(|| order_of(range.len())).flatten() {
            self.used -= 1 << order;
            self.resting.push_back((now, range));
        }
    }

    /// Keeps the first `len` slots of a run, which is not longer, and gives back what of it they do not
    /// need.
    pub fn shrink(&mut self, range: SlotRange, len: u32, now: Instant) {
        if len == 0 {
            return self.give_back(range, now);
        }
        let (Some(old), Some(new)) = (order_of(range.len()), order_of(len)) else { return };
        for order in new..old {
            self.give_back(SlotRange::new(range.base() + (1 << order), 1 << order), now);
        }
    }

    /// How many slots a run may grow to where it is.
    pub fn room(range: SlotRange) -> u32 {
        if range.is_empty() { 0 } else { order_of(range.len()).map_or(0, |order| 1 << order) }
    }

    /// The longest run that may be taken.
    pub fn longest(&mut self, now: Instant) -> u32 {
        self.wake(now);
        self.free.iter().rposition(|blocks| !blocks.is_empty()).map_or(0, |order| 1 << order)
    }

    /// Whether slots have finished their rest since this was last asked, so that there is room where there
    /// may have been none.
    pub fn has_grown(&mut self, now: Instant) -> bool {
        self.wake(now);
        std::mem::take(&mut self.grown)
    }

    fn wake(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(since, _)| now.duration_since(*since) >= QUARANTINE) {
            if let Some((_, range)) = self.resting.pop_front() {
                self.join(range);
                self.grown = true;
            }
        }
    }

    /// Slots in use, with the rounding up.
    pub const fn used(&self) -> u64 {
        self.used
    }

    fn join(&mut self, range: SlotRange) {
        let Some(mut order) = order_of(range.len()) else { return };
        let mut base = range.base();
        while order < 31 && self.free[order as usize].remove(&(base ^ (1 << order))) {
            base &= !(1 << order);
            order += 1;
        }
        self.free[order as usize].insert(base);
    }
}

/// The order of the smallest block that holds `len` slots.
fn order_of(len: u32) -> Option<u32> {
    len.checked_next_power_of_two().map(u32::ilog2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(runs: &Runs) -> Vec<(u32, usize)> {
        runs.free.iter().enumerate().flat_map(|(order, set)| set.iter().map(move |&at| (at, order))).collect()
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_everything_joins_again(lens in prop::collection::vec(1_u32..200, 1..60), capacity in 3_u32..5000) {
            let start = Instant::now();
            let mut runs = Runs::new(2, capacity);
            let before = whole(&runs);
            let mut taken: Vec<SlotRange> = Vec::new();
            for len in lens {
                if let Some(range) = runs.take(len, start) {
                    prop_assert!(range.base() >= 2 && u64::from(range.base()) + u64::from(len) <= u64::from(capacity));
                    for other in &taken {
                        prop_assert!(range.base() + range.len() <= other.base() || other.base() + other.len() <= range.base());
                    }
                    taken.push(range);
                }
            }
            // A new agent that finds the runs in use takes the same view.
            let mut recovered = Runs::new(2, capacity);
            for range in &taken {
                prop_assert!(recovered.reserve(*range));
                prop_assert!(!recovered.reserve(*range));
            }
            prop_assert_eq!(recovered.used(), runs.used());
            for range in taken {
                runs.give_back(range, start);
            }
            prop_assert_eq!(runs.used(), 0);
            let later = start + QUARANTINE;
            if let Some(range) = runs.take(1, later) {
                runs.give_back(range, later);
            }
            runs.take(u32::MAX, later + QUARANTINE);
            prop_assert_eq!(whole(&runs), before);
        }
    }

    #[test]
    fn a_run_gives_back_what_it_does_not_need() {
        let start = Instant::now();
        let mut runs = Runs::new(0, 64);
        let before = whole(&runs);
        let run = runs.take(33, start).expect("there is room for 33 of 64");
        assert_eq!((Runs::room(run), runs.used(), runs.longest(start)), (64, 64, 0));
        runs.shrink(run, 33, start);
        runs.shrink(run, 5, start);
        assert_eq!((runs.used(), runs.longest(start), runs.has_grown(start)), (8, 0, false));
        let later = start + QUARANTINE;
        assert_eq!((runs.longest(later), runs.has_grown(later), runs.has_grown(later)), (32, true, false));
        runs.shrink(SlotRange::new(run.base(), 5), 0, later);
        assert_eq!((runs.used(), runs.longest(later + QUARANTINE)), (0, 64));
        assert_eq!(whole(&runs), before);
    }

    #[test]
    fn a_run_that_this_would_not_have_given_out_is_not_taken_over() {
        let mut runs = Runs::new(2, 64);
        for (base, len) in [(3, 2), (6, 4), (0, 2), (32, 33), (64, 1), (u32::MAX, 1), (2, u32::MAX)] {
            assert!(!runs.reserve(SlotRange::new(base, len)), "{base} {len}");
        }
        assert!(runs.reserve(SlotRange::new(2, 2)) && runs.reserve(SlotRange::new(u32::MAX, 0)));
        assert_eq!(runs.used(), 2);
    }

    #[test]
    fn a_run_rests_and_a_full_map_says_so() {
        let start = Instant::now();
        let mut runs = Runs::new(0, 8);
        let run = runs.take(5, start).expect("there is room for 5 of 8");
        assert_eq!((run.base(), run.len(), runs.take(1, start)), (0, 5, None));
        runs.give_back(run, start);
        assert_eq!(runs.take(1, start), None);
        assert!(runs.take(8, start + QUARANTINE).is_some());
        assert_eq!(runs.take(0, start), Some(SlotRange::new(0, 0)));
    }
}
