//! The eBPF programs of balancer: one file per hook, and none of them decides anything.
//!
//! The decision is `balancer_common::translate`, which the host tests run too. What stands here adapts a
//! hook's context to it and carries its answer out: [`account`] counts, [`tables`] reads the maps.
//!
//! Every program allows what it does not understand: it returns 1 ("proceed") on every path, because an
//! error from here would surface as `EPERM` in an application that can do nothing about it.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the target has no other atomic read-modify-write")]

mod account;
mod atomic;
mod connect;
mod getpeername;
mod maps;
mod recvmsg;
mod release;
mod sendmsg;
mod tables;
mod tcp;

/// What every program returns: proceed.
const PROCEED: i32 = 1;

/// Some helpers are for programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
