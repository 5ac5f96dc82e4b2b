//! Reading every value of an sk_storage map, with the cookie of the socket that it belongs to.
//!
//! sock_diag leaves storage out of its answers about UDP sockets: `inet_sk_diag_fill` skips to its end for
//! a socket that is not connection-oriented. The kernel's other way to read an sk_storage map is a BPF
//! iterator over it (Linux 5.9): a program that the kernel runs once per value, and whose output is read
//! from a file. The program is a few instructions, built here, so that reading does not depend on an agent
//! that runs, or on which one last did. It has no map, nothing is attached, and it is gone when the file is
//! closed.
//!
//! A walk sees the whole map: sockets of every network namespace, also of those that cannot be found.
//!
//! The program, in C (`value` is `sk`'s value in the map; a record is one window of it):
//!
//! ```c
//! int walk(struct bpf_iter__bpf_sk_storage_map *ctx) {
//!     if (!ctx->sk || !ctx->value) return 0;   // the end of the walk
//!     u64 cookie = bpf_get_socket_cookie(ctx->sk);
//!     for (each window)                        // unrolled
//!         if (value[window.test] matches) {
//!             bpf_seq_write(ctx->meta->seq, &cookie, 8);
//!             bpf_seq_write(ctx->meta->seq, value + window.offset, window.length);
//!         }
//!     return 0;
//! }
//! ```

use std::{
    fs::File,
    io::{self, Read},
    mem::offset_of,
    os::fd::{AsFd, BorrowedFd},
};

use balancer_common::abi::{FrontendKey, Phase, SocketState, UDP, UDP_FLOWS, UdpFlow, UdpFlows};
use bytemuck::Pod;

use super::SocketsError;
use crate::datapath::{
    assembler::{
        EQUAL, EXIT, Instruction,
        Load::{Width8, Width32, Width64},
        NOT_EQUAL, SEQ_WRITE, add, call, copy, jump, load, set, store,
    },
    iterator, vmlinux,
};

/// The kernel function whose BTF id stands for this kind of iterator.
const TARGET: &str = "bpf_iter_bpf_sk_storage_map";

/// `BPF_FUNC_get_socket_cookie`.
const GET_SOCKET_COOKIE: i32 = 46;

/// Offsets in `struct bpf_iter__bpf_sk_storage_map` (`net/core/bpf_sk_storage.c`).
const CTX_META: i16 = 0;
const CTX_SK: i16 = 16;
const CTX_VALUE: i16 = 24;

/// One value, or part of one, and the socket that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<T> {
    /// The socket's cookie.
    pub cookie: u64,
    /// What the socket carries.
    pub value: T,
}

/// The values of connected UDP sockets in the `SOCKETS` map.
pub(super) fn udp_sockets(map: BorrowedFd<'_>) -> Result<Vec<Record<SocketState>>, SocketsError> {
    let protocol = offset_of!(SocketState, frontend) + offset_of!(FrontendKey, protocol);
    let window = Window {
        offset: 0,
        length: size_of::<SocketState>(),
        test: protocol,
        width: Width::Byte,
        accept: &[UDP as i32],
    };
    walk(map, &program(&[window]))
}

/// The open flows of unconnected UDP sockets in the `UDP_FLOWS` map.
pub(super) fn udp_flows(map: BorrowedFd<'_>) -> Result<Vec<Record<UdpFlow>>, SocketsError> {
    let windows: [Window; UDP_FLOWS] = std::array::from_fn(|index| {
        let offset = offset_of!(UdpFlows, flows) + index * size_of::<UdpFlow>();
        Window {
            offset,
            length: size_of::<UdpFlow>(),
            test: offset + offset_of!(UdpFlow, phase),
            width: Width::Word,
            accept: &[Phase::Connecting as i32, Phase::Established as i32],
        }
    });
    walk(map, &program(&windows))
}

/// Runs a program over a map and collects what it writes.
fn walk<T: Pod>(map: BorrowedFd<'_>, program: &[Instruction]) -> Result<Vec<Record<T>>, SocketsError> {
    let failed = |step| move |source| SocketsError::Iterator { step, source };
    let target = vmlinux::function_id(TARGET)
        .map_err(|problem| SocketsError::KernelTypes { path: vmlinux::PATH.into(), problem })?;
    let program = iterator::load(program, c"Dual MIT/GPL", target)
        .map_err(failed("the kernel does not load the program that reads socket storage"))?;
    let link = iterator::link(program.as_fd(), map)
        .map_err(failed("the kernel does not walk the map of socket storage"))?;
    let file = iterator::start(link.as_fd())
        .map_err(failed("the kernel does not begin to walk the map of socket storage"))?;
    let mut bytes = Vec::new();
    read_to_end(File::from(file), &mut bytes).map_err(failed("reading socket storage broke off"))?;
    Ok(records(&bytes))
}

/// Reads until a read returns nothing. `Read::read_to_end` would do if the kernel filled the buffer, but
/// its small probing reads each cost a search for the place in the map.
fn read_to_end(mut file: File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Splits what the program wrote; a piece that is no whole record is dropped.
pub(super) fn records<T: Pod>(bytes: &[u8]) -> Vec<Record<T>> {
    let record = |bytes: &[u8]| {
        let (cookie, value) = bytes.split_first_chunk()?;
        Some(Record {
            cookie: u64::from_ne_bytes(*cookie),
            value: bytemuck::try_pod_read_unaligned(value).ok()?,
        })
    };
    let length = size_of::<u64>() + size_of::<T>();
    bytes.chunks_exact(length).filter_map(record).collect()
}

/// A part of a value, and the test on the value that decides whether it is written.
struct Window {
    /// Where the part begins.
    offset: usize,
    /// How long it is.
    length: usize,
    /// What is tested.
    test: usize,
    /// How wide that is.
    width: Width,
    /// It is written if it equals one of these.
    accept: &'static [i32],
}

#[derive(Clone, Copy)]
enum Width {
    Byte,
    Word,
}

/// Assembles the program above. Register 6 holds the output, 7 the socket, 8 the value; the cookie is in
/// the 8 bytes below the frame pointer (register 10).
fn program(windows: &[Window]) -> Vec<Instruction> {
    let mut code = vec![
        load(Width64, 7, 1, CTX_SK),
        load(Width64, 8, 1, CTX_VALUE),
        load(Width64, 6, 1, CTX_META),
        // The last call of a walk has neither: it goes to the exit below.
        jump(EQUAL, 7, 0, 1),
        jump(NOT_EQUAL, 8, 0, 2),
        set(0, 0),
        EXIT,
        // seq is the first field of struct bpf_iter_meta.
        load(Width64, 6, 6, 0),
        copy(1, 7),
        call(GET_SOCKET_COOKIE),
        store(10, -8, 0),
    ];
    for window in windows {
        let body = [
            copy(1, 6),
            copy(2, 10),
            add(2, -8),
            set(3, 8),
            call(SEQ_WRITE),
            copy(1, 6),
            copy(2, 8),
            add(2, window.offset as i32),
            set(3, window.length as i32),
            call(SEQ_WRITE),
        ];
        code.push(match window.width {
            Width::Byte => load(Width8, 1, 8, window.test as i16),
            Width::Word => load(Width32, 1, 8, window.test as i16),
        });
        // Each accepted number jumps over the numbers after it and over the jump past the body.
        for (index, number) in window.accept.iter().enumerate() {
            let rest = window.accept.len() - index - 1;
            code.push(jump(EQUAL, 1, *number, rest as i16 + 1));
        }
        code.push(Instruction { code: 0x05, registers: 0, offset: body.len() as i16, immediate: 0 });
        code.extend(body);
    }
    code.extend([set(0, 0), EXIT]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_split_into_records_and_a_rest_is_dropped() {
        let mut bytes = Vec::new();
        for cookie in [7_u64, u64::MAX] {
            bytes.extend(cookie.to_ne_bytes());
            bytes.extend((cookie as u32).to_ne_bytes());
        }
        bytes.extend([1; 11]);
        let found: Vec<Record<u32>> = records(&bytes);
        let found: Vec<_> = found.iter().map(|record| (record.cookie, record.value)).collect();
        assert_eq!(found, [(7, 7), (u64::MAX, u32::MAX)]);
        assert!(records::<u32>(&[]).is_empty());
    }

    #[test]
    fn every_jump_lands_inside_the_program() {
        let windows = [0, 4, 8].map(|offset| Window {
            offset,
            length: 4,
            test: offset,
            width: Width::Word,
            accept: &[1, 2, 3],
        });
        let code = program(&windows);
        for (at, instruction) in code.iter().enumerate() {
            if matches!(instruction.code, 0x05 | EQUAL | NOT_EQUAL) {
                assert!(at + 1 + (instruction.offset as usize) < code.len(), "{at}: {instruction:?}");
            }
        }
        assert_eq!(code.last(), Some(&EXIT));
    }
}
