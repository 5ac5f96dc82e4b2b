//! Child processes that hold descriptors: by fork, or passed to them by SCM_RIGHTS.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
    },
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};

use crate::sockets::last_errno;

/// A child of this process.
#[derive(Debug)]
pub struct Holder {
    pid: Pid,
    line: OwnedFd,
}

impl Holder {
    /// fork(). The child has every descriptor of this process and waits for more.
    pub fn fork() -> Result<Self, Errno> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // SAFETY: this process has one thread, so the child may go on as if nothing had happened.
        let pid = unsafe { libc::fork() };
        match pid {
            ..0 => Err(last_errno()),
            0 => {
                drop(ours);
                hold(&theirs);
                // SAFETY: ends the child without running what the parent registered for its own exit.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self { pid: Pid::from_raw(pid).ok_or(Errno::SRCH)?, line: ours }),
        }
    }

    /// Process id of the child.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Passes a descriptor, and waits until the child has it.
    pub fn pass(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        sendmsg(&self.line, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)?;
        let mut answer = [0_u8; 1];
        match recv(&self.line, &mut answer, RecvFlags::empty())? {
            (1, _) => Ok(()),
            _ => Err(Errno::PIPE),
        }
    }

    /// Kills the child and reaps it: its descriptors are closed when this returns.
    pub fn end(self) -> Result<(), Errno> {
        kill_process(self.pid, Signal::KILL)?;
        waitpid(Some(self.pid), WaitOptions::empty()).map(drop)
    }
}

/// In the child: takes descriptors until the parent ends.
fn hold(line: &OwnedFd) {
    let mut held = Vec::new();
    while let Ok(Some(fd)) = take(line.as_fd()) {
        held.push(fd);
        if send(line, b"+", SendFlags::NOSIGNAL).is_err() {
            return;
        }
    }
}

/// One descriptor; `None` when the parent is gone.
fn take(line: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    recvmsg(line, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fd)
}
