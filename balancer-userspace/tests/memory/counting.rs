//! An allocator that counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and a count of what it takes for what it hands out.
pub struct Counting;

/// Bytes that are allocated now, what the allocator adds to each piece included.
pub fn live() -> usize {
    LIVE.load(Relaxed)
}

/// The most that were allocated at once since [`reset_peak`].
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Forgets how many there were.
pub fn reset_peak() {
    PEAK.store(live(), Relaxed);
}

/// Of the usual allocators on Linux: 8 bytes in front, in steps of 16, and never below 32.
const fn taken(bytes: usize) -> usize {
    let taken = (bytes + 8).next_multiple_of(16);
    if taken < 32 { 32 } else { taken }
}

// SAFETY: everything is passed on as it comes; counting neither allocates nor touches the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = LIVE.fetch_add(taken(layout.size()), Relaxed) + taken(layout.size());
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(taken(layout.size()), Relaxed);
        // SAFETY: as above; it came from `alloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}
