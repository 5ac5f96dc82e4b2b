//! The life of a TCP connection: established, failed, closed.
//!
//! The kernel calls this for every TCP socket of the cgroup when it connects and when its handshake
//! ends; for the rest of its life only where [`tcp`] asked, which it does for the sockets that were
//! translated and no others.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
        BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, BPF_TCP_SYN_SENT,
        bpf_sock_ops,
    },
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::sock_ops,
    programs::SockOpsContext,
};
use balancer_common::{
    abi::{Phase, SocketState},
    addr::PortBe,
};

use crate::{
    PROCEED,
    account::{self, Failure, Totals},
    atomic,
    maps::{SOCKETS, stored},
};

const CONNECT: u32 = BPF_SOCK_OPS_TCP_CONNECT_CB;
const ESTABLISHED: u32 = BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB;
const STATE: u32 = BPF_SOCK_OPS_STATE_CB;
const TIMER: u32 = BPF_SOCK_OPS_RTO_CB;

#[sock_ops]
pub fn tcp(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        CONNECT | ESTABLISHED | STATE | TIMER => event(&ctx),
        _ => {}
    }
    PROCEED as u32
}

#[inline(always)]
fn event(ctx: &SockOpsContext) {
    // SAFETY: the kernel passes a valid context.
    let sock = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sock.is_null() {
        return;
    }
    // SAFETY: the kernel passes a valid socket, which is not null.
    let socket = unsafe { stored(&SOCKETS, sock) };
    if socket.is_null() {
        return;
    }
    // SAFETY: the pointer is to socket storage and was found not to be null.
    if unsafe { (*socket).target_port } == PortBe(0) {
        // What was translated is over, and the socket is connected elsewhere by now.
        return;
    }
    match ctx.op() {
        CONNECT => watch(ctx),
        ESTABLISHED => {
            // Again: another program of the cgroup may have set its own flags over ours.
            watch(ctx);
            established(socket);
        }
        STATE => {
            let (old, new) = (ctx.arg(0), ctx.arg(1));
            if new == BPF_TCP_CLOSE && old != BPF_TCP_CLOSE {
                closed(ctx, socket, old);
            } else if new == BPF_TCP_FIN_WAIT2 {
                // SAFETY: as above, and the kernel passes a valid context.
                unsafe { (*socket).received_mark = (*ctx.ops).bytes_received as u32 };
            }
        }
        // The third argument is set when the kernel gives up.
        _ => {
            if ctx.arg(2) != 0 {
                // SAFETY: the pointer is to socket storage and was found not to be null.
                unsafe { (*socket).expired = 1 };
            }
        }
    }
}

/// Asks for the changes of state and the retransmission timer of this connection, beside whatever others
/// asked for.
#[inline(always)]
fn watch(ctx: &SockOpsContext) {
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;
    // Fails only for sockets that are not full ones, which these are.
    let _ = ctx.set_cb_flags(flags as i32);
}

#[inline(always)]
fn established(socket: *mut SocketState) {
    // SAFETY: the pointer is to socket storage and was found not to be null.
    unsafe {
        if !atomic::replace(&raw mut (*socket).phase, Phase::Connecting as u32, Phase::Established as u32) {
            return;
        }
        let now_ns = bpf_ktime_get_boot_ns();
        (*socket).established_ns = now_ns;
        account::established((*socket).backend, now_ns.saturating_sub((*socket).opened_ns));
    }
}

/// The connection is over, in the state `old`.
#[inline(always)]
fn closed(ctx: &SockOpsContext, socket: *mut SocketState, old: u32) {
    // SAFETY: the pointer is to socket storage and was found not to be null.
    let (expired, backend, generation, mark) = unsafe {
        ((*socket).expired, (*socket).backend, (*socket).generation, (*socket).received_mark)
    };
    let ops: *mut bpf_sock_ops = ctx.ops;
    if old == BPF_TCP_SYN_SENT {
        let failure = if expired != 0 {
            Failure::TimedOut
        // SAFETY: the kernel passes a valid context.
        } else if unsafe { (*ops).segs_in } != 0 {
            // The only segment that ends a connection in this state is a reset.
            Failure::Refused
        } else {
            Failure::Unreachable
        };
        account::close_socket(socket, failure);
        return;
    }
    let released = account::close_socket(socket, Failure::Unreachable) == Phase::Closed as u32;
    account::totals(backend, generation, &totals(ops, old, mark, released));
}

/// What the connection moved. The kernel's counts include the sequence numbers that SYN and FIN take up.
///
/// The socket ends where TIME-WAIT begins, in the state that it was in before. In FIN-WAIT-2 that may be
/// for the peer's FIN, which was received, or because the application has closed it and nothing but a FIN
/// is to come, which has not. `mark` is what had been received when that state began: a socket that is
/// still held ends there after data and a FIN, one that is not may receive a FIN alone.
#[inline(always)]
fn totals(ops: *mut bpf_sock_ops, old: u32, mark: u32, released: bool) -> Totals {
    // SAFETY: the kernel passes a valid context.
    let (received, acked, unacked) =
        unsafe { ((*ops).bytes_received, (*ops).bytes_acked, (*ops).snd_una != (*ops).snd_nxt) };
    let since_mark = (received as u32).wrapping_sub(mark);
    let fin_received = match old {
        BPF_TCP_CLOSE_WAIT | BPF_TCP_LAST_ACK | BPF_TCP_CLOSING => true,
        BPF_TCP_FIN_WAIT2 if released => since_mark == 1,
        BPF_TCP_FIN_WAIT2 => since_mark != 0,
        _ => false,
    };
    let fin_acked = match old {
        BPF_TCP_FIN_WAIT2 => true,
        BPF_TCP_LAST_ACK | BPF_TCP_CLOSING => !unacked,
        _ => false,
    };
    Totals {
        bytes_in: received.saturating_sub(fin_received as u64),
        bytes_out: acked.saturating_sub(1 + fin_acked as u64),
        // SAFETY: the kernel passes a valid context.
        retransmits: unsafe { (*ops).total_retrans } as u64,
    }
}
