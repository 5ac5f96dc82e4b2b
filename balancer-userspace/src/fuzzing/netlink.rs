//! What the kernel answers to sock_diag, down to whether a connection may be moved.

use std::time::Duration;

use balancer_common::abi::{SocketState, UdpFlow};

use crate::{
    lifecycle::{gate, hold, moving},
    sockets::{self, LiveSocket, TcpState},
};

/// A datagram, read as the answer to request 7; and the same bytes as the output of the iterators over socket storage.
///
/// # Panics
///
/// If more comes out than is in it, or a socket that says too little passes the gate.
pub fn netlink(data: &[u8]) {
    const SMALLEST: usize = 16 + 72;
    for sequence in [7, u32::MAX] {
        if let Ok(found) = sockets::read_answer(data, sequence, 1 << 40) {
            assert!(found.len() <= data.len() / SMALLEST);
            found.iter().for_each(check);
        }
    }
    let found = sockets::read_walk(data, 1 << 40);
    // The same bytes are read as two kinds of record.
    assert!(
        found.len() <= data.len() / (8 + size_of::<SocketState>()) + data.len() / (8 + size_of::<UdpFlow>())
    );
    for socket in &found {
        assert!(hold::listed(socket).is_none(), "UDP is never moved");
        describe(socket);
    }
}

fn check(socket: &LiveSocket) {
    describe(socket);
    let Some(evidence) = hold::listed(socket) else { return };
    let quiet = Duration::from_millis(50);
    let demand = gate::Demand { quiet, min_age: Duration::ZERO };
    assert!(gate::same(&evidence, &evidence));
    if gate::judge(&evidence, &demand).is_ok() {
        assert_eq!(socket.status, sockets::SocketStatus::Tcp(TcpState::Established));
        assert!(socket.is_open() && socket.idle.is_some_and(|idle| idle >= quiet));
        assert!(evidence.tcp.bytes_received > evidence.state.received);
    }
}

fn describe(socket: &LiveSocket) {
    let text = moving::describe(socket);
    assert!(text.len() < 200 && !text.contains(char::is_control), "{text:?}");
    let _ = (socket.backend(), socket.service(), socket.frontend(), socket.tgid());
}
