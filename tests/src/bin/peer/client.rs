//! Does what it is asked, one request at a time.

use std::{
    collections::BTreeMap,
    io::{Write as _, stdout},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context as _, Result};
use balancer_tests::{
    input::Input,
    peer::protocol::{Close, Handle, Reply, Request},
};
use rustix::{io::Errno, net::connect_unspec, net::sockopt::socket_cookie};

use crate::{bulk, holder::Holder, sockets, together};

/// Serves until standard input ends.
pub fn serve() -> Result<()> {
    let mut session = Session::default();
    let mut input = Input::of_stdin().context("stdin")?;
    loop {
        let Some(line) = input.next_line().context("stdin")? else { return session.end() };
        let request = serde_json::from_str(&line).with_context(|| format!("request {line}"))?;
        let reply = match request {
            // Left over: the loop ended by itself before it arrived.
            Request::Stop => continue,
            Request::Loop(plan) => Reply::Loop(bulk::run(&plan, &mut input)?),
            other => session.handle(other),
        };
        let mut text = serde_json::to_string(&reply).context("reply")?;
        text.push('\n');
        let mut output = stdout().lock();
        output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("stdout")?;
    }
}

/// What the process holds.
#[derive(Default)]
struct Session {
    sockets: BTreeMap<Handle, OwnedFd>,
    next: u32,
    holders: Vec<Holder>,
    held: bulk::Held,
}

impl Session {
    fn handle(&mut self, request: Request) -> Reply {
        self.perform(request).unwrap_or_else(|errno| Reply::Errno(errno.raw_os_error()))
    }

    fn perform(&mut self, request: Request) -> Result<Reply, Errno> {
        let done = |()| Reply::Done;
        match request {
            Request::Socket { kind } => sockets::open(kind).map(|fd| self.keep(fd)),
            Request::Set { socket, setting } => sockets::set(self.get(socket)?, setting).map(done),
            Request::Connect { socket, to } => sockets::dial(self.get(socket)?, to).map(done),
            Request::Finish { socket, timeout_ms } => {
                sockets::finish(self.get(socket)?, Duration::from_millis(timeout_ms.into())).map(done)
            }
            Request::Disconnect { socket } => connect_unspec(self.get(socket)?).map(done),
            Request::Peer { socket } => sockets::peer(self.get(socket)?).map(Reply::Address),
            Request::Local { socket } => sockets::local(self.get(socket)?).map(Reply::Address),
            Request::Cookie { socket } => socket_cookie(self.get(socket)?).map(Reply::Cookie),
            Request::Ask { socket } => sockets::ask(self.get(socket)?).map(Reply::Identity),
            Request::Write { socket, text } => {
                sockets::send_all(self.get(socket)?, text.as_bytes()).map(done)
            }
            Request::Read { socket, bytes } => sockets::receive(self.get(socket)?, bytes).map(Reply::Count),
            Request::Shutdown { socket } => sockets::shutdown(self.get(socket)?).map(done),
            Request::AskTogether { socket, to, threads, rounds } => {
                together::ask(self.get(socket)?, &to, threads, rounds).map(Reply::Answers)
            }
            Request::SendTo { socket, to } => sockets::ask_at(self.get(socket)?, to).map(done),
            Request::ReceiveFrom { socket } => {
                let (from, identity) = sockets::answer_from(self.get(socket)?)?;
                Ok(Reply::Datagram { from, identity })
            }
            Request::Duplicate { socket } => {
                let copy = sockets::duplicate(self.get(socket)?)?;
                Ok(self.keep(copy))
            }
            Request::Close { socket, close } => {
                let fd = self.sockets.remove(&socket).ok_or(Errno::BADF)?;
                sockets::close(fd, close).map(done)
            }
            Request::Fork => {
                let holder = Holder::fork()?;
                let pid = holder.pid();
                self.holders.push(holder);
                Ok(Reply::Holder(pid))
            }
            Request::Pass { socket, holder } => {
                let holder = self.holders.iter().find(|child| child.pid() == holder).ok_or(Errno::SRCH)?;
                let fd = self.sockets.get(&socket).ok_or(Errno::BADF)?;
                holder.pass(std::os::fd::AsFd::as_fd(fd)).map(done)
            }
            Request::End { holder } => {
                let at = self.holders.iter().position(|child| child.pid() == holder).ok_or(Errno::SRCH)?;
                self.holders.swap_remove(at).end().map(done)
            }
            Request::Hold { count, to, kind } => {
                self.held.open(count, to, kind);
                self.held.report().map(Reply::Hold)
            }
            Request::AskHeld => {
                let pods = self.held.ask();
                let report = self.held.report()?;
                Ok(Reply::Hold(balancer_tests::peer::protocol::HoldReport { pods, ..report }))
            }
            Request::CheckHeld => self.held.report().map(Reply::Hold),
            Request::Release { count, close } => {
                self.held.release(count, close)?;
                self.held.report().map(Reply::Hold)
            }
            Request::ReleaseBroken => {
                self.held.release_broken()?;
                self.held.report().map(Reply::Hold)
            }
            // Handled by the caller, which has the input.
            Request::Loop(_) | Request::Stop => Err(Errno::INVAL),
        }
    }

    fn get(&self, handle: Handle) -> Result<&OwnedFd, Errno> {
        self.sockets.get(&handle).ok_or(Errno::BADF)
    }

    fn keep(&mut self, fd: OwnedFd) -> Reply {
        let handle = Handle(self.next);
        self.next += 1;
        self.sockets.insert(handle, fd);
        Reply::Socket(handle)
    }

    /// Ends in order: everything closed, no child left.
    fn end(self) -> Result<()> {
        for holder in self.holders {
            holder.end().context("child")?;
        }
        for fd in self.sockets.into_values() {
            sockets::close(fd, Close::Graceful).context("close")?;
        }
        Ok(())
    }
}
