//! sendto() and sendmsg() with an address: UDP sockets that are not connected, or that name a
//! destination all the same.
//!
//! A socket keeps the backend that it was given for a Service, as connection tracking would have it: the
//! datagrams of one exchange (QUIC, TFTP, a retried query) belong together.

use aya_ebpf::{bindings::BPF_TCP_ESTABLISHED, macros::cgroup_sock_addr, programs::SockAddrContext};
use balancer_common::{
    abi::{FrontendKey, PassReason, Phase, PickReason, UDP, UDP_FLOW_IDLE_NS, UDP_FLOWS as FLOWS, UdpFlow},
    addr::{Ip, PortBe},
    tables::Tables,
    translate::{self, Choice, Translation},
};

use crate::{
    PROCEED,
    account::{self, Failure},
    atomic,
    connect::{protocol, set_user_ip6, user_ip6},
    maps::{SERVICE_STATS, SOCKETS, UDP_FLOWS},
    tables::Maps,
};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let address = unsafe { Ip::from_v4_be((*ctx.sock_addr).user_ip4) };
    if let Some((addr, port)) = sendmsg(&ctx, address)
        && let Some(word) = addr.v4_be()
    {
        // SAFETY: these fields of the context may be written by this hook.
        unsafe {
            (*ctx.sock_addr).user_ip4 = word;
            (*ctx.sock_addr).user_port = port.to_user_port();
        }
    }
    PROCEED
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    if let Some((addr, port)) = sendmsg(&ctx, user_ip6(&ctx)) {
        set_user_ip6(&ctx, &addr, port);
    }
    PROCEED
}

/// Where the datagram goes; `None` to leave the address alone.
#[inline(always)]
fn sendmsg(ctx: &SockAddrContext, address: Ip) -> Option<(Ip, PortBe)> {
    // UDP-Lite comes here too.
    if protocol(ctx)? != UDP {
        return None;
    }
    // SAFETY: the kernel passes a valid context.
    let port = PortBe::from_user_port(unsafe { (*ctx.sock_addr).user_port });
    let frontend = FrontendKey::new(address, port, UDP);
    let tables = Maps(ctx);
    let service = tables.service_id(&frontend)?;

    // A connected socket that names the Service again talks to the backend that it is connected to: it
    // would not receive the answer of another.
    let socket = SOCKETS.get_ptr_mut(ctx);
    if !socket.is_null() {
        // SAFETY: the kernel passes a valid context, and a socket in it.
        if unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).state } != BPF_TCP_ESTABLISHED {
            // The application took it down, of which no hook is told.
            account::close_socket(socket, Failure::Aborted);
        }
        // SAFETY: the pointer is to socket storage and was found not to be null.
        let socket = unsafe { &*socket };
        if socket.phase == Phase::Established as u32 && socket.frontend.same(&frontend) {
            return Some((socket.target, socket.target_port));
        }
    }

    let flows = UDP_FLOWS.get_or_insert_ptr_mut(ctx, None);
    if flows.is_null() {
        account::passed(service, PassReason::NoSocketState);
        return None;
    }
    // SAFETY: the pointer is to socket storage and was found not to be null.
    let flows = unsafe { (&raw mut (*flows).flows).cast::<UdpFlow>() };
    if let Some(found) = resume(&tables, flows, service, &frontend) {
        return Some(found);
    }
    match translate::connect(&tables, &frontend) {
        Translation::Miss => None,
        Translation::PassThrough { service, reason } => {
            account::passed(service, reason);
            None
        }
        Translation::Rewrite(choice) => {
            begin(flows, &frontend, &choice);
            Some((choice.addr, choice.port))
        }
        Translation::Observe(choice) => {
            begin(flows, &frontend, &choice);
            account::passed(service, PassReason::Observed);
            None
        }
    }
}

/// Continues the socket's flow to this Service, if it has one whose backend may still be used.
/// One that may not be continued is closed, so that another takes its place.
#[inline(always)]
fn resume(
    tables: &Maps<'_>,
    flows: *mut UdpFlow,
    service: u32,
    frontend: &FrontendKey,
) -> Option<(Ip, PortBe)> {
    for index in 0..FLOWS {
        // SAFETY: the index is below the length of the array.
        let entry = unsafe { flows.add(index) };
        // SAFETY: an element of socket storage.
        let flow = unsafe { &*entry };
        if flow.phase != Phase::Established as u32 || flow.service != service || !flow.frontend.same(frontend)
        {
            continue;
        }
        let now_ns = tables.now_ns();
        if now_ns <= tables.lease_expires_ns()
            && !tables.is_excluded()
            && now_ns.saturating_sub(flow.used_ns) <= UDP_FLOW_IDLE_NS
            && let Some(choice) = translate::remembered(
                tables,
                service,
                flow.backend,
                flow.generation,
                PickReason::Algorithm,
                now_ns,
            )
        {
            // SAFETY: an element of socket storage; the word is written whole.
            unsafe { (&raw mut (*entry).used_ns).write_volatile(now_ns) };
            if let Translation::Rewrite(choice) | Translation::Observe(choice) =
                translate::aim(tables, frontend, choice)
            {
                return Some((choice.addr, choice.port));
            }
        }
        account::close_flow(entry);
    }
    None
}

/// Notes a new flow, in a free entry or in place of the one that was silent longest.
#[inline(always)]
fn begin(flows: *mut UdpFlow, frontend: &FrontendKey, choice: &Choice) {
    let mut place = 0;
    let mut oldest = u64::MAX;
    for index in 0..FLOWS {
        // SAFETY: the index is below the length of the array.
        let flow = unsafe { &*flows.add(index) };
        let age = if flow.phase == Phase::Closed as u32 { 0 } else { flow.used_ns };
        if age < oldest {
            oldest = age;
            place = index;
        }
    }
    // SAFETY: the mask keeps the index below the length, which is a power of two.
    let entry = unsafe { flows.add(place & (FLOWS - 1)) };
    if oldest != 0 {
        // SAFETY: an element of socket storage.
        if let Some(stats) = SERVICE_STATS.get_ptr_mut(unsafe { (*entry).service }) {
            // SAFETY: the verifier has bounded the pointer to the map value.
            atomic::add(unsafe { &raw mut (*stats).flow_evictions }, 1);
        }
        account::close_flow(entry);
    }
    // SAFETY: an element of socket storage.
    if !atomic::replace(unsafe { &raw mut (*entry).phase }, Phase::Closed as u32, Phase::Claimed as u32) {
        // Another thread took the entry. The datagram goes out; the answer may show the pod's address.
        return;
    }
    // SAFETY: an element of socket storage, which this thread has claimed.
    unsafe {
        (*entry).backend = choice.backend;
        (*entry).generation = choice.generation;
        (*entry).service = choice.service;
        (*entry).used_ns = choice.now_ns;
        (*entry).frontend.addr.0[0] = frontend.addr.0[0];
        (*entry).frontend.addr.0[1] = frontend.addr.0[1];
        (*entry).frontend.addr.0[2] = frontend.addr.0[2];
        (*entry).frontend.addr.0[3] = frontend.addr.0[3];
        (*entry).frontend.port = frontend.port;
        (*entry).frontend.protocol = frontend.protocol;
        (*entry).target.0[0] = choice.addr.0[0];
        (*entry).target.0[1] = choice.addr.0[1];
        (*entry).target.0[2] = choice.addr.0[2];
        (*entry).target.0[3] = choice.addr.0[3];
        (*entry).target_port = choice.port;
    }
    account::opened(choice, Phase::Established);
    // SAFETY: an element of socket storage.
    atomic::exchange(unsafe { &raw mut (*entry).phase }, Phase::Established as u32);
}

const _: () = assert!(FLOWS.is_power_of_two());
