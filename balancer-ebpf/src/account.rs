//! Counting, exactly once.
//!
//! A socket is counted as active when it is given a backend, and stops being so when somebody exchanges
//! its phase from an open one to `Closed`: whoever sees an open phase come out of the exchange counts the
//! close, nobody else does.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns};
use balancer_common::{
    abi::{BackendStats, MARK_SENT, PassReason, Phase, PickReason, SocketState, UdpFlow, handshake_bucket},
    health::{self, Health, Suspicion},
    select::opaque,
    translate::Choice,
};

use crate::{
    atomic,
    maps::{BACKEND_HEALTH, BACKEND_STATS, BACKENDS, SERVICE_STATS, SERVICES},
};

/// Why an attempt failed.
#[derive(Clone, Copy)]
pub enum Failure {
    /// The peer answered with a reset.
    Refused,
    /// The kernel gave up after its last retransmission.
    TimedOut,
    /// An ICMP error, or no route.
    Unreachable,
    /// The application closed the socket first.
    Aborted,
}

/// What is known of a connection that ends.
pub struct Totals {
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes acknowledged.
    pub bytes_out: u64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// The number of a reason as an index below `places`, a power of two, in a way that the verifier can see:
/// the compiler knows it and would leave the mask out, the verifier does not.
#[inline(always)]
fn index(reason: u64, places: usize) -> usize {
    (opaque(reason) & (places as u64 - 1)) as usize
}

/// Room for reasons in [`ServiceStats`].
///
/// [`ServiceStats`]: balancer_common::abi::ServiceStats
const PICKS: usize = 8;
const PASSES: usize = 8;
const _: () = assert!(PickReason::ALL.len() <= PICKS && PassReason::ALL.len() <= PASSES);

/// Counts a connect that is passed through.
#[inline(always)]
pub fn passed(service: u32, reason: PassReason) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: the verifier has bounded the pointer to the map value; the index is below the length.
        atomic::add(unsafe { (&raw mut (*stats).passes).cast::<u64>().add(index(reason as u64, PASSES)) }, 1);
    }
}

/// Counts a choice that is carried out; a protocol without a handshake is established at once.
#[inline(always)]
pub fn opened(choice: &Choice, phase: Phase) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(choice.service) {
        // SAFETY: the verifier has bounded the pointer to the map value; the index is below the length.
        atomic::add(
            unsafe { (&raw mut (*stats).picks).cast::<u64>().add(index(choice.reason as u64, PICKS)) },
            1,
        );
    }
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(choice.backend) {
        // SAFETY: the verifier has bounded the pointer to the map value.
        unsafe {
            atomic::add(&raw mut (*stats).active, 1);
            atomic::add(&raw mut (*stats).opened, 1);
            if matches!(phase, Phase::Established) {
                atomic::add(&raw mut (*stats).established, 1);
            }
        }
    }
}

/// Notes an attempt that failed with its backend, in a way that says something of it.
#[inline(always)]
pub fn failed(backend: u32, failure: health::Failure) {
    note_outcome(
        backend,
        match failure {
            health::Failure::Refused => REFUSED,
            health::Failure::Slow(Suspicion::OneClient) => SLOW_FOR_ONE,
            health::Failure::Slow(Suspicion::SeveralClients) => SLOW_FOR_SEVERAL,
        },
    );
}

/// Notes that `client` found a backend slow.
#[inline(always)]
pub fn slow(backend: u32, client: u64) {
    let Some(entry) = BACKEND_HEALTH.get_ptr_mut(backend) else { return };
    // SAFETY: the verifier has bounded the pointer to the map value; the word is read and written whole.
    let before = unsafe {
        let place = &raw mut (*entry).suspected_by;
        let before = place.read_volatile();
        place.write_volatile(client);
        before
    };
    let several = before != 0 && before != client;
    let suspicion = if several { Suspicion::SeveralClients } else { Suspicion::OneClient };
    failed(backend, health::Failure::Slow(suspicion));
}

/// Notes an answer, if that changes anything.
#[inline(always)]
fn well(backend: u32) {
    let Some(entry) = BACKEND_HEALTH.get_ptr_mut(backend) else { return };
    // SAFETY: the verifier has bounded the pointer to the map value. Volatile: other CPUs write it.
    if unsafe { (&raw const (*entry).state.0).read_volatile() } != 0 {
        // SAFETY: as above.
        unsafe { (&raw mut (*entry).suspected_by).write_volatile(0) };
        note_outcome(backend, WELL);
    }
}

/// How long the Service of a backend lets new ones take to get their share.
#[inline(always)]
fn slow_start_ms(backend: u32) -> u32 {
    let service = BACKENDS.get(backend).and_then(|backend| SERVICES.get(backend.service));
    service.map_or(0, |service| service.slow_start_ms)
}

/// What became of an attempt, as a number for [`note_outcome`].
const WELL: u32 = 0;
const REFUSED: u32 = 1;
const SLOW_FOR_ONE: u32 = 2;
const SLOW_FOR_SEVERAL: u32 = 3;

#[inline(always)]
const fn failure(outcome: u32) -> health::Failure {
    match outcome {
        SLOW_FOR_ONE => health::Failure::Slow(Suspicion::OneClient),
        SLOW_FOR_SEVERAL => health::Failure::Slow(Suspicion::SeveralClients),
        _ => health::Failure::Refused,
    }
}

/// Exchanges what is known of a backend for what follows from an outcome. Should another processor be at it as
/// well, the second of two rounds sees what that one made of it; what loses both is one outcome of several at once.
///
/// A global function, which the verifier checks once and by itself: it is seldom called, and from several places.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_outcome(backend: u32, outcome: u32) -> u32 {
    let Some(entry) = BACKEND_HEALTH.get_ptr_mut(backend) else { return 0 };
    let slow_start_ms = slow_start_ms(backend);
    // SAFETY: no arguments.
    let (now_ns, random) = unsafe { (bpf_ktime_get_boot_ns(), bpf_get_prandom_u32()) };
    for _ in 0..2 {
        // SAFETY: the verifier has bounded the pointer to the map value. Volatile: other CPUs write it.
        let old = Health(unsafe { (&raw const (*entry).state.0).read_volatile() });
        let new = if outcome == WELL {
            old.succeeded(now_ns, slow_start_ms)
        } else {
            old.failed(failure(outcome), now_ns, random)
        };
        // SAFETY: as above.
        if new == old || atomic::replace_u64(unsafe { &raw mut (*entry).state.0 }, old.0, new.0) {
            if new.is_ejected() && new != old {
                // SAFETY: as above.
                atomic::add(unsafe { &raw mut (*entry).ejections }, 1);
            }
            break;
        }
    }
    0
}

/// Counts a completed handshake.
#[inline(always)]
pub fn established(backend: u32, took_ns: u64) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend) {
        let bucket = handshake_bucket(took_ns);
        // SAFETY: the verifier has bounded the pointer to the map value; the bucket is below the length.
        unsafe {
            atomic::add(&raw mut (*stats).established, 1);
            atomic::add(&raw mut (*stats).handshake_ns, took_ns);
            atomic::add((&raw mut (*stats).handshakes).cast::<u64>().add(bucket), 1);
        }
    }
    well(backend);
}

/// Why an attempt failed that the application, or a connect() that never began, put an end to.
#[inline(always)]
pub fn abandoned(socket: *const SocketState) -> Failure {
    // SAFETY: the callers pass socket storage that is not null.
    if unsafe { (*socket).marks } & MARK_SENT != 0 { Failure::Aborted } else { Failure::Unreachable }
}

/// Closes what the socket holds, if it holds anything: the connection is over or the socket is used anew. Whether it did.
#[inline(always)]
pub fn close_socket(socket: *mut SocketState, connecting: Failure) -> bool {
    // SAFETY: the callers pass socket storage that is not null.
    let (phase, backend) =
        unsafe { (atomic::exchange(&raw mut (*socket).phase, Phase::Closed as u32), (*socket).backend) };
    let open = phase != Phase::Closed as u32;
    if open {
        let failure = (phase == Phase::Connecting as u32).then_some(connecting);
        closed(backend, failure);
    }
    open
}

/// Closes a UDP flow, if it is open.
#[inline(always)]
pub fn close_flow(flow: *mut UdpFlow) {
    // SAFETY: the callers pass an element of socket storage that is not null.
    let (phase, backend) =
        unsafe { (atomic::exchange(&raw mut (*flow).phase, Phase::Closed as u32), (*flow).backend) };
    if phase == Phase::Established as u32 {
        closed(backend, None);
    }
}

#[inline(always)]
fn closed(backend: u32, failure: Option<Failure>) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend) {
        // SAFETY: the verifier has bounded the pointer to the map value.
        unsafe {
            atomic::sub_one(&raw mut (*stats).active);
            atomic::add(&raw mut (*stats).closed, 1);
            if let Some(failure) = failure {
                atomic::add(failure_counter(stats, failure), 1);
            }
        }
    }
}

/// # Safety
/// `stats` must point to a map value.
#[inline(always)]
unsafe fn failure_counter(stats: *mut BackendStats, failure: Failure) -> *mut u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match failure {
            Failure::Refused => &raw mut (*stats).refused,
            Failure::TimedOut => &raw mut (*stats).timed_out,
            Failure::Unreachable => &raw mut (*stats).unreachable,
            Failure::Aborted => &raw mut (*stats).aborted,
        }
    }
}

/// Adds what a connection moved to its backend, provided that the id still stands for that backend.
#[inline(always)]
pub fn totals(backend: u32, generation: u32, totals: &Totals) {
    if BACKENDS.get(backend).is_none_or(|entry| entry.generation != generation) {
        return;
    }
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend) {
        // SAFETY: the verifier has bounded the pointer to the map value.
        unsafe {
            atomic::add(&raw mut (*stats).bytes_in, totals.bytes_in);
            atomic::add(&raw mut (*stats).bytes_out, totals.bytes_out);
            if totals.retransmits != 0 {
                atomic::add(&raw mut (*stats).retransmits, totals.retransmits);
            }
        }
    }
}
