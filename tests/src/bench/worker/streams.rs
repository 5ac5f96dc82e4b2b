//! Requests on connections that stay open.
//!
//! A request begins with a [`Head`] and is as long as that says; its answer is as long as asked. Where the head asks for it,
//! the answer begins with the processor time of the thread that gave it, in nanoseconds.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    net::sockopt,
    time::{ClockId, clock_gettime},
};

use super::{Answer, Requests};

/// Bytes of a [`Head`].
pub(super) const HEAD: usize = 16;

/// How much is written or read at once.
pub(super) const CHUNK: usize = 256 << 10;

/// A request that takes longer is lost.
const LOST: Duration = Duration::from_secs(10);

/// Every kernel has it, and it sends as fast as the receiver takes: BBR, the default of some, sends one connection by its pace
/// and another at once, depending on what it made of the first few round trips, which between two pods of a machine take
/// microseconds. The one then gets a third of the bytes of the other.
const CONGESTION_CONTROL: &str = "reno";

/// The beginning of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the request, this included.
    pub(super) size: u64,
    /// Bytes of its answer.
    pub(super) answer: u32,
    /// What the answer begins with.
    pub(super) wants: Wants,
}

/// What an answer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Nothing of interest.
    Bytes,
    /// Processor time of the thread that answers.
    Time,
}

impl Head {
    fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.answer.to_le_bytes());
        bytes[12] = u8::from(self.wants == Wants::Time);
        bytes
    }

    pub(super) fn from_bytes(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, wants, ..] = bytes;
        Self {
            size: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            answer: u32::from_le_bytes([i, j, k, l]),
            wants: if wants == 0 { Wants::Bytes } else { Wants::Time },
        }
    }
}

/// Processor time of this thread.
pub(super) fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Connections of a dialler.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: Vec<TcpStream>,
}

impl Streams {
    pub(super) fn open(&mut self, to: SocketAddr) -> Result<Answer> {
        let stream = TcpStream::connect_timeout(&to, LOST).with_context(|| to.to_string())?;
        stream.set_nodelay(true)?;
        sockopt::set_tcp_congestion(&stream, CONGESTION_CONTROL).context("congestion control")?;
        stream.set_read_timeout(Some(LOST))?;
        stream.set_write_timeout(Some(LOST))?;
        self.open.push(stream);
        Ok(Answer { opened: self.open.len() - 1, ..Answer::default() })
    }

    pub(super) fn request(&mut self, number: usize, requests: Requests) -> Result<Answer> {
        let stream = self.open.get_mut(number).with_context(|| format!("no connection {number}"))?;
        let Requests { count, size, answer } = requests;
        let chunk = vec![0; size.clamp(HEAD, CHUNK)];
        let mut answers = vec![0; answer.max(8)];
        let server_before = server_time(stream)?;
        let (begun, cpu_before) = (Instant::now(), thread_time());
        for _ in 0..count {
            exchange(stream, size, &chunk, &mut answers, Wants::Bytes).context("request")?;
        }
        let (total, cpu_ns) = (begun.elapsed(), thread_time() - cpu_before);
        let server_ns = server_time(stream)?.saturating_sub(server_before);
        let total_ns = total.as_nanos() as u64;
        Ok(Answer { total_ns, cpu_ns: cpu_ns + server_ns, ..Answer::default() })
    }
}

/// Processor time of the thread at the other end.
fn server_time(stream: &mut TcpStream) -> Result<u64> {
    let mut answer = [0; 8];
    exchange(stream, HEAD, &[0; HEAD], &mut answer, Wants::Time).context("the server's time")?;
    Ok(u64::from_le_bytes(answer))
}

fn exchange(
    stream: &mut TcpStream,
    size: usize,
    chunk: &[u8],
    answer: &mut [u8],
    wants: Wants,
) -> std::io::Result<()> {
    let size = size.max(HEAD);
    let head = Head { size: size as u64, answer: answer.len() as u32, wants };
    // With the first bytes, so that a small request is one segment.
    let mut first = [0; 1024];
    let together = size.min(first.len());
    first[..HEAD].copy_from_slice(&head.to_bytes());
    stream.write_all(&first[..together])?;
    let mut left = size - together;
    while left > 0 {
        let now = left.min(chunk.len());
        stream.write_all(&chunk[..now])?;
        left -= now;
    }
    stream.read_exact(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for wants in [Wants::Bytes, Wants::Time] {
            let head = Head { size: u64::MAX - 1, answer: 77_000, wants };
            assert_eq!(Head::from_bytes(head.to_bytes()), head);
        }
    }
}
