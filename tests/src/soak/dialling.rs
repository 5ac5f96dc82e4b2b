//! The system calls of a worker, each with a bound in time.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_common::abi::Phase;
use balancer_userspace::datapath::Maps;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, recvfrom, send,
        sendto, socket_with, sockopt,
    },
};

use super::{
    record::{Chosen, Step, Transport},
    worker::would_block,
};
use crate::peer::protocol::{Identity, errno_name};

/// Longest wait for a handshake or an answer. A lost segment is sent again after a second; the rest is for a machine that is
/// busy with other things.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an answer to a datagram may take before it is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// How often a datagram is sent.
const DATAGRAMS: u32 = 4;

const QUESTION: &[u8] = b"who\n";

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Fin,
    Reset,
}

/// socket(), which does not block.
pub(super) fn socket(transport: Transport, to: SocketAddr) -> Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None).context("socket")
}

/// An unconnected UDP socket, bound to any port.
pub(super) fn datagram_socket(address: &str) -> Result<OwnedFd> {
    let address: SocketAddr = address.parse()?;
    let fd = socket(Transport::Udp, address)?;
    bind(&fd, &address).context("bind")?;
    Ok(fd)
}

/// connect(), which is not waited for.
pub(super) fn begin(fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
    match connect(fd, &to) {
        Err(errno) if would_block(errno) => Ok(()),
        other => other,
    }
}

/// Waits for the end of the handshake.
pub(super) fn finish(fd: &OwnedFd, transport: Transport) -> Result<(), Errno> {
    if transport == Transport::Udp {
        return Ok(());
    }
    if !wait(fd, PollFlags::OUT, PATIENCE)? {
        return Err(Errno::TIMEDOUT);
    }
    sockopt::socket_error(fd)?
}

/// Closes; nothing can be done about a failure.
pub(super) fn close(fd: OwnedFd, fate: Fate) {
    if fate == Fate::Reset {
        _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
    }
}

/// What the programs recorded of the connect() that began at `begun_ns`.
pub(super) fn chosen(maps: &Maps, fd: &OwnedFd, begun_ns: u64) -> Result<Option<Chosen>> {
    let state = maps.socket_state(fd.as_fd()).context("storage of a socket")?;
    Ok(state.filter(|state| state.opened_ns >= begun_ns).map(|state| Chosen {
        backend: state.backend,
        generation: state.generation,
        target: SocketAddr::new(state.target.into(), state.target_port.to_host()),
    }))
}

/// What the programs recorded of a datagram that was sent since `begun_ns`.
pub(super) fn flow(maps: &Maps, fd: &OwnedFd, to: SocketAddr, begun_ns: u64) -> Result<Option<Chosen>> {
    let flows = maps.socket_flows(fd.as_fd()).context("storage of a socket")?.unwrap_or_default();
    let ours = flows.flows.iter().find(|flow| {
        let frontend = SocketAddr::new(flow.frontend.addr.into(), flow.frontend.port.to_host());
        flow.phase == Phase::Established as u32 && frontend == to && flow.used_ns >= begun_ns
    });
    Ok(ours.map(|flow| Chosen {
        backend: flow.backend,
        generation: flow.generation,
        target: SocketAddr::new(flow.target.into(), flow.target_port.to_host()),
    }))
}

/// Asks who is at the other end: the address at which the server took it, or what came instead.
pub(super) fn ask(fd: &OwnedFd, transport: Transport) -> Result<SocketAddr, String> {
    match transport {
        Transport::Tcp => {
            send(fd, QUESTION, SendFlags::NOSIGNAL).map_err(name)?;
            answer(fd)
        }
        Transport::Udp => {
            for _ in 0..DATAGRAMS {
                send(fd, QUESTION, SendFlags::NOSIGNAL).map_err(name)?;
                if wait(fd, PollFlags::IN, AGAIN).map_err(name)? {
                    let mut buffer = [0_u8; 512];
                    let (read, _) = recv(fd, &mut buffer, RecvFlags::empty()).map_err(name)?;
                    return identity(&buffer[..read]);
                }
            }
            Err("no answer".to_owned())
        }
    }
}

/// An answer on a stream.
fn answer(fd: &OwnedFd) -> Result<SocketAddr, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !wait(fd, PollFlags::IN, left).map_err(name)? {
            return Err("no answer".to_owned());
        }
        let mut buffer = [0_u8; 512];
        match recv(fd, &mut buffer, RecvFlags::empty()) {
            Ok((0, _)) => return Err("end of stream".to_owned()),
            Ok((read, _)) => text.extend_from_slice(&buffer[..read]),
            Err(errno) if would_block(errno) => {}
            Err(errno) => return Err(name(errno)),
        }
        if text.ends_with(b"\n") {
            return identity(&text);
        }
    }
}

/// Asks by sendto(): the address at which the server got it, and the source that recvfrom() gave.
pub(super) fn exchange(fd: &OwnedFd, to: SocketAddr) -> Result<(SocketAddr, SocketAddr), (Step, String)> {
    // Late answers to earlier questions are not meant.
    let mut buffer = [0_u8; 512];
    while recvfrom(fd, &mut buffer, RecvFlags::empty()).is_ok() {}
    for _ in 0..DATAGRAMS {
        sendto(fd, QUESTION, SendFlags::NOSIGNAL, &to).map_err(|errno| (Step::Connect, name(errno)))?;
        let failed = |errno| (Step::Answer, name(errno));
        if wait(fd, PollFlags::IN, AGAIN).map_err(failed)? {
            let (read, _, from) = recvfrom(fd, &mut buffer, RecvFlags::empty()).map_err(failed)?;
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            let from = from.ok_or_else(|| (Step::Answer, "no source address".to_owned()))?;
            let at = identity(&buffer[..read]).map_err(|how| (Step::Answer, how))?;
            return Ok((at, from));
        }
    }
    Err((Step::Answer, "no answer".to_owned()))
}

/// How a connection that nobody asked anything on has ended, if it has.
pub(super) fn ended(fd: &OwnedFd, transport: Transport) -> Option<String> {
    let mut byte = [0_u8; 1];
    match recv(fd, &mut byte, RecvFlags::PEEK) {
        Ok((0, _)) if transport == Transport::Tcp => Some("end of stream".to_owned()),
        Ok((_, _)) if transport == Transport::Tcp => Some("an answer that nobody asked for".to_owned()),
        // A late answer to a question that was repeated.
        Ok((_, _)) => {
            let mut buffer = [0_u8; 512];
            while recv(fd, &mut buffer, RecvFlags::empty()).is_ok() {}
            None
        }
        Err(errno) if would_block(errno) => None,
        Err(errno) => Some(name(errno)),
    }
}

/// An error number as people write it.
pub(super) fn name(errno: Errno) -> String {
    match errno {
        Errno::CONNABORTED => "ECONNABORTED".to_owned(),
        other => errno_name(other),
    }
}

fn identity(text: &[u8]) -> Result<SocketAddr, String> {
    let identity: Result<Identity, _> = serde_json::from_slice(text);
    identity
        .map(|it| it.local)
        .map_err(|_| format!("an answer that is none: {}", String::from_utf8_lossy(text)))
}

/// Whether something happens in time.
fn wait(fd: &OwnedFd, what: PollFlags, timeout: Duration) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(fd, what)];
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Err(Errno::INTR) => {}
            other => return other.map(|ready| ready > 0),
        }
    }
}
