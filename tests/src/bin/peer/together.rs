//! Threads that share one datagram socket.

use std::{collections::BTreeMap, net::SocketAddr, os::fd::OwnedFd, sync::Barrier, thread};

use rustix::io::Errno;

use crate::sockets;

/// Asks from `threads` threads at once, each `rounds` times at every address; none stands for the connected peer. Returns how many
/// answers came from which source and pod.
pub fn ask(
    fd: &OwnedFd,
    to: &[SocketAddr],
    threads: u32,
    rounds: u32,
) -> Result<Vec<(SocketAddr, String, u64)>, Errno> {
    let barrier = Barrier::new(threads as usize);
    let one = |number: usize| {
        barrier.wait();
        for _ in 0..rounds {
            if to.is_empty() {
                sockets::send_all(fd, sockets::QUESTION)?;
            }
            // Each begins elsewhere, so that they meet at an address only now and then, except in the first round of two.
            for index in 0..to.len() {
                sockets::ask_at(fd, to[(index + number / 2) % to.len()])?;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads as usize).map(|number| scope.spawn(move || one(number))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let mut answers = BTreeMap::new();
    for _ in 0..threads * rounds * to.len().max(1) as u32 {
        let (from, identity) = match sockets::answer_from(fd) {
            Ok(answer) => answer,
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno),
        };
        *answers.entry((from, identity.pod)).or_default() += 1;
    }
    Ok(answers.into_iter().map(|((from, pod), count)| (from, pod, count)).collect())
}
