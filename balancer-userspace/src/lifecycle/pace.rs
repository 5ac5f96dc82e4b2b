//! How fast processes lose connections, and whether they connect anew.

use std::collections::{HashMap, HashSet};

use super::{
    census::{Census, state},
    policy::{PATIENCE_NS, PAUSE_NS, PROCESS_NS, Return},
    record::{self, Counter},
};
use crate::{datapath::Maps, sockets::LiveSocket};

/// A process and a Service.
type Client = (u32, u32);

/// A connection that was moved, until its process has connected anew.
#[derive(Clone, Copy, Debug)]
struct Moved {
    client: Client,
    at_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// When the current share began to be taken, and how much of it was.
    since_ns: u64,
    taken: u64,
    /// Until when the process is left alone, because it did not connect anew.
    spared_until_ns: u64,
}

/// Of all processes of which something was moved lately.
#[derive(Debug, Default)]
pub struct Paces {
    moved: Vec<Moved>,
    paces: HashMap<Client, Pace>,
}

impl Paces {
    /// How many more connections to a Service a process may lose now, of a share of `share` in each period.
    pub fn available(&self, process: u32, service: u32, share: u64, now_ns: u64) -> u64 {
        let client = (process, service);
        // What is not back yet counts, too: who never connects anew loses one share at most.
        let awaited = self.moved.iter().filter(|moved| moved.client == client).count() as u64;
        let Some(pace) = self.paces.get(&client) else { return share };
        if now_ns < pace.spared_until_ns {
            return 0;
        }
        let taken = if now_ns.saturating_sub(pace.since_ns) < PROCESS_NS { pace.taken } else { 0 };
        share.saturating_sub(taken.max(awaited))
    }

    /// Notes that a connection of a process was moved.
    pub fn moved(&mut self, process: u32, service: u32, now_ns: u64) {
        self.taken(process, service, now_ns);
        self.moved.push(Moved { client: (process, service), at_ns: now_ns });
    }

    /// The same of one that need not come back: its backend goes away.
    pub fn taken(&mut self, process: u32, service: u32, now_ns: u64) {
        let pace = self.paces.entry((process, service)).or_default();
        if now_ns.saturating_sub(pace.since_ns) >= PROCESS_NS {
            (pace.since_ns, pace.taken) = (now_ns, 0);
        }
        pace.taken += 1;
    }

    /// Looks which processes have connected anew, and tells `each` of the others once it is too late.
    pub fn settle(&mut self, maps: &Maps, census: &Census, now_ns: u64, mut each: impl FnMut(u32, Return)) {
        let mut used: HashSet<u64> = HashSet::new();
        let Self { moved, paces } = self;
        moved.retain(|moved| {
            let (process, service) = moved.client;
            let new = |socket: &&LiveSocket| {
                socket.tgid() == Some(process)
                    && state(socket).is_some_and(|state| state.opened_ns > moved.at_ns)
                    && !used.contains(&socket.cookie)
            };
            let outcome = match census.by_service.get(&service).into_iter().flatten().find(new) {
                Some(socket) => {
                    used.insert(socket.cookie);
                    Return::Reconnected
                }
                None if now_ns.saturating_sub(moved.at_ns) > PATIENCE_NS => Return::Lost,
                None => return true,
            };
            record::count(
                maps,
                service,
                match outcome {
                    Return::Reconnected => Counter::Reconnected,
                    Return::Lost => Counter::Lost,
                },
            );
            if outcome == Return::Lost {
                paces.entry(moved.client).or_default().spared_until_ns = now_ns + PAUSE_NS;
            }
            each(service, outcome);
            false
        });
        paces.retain(|_, pace| {
            now_ns < pace.spared_until_ns || now_ns.saturating_sub(pace.since_ns) < PAUSE_NS
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_process_loses_its_share_and_then_has_peace() {
        let mut paces = Paces::default();
        let now = 100 * SECOND;
        assert_eq!(paces.available(7, 2, 3, now), 3);
        (0..3).for_each(|_| paces.taken(7, 2, now));
        assert_eq!(paces.available(7, 2, 3, now + PROCESS_NS - 1), 0);
        assert_eq!(paces.available(7, 2, 3, now + PROCESS_NS), 3);
        assert_eq!(paces.available(7, 3, 3, now), 3, "another Service");
        assert_eq!(paces.available(8, 2, 3, now), 3, "another process");
    }

    #[test]
    fn what_is_not_back_counts() {
        let mut paces = Paces::default();
        let now = 100 * SECOND;
        (0..2).for_each(|_| paces.moved(7, 2, now));
        assert_eq!(paces.available(7, 2, 3, now + 9 * SECOND), 1);
    }
}
