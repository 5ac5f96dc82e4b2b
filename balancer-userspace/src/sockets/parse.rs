//! The kernel's answer to a sock_diag dump, from bytes. Pure; never panics, whatever the bytes are.
//!
//! A datagram holds messages; a message about a socket is an `inet_diag_msg` followed by attributes.
//! Socket storage is nested in them (`net/core/bpf_sk_storage.c`):
//!
//! ```text
//! INET_DIAG_SK_BPF_STORAGES
//!   SK_DIAG_BPF_STORAGE              one per map that the socket has a value of
//!     SK_DIAG_BPF_STORAGE_MAP_ID     u32
//!     SK_DIAG_BPF_STORAGE_PAD        so that the value is aligned to 8 bytes
//!     SK_DIAG_BPF_STORAGE_MAP_VALUE  the value
//! ```

use std::net::SocketAddr;

use bytemuck::{Pod, Zeroable};
use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkBuffer, NlasIterator, Parseable};
use netlink_packet_sock_diag::inet::InetResponseHeader;

use super::{SocketsError, tcp::TcpInfo};

/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `SOCK_DIAG_BY_FAMILY`.
pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// Size of `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// `INET_DIAG_INFO`.
pub(super) const INFO: u16 = 2;
/// `INET_DIAG_SK_BPF_STORAGES` (`include/uapi/linux/inet_diag.h`).
const STORAGES: u16 = 20;
/// `INET_DIAG_CGROUP_ID`.
const CGROUP_ID: u16 = 21;
/// `SK_DIAG_BPF_STORAGE` (`include/uapi/linux/sock_diag.h`).
const STORAGE: u16 = 1;
/// `SK_DIAG_BPF_STORAGE_MAP_ID`.
const STORAGE_MAP_ID: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const STORAGE_MAP_VALUE: u16 = 3;

/// What the kernel says of one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSocket {
    /// The kernel's number of its state (`TCP_ESTABLISHED` and so on; UDP uses 1 and 7).
    pub state: u8,
    /// Its own address; a v4-mapped one as IPv4.
    pub local: SocketAddr,
    /// Its peer; the unspecified address and port 0 while it has none. A v4-mapped one as IPv4.
    pub remote: SocketAddr,
    /// Its cookie, which no other socket of this boot has.
    pub cookie: u64,
    /// Its inode number; 0 once no process holds it.
    pub inode: u32,
    /// The user that made it.
    pub uid: u32,
    /// Bytes that wait to be read.
    pub receive_queue: u32,
    /// Bytes that are not acknowledged yet.
    pub send_queue: u32,
    /// Id of the cgroup that it was made in; `None` before Linux 5.7.
    pub cgroup_id: Option<u64>,
    /// `tcp_info`, where it was asked for and the kernel has it.
    pub tcp_info: Option<TcpInfo>,
    /// Its values in the maps that were asked for.
    pub storages: Vec<Storage>,
}

/// A socket's value in one sk_storage map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The kernel's id of the map.
    pub map_id: u32,
    /// The value.
    pub value: Vec<u8>,
}

/// What a datagram said of the dump that it is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The dump is over.
    pub done: bool,
    /// The table changed while it was being dumped.
    pub interrupted: bool,
    /// The request was carried out: what has no answer is acknowledged.
    pub acknowledged: bool,
    /// The dump ended with this error number, a positive one.
    pub errno: Option<i32>,
}

/// Reads the messages of one datagram that answer request `sequence`, calling `each` per socket.
///
/// # Errors
/// When a message or an attribute reaches beyond what contains it.
pub(super) fn datagram(
    mut bytes: &[u8],
    sequence: u32,
    mut each: impl FnMut(RawSocket),
) -> Result<Progress, SocketsError> {
    let mut progress = Progress::default();
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes).map_err(malformed)?;
        if message.sequence_number() == sequence {
            progress.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            match message.message_type() {
                SOCK_DIAG_BY_FAMILY => each(socket(message.payload())?),
                // Both begin with a negative error number, or with 0 for none.
                kind @ (DONE | ERROR) => {
                    let errno = i32_at_start(message.payload()).unwrap_or(0);
                    progress.errno = (errno != 0).then_some(errno.wrapping_neg());
                    progress.done |= kind == DONE || errno != 0;
                    progress.acknowledged |= kind == ERROR && errno == 0;
                }
                _ => {}
            }
        }
        let step = (message.length() as usize).next_multiple_of(4);
        bytes = bytes.get(step..).unwrap_or(&[]);
    }
    Ok(progress)
}

/// Reads an `inet_diag_msg` and its attributes.
fn socket(payload: &[u8]) -> Result<RawSocket, SocketsError> {
    let (head, attributes) = payload.split_at_checked(MESSAGE).ok_or_else(|| SocketsError::Malformed {
        what: format!("a socket described in {} bytes, not {MESSAGE}", payload.len()),
    })?;
    let head = InetResponseHeader::parse(head).map_err(malformed)?;
    let id = &head.socket_id;
    let mut socket = RawSocket {
        state: head.state,
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        cookie: cookie(id.cookie),
        inode: head.inode,
        uid: head.uid,
        receive_queue: head.recv_queue,
        send_queue: head.send_queue,
        cgroup_id: None,
        tcp_info: None,
        storages: Vec::new(),
    };
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(malformed)?;
        match attribute.kind() {
            INFO => socket.tcp_info = TcpInfo::from_bytes(attribute.value()),
            CGROUP_ID => socket.cgroup_id = attribute.value().try_into().ok().map(u64::from_ne_bytes),
            STORAGES => storages(attribute.value(), &mut socket.storages)?,
            _ => {}
        }
    }
    Ok(socket)
}

fn storages(bytes: &[u8], into: &mut Vec<Storage>) -> Result<(), SocketsError> {
    for entry in NlasIterator::new(bytes) {
        let entry = entry.map_err(malformed)?;
        if entry.kind() != STORAGE {
            continue;
        }
        let (mut map_id, mut value) = (None, None);
        for attribute in NlasIterator::new(entry.value()) {
            let attribute = attribute.map_err(malformed)?;
            match attribute.kind() {
                STORAGE_MAP_ID => map_id = attribute.value().try_into().ok().map(u32::from_ne_bytes),
                STORAGE_MAP_VALUE => value = Some(attribute.value().to_vec()),
                _ => {}
            }
        }
        if let (Some(map_id), Some(value)) = (map_id, value) {
            into.push(Storage { map_id, value });
        }
    }
    Ok(())
}

/// Two words in the machine's byte order, the low one first.
fn cookie(bytes: [u8; 8]) -> u64 {
    let [low, high]: [u32; 2] = bytemuck::cast(bytes);
    u64::from(high) << 32 | u64::from(low)
}

fn i32_at_start(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().copied().map(i32::from_ne_bytes)
}

fn malformed(error: impl std::fmt::Display) -> SocketsError {
    SocketsError::Malformed { what: error.to_string() }
}

/// A plain value from bytes that may be longer (a later kernel's) or not aligned, never shorter.
pub(super) fn prefix<T: Pod + Zeroable>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
