//! How many connections each backend had open over the last minutes: a ring of samples in the maps, so that
//! it outlives the agent. Steps in which nobody looked are unknown, not guessed.

use balancer_common::abi::{
    BackendHistory, BackendState, FIRST_BACKEND, HISTORY, HISTORY_STEP_NS, MAX_SAMPLE, UNKNOWN_SAMPLE,
};

use crate::datapath::{Maps, boot_ns};

/// The length of a step, in seconds.
pub const STEP_SECONDS: u64 = HISTORY_STEP_NS / 1_000_000_000;

/// The number of the step that `now_ns` (`CLOCK_BOOTTIME`) lies in.
fn step(now_ns: u64) -> u32 {
    u32::try_from(now_ns / HISTORY_STEP_NS).unwrap_or(u32::MAX)
}

/// Notes that `active` connections are open at `now_ns`. Of several samples of a step the last one counts;
/// steps since the last sample become unknown. In the first step after boot nothing is noted.
pub fn sample(history: &mut BackendHistory, now_ns: u64, active: u64) {
    let now = step(now_ns);
    if now == 0 {
        return;
    }
    // The clock never goes back: what claims to be of the future is of another boot, or garbage.
    if history.last == 0 || history.last > now {
        *history = BackendHistory { first: now, ..BackendHistory::default() };
    } else {
        let missed = now.saturating_sub(HISTORY as u32).max(history.last).saturating_add(1)..now;
        missed.for_each(|step| history.samples[place(step)] = UNKNOWN_SAMPLE);
    }
    history.last = now;
    history.samples[place(now)] = u16::try_from(active).unwrap_or(MAX_SAMPLE).min(MAX_SAMPLE);
}

/// The samples of the last [`HISTORY`] steps as of `now_ns`, oldest first, [`STEP_SECONDS`] apart; `None`
/// where nobody looked. The step that is going on is among them once it has a sample. A backend that is
/// newer has fewer, one that was never looked at has none.
pub fn read(history: &BackendHistory, now_ns: u64) -> Vec<Option<u16>> {
    if history.last == 0 {
        return Vec::new();
    }
    let end = step(now_ns).saturating_sub(1).max(history.last);
    let begin = history.first.max(end.saturating_sub(HISTORY as u32 - 1)).max(1);
    let kept = history.last.saturating_sub(HISTORY as u32 - 1);
    (begin..=end)
        .map(|step| {
            let sample = history.samples[place(step)];
            ((kept..=history.last).contains(&step) && sample != UNKNOWN_SAMPLE).then_some(sample)
        })
        .collect()
}

/// A ring of samples, and when it was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    /// As it stands in the map.
    pub ring: BackendHistory,
    /// `CLOCK_BOOTTIME` of the reading.
    pub now_ns: u64,
}

impl History {
    /// As [`read`] gives them.
    pub fn samples(&self) -> Vec<Option<u16>> {
        read(&self.ring, self.now_ns)
    }
}

const fn place(step: u32) -> usize {
    step as usize % HISTORY
}

/// Takes the samples.
#[derive(Debug, Default)]
pub struct Sampler {
    /// The step that was sampled last; 0 before.
    done: u32,
}

impl Sampler {
    /// Notes the open connections of every backend, once in each step: called again within one it does
    /// nothing. Call it a few times per step, for a step in which it is not called stays unknown.
    ///
    /// Walks `BACKENDS` once; of the other maps only what belongs to backends in use is touched.
    ///
    /// # Panics
    /// If `maps` was opened for reading.
    pub fn pass(&mut self, maps: &Maps) {
        let now_ns = boot_ns();
        if step(now_ns) == self.done {
            return;
        }
        self.done = step(now_ns);
        for (id, backend) in maps.backends.iter().skip(FIRST_BACKEND as usize) {
            if BackendState::from_u16(backend.state) == BackendState::Free {
                continue;
            }
            // `active` is the first word.
            let active = maps.backend_stats.word(id, 0);
            let active = active.map_or(0, |word| word.load(std::sync::atomic::Ordering::Relaxed));
            if let Some(mut history) = maps.backend_history.get(id) {
                sample(&mut history, now_ns, active);
                maps.backend_history.set(id, &history);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples `(step, active)` in order, and what is read in step `now`.
    #[track_caller]
    fn check(samples: &[(u64, u64)], now: u64, expect: &[Option<u16>]) {
        let mut history = BackendHistory::default();
        for (at, active) in samples {
            sample(&mut history, at * HISTORY_STEP_NS + 7, *active);
        }
        assert_eq!(read(&history, now * HISTORY_STEP_NS + 9), expect, "{samples:?} read at {now}");
    }

    #[test]
    fn a_new_backend_has_no_more_than_was_seen_of_it() {
        check(&[], 50, &[]);
        check(&[(0, 5)], 50, &[]);
        check(&[(1, 5)], 1, &[Some(5)]);
        check(&[(100, 0), (101, 3)], 101, &[Some(0), Some(3)]);
    }

    #[test]
    fn the_step_that_goes_on_waits_for_its_sample() {
        check(&[(100, 1), (101, 2)], 102, &[Some(1), Some(2)]);
        check(&[(100, 1), (101, 2), (102, 3)], 102, &[Some(1), Some(2), Some(3)]);
        check(&[(100, 1), (101, 2), (101, 9)], 101, &[Some(1), Some(9)]);
    }

    #[test]
    fn what_nobody_looked_at_is_unknown() {
        check(&[(100, 1), (103, 4)], 103, &[Some(1), None, None, Some(4)]);
        // The agent is dead.
        check(&[(100, 1), (101, 2)], 105, &[Some(1), Some(2), None, None, None]);
        check(&[(100, 1)], 100 + HISTORY as u64 + 1, &[None; HISTORY]);
        check(&[(100, 1)], 1_844_674_407, &[None; HISTORY]);
    }

    #[test]
    fn the_ring_wraps_and_forgets_the_oldest() {
        let samples: Vec<(u64, u64)> = (100..140).map(|step| (step, step)).collect();
        let kept: Vec<Option<u16>> = (112..140).map(Some).collect();
        assert_eq!(kept.len(), HISTORY);
        check(&samples, 139, &kept);
        // One more that nobody took pushes one out.
        let mut late = kept[1..].to_vec();
        late.push(None);
        check(&samples, 141, &late);
    }

    #[test]
    fn a_gap_of_any_length_leaves_nothing_of_the_last_round() {
        let full: Vec<(u64, u64)> = (100..100 + HISTORY as u64).map(|step| (step, 7)).collect();
        for gap in 1..3 * HISTORY as u64 {
            let at = 99 + HISTORY as u64 + gap;
            let mut samples = full.clone();
            samples.push((at, 9));
            let known = HISTORY.saturating_sub(gap as usize);
            let mut expect = vec![Some(7); known];
            expect.resize(HISTORY - 1, None);
            expect.push(Some(9));
            check(&samples, at, &expect);
        }
    }

    #[test]
    fn large_counts_are_cut_and_not_taken_for_unknown() {
        for active in [65_534, 65_535, 65_536, u64::MAX] {
            check(&[(100, active)], 100, &[Some(65_534)]);
        }
        check(&[(100, 65_533)], 100, &[Some(65_533)]);
    }

    #[test]
    fn garbage_is_replaced_and_read_without_harm() {
        check(&[(200, 1), (100, 2)], 100, &[Some(2)]);
        for (last, first) in [(u32::MAX, 0), (u32::MAX, u32::MAX), (1, u32::MAX), (5, 0), (0, 9)] {
            let history = BackendHistory { last, first, samples: [3; HISTORY] };
            for now in [0, 1, 30, 1_844_674_407] {
                assert!(read(&history, now * HISTORY_STEP_NS).len() <= HISTORY, "{last} {first} {now}");
            }
        }
    }
}
