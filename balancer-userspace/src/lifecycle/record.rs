//! What is written down of each Service: one entry of `LIFECYCLE`, word by word, for others write other words.

use std::{mem::offset_of, sync::atomic::Ordering, time::Duration};

use balancer_common::abi::{Lifecycle, Refusal, Stop};

use crate::datapath::Maps;

/// A counter of [`Lifecycle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// [`Lifecycle::offered`].
    Offered,
    /// [`Lifecycle::harmless`].
    Harmless,
    /// [`Lifecycle::harmful`].
    Harmful,
    /// [`Lifecycle::moved`].
    Moved,
    /// [`Lifecycle::reconnected`].
    Reconnected,
    /// [`Lifecycle::lost`].
    Lost,
    /// [`Lifecycle::drained`].
    Drained,
    /// [`Lifecycle::destroyed`].
    Destroyed,
    /// [`Lifecycle::pushes`].
    Pushes,
    /// [`Lifecycle::refused`].
    Refused(Refusal),
}

impl Counter {
    const fn offset(self) -> usize {
        match self {
            Self::Offered => offset_of!(Lifecycle, offered),
            Self::Harmless => offset_of!(Lifecycle, harmless),
            Self::Harmful => offset_of!(Lifecycle, harmful),
            Self::Moved => offset_of!(Lifecycle, moved),
            Self::Reconnected => offset_of!(Lifecycle, reconnected),
            Self::Lost => offset_of!(Lifecycle, lost),
            Self::Drained => offset_of!(Lifecycle, drained),
            Self::Destroyed => offset_of!(Lifecycle, destroyed),
            Self::Pushes => offset_of!(Lifecycle, pushes),
            Self::Refused(refusal) => offset_of!(Lifecycle, refused) + refusal as usize * size_of::<u64>(),
        }
    }
}

/// Counts one.
pub fn count(maps: &Maps, service: u32, counter: Counter) {
    if let Some(word) = maps.lifecycle.word(service, counter.offset() / size_of::<u64>()) {
        word.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes down that moving was stopped at `now_ns`, or that it goes on.
pub fn stop(maps: &Maps, service: u32, stop: Stop, now_ns: u64) {
    let since = if stop == Stop::None { 0 } else { now_ns };
    if let Some(word) = maps.lifecycle.word(service, offset_of!(Lifecycle, stopped_ns) / size_of::<u64>()) {
        word.store(since, Ordering::Release);
    }
    let quiet_ms = entry(maps, service).quiet_ms;
    pair(maps, service, offset_of!(Lifecycle, stop), [stop as u32, quiet_ms]);
}

/// Writes down what was learned: how long a connection must be quiet, the silence from which that follows, and how
/// many offers in a row did no harm.
pub fn lessons(maps: &Maps, service: u32, quiet: Duration, longest_push: Option<Duration>, clean: u64) {
    let before = entry(maps, service);
    let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    let (quiet, push) = (ms(quiet), longest_push.map_or(0, ms));
    let clean = u32::try_from(clean).unwrap_or(u32::MAX);
    if (before.quiet_ms, before.longest_push_ms, before.clean) != (quiet, push, clean) {
        pair(maps, service, offset_of!(Lifecycle, stop), [before.stop, quiet]);
        pair(maps, service, offset_of!(Lifecycle, longest_push_ms), [push, clean]);
    }
}

/// The entry of a Service.
pub fn entry(maps: &Maps, service: u32) -> Lifecycle {
    maps.lifecycle.get(service).unwrap_or_default()
}

/// Two words of 32 bits, as they lie in memory.
fn pair(maps: &Maps, service: u32, offset: usize, value: [u32; 2]) {
    if let Some(word) = maps.lifecycle.word(service, offset / size_of::<u64>()) {
        word.store(bytemuck::cast(value), Ordering::Release);
    }
}

const _: () = {
    assert!(offset_of!(Lifecycle, stop).is_multiple_of(8));
    assert!(offset_of!(Lifecycle, quiet_ms) == offset_of!(Lifecycle, stop) + 4);
    assert!(offset_of!(Lifecycle, longest_push_ms).is_multiple_of(8));
};
