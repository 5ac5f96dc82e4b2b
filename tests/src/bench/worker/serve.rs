//! What listens and answers, as servers do: asleep until something comes, on the second CPU.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    thread,
};

use anyhow::{Context as _, Result, bail};
use rustix::net::{SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt};

use super::{
    confine, family, hurry,
    streams::{CHUNK, HEAD, Head, Wants, thread_time},
};

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// They are closed at once, and datagrams are sent back.
    Close,
    /// Requests are answered until the client closes.
    Answer,
}

/// Serves all addresses of these ports until it is killed: a thread for each port, family and protocol. Says so on
/// standard output once it listens.
pub fn serve(ports: &[u16], manner: Manner) -> Result<()> {
    hurry();
    confine(1)?;
    let any: [std::net::IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let addrs: Vec<SocketAddr> =
        ports.iter().flat_map(|&port| any.map(|ip| SocketAddr::new(ip, port))).collect();
    let listeners = addrs.iter().map(listener).collect::<Result<Vec<_>>>()?;
    let datagrams = match manner {
        Manner::Close => addrs.iter().map(datagrams).collect::<Result<Vec<_>>>()?,
        Manner::Answer => Vec::new(),
    };
    io::stdout().write_all(b"listening\n")?;
    io::stdout().flush()?;
    thread::scope(|scope| {
        let accepting = listeners.iter().map(|listener| scope.spawn(move || accept_all(listener, manner)));
        let echoing = datagrams.iter().map(|socket| scope.spawn(move || send_back(socket)));
        let threads: Vec<_> = accepting.chain(echoing).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn listener(addr: &SocketAddr) -> Result<OwnedFd> {
    let socket = bound(addr, SocketType::STREAM)?;
    listen(&socket, 65_535)?;
    Ok(socket)
}

fn datagrams(addr: &SocketAddr) -> Result<UdpSocket> {
    Ok(bound(addr, SocketType::DGRAM)?.into())
}

fn bound(addr: &SocketAddr, kind: SocketType) -> Result<OwnedFd> {
    let socket = socket_with(family(addr), kind, SocketFlags::CLOEXEC, None).context("socket")?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if addr.is_ipv6() {
        // IPv4 has a socket of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, addr).with_context(|| addr.to_string())?;
    Ok(socket)
}

fn accept_all(listener: &OwnedFd, manner: Manner) -> Result<()> {
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) if manner == Manner::Close => drop(socket),
            Ok(socket) => drop(thread::spawn(move || answer_all(socket.into()))),
            // The client is gone already.
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
            Err(error) => bail!("accept: {error}"),
        }
    }
}

/// Sends every datagram back to where it came from.
fn send_back(socket: &UdpSocket) -> Result<()> {
    let mut datagram = [0; 1500];
    loop {
        match socket.recv_from(&mut datagram) {
            // The client may be gone already.
            Ok((length, from)) => _ = socket.send_to(&datagram[..length], from),
            // Of a client that closed before its answer came.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => bail!("recvfrom: {error}"),
        }
    }
}

/// Answers requests until the client closes; what breaks before that the client sees.
fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; CHUNK];
    loop {
        let mut got = stream.read(&mut bytes)?;
        if got == 0 {
            return Ok(());
        }
        while got < HEAD {
            got += read_some(&mut stream, &mut bytes[got..])?;
        }
        let mut head = [0; HEAD];
        head.copy_from_slice(&bytes[..HEAD]);
        let head = Head::from_bytes(head);
        let mut left = head.size.saturating_sub(got as u64);
        while left > 0 {
            left = left.saturating_sub(read_some(&mut stream, &mut bytes)? as u64);
        }
        let mut answer = vec![0; head.answer as usize];
        if head.wants == Wants::Time
            && let Some(place) = answer.first_chunk_mut()
        {
            *place = thread_time().to_le_bytes();
        }
        stream.write_all(&answer)?;
    }
}

fn read_some(stream: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
    match stream.read(into)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        got => Ok(got),
    }
}
