//! How fast processes lose connections, and whether they connect anew.

use std::collections::HashMap;

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
    /// The connections, by cookie, that were taken for one that was moved, and when they were opened: each is one only.
    returned: HashMap<u64, u64>,
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

    /// Forgets Services that are not to be `kept`: their ids are others' next.
    pub fn forget(&mut self, kept: impl Fn(u32) -> bool) {
        self.moved.retain(|moved| kept(moved.client.1));
        self.paces.retain(|(_, service), _| kept(*service));
    }

    /// Looks which processes have connected anew, and tells `each` of the others once it is too late.
    pub fn settle(&mut self, maps: &Maps, census: &Census, now_ns: u64, mut each: impl FnMut(u32, Return)) {
        for (service, outcome) in self.settled(&census.by_service, now_ns) {
            let counter = match outcome {
                Return::Reconnected => Counter::Reconnected,
                Return::Lost => Counter::Lost,
            };
            record::count(maps, service, counter);
            each(service, outcome);
        }
    }

    /// What became of those that were moved, by Service.
    fn settled(&mut self, by_service: &HashMap<u32, Vec<LiveSocket>>, now_ns: u64) -> Vec<(u32, Return)> {
        let mut outcomes = Vec::new();
        let Self { moved, returned, paces } = self;
        moved.retain(|moved| {
            let (process, service) = moved.client;
            let new = |socket: &&LiveSocket| {
                socket.tgid() == Some(process)
                    && state(socket).is_some_and(|state| state.opened_ns > moved.at_ns)
                    && !returned.contains_key(&socket.cookie)
            };
            let outcome = match by_service.get(&service).into_iter().flatten().find(new) {
                Some(socket) => {
                    returned.insert(socket.cookie, state(socket).map_or(now_ns, |state| state.opened_ns));
                    Return::Reconnected
                }
                None if now_ns.saturating_sub(moved.at_ns) > PATIENCE_NS => Return::Lost,
                None => return true,
            };
            if outcome == Return::Lost {
                paces.entry(moved.client).or_default().spared_until_ns = now_ns + PAUSE_NS;
            }
            outcomes.push((service, outcome));
            false
        });
        // What was moved before these were opened is settled by then.
        returned.retain(|_, opened_ns| now_ns.saturating_sub(*opened_ns) <= PATIENCE_NS);
        paces.retain(|_, pace| {
            now_ns < pace.spared_until_ns || now_ns.saturating_sub(pace.since_ns) < PAUSE_NS
        });
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use balancer_common::abi::SocketState;

    use crate::{
        model::Protocol,
        sockets::{SocketStatus, Translation},
    };

    const SECOND: u64 = 1_000_000_000;

    /// A connection of process 7.
    fn opened(cookie: u64, opened_ns: u64) -> LiveSocket {
        let state = SocketState { tgid: 7, service: 2, opened_ns, ..SocketState::default() };
        LiveSocket {
            netns: None,
            protocol: Protocol::Tcp,
            local: None,
            remote: None,
            status: SocketStatus::Unknown,
            cookie,
            inode: 0,
            cgroup_id: None,
            translation: Translation::Connect(state),
            tcp: None,
            receive_queue: 0,
            send_queue: 0,
            age: None,
            idle: None,
        }
    }

    #[test]
    fn one_new_connection_stands_for_one_that_was_moved() {
        let mut paces = Paces::default();
        let now = 100 * SECOND;
        (0..3).for_each(|_| paces.moved(7, 2, now));
        let sockets = HashMap::from([(2, vec![opened(1, now - 1), opened(2, now + SECOND)])]);
        assert_eq!(paces.settled(&sockets, now + 2 * SECOND), [(2, Return::Reconnected)]);
        for second in 3..=10 {
            assert_eq!(paces.settled(&sockets, now + second * SECOND), []);
        }
        // It comes too late for both.
        assert_eq!(paces.settled(&sockets, now + PATIENCE_NS + 1), [(2, Return::Lost); 2]);
        assert_eq!(paces.available(7, 2, 3, now + PAUSE_NS), 0, "it is spared");
    }

    #[test]
    fn a_service_that_is_gone_leaves_nothing_to_the_next_of_its_id() {
        let mut paces = Paces::default();
        let now = 100 * SECOND;
        (0..3).for_each(|_| paces.moved(7, 2, now));
        paces.moved(7, 3, now);
        assert_eq!(paces.available(7, 2, 3, now), 0);
        paces.forget(|service| service == 3);
        assert_eq!((paces.available(7, 2, 3, now), paces.available(7, 3, 3, now)), (3, 2));
    }

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
