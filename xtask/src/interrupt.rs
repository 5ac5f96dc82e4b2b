//! Ctrl-C while tests run.

use std::{
    ffi::c_int,
    sync::atomic::{AtomicBool, Ordering},
};

const SIGINT: c_int = 2;

unsafe extern "C" {
    fn signal(signum: c_int, handler: extern "C" fn(c_int)) -> usize;
}

/// Lets Ctrl-C reach the children alone from now on: the test runner ends its tests, they clean up, and
/// xtask then reports what was counted. Children do not inherit this: a handler is reset by `exec`.
pub fn outlive_children() {
    extern "C" fn note(_: c_int) {
        CAME.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler only stores to an atomic, which is safe at any point; `signal` of a valid number
    // and a valid function has no other precondition.
    unsafe {
        signal(SIGINT, note);
    }
}

/// Whether Ctrl-C was pressed since [`outlive_children`].
pub fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

static CAME: AtomicBool = AtomicBool::new(false);
