//! The life of a TCP connection: established, failed, closed.
//!
//! The kernel calls this for every TCP socket of the cgroup when it connects and when its handshake
//! ends; for the rest of its life only where [`tcp`] asked, which it does for the sockets that were
//! translated and no others.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG,
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB, BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT,
        BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, BPF_TCP_SYN_SENT,
        bpf_sock_ops,
    },
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::sock_ops,
    programs::SockOpsContext,
};
use balancer_common::abi::{MARK_EXPIRED, MARK_PEER_FIN, MARK_SENT, Phase, SocketState};

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
const SEGMENT: u32 = BPF_SOCK_OPS_PARSE_HDR_OPT_CB;

/// The changes of state, and the retransmission timer.
const WATCHED: u32 = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;
/// Every segment that arrives.
const SEGMENTS: u32 = BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG;

/// The flag of the last segment.
const FIN: u32 = 1;
/// Length of a TCP header without options.
const HEADER: usize = 20;

#[sock_ops]
pub fn tcp(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        CONNECT | ESTABLISHED | STATE | TIMER | SEGMENT => event(&ctx),
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
    match ctx.op() {
        CONNECT => {
            mark(socket, MARK_SENT);
            watch(ctx, WATCHED);
        }
        ESTABLISHED => {
            // Again: another program of the cgroup may have set its own flags over ours.
            watch(ctx, WATCHED);
            established(socket);
        }
        STATE => match (ctx.arg(0), ctx.arg(1)) {
            (BPF_TCP_CLOSE, _) => {}
            (old, BPF_TCP_CLOSE) => closed(ctx, socket, old),
            // We said our last; the kernel tells of no state between the peer's last and the end.
            (_, BPF_TCP_FIN_WAIT1) => watch(ctx, WATCHED | SEGMENTS),
            _ => {}
        },
        SEGMENT => segment(ctx.ops, socket),
        // The third argument is set when the kernel gives up.
        _ => {
            if ctx.arg(2) != 0 {
                mark(socket, MARK_EXPIRED);
            }
        }
    }
}

/// The kernel holds the socket's lock whenever it calls.
#[inline(always)]
fn mark(socket: *mut SocketState, mark: u16) {
    // SAFETY: the pointer is to socket storage and was found not to be null.
    unsafe { (*socket).marks |= mark };
}

/// Asks for more events of this connection, beside whatever others asked for.
#[inline(always)]
fn watch(ctx: &SockOpsContext, flags: u32) {
    // Fails only for sockets that are not full ones, which these are.
    let _ = ctx.set_cb_flags((ctx.cb_flags() | flags) as i32);
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

/// A segment arrived after we said our last.
#[inline(always)]
fn segment(ops: *const bpf_sock_ops, socket: *mut SocketState) {
    // SAFETY: the kernel passes a valid context; these two bound the segment's TCP header.
    let (header, end) = unsafe {
        ((*ops).__bindgen_anon_3.skb_data.cast::<u8>(), (*ops).__bindgen_anon_4.skb_data_end.cast::<u8>())
    };
    // SAFETY: the kernel passes a valid context.
    if unsafe { (*ops).skb_tcp_flags } & FIN == 0 || header.wrapping_add(HEADER) > end {
        return;
    }
    // SAFETY: the header has been found to be there.
    let (sequence, length) = unsafe {
        (u32::from_be(header.add(4).cast::<u32>().read_unaligned()), u32::from(*header.add(12) >> 4) * 4)
    };
    // SAFETY: the kernel passes a valid context; the pointer is to socket storage and was found not to be null.
    unsafe { (*socket).peer_end = sequence.wrapping_add((*ops).skb_len - length).wrapping_add(1) };
    mark(socket, MARK_PEER_FIN);
}

/// The connection is over, in the state `old`.
#[inline(always)]
fn closed(ctx: &SockOpsContext, socket: *mut SocketState, old: u32) {
    // SAFETY: the pointer is to socket storage and was found not to be null.
    let (marks, backend, generation) = unsafe { ((*socket).marks, (*socket).backend, (*socket).generation) };
    let ops: *mut bpf_sock_ops = ctx.ops;
    if old == BPF_TCP_SYN_SENT {
        let failure = if marks & MARK_EXPIRED != 0 {
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
    account::close_socket(socket, Failure::Unreachable);
    account::totals(backend, generation, &totals(ops, socket, old));
}

/// What the connection moved. The kernel's counts include the sequence numbers that SYN and FIN take up.
#[inline(always)]
fn totals(ops: *const bpf_sock_ops, socket: *const SocketState, old: u32) -> Totals {
    // SAFETY: the kernel passes a valid context; the pointer is to socket storage and was found not to be null.
    unsafe {
        let fin_received = match old {
            BPF_TCP_CLOSE_WAIT | BPF_TCP_LAST_ACK | BPF_TCP_CLOSING => true,
            // Either the peer's FIN arrived, whole, or there was a reset, or nobody waits for it any more.
            BPF_TCP_FIN_WAIT2 => (*socket).marks & MARK_PEER_FIN != 0 && (*socket).peer_end == (*ops).rcv_nxt,
            _ => false,
        };
        let fin_acked = match old {
            BPF_TCP_FIN_WAIT2 => true,
            // Acknowledged, or else reset or given up.
            BPF_TCP_LAST_ACK | BPF_TCP_CLOSING => (*ops).snd_una == (*ops).snd_nxt,
            _ => false,
        };
        Totals {
            bytes_in: (*ops).bytes_received.saturating_sub(fin_received as u64),
            bytes_out: (*ops).bytes_acked.saturating_sub(1 + fin_acked as u64),
            retransmits: (*ops).total_retrans as u64,
        }
    }
}
