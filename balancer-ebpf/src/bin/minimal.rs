//! The limit that the benchmark compares `connect4` with: programs written by hand to do the same work in
//! as few instructions as possible. They share the maps of the real programs, pins and all.
//!
//! - [`empty`]: nothing. What the kernel's own measurement costs.
//! - [`choose_only`]: the look-ups and the choice, the address rewritten, nothing recorded.
//! - [`with_state`]: the same, plus the socket's state and the counters.
//! - [`choose_real`]: the decision of `balancer_common`, as the real programs make it, with nothing
//!   recorded: what to hold against `choose_only`.
//!
//! They take liberties that the real programs cannot: they know one algorithm, ignore weights and
//! affinity, and trust that no entry is reused under their hands.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the target has no other atomic read-modify-write")]

#[path = "../atomic.rs"]
#[expect(dead_code, reason = "shared with the real programs, which use all of it")]
mod atomic;
#[path = "../maps.rs"]
#[expect(dead_code, reason = "shared with the real programs, which use all of it")]
mod maps;
#[path = "../tables.rs"]
mod tables;

use core::ptr;

use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use balancer_common::{
    abi::{
        Backend, BackendStats, FULL_SCAN, FrontendKey, Phase, PickReason, Service, SocketState, TCP, UDP,
        WINDOW,
    },
    addr::{Ip, PortBe},
    select::sign_mask,
    translate::{self, Translation},
};

use crate::maps::{BACKEND_STATS, BACKENDS, CONTROL, FRONTENDS, SERVICE_STATS, SERVICES, SLOTS, SOCKETS};

/// What every program returns: proceed.
const PROCEED: i32 = 1;

/// Nothing.
#[cgroup_sock_addr(connect4)]
fn empty(_ctx: SockAddrContext) -> i32 {
    PROCEED
}

/// Look-ups and choice.
#[cgroup_sock_addr(connect4)]
fn choose_only(ctx: SockAddrContext) -> i32 {
    if let Some(choice) = choose(&ctx) {
        rewrite(&ctx, choice.backend);
    }
    PROCEED
}

/// Look-ups, choice, socket state and counters.
#[cgroup_sock_addr(connect4)]
fn with_state(ctx: SockAddrContext) -> i32 {
    if let Some(choice) = choose(&ctx) {
        let socket = SOCKETS.get_or_insert_ptr_mut(&ctx, None);
        if !socket.is_null() {
            record(socket, &choice);
            rewrite(&ctx, choice.backend);
        }
    }
    PROCEED
}

/// The real decision without the record.
#[cgroup_sock_addr(connect4)]
fn choose_real(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel passes a valid context.
    let (ip, port, protocol) = unsafe { ((*addr).user_ip4, (*addr).user_port, (*addr).protocol) };
    let protocol = match protocol {
        6 => TCP,
        17 => UDP,
        _ => return PROCEED,
    };
    let frontend = FrontendKey::new(Ip::from_v4_be(ip), PortBe::from_user_port(port), protocol);
    if let Translation::Rewrite(choice) = translate::connect(&tables::Maps(&ctx), &frontend)
        && let Some(word) = choice.addr.v4_be()
    {
        // SAFETY: these fields of the context may be written by this hook.
        unsafe {
            (*addr).user_ip4 = word;
            (*addr).user_port = choice.port.to_user_port();
        }
    }
    PROCEED
}

/// What [`choose`] found.
struct Choice {
    service: u32,
    id: u32,
    backend: *const Backend,
    stats: *mut BackendStats,
    service_stats: *mut [u64; 10],
    sampled: bool,
    now_ns: u64,
    port: u32,
    ip: u32,
    protocol: u32,
}

#[inline(always)]
fn choose(ctx: &SockAddrContext) -> Option<Choice> {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel passes a valid context.
    let (ip, port, protocol) = unsafe { ((*addr).user_ip4, (*addr).user_port, (*addr).protocol) };
    let key = FrontendKey::new(Ip::from_v4_be(ip), PortBe::from_user_port(port), protocol as u8);
    // SAFETY: one word, read whole.
    let service = *unsafe { FRONTENDS.get(&key) }?;
    let entry: *const Service = SERVICES.get_ptr(service)?;
    let control = CONTROL.get_ptr(0)?;
    // SAFETY: no arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: the verifier has bounded the pointers to the map values.
    let (expires, offset, range) = unsafe {
        (
            ptr::read_volatile(&raw const (*control).lease_expires_ns),
            (*control).node_offset,
            ptr::read_volatile(&raw const (*entry).slots),
        )
    };
    if now_ns > expires {
        return None;
    }
    let (base, len) = (range.base(), range.len());
    let service_stats = SERVICE_STATS.get_ptr_mut(service)?.cast::<[u64; 10]>();
    let sampled = len > FULL_SCAN;
    // SAFETY: as above; `turn` is the first word.
    let turn = atomic::fetch_add_one(unsafe { &raw mut (*service_stats)[0] });
    let id = scan(base, len, offset.wrapping_add(turn as u32))?;
    let backend = BACKENDS.get_ptr(id)?;
    let stats = BACKEND_STATS.get_ptr_mut(id)?;
    Some(Choice { service, id, backend, stats, service_stats, sampled, now_ns, port, ip, protocol })
}

/// A backend and how many connections it has, in one comparable word.
#[inline(always)]
fn loaded(slot: u32) -> Option<u64> {
    let id = SLOTS.get(slot)?.backend;
    let stats = BACKEND_STATS.get_ptr(id)?;
    // SAFETY: the verifier has bounded the pointer to the map value.
    let active = unsafe { ptr::read_volatile(&raw const (*stats).active) };
    Some(active << 32 | id as u64)
}

/// All ones if `a` is below `b`, else 0; both below 2^63.
#[inline(always)]
fn below(a: u64, b: u64) -> u64 {
    sign_mask(a.wrapping_sub(b))
}

/// The least loaded of all, or of a window of them, beginning at `start`; as the real one it stops at an idle backend.
#[inline(always)]
fn scan(base: u32, len: u32, start: u32) -> Option<u32> {
    if len == 0 {
        return None;
    }
    let mut index = start % len;
    let window = if len > FULL_SCAN { WINDOW } else { len };
    let mut best = loaded(base.wrapping_add(index))?;
    for step in 1..FULL_SCAN {
        if step >= window || best >> 32 == 0 {
            break;
        }
        index += 1;
        // The verifier follows both ways of a branch in every round; arithmetic has one.
        index &= below(index as u64, len as u64) as u32;
        let next = loaded(base.wrapping_add(index))?;
        // Ties go to the first found, so only the counts are compared.
        let better = below(next >> 32, best >> 32);
        best ^= (best ^ next) & better;
    }
    Some(best as u32)
}

#[inline(always)]
fn rewrite(ctx: &SockAddrContext, backend: *const Backend) {
    let addr = ctx.sock_addr;
    // SAFETY: the verifier has bounded the pointer to the map value; the fields of the context may be
    // written by this hook.
    unsafe {
        (*addr).user_ip4 = (*backend).addr.0[3];
        (*addr).user_port = (*backend).port.to_user_port();
    }
}

/// The same fields and the same number of counters as the real program.
#[inline(always)]
fn record(socket: *mut SocketState, choice: &Choice) {
    let tcp = choice.protocol == TCP as u32;
    let phase = if tcp { Phase::Connecting } else { Phase::Established };
    let reason = if choice.sampled { PickReason::Sampled } else { PickReason::Algorithm };
    // SAFETY: the pointers are to socket storage, found not to be null, and to map values that the
    // verifier has bounded; words 1 to 4 of the Service's statistics are its picks.
    unsafe {
        (*socket).backend = choice.id;
        (*socket).generation = (*choice.backend).generation;
        (*socket).service = choice.service;
        (*socket).opened_ns = choice.now_ns;
        (*socket).established_ns = if tcp { 0 } else { choice.now_ns };
        (*socket).frontend.addr.0[0] = 0;
        (*socket).frontend.addr.0[1] = 0;
        (*socket).frontend.addr.0[2] = Ip::from_v4_be(0).0[2];
        (*socket).frontend.addr.0[3] = choice.ip;
        (*socket).frontend.port = PortBe::from_user_port(choice.port);
        (*socket).frontend.protocol = choice.protocol as u8;
        (*socket).target.0[0] = (*choice.backend).addr.0[0];
        (*socket).target.0[1] = (*choice.backend).addr.0[1];
        (*socket).target.0[2] = (*choice.backend).addr.0[2];
        (*socket).target.0[3] = (*choice.backend).addr.0[3];
        (*socket).target_port = (*choice.backend).port;
        (*socket).marks = 0;
        (*socket).tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*socket).phase = phase as u32;
        atomic::add(&raw mut (*choice.service_stats)[1 + reason as usize], 1);
        atomic::add(&raw mut (*choice.stats).active, 1);
        atomic::add(&raw mut (*choice.stats).opened, 1);
        if !tcp {
            atomic::add(&raw mut (*choice.stats).established, 1);
        }
    }
}

/// The helpers that the programs call are for programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
