//! The last reference to a socket goes away: close(), or the end of the last process that held it.
//!
//! The only end that UDP has. For TCP it comes before or after the change of state, whichever; the first
//! of the two counts.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use balancer_common::abi::{UDP_FLOWS as FLOWS, UdpFlow};

use crate::{
    PROCEED, account,
    maps::{SOCKETS, UDP_FLOWS, stored},
};

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    let sock = ctx.sock;
    // SAFETY: the kernel passes a valid socket.
    let (socket, flows) = unsafe { (stored(&SOCKETS, sock), stored(&UDP_FLOWS, sock)) };
    if !socket.is_null() {
        account::close_socket(socket, account::abandoned(socket));
    }
    if !flows.is_null() {
        // SAFETY: the pointer is to socket storage and was found not to be null.
        let flows = unsafe { (&raw mut (*flows).flows).cast::<UdpFlow>() };
        for index in 0..FLOWS {
            // SAFETY: the index is below the length of the array.
            account::close_flow(unsafe { flows.add(index) });
        }
    }
    PROCEED
}
