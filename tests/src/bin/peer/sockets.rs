//! System calls on sockets, each as an application would make it.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use balancer_tests::peer::protocol::{Close, Identity, Kind, Setting};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, FdFlags},
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, bind, connect, getpeername,
        getsockname, ipproto, recv, recvfrom, send, sendto, socket_with,
        sockopt::{self, Timeout},
    },
};

/// What a client says to have its question answered.
pub const QUESTION: &[u8] = b"who\n";

/// socket(), as Rust's own library makes it: close-on-exec, blocking.
pub fn open(kind: Kind) -> Result<OwnedFd, Errno> {
    let family = match kind {
        Kind::Tcp4 | Kind::Mptcp4 | Kind::Udp4 => AddressFamily::INET,
        Kind::Tcp6 | Kind::Mptcp6 | Kind::Udp6 => AddressFamily::INET6,
    };
    let (kind, protocol) = match kind {
        Kind::Tcp4 | Kind::Tcp6 => (SocketType::STREAM, ipproto::TCP),
        Kind::Mptcp4 | Kind::Mptcp6 => (SocketType::STREAM, ipproto::MPTCP),
        Kind::Udp4 | Kind::Udp6 => (SocketType::DGRAM, ipproto::UDP),
    };
    socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))
}

/// The address to give to a socket: IPv4 becomes v4-mapped on an IPv6 one.
fn fit(fd: BorrowedFd<'_>, addr: SocketAddr) -> Result<SocketAddr, Errno> {
    let domain = sockopt::socket_domain(fd)?;
    Ok(match addr.ip() {
        IpAddr::V4(v4) if domain == AddressFamily::INET6 => {
            SocketAddr::new(v4.to_ipv6_mapped().into(), addr.port())
        }
        _ => addr,
    })
}

/// connect().
pub fn dial(fd: impl AsFd, to: SocketAddr) -> Result<(), Errno> {
    let to = fit(fd.as_fd(), to)?;
    connect(fd, &to)
}

/// Applies a setting.
pub fn set(fd: impl AsFd, setting: Setting) -> Result<(), Errno> {
    let fd = fd.as_fd();
    match setting {
        Setting::SynRetries(count) => syn_retries(fd, count),
        Setting::UserTimeout(millis) => sockopt::set_tcp_user_timeout(fd, millis),
        Setting::ReceiveTimeout(millis) => receive_timeout(fd, Duration::from_millis(millis.into())),
        Setting::Nonblocking => rustix::io::ioctl_fionbio(fd, true),
        Setting::Blocking => rustix::io::ioctl_fionbio(fd, false),
        Setting::Bind(addr) => bind(fd, &fit(fd, addr)?),
    }
}

/// SO_RCVTIMEO.
pub fn receive_timeout(fd: impl AsFd, timeout: Duration) -> Result<(), Errno> {
    sockopt::set_socket_timeout(fd, Timeout::Recv, Some(timeout))
}

/// TCP_SYNCNT, which rustix lacks.
fn syn_retries(fd: BorrowedFd<'_>, count: u8) -> Result<(), Errno> {
    let value = libc::c_int::from(count);
    // SAFETY: the option takes an int, which lives for the call, with its own size.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SYNCNT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Waits until a nonblocking connect() has ended, and its result.
pub fn finish(fd: impl AsFd, timeout: Duration) -> Result<(), Errno> {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    if poll(&mut fds, Some(&timeout))? == 0 {
        return Err(Errno::TIME);
    }
    sockopt::socket_error(&fd)?
}

/// getpeername().
pub fn peer(fd: impl AsFd) -> Result<SocketAddr, Errno> {
    getpeername(fd)?.ok_or(Errno::NOTCONN)?.try_into()
}

/// getsockname().
pub fn local(fd: impl AsFd) -> Result<SocketAddr, Errno> {
    getsockname(fd)?.try_into()
}

/// Asks on a connected socket who is at the other end. ECONNRESET stands for an end without an answer too.
pub fn ask(fd: impl AsFd) -> Result<Identity, Errno> {
    send(&fd, QUESTION, SendFlags::NOSIGNAL)?;
    let mut answer = Vec::new();
    let mut buffer = [0_u8; 1024];
    loop {
        let (read, _) = recv(&fd, &mut buffer, RecvFlags::empty())?;
        if read == 0 {
            return Err(Errno::CONNRESET);
        }
        answer.extend_from_slice(&buffer[..read]);
        if answer.ends_with(b"\n") {
            return parse(&answer);
        }
    }
}

/// Sends all of it, however long that takes.
pub fn send_all(fd: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match send(&fd, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Receives so many bytes, or fewer if the other side ends first.
pub fn receive(fd: impl AsFd, bytes: u64) -> Result<u64, Errno> {
    let mut buffer = vec![0_u8; 65_536];
    let mut received = 0;
    while received < bytes {
        let room = usize::try_from(bytes - received).unwrap_or(usize::MAX).min(buffer.len());
        match recv(&fd, &mut buffer[..room], RecvFlags::empty()) {
            Ok((0, _)) => break,
            Ok((read, _)) => received += read as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(received)
}

/// shutdown(SHUT_WR).
pub fn shutdown(fd: impl AsFd) -> Result<(), Errno> {
    rustix::net::shutdown(fd, Shutdown::Write)
}

/// sendto() of the question.
pub fn ask_at(fd: impl AsFd, to: SocketAddr) -> Result<(), Errno> {
    let to = fit(fd.as_fd(), to)?;
    sendto(fd, QUESTION, SendFlags::NOSIGNAL, &to).map(drop)
}

/// recvfrom() of an answer.
pub fn answer_from(fd: impl AsFd) -> Result<(SocketAddr, Identity), Errno> {
    let mut buffer = [0_u8; 1024];
    let (read, _, from) = recvfrom(fd, &mut buffer, RecvFlags::empty())?;
    Ok((from.ok_or(Errno::NOTCONN)?.try_into()?, parse(&buffer[..read])?))
}

/// An identity; EBADMSG for anything else.
fn parse(bytes: &[u8]) -> Result<Identity, Errno> {
    serde_json::from_slice(bytes).map_err(|_| Errno::BADMSG)
}

/// close().
pub fn close(fd: OwnedFd, how: Close) -> Result<(), Errno> {
    if how == Close::Reset {
        sockopt::set_socket_linger(&fd, Some(Duration::ZERO))?;
    }
    drop(fd);
    Ok(())
}

/// dup(), close-on-exec.
pub fn duplicate(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    let copy = rustix::io::dup(fd)?;
    rustix::io::fcntl_setfd(&copy, FdFlags::CLOEXEC)?;
    Ok(copy)
}

/// Whether the other side has ended the connection, by FIN or RST.
pub fn is_broken(fd: impl AsFd) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
}

/// errno of the last call through libc.
pub fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
