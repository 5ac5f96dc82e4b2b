//! The life of a TCP connection: established, failed, closed.
//!
//! The kernel calls this for every TCP socket of the cgroup when it connects and when its handshake
//! ends; for the rest of its life only where [`tcp`] asked, which it does for the sockets that were
//! translated and no others. Where a Service's connections may be moved, that includes every
//! segment that the client sends: from these it is known whether what was sent is answered.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB,
        BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG, BPF_SOCK_OPS_PARSE_HDR_OPT_CB, BPF_SOCK_OPS_RTO_CB,
        BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT,
        BPF_TCP_CLOSING, BPF_TCP_ESTABLISHED, BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK,
        BPF_TCP_SYN_SENT, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_boot_ns},
    macros::sock_ops,
    programs::SockOpsContext,
};
use balancer_common::{
    abi::{
        MARK_EXPIRED, MARK_OBSERVED, MARK_PEER_FIN, MARK_SENT, MARK_SUSPECT, MARK_TRACKED, OfferOutcome,
        Phase, SERVICE_TRACKED, SocketState,
    },
    health,
};

use crate::{
    PROCEED,
    account::{self, Failure, Totals},
    atomic,
    maps::{OFFERS, SERVICES, SOCKETS, stored},
};

const CONNECT: u32 = BPF_SOCK_OPS_TCP_CONNECT_CB;
const ESTABLISHED: u32 = BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB;
const STATE: u32 = BPF_SOCK_OPS_STATE_CB;
const TIMER: u32 = BPF_SOCK_OPS_RTO_CB;
const SENDING: u32 = BPF_SOCK_OPS_HDR_OPT_LEN_CB;
const SEGMENT: u32 = BPF_SOCK_OPS_PARSE_HDR_OPT_CB;

/// The changes of state, and the retransmission timer.
const WATCHED: u32 = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;
/// Every segment that is sent: the kernel asks whether it shall have options of ours, which it never does.
const SENDS: u32 = BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
/// Every segment that arrives.
const SEGMENTS: u32 = BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG;

/// The flag of the last segment.
const FIN: u32 = 1;
/// Length of a TCP header without options.
const HEADER: usize = 20;

/// How long an application must have waited in vain for it to count that it gave up, in nanoseconds: many do so within the
/// second that the kernel takes to send again, and no handshake between pods takes so long.
const SILENCE_NS: u64 = 200_000_000;

#[sock_ops]
pub fn tcp(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        CONNECT | ESTABLISHED | STATE | TIMER | SENDING | SEGMENT => event(&ctx),
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
            watch(ctx, if track(socket) { WATCHED | SENDS } else { WATCHED });
            established(socket);
        }
        SENDING => sending(ctx, socket),
        STATE => {
            let (old, new) = (ctx.arg(0), ctx.arg(1));
            if old == BPF_TCP_ESTABLISHED {
                ending(ctx, socket, new);
            }
            match (old, new) {
                (BPF_TCP_CLOSE, _) => {}
                (_, BPF_TCP_CLOSE) => closed(ctx, socket, old),
                // We said our last; the kernel tells of no state between the peer's last and the end.
                (_, BPF_TCP_FIN_WAIT1) => watch(ctx, WATCHED | SEGMENTS),
                _ => {}
            }
        }
        SEGMENT => segment(ctx.ops, socket),
        _ => timer(ctx, socket),
    }
}

/// The retransmission timer went off. In the handshake the backend is slow at best.
#[inline(always)]
fn timer(ctx: &SockOpsContext, socket: *mut SocketState) {
    // The third argument is set when the kernel gives up.
    if ctx.arg(2) != 0 {
        mark(socket, MARK_EXPIRED);
    }
    // SAFETY: the pointer is to socket storage and was found not to be null.
    let (marks, backend, phase) = unsafe { ((*socket).marks, (*socket).backend, (*socket).phase) };
    if phase == Phase::Connecting as u32 && marks & (MARK_SUSPECT | MARK_OBSERVED) == 0 {
        mark(socket, MARK_SUSPECT);
        // SAFETY: the kernel passes a valid context.
        account::slow(backend, unsafe { bpf_get_netns_cookie(ctx.ops.cast()) });
    }
}

/// Whether it is followed what this connection carries, which it is from now on if its Service asks for it.
#[inline(always)]
fn track(socket: *mut SocketState) -> bool {
    // SAFETY: the pointer is to socket storage and was found not to be null.
    let (service, marks) = unsafe { ((*socket).service, (*socket).marks) };
    let asked = SERVICES.get(service).is_some_and(|service| service.flags & SERVICE_TRACKED != 0);
    if asked && marks & MARK_OBSERVED == 0 {
        mark(socket, MARK_TRACKED);
        true
    } else {
        false
    }
}

/// A segment is about to be sent, or its size is being worked out.
///
/// What has been received by then the client may know of; an answer to what it sends now comes later. So what
/// was sent last is answered if more has been received than is noted here: that needs no clock.
#[inline(always)]
fn sending(ctx: &SockOpsContext, socket: *mut SocketState) {
    // SAFETY: the kernel passes a valid context. Without a segment its length reads as 0.
    let payload = unsafe { (*ctx.ops).skb_len };
    if payload == 0 {
        return;
    }
    // SAFETY: the kernel passes a valid context; the pointer is to socket storage and was found not to be null.
    unsafe {
        let received = (*ctx.ops).bytes_received;
        if (*socket).received != received {
            (*socket).turns = (*socket).turns.wrapping_add(1);
            (*socket).received = received;
        }
        // Of what is sent again this is too much: then it is not known to be answered before something new is sent.
        let on_its_way = (*ctx.ops).snd_nxt.wrapping_sub((*ctx.ops).snd_una);
        (*socket).sent = (*ctx.ops).bytes_acked + u64::from(on_its_way) + u64::from(payload);
    }
    resolve(ctx, OfferOutcome::Sent, 0);
}

/// One side has said its last. What the other says after that is no word of an open connection; and a peer that
/// ends what is idle, as servers do after a while, says nothing.
#[inline(always)]
fn ending(ctx: &SockOpsContext, socket: *mut SocketState, new: u32) {
    // SAFETY: the pointer is to socket storage and was found not to be null.
    if unsafe { (*socket).marks } & MARK_TRACKED != 0 {
        // The peer's FIN is counted as received.
        resolve(ctx, OfferOutcome::Closed, (new == BPF_TCP_CLOSE_WAIT) as u64);
    }
}

/// If this connection was offered to be moved: what came next. Once. `fin` is what was received since that is no payload.
#[inline(always)]
fn resolve(ctx: &SockOpsContext, outcome: OfferOutcome, fin: u64) {
    // SAFETY: the kernel passes a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    let Some(offer) = OFFERS.get_ptr_mut(&cookie) else { return };
    // SAFETY: the pointer is to a map value and not null; the kernel passes a valid context.
    unsafe {
        if (*offer).outcome != OfferOutcome::Pending as u32 {
            return;
        }
        // More than there was: the server spoke, and nobody had asked.
        let spoke = (*ctx.ops).bytes_received != (*offer).received + fin;
        let outcome = if spoke { OfferOutcome::Received } else { outcome };
        (*offer).resolved_ns = bpf_ktime_get_boot_ns();
        (&raw mut (*offer).outcome).write_volatile(outcome as u32);
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
        // What the application gave up is closed by now.
        let open = account::close_socket(socket, failure);
        if marks & (MARK_SUSPECT | MARK_OBSERVED) == 0 && marks & MARK_SENT != 0 {
            // SAFETY: no arguments; the pointer is to socket storage and was found not to be null.
            let waited_ns = unsafe { bpf_ktime_get_boot_ns().saturating_sub((*socket).opened_ns) };
            if open && matches!(failure, Failure::Refused) {
                account::failed(backend, health::Failure::Refused);
            } else if open || waited_ns >= SILENCE_NS {
                // It may be this client alone who is not answered, or who disconnects its sockets.
                // SAFETY: the kernel passes a valid context.
                account::slow(backend, unsafe { bpf_get_netns_cookie(ops.cast()) });
            }
        }
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
