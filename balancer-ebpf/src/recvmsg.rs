//! recvfrom() and recvmsg() that ask for the source: the Service answers, not the pod.

use aya_ebpf::{
    bindings::BPF_TCP_ESTABLISHED, helpers::generated::bpf_ktime_get_boot_ns, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use balancer_common::{
    abi::{FrontendKey, Phase, UDP_FLOWS as FLOWS, UdpFlow},
    addr::{Ip, PortBe},
};

use crate::{
    PROCEED,
    connect::{set_user_ip6, user_ip6},
    maps::{SOCKETS, UDP_FLOWS},
};

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let source = unsafe { Ip::from_v4_be((*ctx.sock_addr).user_ip4) };
    if let Some(frontend) = recvmsg(&ctx, source)
        && let Some(word) = frontend.addr.v4_be()
    {
        // SAFETY: these fields of the context may be written by this hook.
        unsafe {
            (*ctx.sock_addr).user_ip4 = word;
            (*ctx.sock_addr).user_port = frontend.port.to_user_port();
        }
    }
    PROCEED
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if let Some(frontend) = recvmsg(&ctx, user_ip6(&ctx)) {
        set_user_ip6(&ctx, &frontend.addr, frontend.port);
    }
    PROCEED
}

/// The Service that this socket addressed when it sent to `source`; `None` for a source of its own right.
///
/// Two Services may have the same pod behind them: the answer is from the one that was asked last. A flow
/// that is closed or silent is remembered all the same: its answer may be late.
#[inline(always)]
fn recvmsg(ctx: &SockAddrContext, source: Ip) -> Option<FrontendKey> {
    // SAFETY: the kernel passes a valid context.
    let port = PortBe::from_user_port(unsafe { (*ctx.sock_addr).user_port });
    // A connected socket receives from its peer alone, whatever it sent before.
    // SAFETY: the kernel passes a valid context, and a socket in it.
    let connected = unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).state } == BPF_TCP_ESTABLISHED;
    let flows = UDP_FLOWS.get_ptr_mut(ctx);
    if !connected && !flows.is_null() {
        // SAFETY: the pointer is to socket storage and was found not to be null.
        let flows = unsafe { (&raw mut (*flows).flows).cast::<UdpFlow>() };
        let mut place = 0;
        let mut latest = 0;
        for index in 0..FLOWS {
            // SAFETY: the index is below the length of the array.
            let flow = unsafe { &*flows.add(index) };
            if flow.target_port.0 == port.0 && flow.target.same(&source) && flow.used_ns > latest {
                latest = flow.used_ns;
                place = index;
            }
        }
        if latest != 0 {
            // SAFETY: the mask keeps the index below the length, which is a power of two.
            let entry = unsafe { flows.add(place & (FLOWS - 1)) };
            // What is received keeps a flow alive, too, as connection tracking has it.
            // SAFETY: an element of socket storage; the word is written whole. No arguments.
            unsafe {
                if (*entry).phase == Phase::Established as u32 {
                    (&raw mut (*entry).used_ns).write_volatile(bpf_ktime_get_boot_ns());
                }
                return Some((*entry).frontend);
            }
        }
    }
    crate::getpeername::dialled(SOCKETS.get_ptr_mut(ctx), source, port)
}
