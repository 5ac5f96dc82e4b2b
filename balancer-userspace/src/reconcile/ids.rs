//! Ids of Services and backends.

use std::{
    collections::{HashSet, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

/// How long an id or a run of slots rests before it is used again: longer than any program runs.
///
/// A program may have read an old Service just before it was switched, and may follow what it read for
/// as long as it runs, which is microseconds; it may be interrupted on the way, hence the wide margin.
pub const QUARANTINE: Duration = Duration::from_secs(1);

/// Hands out ids from a range, the lowest unused first, and none twice at a time.
#[derive(Debug)]
pub struct IdPool {
    fresh: Range<u32>,
    free: Vec<u32>,
    resting: VecDeque<(Instant, u32)>,
    used: u32,
    grown: bool,
}

impl IdPool {
    /// Ids of `range`, except those that `taken` holds, which are of that range.
    pub fn new(range: Range<u32>, taken: &HashSet<u32>) -> Self {
        let highest = taken.iter().max().copied();
        let fresh = highest.map_or(range.start, |id| id + 1)..range.end;
        let free = (range.start..fresh.start).rev().filter(|id| !taken.contains(id)).collect();
        Self { fresh, free, resting: VecDeque::new(), used: taken.len() as u32, grown: false }
    }

    /// An id, or `None` if all are in use or at rest.
    pub fn take(&mut self, now: Instant) -> Option<u32> {
        self.wake(now);
        let id = self.free.pop().or_else(|| self.fresh.next())?;
        self.used += 1;
        Some(id)
    }

    /// Gives an id back; it rests for [`QUARANTINE`].
    pub fn give_back(&mut self, id: u32, now: Instant) {
        self.used -= 1;
        self.resting.push_back((now, id));
    }

    /// Whether ids have finished their rest since this was last asked, so that there is room where there may have
    /// been none.
    pub fn has_grown(&mut self, now: Instant) -> bool {
        self.wake(now);
        std::mem::take(&mut self.grown)
    }

    fn wake(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(since, _)| now.duration_since(*since) >= QUARANTINE) {
            self.free.extend(self.resting.pop_front().map(|(_, id)| id));
            self.grown = true;
        }
    }

    /// How many ids are in use.
    pub const fn used(&self) -> u32 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_rests_before_it_is_used_again() {
        let start = Instant::now();
        let mut pool = IdPool::new(2..5, &HashSet::from([3]));
        assert_eq!((pool.take(start), pool.take(start), pool.take(start)), (Some(2), Some(4), None));
        pool.give_back(4, start);
        assert_eq!((pool.take(start), pool.has_grown(start)), (None, false));
        assert_eq!(pool.take(start + QUARANTINE), Some(4));
        assert_eq!(pool.used(), 3);
        assert!(pool.has_grown(start + QUARANTINE) && !pool.has_grown(start + QUARANTINE));
    }
}
