//! Asking sock_diag for the sockets of a network namespace (`net/ipv4/inet_diag.c`).
//!
//! Two properties of the kernel shape this: a dual-stack socket is an IPv6 one, also while it talks
//! IPv4, and is in the IPv6 dump alone; and for UDP the kernel leaves the storages (and every other
//! attribute that only connection-oriented sockets have) out of its answer, so [`super::walk`] reads
//! those.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use netlink_packet_core::{Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use rustix::net::sockopt;

use super::{
    SocketsError,
    parse::{self, RawSocket, SOCK_DIAG_BY_FAMILY},
};
use crate::model::Family;

/// `INET_DIAG_REQ_SK_BPF_STORAGES` (`include/uapi/linux/inet_diag.h`).
const REQ_STORAGES: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD` (`include/uapi/linux/sock_diag.h`).
const REQ_STORAGE_MAP_FD: u16 = 1;

/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;

/// Length of a netlink header.
const HEADER: usize = 16;

/// What is read at a time. The kernel fills up to 32 KiB once it knows that the reader takes as much.
const BUFFER: usize = 64 << 10;

/// How often a dump is begun again when the table changed, or the queue overflowed, under it.
const ATTEMPTS: u32 = 4;

/// The kernel answers at once; a silence of this length is an error, not a delay.
const PATIENCE: Duration = Duration::from_secs(10);

/// A kind of socket, as sock_diag divides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, and with it the subflows of multipath TCP: a subflow is what connect() is translated of.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    const fn module(self) -> &'static str {
        match self {
            Self::Tcp => "tcp_diag",
            Self::Udp => "udp_diag",
        }
    }

    /// The states of sockets that may have called connect(): no listeners, no TIME-WAIT or SYN-RECEIVED
    /// entries, which are not full sockets and have no storage.
    const fn states(self) -> StateFlags {
        match self {
            Self::Tcp => StateFlags::ESTABLISHED
                .union(StateFlags::SYN_SENT)
                .union(StateFlags::FIN_WAIT1)
                .union(StateFlags::FIN_WAIT2)
                .union(StateFlags::CLOSE_WAIT)
                .union(StateFlags::LAST_ACK)
                .union(StateFlags::CLOSING),
            Self::Udp => StateFlags::ESTABLISHED.union(StateFlags::CLOSE),
        }
    }
}

/// A channel to the socket table of the network namespace that its socket was made in.
pub struct Diag {
    socket: Socket,
    buffer: BytesMut,
    sequence: u32,
}

/// What became of a socket that was to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// The kernel has closed it: whoever waits on it is told (`ECONNABORTED`).
    Yes,
    /// It was gone already, or is another one by now.
    Gone,
}

/// How a dump went.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// All that there is.
    Complete,
    /// The table changed, or an answer was lost: to be repeated.
    Disturbed,
}

impl Diag {
    /// Over a `NETLINK_SOCK_DIAG` socket.
    ///
    /// # Errors
    /// [`SocketsError::Netlink`] when the socket is none.
    pub fn new(socket: Socket) -> Result<Self, SocketsError> {
        // SAFETY: `socket` is open, and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        sockopt::set_socket_timeout(fd, sockopt::Timeout::Recv, Some(PATIENCE))
            .map_err(|errno| SocketsError::Netlink { source: errno.into() })?;
        Ok(Self { socket, buffer: BytesMut::with_capacity(BUFFER), sequence: 0 })
    }

    /// The sockets of one family and kind that `keep` wants, each once, with their values in `maps`.
    ///
    /// # Errors
    /// [`SocketsError::NeedsBpf`] without the capability to read storage,
    /// [`SocketsError::NotSocketStorage`] for another kind of map,
    /// [`SocketsError::NoDiagnosis`] where the kernel lacks the module, and what else a dump ends with.
    /// After any of them the rest of the kernel's answer may be left over: use another `Diag`.
    pub fn dump(
        &mut self,
        maps: &[BorrowedFd<'_>],
        family: Family,
        transport: Transport,
        keep: impl Fn(&RawSocket) -> bool,
    ) -> Result<Vec<RawSocket>, SocketsError> {
        for _ in 0..ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            let request = request(self.sequence, maps, family, transport);
            self.send(&request, transport)?;
            let mut sockets = Vec::new();
            let outcome = self.receive(transport, |socket| {
                if keep(&socket) {
                    sockets.push(socket);
                }
            })?;
            if outcome == Outcome::Complete {
                // A socket that moved along its hash chain during the dump may have come twice.
                sockets.sort_unstable_by_key(|socket| socket.cookie);
                sockets.dedup_by_key(|socket| socket.cookie);
                return Ok(sockets);
            }
        }
        Err(SocketsError::Unstable { protocol: transport.name(), attempts: ATTEMPTS })
    }

    /// Closes the socket that has these addresses and this cookie, whoever holds it.
    ///
    /// # Errors
    /// [`SocketsError::Destroy`] with the kernel's answer: `EPERM` without CAP_NET_ADMIN, `EOPNOTSUPP` where
    /// it is built without `CONFIG_INET_DIAG_DESTROY`.
    pub fn destroy(
        &mut self,
        transport: Transport,
        local: SocketAddr,
        remote: SocketAddr,
        cookie: u64,
    ) -> Result<Destroyed, SocketsError> {
        self.sequence = self.sequence.wrapping_add(1);
        let id = SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: 0,
            cookie: bytemuck::cast([cookie as u32, (cookie >> 32) as u32]),
        };
        let family = Family::of(remote.ip());
        let fixed = InetRequest {
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            ..fixed(family, transport, id)
        };
        let mut bytes = BytesMut::zeroed(HEADER + fixed.buffer_len());
        fixed.emit(&mut bytes[HEADER..]);
        put_header(&mut bytes, DESTROY, NLM_F_REQUEST | NLM_F_ACK, self.sequence);
        let failed = |source| SocketsError::Destroy { protocol: transport.name(), source };
        self.socket.send(&bytes, 0).map_err(failed)?;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(failed(source)),
            }
            let progress = parse::datagram(&self.buffer, self.sequence, |_| {})?;
            match progress.errno {
                // Nobody has these addresses; or it is another socket's cookie.
                Some(libc::ENOENT | libc::ESTALE) => return Ok(Destroyed::Gone),
                Some(errno) => return Err(failed(io::Error::from_raw_os_error(errno))),
                None if progress.acknowledged => return Ok(Destroyed::Yes),
                None => {}
            }
        }
    }

    fn send(&self, request: &[u8], transport: Transport) -> Result<(), SocketsError> {
        match self.socket.send(request, 0) {
            Ok(_) => Ok(()),
            Err(source) => Err(SocketsError::Dump { protocol: transport.name(), source }),
        }
    }

    /// Reads to the end of the dump, also of a disturbed one: the kernel takes no other request before.
    fn receive(
        &mut self,
        transport: Transport,
        mut each: impl FnMut(RawSocket),
    ) -> Result<Outcome, SocketsError> {
        let mut disturbed = false;
        loop {
            self.buffer.clear();
            let room = self.buffer.capacity();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > room => {
                    return Err(SocketsError::Malformed { what: format!("{length} bytes in one piece") });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    disturbed = true;
                    continue;
                }
                Err(source) => return Err(SocketsError::Dump { protocol: transport.name(), source }),
            }
            let progress = parse::datagram(&self.buffer, self.sequence, &mut each)?;
            disturbed |= progress.interrupted;
            if let Some(errno) = progress.errno {
                return Err(refusal(errno, transport));
            }
            if progress.done {
                return Ok(if disturbed { Outcome::Disturbed } else { Outcome::Complete });
            }
        }
    }
}

/// The kernel's refusal, in terms of what can be done about it.
fn refusal(errno: i32, transport: Transport) -> SocketsError {
    match errno {
        libc::EPERM => SocketsError::NeedsBpf,
        libc::EINVAL | libc::EBADF => SocketsError::NotSocketStorage { map: super::SOCKETS },
        libc::ENOENT => SocketsError::NoDiagnosis { protocol: transport.name(), module: transport.module() },
        _ => SocketsError::Dump { protocol: transport.name(), source: io::Error::from_raw_os_error(errno) },
    }
}

/// A dump request. netlink-packet-sock-diag has the fixed part; the attributes are written by hand.
fn request(sequence: u32, maps: &[BorrowedFd<'_>], family: Family, transport: Transport) -> BytesMut {
    let any = match family {
        Family::V4 => SocketId::new_v4(),
        Family::V6 => SocketId::new_v6(),
    };
    let fixed = fixed(family, transport, any);
    let mut bytes = BytesMut::zeroed(HEADER + fixed.buffer_len());
    fixed.emit(&mut bytes[HEADER..]);
    if !maps.is_empty() {
        let mut nested = BytesMut::new();
        for map in maps {
            put_attribute(&mut nested, REQ_STORAGE_MAP_FD, &map.as_fd().as_raw_fd().to_ne_bytes());
        }
        put_attribute(&mut bytes, REQ_STORAGES | NLA_F_NESTED, &nested);
    }
    put_header(&mut bytes, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence);
    bytes
}

/// The fixed part of a request, as a dump has it.
fn fixed(family: Family, transport: Transport, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family: match family {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        },
        protocol: match transport {
            Transport::Tcp => libc::IPPROTO_TCP as u8,
            Transport::Udp => libc::IPPROTO_UDP as u8,
        },
        extensions: match transport {
            Transport::Tcp => ExtensionFlags::INFO,
            Transport::Udp => ExtensionFlags::empty(),
        },
        states: transport.states(),
        socket_id,
    }
}

/// Fills in the header of a message that is complete but for that.
fn put_header(bytes: &mut BytesMut, kind: u16, flags: u16, sequence: u32) {
    let length = bytes.len() as u32;
    let mut header = &mut bytes[..HEADER];
    header.put_u32_ne(length);
    header.put_u16_ne(kind);
    header.put_u16_ne(flags);
    header.put_u32_ne(sequence);
}

/// Appends an attribute; `value` is a multiple of 4 bytes long, so that no padding is needed.
fn put_attribute(bytes: &mut BytesMut, kind: u16, value: &[u8]) {
    debug_assert!(value.len().is_multiple_of(4));
    bytes.put_u16_ne((4 + value.len()) as u16);
    bytes.put_u16_ne(kind);
    bytes.put_slice(value);
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_SOCK_DIAG;

    use super::*;

    #[test]
    fn a_request_names_its_maps_in_a_nested_attribute() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let request = request(7, &[file.as_fd()], Family::V4, Transport::Tcp);
        let fd = file.as_raw_fd() as u32;
        assert_eq!(request.len(), 16 + 56 + 4 + 8);
        assert_eq!(request[..4], 84_u32.to_ne_bytes());
        assert_eq!(request[8..12], 7_u32.to_ne_bytes());
        assert_eq!(request[16..20], [libc::AF_INET as u8, 6, 1 << 1, 0]);
        assert_eq!(request[72..76], [12, 0, 2, 0x80]);
        assert_eq!(request[76..80], [8, 0, 1, 0]);
        assert_eq!(request[80..], fd.to_ne_bytes());
    }

    /// Needs no privilege: the own namespace, without storages.
    #[test]
    fn the_kernel_lists_a_socket_of_this_process() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = sockopt::socket_cookie(&udp).unwrap();
        let mut diag = Diag::new(Socket::new(NETLINK_SOCK_DIAG).unwrap()).unwrap();
        for attempt in ["first", "second on the same channel"] {
            let found = diag.dump(&[], Family::V4, Transport::Udp, |s| s.cookie == cookie).unwrap();
            let [socket] = found.as_slice() else { panic!("{attempt}: {found:?}") };
            assert_eq!(socket.local, udp.local_addr().unwrap());
            assert_eq!(socket.state, 7);
        }
    }
}
