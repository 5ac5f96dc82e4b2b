//! Sockets that are connected and closed, one after the other.

use std::{
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::net::{SocketFlags, SocketType, connect, socket_with, sockopt};

use super::{Answer, Dial, Pause, SLOW, family};

/// More than the caches that belong to one CPU hold.
const FOREIGN: usize = 6 << 20;

/// A server needs less than a tenth of it to close a connection and sleep, on an idle machine.
const SLEEP: Duration = Duration::from_micros(100);

pub(super) fn run(dial: &Dial, kind: SocketType) -> Result<Answer> {
    timed(dial, |_, addr| {
        let socket = socket_with(family(addr), kind, SocketFlags::CLOEXEC, None).context("socket")?;
        if kind == SocketType::STREAM {
            // close() resets: no TIME_WAIT, which would use up the ports.
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        }
        let before = Instant::now();
        let result = connect(&socket, addr);
        Ok((before.elapsed(), result.map_err(Into::into)))
    })
}

/// Makes an attempt at each destination in turn, and counts. An attempt opens and closes a socket of its own, and says how
/// long it took in between, and how it ended; an error of its own ends all.
#[inline]
pub(super) fn timed(
    dial: &Dial,
    mut attempt: impl FnMut(usize, &SocketAddr) -> Result<(Duration, Result<()>)>,
) -> Result<Answer> {
    let mut answer = Answer {
        connect_ns: Vec::with_capacity(dial.count),
        whole_ns: Vec::with_capacity(dial.count),
        ..Answer::default()
    };
    let mut pausing = Pausing::new(dial.pause);
    let all_begun = Instant::now();
    for (number, addr) in dial.to.iter().cycle().take(dial.count).enumerate() {
        pausing.pause();
        let begun = Instant::now();
        let (took, result) = attempt(number, addr)?;
        answer.slow += usize::from(took > SLOW);
        match result {
            Ok(()) => {
                answer.connect_ns.push(took.as_nanos() as u64);
                answer.whole_ns.push(begun.elapsed().as_nanos() as u64);
            }
            Err(error) => answer.failed.push(format!("{addr}: {error:#}")),
        }
    }
    answer.total_ns = all_begun.elapsed().as_nanos() as u64;
    Ok(answer)
}

/// What happens between two connects.
struct Pausing {
    pause: Pause,
    foreign: Vec<u64>,
}

impl Pausing {
    fn new(pause: Pause) -> Self {
        Self { pause, foreign: vec![1; if pause == Pause::ColdCaches { FOREIGN / 8 } else { 0 }] }
    }

    fn pause(&mut self) {
        match self.pause {
            Pause::None => {}
            Pause::ServerSleeps => {
                // Not by sleeping, or the CPU would sleep too.
                let begun = Instant::now();
                while begun.elapsed() < SLEEP {
                    std::hint::spin_loop();
                }
            }
            // A word of each line, changed.
            Pause::ColdCaches => {
                self.foreign.iter_mut().step_by(8).for_each(|word| *word = black_box(*word + 1));
            }
        }
    }
}
