//! A client in a pod.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, TryLockError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::io::Errno;

use super::{
    link::{CallError, Link},
    protocol::{
        Close, Handle, HoldReport, Identity, Kind, LoopPlan, LoopReport, Reply, Request, Setting, Until,
    },
};
use crate::topology::Pod;

/// How long a single call may take; longer than any time-out of TCP that a test waits for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A process in a pod that makes the system calls it is asked for.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Mutex<Link>>,
    process_id: u32,
}

impl Pod {
    /// Starts a client in it.
    pub fn client(&self) -> Result<Client> {
        let mut link = Link::start(self, &["client".to_owned()])?;
        Ok(Client { process_id: link.process().id(), link: Arc::new(Mutex::new(link)) })
    }
}

impl Client {
    /// socket().
    pub fn socket(&self, kind: Kind) -> Result<Socket, CallError> {
        match self.call("socket", &Request::Socket { kind })? {
            Reply::Socket(handle) => Ok(Socket { client: self.clone(), handle, open: true }),
            other => Err(unexpected(&other)),
        }
    }

    /// socket() of the address's own family, and connect().
    pub fn connect(&self, to: SocketAddr) -> Result<Socket, CallError> {
        let socket = self.socket(Kind::tcp(to))?;
        socket.connect(to)?;
        Ok(socket)
    }

    /// Connects by TCP, asks who answers, closes.
    pub fn ask(&self, to: SocketAddr) -> Result<Identity, CallError> {
        let socket = self.connect(to)?;
        let identity = socket.ask()?;
        socket.close(Close::Graceful)?;
        Ok(identity)
    }

    /// fork(): a child process that holds all sockets that are open now.
    pub fn fork(&self) -> Result<Holder, CallError> {
        match self.call("fork", &Request::Fork)? {
            Reply::Holder(pid) => Ok(Holder { client: self.clone(), pid }),
            other => Err(unexpected(&other)),
        }
    }

    /// Opens `count` more connections and holds them until [`Client::release`]. Failures are in the report.
    pub fn hold(&self, count: u64, to: SocketAddr) -> Result<HoldReport> {
        self.hold_kind(count, to, Kind::tcp(to))
    }

    /// Like [`Client::hold`], of this kind.
    pub fn hold_kind(&self, count: u64, to: SocketAddr, kind: Kind) -> Result<HoldReport> {
        self.held(&Request::Hold { count, to, kind })
    }

    /// Asks on every held connection who is at the other end.
    pub fn ask_held(&self) -> Result<HoldReport> {
        self.held(&Request::AskHeld)
    }

    /// How many held connections the other side has ended.
    pub fn check_held(&self) -> Result<HoldReport> {
        self.held(&Request::CheckHeld)
    }

    /// Closes the oldest `count` held connections.
    pub fn release(&self, count: u64, close: Close) -> Result<HoldReport> {
        self.held(&Request::Release { count, close })
    }

    /// Closes the held connections that the other side has ended.
    pub fn release_broken(&self) -> Result<HoldReport> {
        self.held(&Request::ReleaseBroken)
    }

    /// Runs a loop to its end.
    pub fn run(&self, plan: LoopPlan) -> Result<LoopReport> {
        self.start(plan)?.wait()
    }

    /// Starts a loop. Until it is waited for or stopped the client is busy: everything else on it fails.
    pub fn start(&self, plan: LoopPlan) -> Result<Running<'_>> {
        let mut link = self.link()?;
        let timeout = match plan.until {
            Until::Millis(millis) => Duration::from_millis(millis) + TIMEOUT,
            Until::Count(_) | Until::Told => Duration::from_secs(600),
        };
        link.send(&Request::Loop(plan))?;
        Ok(Running { link: Some(link), timeout })
    }

    /// SIGKILL: all its sockets are closed by the kernel.
    pub fn kill(&self) -> Result<()> {
        self.link()?.process().kill().map(drop)
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    fn held(&self, request: &Request) -> Result<HoldReport> {
        match self.call("hold", request)? {
            Reply::Hold(report) => Ok(report),
            other => Err(unexpected(&other).into()),
        }
    }

    fn call(&self, call: &'static str, request: &Request) -> Result<Reply, CallError> {
        let mut link = self.link()?;
        link.send(request)?;
        match link.receive(TIMEOUT)? {
            Reply::Errno(errno) => Err(CallError::Errno { call, errno: Errno::from_raw_os_error(errno) }),
            Reply::Error(error) => Err(CallError::Peer(anyhow!(error))),
            reply => Ok(reply),
        }
    }

    /// The line, if it is free. Waiting for it would hang a test that uses a socket while its client runs a loop.
    fn link(&self) -> Result<MutexGuard<'_, Link>> {
        match self.link.try_lock() {
            Ok(link) => Ok(link),
            // A panic elsewhere leaves the line usable: at worst its reply comes first and is reported as unexpected.
            Err(TryLockError::Poisoned(link)) => Ok(link.into_inner()),
            Err(TryLockError::WouldBlock) => bail!("the client is busy, with a loop or for another thread"),
        }
    }
}

/// A loop under way. Dropping it stops the loop.
#[derive(Debug)]
pub struct Running<'a> {
    link: Option<MutexGuard<'a, Link>>,
    timeout: Duration,
}

impl Running<'_> {
    /// Until it ends by itself.
    pub fn wait(mut self) -> Result<LoopReport> {
        self.finish()
    }

    /// Ends it now.
    pub fn stop(mut self) -> Result<LoopReport> {
        self.link.as_mut().context("loop is over")?.send(&Request::Stop)?;
        self.finish()
    }

    fn finish(&mut self) -> Result<LoopReport> {
        let mut link = self.link.take().context("loop is over")?;
        match link.receive(self.timeout)? {
            Reply::Loop(report) => Ok(report),
            other => Err(unexpected(&other).into()),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(link) = &mut self.link {
            // A peer that is gone needs no stopping.
            _ = link.send(&Request::Stop).and_then(|()| link.receive::<Reply>(TIMEOUT));
        }
    }
}

/// A socket of a [`Client`]; closed on drop.
#[derive(Debug)]
pub struct Socket {
    client: Client,
    handle: Handle,
    open: bool,
}

impl Socket {
    /// setsockopt(), bind() or fcntl().
    pub fn set(&self, setting: Setting) -> Result<(), CallError> {
        self.done("set", &Request::Set { socket: self.handle, setting })
    }

    /// connect().
    pub fn connect(&self, to: SocketAddr) -> Result<(), CallError> {
        self.done("connect", &Request::Connect { socket: self.handle, to })
    }

    /// Waits for a nonblocking connect() to succeed or fail; ETIME when it does neither in time.
    pub fn finish(&self, timeout: Duration) -> Result<(), CallError> {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        self.done("connect", &Request::Finish { socket: self.handle, timeout_ms })
    }

    /// connect() to AF_UNSPEC.
    pub fn disconnect(&self) -> Result<(), CallError> {
        self.done("connect(AF_UNSPEC)", &Request::Disconnect { socket: self.handle })
    }

    /// getpeername().
    pub fn peer(&self) -> Result<SocketAddr, CallError> {
        self.address("getpeername", &Request::Peer { socket: self.handle })
    }

    /// getsockname().
    pub fn local(&self) -> Result<SocketAddr, CallError> {
        self.address("getsockname", &Request::Local { socket: self.handle })
    }

    /// SO_COOKIE.
    pub fn cookie(&self) -> Result<u64, CallError> {
        match self.client.call("cookie", &Request::Cookie { socket: self.handle })? {
            Reply::Cookie(cookie) => Ok(cookie),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the server that it is connected to who it is.
    pub fn ask(&self) -> Result<Identity, CallError> {
        match self.client.call("ask", &Request::Ask { socket: self.handle })? {
            Reply::Identity(identity) => Ok(identity),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a text.
    pub fn write(&self, text: impl Into<String>) -> Result<(), CallError> {
        self.done("send", &Request::Write { socket: self.handle, text: text.into() })
    }

    /// Receives `bytes` bytes, or fewer if the other side ends first; how many there were.
    pub fn read(&self, bytes: u64) -> Result<u64, CallError> {
        match self.client.call("recv", &Request::Read { socket: self.handle, bytes })? {
            Reply::Count(count) => Ok(count),
            other => Err(unexpected(&other)),
        }
    }

    /// shutdown(SHUT_WR).
    pub fn shutdown(&self) -> Result<(), CallError> {
        self.done("shutdown", &Request::Shutdown { socket: self.handle })
    }

    /// Asks from `threads` threads at once, each `rounds` times at every address (none: at the connected peer). How many answers came from
    /// which source address and pod; fewer than were asked for when the receive time-out ends first.
    pub fn ask_together(
        &self,
        to: &[SocketAddr],
        threads: u32,
        rounds: u32,
    ) -> Result<Vec<(SocketAddr, String, u64)>, CallError> {
        let request = Request::AskTogether { socket: self.handle, to: to.to_owned(), threads, rounds };
        match self.client.call("sendto", &request)? {
            Reply::Answers(answers) => Ok(answers),
            other => Err(unexpected(&other)),
        }
    }

    /// sendto() with an address.
    pub fn send_to(&self, to: SocketAddr) -> Result<(), CallError> {
        self.done("sendto", &Request::SendTo { socket: self.handle, to })
    }

    /// recvfrom(): the source address that the application sees, and who answered.
    pub fn receive_from(&self) -> Result<(SocketAddr, Identity), CallError> {
        match self.client.call("recvfrom", &Request::ReceiveFrom { socket: self.handle })? {
            Reply::Datagram { from, identity } => Ok((from, identity)),
            other => Err(unexpected(&other)),
        }
    }

    /// dup().
    pub fn duplicate(&self) -> Result<Self, CallError> {
        match self.client.call("dup", &Request::Duplicate { socket: self.handle })? {
            Reply::Socket(handle) => Ok(Self { client: self.client.clone(), handle, open: true }),
            other => Err(unexpected(&other)),
        }
    }

    /// close().
    pub fn close(mut self, close: Close) -> Result<(), CallError> {
        self.open = false;
        self.done("close", &Request::Close { socket: self.handle, close })
    }

    fn done(&self, call: &'static str, request: &Request) -> Result<(), CallError> {
        match self.client.call(call, request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn address(&self, call: &'static str, request: &Request) -> Result<SocketAddr, CallError> {
        match self.client.call(call, request)? {
            Reply::Address(addr) => Ok(addr),
            other => Err(unexpected(&other)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.open {
            // A client that is gone has closed it.
            _ = self.done("close", &Request::Close { socket: self.handle, close: Close::Graceful });
        }
    }
}

/// A child of a [`Client`] that holds the sockets which were open when it was forked, and those passed to it.
#[derive(Debug)]
pub struct Holder {
    client: Client,
    pid: u32,
}

impl Holder {
    /// Gives it a socket by SCM_RIGHTS; the client keeps its own descriptor.
    pub fn pass(&self, socket: &Socket) -> Result<(), CallError> {
        socket.done("sendmsg", &Request::Pass { socket: socket.handle, holder: self.pid })
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.pid
    }

    /// Ends it, which closes its descriptors.
    pub fn end(self) -> Result<(), CallError> {
        match self.client.call("end", &Request::End { holder: self.pid })? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &Reply) -> CallError {
    CallError::Peer(anyhow!("unexpected reply {reply:?}"))
}
