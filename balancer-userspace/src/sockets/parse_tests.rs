//! On what Linux 6.18 answered about a dual-stack TCP socket that had sent "hello, server", received "hi"
//! and carried a value in an sk_storage map (three words longer by now, which are added); and on everything that this can be broken into.

use balancer_common::abi::{Phase, SocketState};
use proptest::prelude::*;

use super::*;

/// The datagram with the socket, request number 7.
const SOCKET: &str = "\
    140200001400020007000000d53900000a0100009cbb138800000000000000000000ffff7f0000010000000000000000\
    0000ffff7f00000100000000355e000000000000000000000000000000000000000000000ad801000500080000000000\
    08000f00000000000c001500010000000000000006001600120000001c010200010000000007aa01e01c0300409c0000\
    0080000018020000000000000000000000000000000000000000000030000000000000003000000030000000ffff0000\
    d7ff0000190000000e000000ffffff7f0b000000cbff00000300000000000000d7ff0000000000005010d6c707000000\
    ffffffffffffffff0e000000000000000200000000000000040000000300000000000000060000000100000001000000\
    555585450100000000000000000000000000000000000000000000000000000002000000000000000d00000000000000\
    000000000000000000000000000000000000000000000100000001000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000007c0014807800018008000200db0000006c00030002000000\
    11000000030000000500000000ca9a3b0000000040d79d3b0000000000000000000000000000ffff0a60000a00500600\
    00000000000000000000ffff7f000001138800009210000000000000\
    000000000000000000000000000000000000000000000000";

/// The datagram that ends the dump.
const END: &str = "140000000300020007000000d539000000000000";

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn parse(datagram_bytes: &[u8], sequence: u32) -> Result<(Vec<RawSocket>, Progress), SocketsError> {
    let mut sockets = Vec::new();
    let progress = datagram(datagram_bytes, sequence, |socket| sockets.push(socket))?;
    Ok((sockets, progress))
}

#[test]
fn a_captured_socket_is_read_in_full() {
    let (sockets, progress) = parse(&bytes(SOCKET), 7).unwrap();
    assert_eq!(progress, Progress::default());
    let [socket] = sockets.as_slice() else { panic!("{sockets:?}") };
    assert_eq!(socket.state, 1);
    assert_eq!(socket.local, "127.0.0.1:40123".parse().unwrap(), "v4-mapped is shown as IPv4");
    assert_eq!(socket.remote, "127.0.0.1:5000".parse().unwrap());
    assert_eq!((socket.cookie, socket.inode, socket.cgroup_id), (0x5e35, 0x1d80a, Some(1)));
    assert_eq!((socket.receive_queue, socket.send_queue, socket.uid), (0, 0, 0));

    let info = socket.tcp_info.unwrap();
    assert_eq!((info.bytes_sent, info.bytes_received, info.last_data_sent), (13, 2, 48));
    assert_eq!((info.data_segs_out, info.data_segs_in, info.rtt), (1, 1, 25));

    let [storage] = socket.storages.as_slice() else { panic!("{:?}", socket.storages) };
    assert_eq!(storage.map_id, 0xdb);
    let state: SocketState = bytemuck::try_pod_read_unaligned(&storage.value).unwrap();
    assert_eq!(state.phase, Phase::Established as u32);
    assert_eq!((state.backend, state.generation, state.service, state.tgid), (17, 3, 5, 4242));
    assert_eq!((state.frontend.port.to_host(), state.target_port.to_host()), (80, 5000));
}

#[test]
fn the_end_of_a_dump_and_its_errors_are_told_apart() {
    let end = bytes(END);
    let done = Progress { done: true, ..Default::default() };
    assert_eq!(parse(&end, 7).unwrap().1, done);

    // NLMSG_DONE and NLMSG_ERROR carry a negative error number.
    for kind in [3, 2] {
        let mut refused = end.clone();
        refused[4] = kind;
        refused[16..].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(parse(&refused, 7).unwrap().1, Progress { errno: Some(libc::EPERM), ..done });
    }

    let mut interrupted = end;
    interrupted[6] |= 0x10;
    assert_eq!(parse(&interrupted, 7).unwrap().1, Progress { interrupted: true, ..done });
}

#[test]
fn the_answer_to_an_earlier_request_is_passed_over() {
    let both = [bytes(SOCKET), bytes(END)].concat();
    assert_eq!(parse(&both, 8).unwrap(), (vec![], Progress::default()));
    let (sockets, progress) = parse(&both, 7).unwrap();
    assert_eq!((sockets.len(), progress.done), (1, true));
}

#[test]
fn an_answer_that_is_cut_short_is_an_error() {
    let whole = bytes(SOCKET);
    for length in 1..whole.len() {
        assert!(parse(&whole[..length], 7).is_err(), "{length} bytes");
    }
    assert!(parse(&[], 7).unwrap().0.is_empty());
}

#[test]
fn a_message_or_attribute_that_overruns_its_container_is_an_error() {
    for at in [16 + 72, 16 + 72 + 8 + 8 + 12 + 8 + 284] {
        let mut broken = bytes(SOCKET);
        broken[at] = 0xff;
        broken[at + 1] = 0xff;
        assert!(parse(&broken, 7).is_err(), "attribute at {at}");
    }
    let mut short = bytes(SOCKET);
    short[0..4].copy_from_slice(&80_u32.to_ne_bytes());
    assert!(parse(&short[..80], 7).is_err(), "a message shorter than what describes a socket");
}

proptest! {
    #[test]
    fn any_bytes_are_answered(garbage: Vec<u8>, sequence: u32) {
        let _ = parse(&garbage, sequence);
    }

    #[test]
    fn any_damage_is_answered(damage in prop::collection::vec((0_usize..508, any::<u8>()), 1..8)) {
        let mut datagram = bytes(SOCKET);
        for (at, byte) in damage {
            datagram[at] = byte;
        }
        let _ = parse(&datagram, 7);
    }
}
