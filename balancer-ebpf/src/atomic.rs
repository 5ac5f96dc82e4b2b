//! Atomic operations on map values and socket storage.
//!
//! `core::sync::atomic` lacks read-modify-write on this target; the intrinsics become single instructions.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg, atomic_xsub};

/// Adds to a counter.
#[inline(always)]
pub fn add(counter: *mut u64, amount: u64) {
    // SAFETY: the callers pass an aligned field of a map value that the verifier has bounded.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}

/// Adds one to a counter and returns what it was.
#[inline(always)]
pub fn fetch_add_one(counter: *mut u64) -> u64 {
    // SAFETY: as for `add`.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, 1) }
}

/// The same for a word of 32 bits, which may wrap.
#[inline(always)]
pub fn fetch_add_one_u32(counter: *mut u32) -> u32 {
    // SAFETY: as for `add`.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(counter, 1) }
}

/// Takes one off a counter.
#[inline(always)]
pub fn sub_one(counter: *mut u64) {
    // SAFETY: as for `add`.
    unsafe { atomic_xsub::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}

/// Stores `new` and returns what was there.
#[inline(always)]
pub fn exchange(word: *mut u32, new: u32) -> u32 {
    // SAFETY: as for `add`.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(word, new) }
}

/// Stores `new` if `old` is there; whether it did.
#[inline(always)]
pub fn replace_u64(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: as for `add`. The returned flag would be invalid bitcode, the returned value serves.
    let (found, _) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    found == old
}

/// The same for a word of 32 bits.
#[inline(always)]
pub fn replace(word: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: as for `add`. The returned flag would be invalid bitcode, the returned value serves.
    let (found, _) = unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    found == old
}
