//! Answers who it is on any number of connections: one thread and epoll.

use std::{
    collections::{HashMap, VecDeque},
    io::{Write as _, stdout},
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_tests::peer::protocol::{Close, Identity, Kind, ServerRequest, ServerStats};
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
    net::{
        RecvFlags, SendFlags, SocketFlags, accept_with, bind, listen, recv, recvfrom, send, sendto,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
    },
};

use crate::sockets;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A line longer than this is not for this server.
const MAX_LINE: usize = 1 << 20;

/// What to be.
#[derive(Debug)]
pub struct Options {
    /// Name to answer with.
    pub name: String,
    /// TCP addresses.
    pub tcp: Vec<SocketAddr>,
    /// MPTCP addresses.
    pub mptcp: Vec<SocketAddr>,
    /// UDP addresses.
    pub udp: Vec<SocketAddr>,
    /// Time before each answer.
    pub delay: Duration,
}

/// What a descriptor is.
enum Source {
    Input,
    Listener(OwnedFd),
    Datagrams(OwnedFd),
    Connection(Connection),
}

struct Connection {
    fd: OwnedFd,
    /// Received and not yet understood.
    input: Vec<u8>,
    /// Bytes to send after the client's last.
    last: usize,
}

/// An answer that waits for its time.
struct Pending {
    at: Instant,
    answer: Answer,
}

/// What is sent to whom.
struct Answer {
    /// Descriptor.
    key: u64,
    /// Destination of a datagram.
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
    then: Then,
}

/// What comes after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Keep,
    End,
}

/// Serves until standard input ends.
pub fn serve(options: Options) -> Result<()> {
    let mut server = Server {
        epoll: epoll::create(CreateFlags::CLOEXEC).context("epoll")?,
        sources: HashMap::new(),
        next: 0,
        pending: VecDeque::new(),
        input: Vec::new(),
        stats: ServerStats::default(),
        name: options.name,
        delay: options.delay,
    };
    for (addresses, kind) in [
        (options.tcp, [Kind::Tcp4, Kind::Tcp6]),
        (options.mptcp, [Kind::Mptcp4, Kind::Mptcp6]),
        (options.udp, [Kind::Udp4, Kind::Udp6]),
    ] {
        for addr in addresses {
            let kind = kind[usize::from(addr.is_ipv6())];
            server.listen(kind, addr).with_context(|| format!("cannot listen on {addr}"))?;
        }
    }
    let key = server.key();
    epoll::add(&server.epoll, std::io::stdin(), EventData::new_u64(key), EventFlags::IN).context("stdin")?;
    server.sources.insert(key, Source::Input);
    server.say()?;
    server.run()
}

struct Server {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next: u64,
    /// In order of time: the delay is the same for all.
    pending: VecDeque<Pending>,
    input: Vec<u8>,
    stats: ServerStats,
    name: String,
    delay: Duration,
}

impl Server {
    fn key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn listen(&mut self, kind: Kind, addr: SocketAddr) -> Result<(), Errno> {
        let fd = sockets::open(kind)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        set_socket_reuseaddr(&fd, true)?;
        if addr.is_ipv6() {
            set_ipv6_v6only(&fd, true)?;
        }
        bind(&fd, &addr)?;
        let key = self.key();
        if kind.is_stream() {
            listen(&fd, BACKLOG)?;
        }
        epoll::add(&self.epoll, &fd, EventData::new_u64(key), EventFlags::IN)?;
        let source = if kind.is_stream() { Source::Listener(fd) } else { Source::Datagrams(fd) };
        self.sources.insert(key, source);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            let timeout = self.pending.front().map(|first| {
                let left = first.at.saturating_duration_since(Instant::now());
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
            });
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("epoll"),
            }
            for event in &events {
                let key = event.data.u64();
                match self.sources.get(&key) {
                    Some(Source::Input) => {
                        if self.commands()? == Then::End {
                            return Ok(());
                        }
                    }
                    Some(Source::Listener(_)) => self.accept(key)?,
                    Some(Source::Datagrams(_)) => self.datagrams(key)?,
                    Some(Source::Connection(_)) => self.readable(key),
                    // Closed by an earlier event of this round.
                    None => {}
                }
            }
            while self.pending.front().is_some_and(|first| first.at <= Instant::now()) {
                if let Some(first) = self.pending.pop_front() {
                    self.send(&first.answer);
                }
            }
        }
    }

    fn accept(&mut self, listener: u64) -> Result<()> {
        loop {
            let Some(Source::Listener(fd)) = self.sources.get(&listener) else { return Ok(()) };
            match accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) => {
                    let key = self.key();
                    epoll::add(&self.epoll, &fd, EventData::new_u64(key), EventFlags::IN).context("epoll")?;
                    self.sources
                        .insert(key, Source::Connection(Connection { fd, input: Vec::new(), last: 0 }));
                    self.stats.accepted += 1;
                    self.stats.open += 1;
                }
                Err(Errno::AGAIN) => return Ok(()),
                // The client has given up already.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(errno) => return Err(errno).context("accept"),
            }
        }
    }

    fn datagrams(&mut self, key: u64) -> Result<()> {
        loop {
            let Some(Source::Datagrams(fd)) = self.sources.get(&key) else { return Ok(()) };
            let mut buffer = [0_u8; 2048];
            match recvfrom(fd, &mut buffer, RecvFlags::empty()) {
                Ok((_, _, Some(from))) => {
                    let peer = SocketAddr::try_from(from).context("source address")?;
                    let local = sockets::local(fd).context("getsockname")?;
                    let bytes = self.identity(local, peer)?;
                    self.stats.datagrams += 1;
                    self.answer(Answer { key, to: Some(peer), bytes, then: Then::Keep });
                }
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(()),
                // An earlier answer was refused: its client is gone.
                Err(Errno::CONNREFUSED | Errno::INTR) => {}
                Err(errno) => return Err(errno).context("recvfrom"),
            }
        }
    }

    fn readable(&mut self, key: u64) {
        if self.read(key).is_err() {
            self.close(key, Close::Graceful);
        }
    }

    /// Reads what is there and answers what is complete; an error ends the connection.
    fn read(&mut self, key: u64) -> Result<()> {
        let Some(Source::Connection(connection)) = self.sources.get_mut(&key) else { return Ok(()) };
        let mut buffer = [0_u8; 2048];
        match recv(&connection.fd, &mut buffer, RecvFlags::empty()) {
            Ok((0, _)) => {
                sockets::send_all(&connection.fd, &vec![b'x'; connection.last])?;
                return Err(Errno::PIPE).context("end");
            }
            Ok((read, _)) => connection.input.extend_from_slice(&buffer[..read]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).context("recv"),
        }
        let mut questions = Vec::new();
        while let Some(question) = Question::take(&mut connection.input) {
            questions.push(question);
        }
        if connection.input.len() > MAX_LINE {
            return Err(Errno::MSGSIZE).context("line");
        }
        let local = sockets::local(&connection.fd)?;
        let peer = sockets::peer(&connection.fd)?;
        for question in questions {
            let identity = self.identity(local, peer)?;
            let (bytes, then) = match question {
                Question::Line => (identity, Then::Keep),
                Question::Http(then) => (http(&identity, then), then),
                Question::Order(order) => {
                    self.obey(key, order)?;
                    continue;
                }
            };
            self.stats.answers += 1;
            self.answer(Answer { key, to: None, bytes, then });
        }
        Ok(())
    }

    /// Does what a client tells it to do with their connection.
    fn obey(&mut self, key: u64, order: Order) -> Result<(), Errno> {
        let Some(Source::Connection(Connection { fd, last, .. })) = self.sources.get_mut(&key) else {
            return Ok(());
        };
        match order {
            Order::Last(bytes) => *last = bytes,
            Order::Send(bytes) => sockets::send_all(fd, &vec![b'x'; bytes])?,
            Order::Shut => sockets::shutdown(fd)?,
            Order::Close(how) => self.close(key, how),
            Order::Deaf => epoll::delete(&self.epoll, fd)?,
            Order::Mute => {}
        }
        Ok(())
    }

    fn identity(&self, local: SocketAddr, peer: SocketAddr) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(&Identity { pod: self.name.clone(), local, peer })?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn answer(&mut self, answer: Answer) {
        if self.delay.is_zero() {
            self.send(&answer);
        } else {
            self.pending.push_back(Pending { at: Instant::now() + self.delay, answer });
        }
    }

    /// Sends; a connection that does not take a short answer at once is ended.
    fn send(&mut self, answer: &Answer) {
        match (self.sources.get(&answer.key), answer.to) {
            (Some(Source::Connection(Connection { fd, .. })), _) => {
                let sent = send(fd, &answer.bytes, SendFlags::NOSIGNAL);
                if sent != Ok(answer.bytes.len()) || answer.then == Then::End {
                    self.close(answer.key, Close::Graceful);
                }
            }
            (Some(Source::Datagrams(fd)), Some(to)) => {
                // A lost datagram is the client's to notice.
                _ = sendto(fd, &answer.bytes, SendFlags::NOSIGNAL, &to);
            }
            // Closed in the meantime.
            _ => {}
        }
    }

    fn close(&mut self, key: u64, how: Close) {
        if let Some(Source::Connection(connection)) = self.sources.remove(&key) {
            self.stats.open -= 1;
            // Closing also takes it out of the epoll set; nothing can be done about a failure.
            _ = sockets::close(connection.fd, how);
        }
    }

    /// Reads requests; the end of the input ends the server.
    fn commands(&mut self) -> Result<Then> {
        let mut buffer = [0_u8; 4096];
        let stdin = std::io::stdin();
        let read = rustix::io::read(stdin.as_fd(), &mut buffer).context("stdin")?;
        if read == 0 {
            return Ok(Then::End);
        }
        self.input.extend_from_slice(&buffer[..read]);
        while let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            match serde_json::from_slice(&line).context("request")? {
                ServerRequest::Stats => {}
                ServerRequest::CloseAll { close } => {
                    let keys = self.keys(|source| matches!(source, Source::Connection(_)));
                    keys.into_iter().for_each(|key| self.close(key, close));
                }
                ServerRequest::Refuse => {
                    let keys =
                        self.keys(|source| matches!(source, Source::Listener(_) | Source::Datagrams(_)));
                    keys.into_iter().for_each(|key| drop(self.sources.remove(&key)));
                }
            }
            self.say()?;
        }
        Ok(Then::Keep)
    }

    fn keys(&self, wanted: impl Fn(&Source) -> bool) -> Vec<u64> {
        self.sources.iter().filter(|(_, source)| wanted(source)).map(|(&key, _)| key).collect()
    }

    fn say(&self) -> Result<()> {
        let mut text = serde_json::to_string(&self.stats).context("reply")?;
        text.push('\n');
        let mut output = stdout().lock();
        output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("stdout")
    }
}

/// What a client can order.
#[derive(Clone, Copy)]
enum Order {
    /// Send so many bytes.
    Send(usize),
    /// shutdown(SHUT_WR).
    Shut,
    /// End the connection.
    Close(Close),
    /// Read nothing more.
    Deaf,
    /// Send so many bytes after the client's last.
    Last(usize),
    /// Ignore this line.
    Mute,
}

impl Order {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.trim_end();
        match line {
            "shut" => Some(Self::Shut),
            "close" => Some(Self::Close(Close::Graceful)),
            "reset" => Some(Self::Close(Close::Reset)),
            "deaf" => Some(Self::Deaf),
            _ if line.starts_with("mute") => Some(Self::Mute),
            _ => {
                let (order, bytes) = line.split_once(' ')?;
                let bytes = bytes.parse().ok()?;
                match order {
                    "send" => Some(Self::Send(bytes)),
                    "last" => Some(Self::Last(bytes)),
                    _ => None,
                }
            }
        }
    }
}

/// What a client can say.
enum Question {
    /// A line that is an order.
    Order(Order),
    /// Any other line.
    Line,
    /// An HTTP request, with what comes after its answer.
    Http(Then),
}

impl Question {
    /// Takes the first complete one.
    fn take(input: &mut Vec<u8>) -> Option<Self> {
        if input.starts_with(b"GET ") {
            let end = input.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
            let request: Vec<u8> = input.drain(..end).collect();
            let request = request.to_ascii_lowercase();
            let last = request.windows(17).any(|bytes| bytes == b"connection: close")
                || request.windows(8).any(|bytes| bytes == b"http/1.0");
            return Some(Self::Http(if last { Then::End } else { Then::Keep }));
        }
        let end = input.iter().position(|&byte| byte == b'\n')?;
        let line: Vec<u8> = input.drain(..=end).collect();
        Some(Order::parse(&line).map_or(Self::Line, Self::Order))
    }
}

/// An HTTP answer with a body.
fn http(body: &[u8], then: Then) -> Vec<u8> {
    let connection = if then == Then::End { "close" } else { "keep-alive" };
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: {connection}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}
