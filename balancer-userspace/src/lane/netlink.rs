//! The way to nf_tables of the network namespace that this thread is in.

use std::{io, os::fd::AsRawFd, os::fd::BorrowedFd, time::Duration};

use bytes::BytesMut;
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt;

use super::{
    LaneError,
    answer::{self, Answer},
    message::{self, Batch, Query},
};
use crate::model::Family;

/// What is read at a time.
const BUFFER: usize = 64 << 10;

/// How often a listing is begun again when the ruleset changed under it.
const ATTEMPTS: u32 = 5;

/// A silence of this length is an error. A transaction waits for those of others, and iptables takes seconds for
/// a large ruleset; so the wait is in the sending, not here.
const PATIENCE: Duration = Duration::from_secs(10);

/// A channel to nf_tables.
pub(super) struct Channel {
    socket: Socket,
    buffer: BytesMut,
    sequence: u32,
}

impl Channel {
    /// Opens one.
    ///
    /// # Errors
    /// [`LaneError::NoNfTables`] where the kernel has no netfilter, or what else a socket fails with.
    pub(super) fn open() -> Result<Self, LaneError> {
        let socket = Socket::new(NETLINK_NETFILTER).map_err(|source| match source.raw_os_error() {
            Some(libc::EPROTONOSUPPORT) => LaneError::NoNfTables { source },
            _ => LaneError::Netlink { source },
        })?;
        // A refusal then says which request it is about, and does not repeat it.
        socket.set_cap_ack(true).map_err(|source| LaneError::Netlink { source })?;
        // SAFETY: `socket` is open, and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        sockopt::set_socket_timeout(fd, sockopt::Timeout::Recv, Some(PATIENCE))
            .map_err(|errno| LaneError::Netlink { source: errno.into() })?;
        Ok(Self { socket, buffer: BytesMut::with_capacity(BUFFER), sequence: 1 })
    }

    /// A batch without changes.
    pub(super) fn batch(&mut self, family: Family) -> Batch {
        Batch::new(family, self.sequence)
    }

    /// Makes the changes of a batch, or none of them.
    ///
    /// # Errors
    /// The first that was refused.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), LaneError> {
        if batch.is_empty() {
            return Ok(());
        }
        let batch = batch.finish();
        self.sequence = batch.last.wrapping_add(2);
        self.send(&batch.bytes)?;
        let mut failed = None;
        let mut over = false;
        while !over {
            self.receive(|answer| {
                if let Answer::Result { sequence, errno } = answer {
                    // Answers to what was sent before are late ones.
                    let index = sequence.wrapping_sub(batch.begin);
                    if index > batch.last.wrapping_sub(batch.begin) {
                        return;
                    }
                    if let Some(errno) = errno {
                        failed.get_or_insert_with(|| LaneError::refused(batch.step(sequence), errno));
                    }
                    over |= sequence == batch.last || (sequence == batch.begin && errno.is_some());
                }
            })?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Asks, and hands over every answer. Whether there was any.
    ///
    /// # Errors
    /// What the kernel refuses; that there is no such object is no error.
    pub(super) fn ask(
        &mut self,
        family: Family,
        query: Query<'_>,
        mut each: impl FnMut(Answer),
    ) -> Result<bool, LaneError> {
        for _ in 0..ATTEMPTS {
            let sequence = self.sequence;
            self.sequence = self.sequence.wrapping_add(1);
            self.send(&message::query(family, query, sequence))?;
            let mut answers = Vec::new();
            let (mut disturbed, mut ended) = (false, None);
            while ended.is_none() {
                self.receive(|answer| match answer {
                    Answer::Disturbed => disturbed = true,
                    Answer::Result { sequence: of, errno } | Answer::Done { sequence: of, errno } => {
                        if of == sequence {
                            ended = Some(errno);
                        }
                    }
                    answer => {
                        // What is asked for by name is answered by one message, without an end.
                        if !query.is_dump() {
                            ended = Some(None);
                        }
                        answers.push(answer);
                    }
                })?;
            }
            match ended.flatten() {
                None if disturbed => {}
                None => {
                    let found = !answers.is_empty();
                    answers.into_iter().for_each(&mut each);
                    return Ok(found);
                }
                Some(libc::ENOENT) => return Ok(false),
                Some(libc::EINTR | libc::EAGAIN) => {}
                Some(errno) => return Err(LaneError::refused("looking", errno)),
            }
        }
        Err(LaneError::Unstable { attempts: ATTEMPTS })
    }

    fn send(&self, bytes: &[u8]) -> Result<(), LaneError> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LaneError::Netlink { source }),
            }
        }
    }

    fn receive(&mut self, each: impl FnMut(Answer)) -> Result<(), LaneError> {
        loop {
            self.buffer.clear();
            let room = self.buffer.capacity();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > room => {
                    return Err(LaneError::Malformed { what: format!("{length} bytes in one piece") });
                }
                Ok(_) => return answer::datagram(&self.buffer, each),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LaneError::Netlink { source }),
            }
        }
    }
}
