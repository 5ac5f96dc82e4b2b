//! connect(): TCP, and UDP sockets that are connected.

use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid, macros::cgroup_sock_addr, programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use balancer_common::{
    abi::{FrontendKey, MARK_OBSERVED, MPTCP, PassReason, Phase, TCP, UDP},
    addr::{Ip, PortBe},
    translate::{self, Choice, Translation},
};

use crate::{PROCEED, account, atomic, maps::SOCKETS, tables::Maps};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let address = unsafe { Ip::from_v4_be((*ctx.sock_addr).user_ip4) };
    if let Some(choice) = connect(&ctx, address)
        && let Some(word) = choice.addr.v4_be()
    {
        // SAFETY: these fields of the context may be written by this hook.
        unsafe {
            (*ctx.sock_addr).user_ip4 = word;
            (*ctx.sock_addr).user_port = choice.port.to_user_port();
        }
    }
    PROCEED
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    if let Some(choice) = connect(&ctx, user_ip6(&ctx)) {
        set_user_ip6(&ctx, &choice.addr, choice.port);
    }
    PROCEED
}

/// The address that an `AF_INET6` socket dials; IPv4 if it is v4-mapped.
#[inline(always)]
pub fn user_ip6(ctx: &SockAddrContext) -> Ip {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel passes a valid context. Word by word: the verifier allows nothing wider.
    unsafe { Ip([(*addr).user_ip6[0], (*addr).user_ip6[1], (*addr).user_ip6[2], (*addr).user_ip6[3]]) }
}

/// Replaces the address of an `AF_INET6` socket; IPv4 in its v4-mapped form.
#[inline(always)]
pub fn set_user_ip6(ctx: &SockAddrContext, ip: &Ip, port: PortBe) {
    let addr = ctx.sock_addr;
    // SAFETY: these fields of the context may be written by the hooks that call this.
    unsafe {
        (*addr).user_ip6[0] = ip.0[0];
        (*addr).user_ip6[1] = ip.0[1];
        (*addr).user_ip6[2] = ip.0[2];
        (*addr).user_ip6[3] = ip.0[3];
        (*addr).user_port = port.to_user_port();
    }
}

/// The protocol by which a Service is looked up; `None` for one that is not balanced.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: the kernel passes a valid context.
    match unsafe { (*ctx.sock_addr).protocol } {
        // What a multipath socket dials with is a subflow, which is a TCP socket. A kernel that shows the
        // multipath socket itself hides its handshake: it is then counted as established at once.
        6 | MPTCP => Some(TCP),
        17 => Some(UDP),
        _ => None,
    }
}

/// Decides, records and counts. `None`: leave the address alone.
#[inline(always)]
fn connect(ctx: &SockAddrContext, address: Ip) -> Option<Choice> {
    let protocol = protocol(ctx)?;
    // SAFETY: the kernel passes a valid context.
    let port = PortBe::from_user_port(unsafe { (*ctx.sock_addr).user_port });
    let frontend = FrontendKey::new(address, port, protocol);
    match translate::connect(&Maps(ctx), &frontend) {
        Translation::Miss => {
            forget(ctx);
            None
        }
        Translation::PassThrough { service, reason } => {
            forget(ctx);
            account::passed(service, reason);
            None
        }
        Translation::Rewrite(choice) => record(ctx, &frontend, choice, 0),
        Translation::Observe(choice) => {
            if record(ctx, &frontend, choice, MARK_OBSERVED).is_some() {
                account::passed(choice.service, PassReason::Observed);
            }
            None
        }
    }
}

/// A socket that is connected anew, elsewhere: what it held before is over.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    let socket = SOCKETS.get_ptr_mut(ctx);
    if !socket.is_null() {
        account::close_socket(socket, account::abandoned(socket));
        // What follows is not the balancer's: its bytes are no backend's (0 is nobody's generation), and
        // its peer is nobody's target.
        // SAFETY: the pointer is to socket storage and was found not to be null.
        unsafe {
            // An exchange, because the compiler would merge a store with one to the context, at the same
            // offset, which the verifier does not allow.
            atomic::exchange(&raw mut (*socket).generation, 0);
            (*socket).target_port = PortBe(0);
        }
    }
}

#[inline(always)]
fn record(ctx: &SockAddrContext, frontend: &FrontendKey, choice: Choice, marks: u16) -> Option<Choice> {
    let socket = SOCKETS.get_or_insert_ptr_mut(ctx, None);
    if socket.is_null() {
        // Counted, and not a warning: whoever fills up his sockets' memory must not fill the agent's log.
        debug!(ctx, "no memory for a socket's state: connect to service {} passed through", choice.service);
        account::passed(choice.service, PassReason::NoSocketState);
        return None;
    }
    // A connection that this socket held before is over: it failed, or the application took it down.
    account::close_socket(socket, account::abandoned(socket));
    // SAFETY: the kernel passes a valid context.
    let phase = match unsafe { (*ctx.sock_addr).protocol } {
        6 => Phase::Connecting,
        _ => Phase::Established,
    };
    // SAFETY: the pointer is to socket storage and was found not to be null. Field by field: a whole
    // struct could become a byte loop.
    unsafe {
        (*socket).backend = choice.backend;
        (*socket).generation = choice.generation;
        (*socket).service = choice.service;
        (*socket).opened_ns = choice.now_ns;
        (*socket).established_ns = if matches!(phase, Phase::Established) { choice.now_ns } else { 0 };
        (*socket).frontend.addr.0[0] = frontend.addr.0[0];
        (*socket).frontend.addr.0[1] = frontend.addr.0[1];
        (*socket).frontend.addr.0[2] = frontend.addr.0[2];
        (*socket).frontend.addr.0[3] = frontend.addr.0[3];
        (*socket).frontend.port = frontend.port;
        (*socket).frontend.protocol = frontend.protocol;
        (*socket).target.0[0] = choice.addr.0[0];
        (*socket).target.0[1] = choice.addr.0[1];
        (*socket).target.0[2] = choice.addr.0[2];
        (*socket).target.0[3] = choice.addr.0[3];
        (*socket).target_port = choice.port;
        (*socket).marks = marks;
        (*socket).sent = 0;
        (*socket).received = 0;
        (*socket).turns = 0;
        (*socket).tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (&raw mut (*socket).phase).write_volatile(phase as u32);
    }
    account::opened(&choice, phase);
    debug!(ctx, "connect to service {} sent to backend {}", choice.service, choice.backend);
    Some(choice)
}
