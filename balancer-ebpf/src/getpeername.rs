//! getpeername(): the application sees the address that it dialled.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use balancer_common::{
    abi::{FrontendKey, SocketState},
    addr::{Ip, PortBe},
};

use crate::{
    PROCEED,
    connect::{set_user_ip6, user_ip6},
    maps::SOCKETS,
};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let (peer, port) = unsafe {
        (Ip::from_v4_be((*ctx.sock_addr).user_ip4), PortBe::from_user_port((*ctx.sock_addr).user_port))
    };
    if let Some(frontend) = dialled(SOCKETS.get_ptr_mut(&ctx), peer, port)
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

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let port = PortBe::from_user_port(unsafe { (*ctx.sock_addr).user_port });
    if let Some(frontend) = dialled(SOCKETS.get_ptr_mut(&ctx), user_ip6(&ctx), port) {
        set_user_ip6(&ctx, &frontend.addr, frontend.port);
    }
    PROCEED
}

/// What a connected socket dialled to be connected to `peer`; `None` if that is not where we sent it.
#[inline(always)]
pub fn dialled(socket: *mut SocketState, peer: Ip, port: PortBe) -> Option<FrontendKey> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: the pointer is to socket storage and was found not to be null.
    let socket = unsafe { &*socket };
    if socket.target_port.0 == port.0 && socket.target.same(&peer) { Some(socket.frontend) } else { None }
}
