//! Questions over UDP, each on a socket of its own: what a resolver does.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::net::{
    RecvFlags, SendFlags, SocketFlags, SocketType, connect, recvfrom, send, sendto, socket_with, sockopt,
};

use super::{Answer, Asking, Dial, connects::timed, family};

/// Bytes of a question, and of its answer: a name, and a few records.
pub const MESSAGE: usize = 100;

/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_secs(1);

pub(super) fn run(dial: &Dial, asking: Asking) -> Result<Answer> {
    timed(dial, |number, addr| {
        let socket =
            socket_with(family(addr), SocketType::DGRAM, SocketFlags::CLOEXEC, None).context("socket")?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LOST))?;
        let mut question = [0; MESSAGE];
        question[..8].copy_from_slice(&number.to_le_bytes());
        let before = Instant::now();
        let result = ask(&socket, addr, asking, &question);
        Ok((before.elapsed(), result))
    })
}

/// Sends a question and takes its answer, which must be the same bytes and, on a socket that is not connected, come from
/// the address that was asked.
fn ask(socket: &OwnedFd, addr: &SocketAddr, asking: Asking, question: &[u8; MESSAGE]) -> Result<()> {
    match asking {
        Asking::Connected => {
            connect(socket, addr).context("connect")?;
            send(socket, question, SendFlags::empty()).context("send")?;
        }
        Asking::Unconnected => {
            sendto(socket, question, SendFlags::empty(), addr).context("sendto")?;
        }
    }
    let mut answer = [0; MESSAGE];
    let (_, length, from) = recvfrom(socket, &mut answer, RecvFlags::empty()).context("no answer")?;
    anyhow::ensure!(length == MESSAGE && &answer == question, "another answer, of {length} bytes");
    if asking == Asking::Unconnected {
        let from = from.context("an answer from nobody")?;
        let from = SocketAddr::try_from(from).context("an answer from elsewhere")?;
        anyhow::ensure!(from == *addr, "an answer from {from}");
    }
    Ok(())
}
