//! The thread: what should be, as it is told, and what is, brought in step.
//!
//! Every transaction in nf_tables makes an iptables that works on its own begin again (it finds another generation of
//! the ruleset than it has read). So beside an iptables that works on nf_tables, changes are gathered, and what is not
//! needed is left out. What is at an address that a Service has taken does not wait.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use balancer_common::abi::LaneState;

use super::{
    Command, Status,
    netlink::Channel,
    side::{Side, Turn},
    table,
};
use crate::model::Family;

/// How often it is looked what kube-proxy does, and whether the table is still there.
const LOOK: Duration = Duration::from_secs(5);
/// The longest pause between two transactions beside an iptables that works on nf_tables.
const PAUSE: Duration = Duration::from_secs(5);

/// How long the lane holds at a time if the lease never lapses, in nanoseconds: an hour.
const ENDLESS_TERM: u64 = 3600 * 1_000_000_000;

/// Both families.
pub(super) struct Worker {
    name: String,
    status: Arc<Status>,
    channel: Option<Channel>,
    sides: [Side; 2],
    lease: LeaseTime,
    next_look: Instant,
    /// When something was changed last.
    changed: Option<Instant>,
    /// Whether all of it is to go.
    removing: bool,
    /// Dropped in the end: whoever waits for that is told.
    _ended: Sender<()>,
}

/// The lease, as it was last told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaseTime {
    /// When it lapses, in nanoseconds of the boot time; 0 if it has, `u64::MAX` for never.
    pub(super) until: u64,
    /// How long each renewal lasts; 0 for one that never lapses.
    pub(super) term: u64,
}

impl LeaseTime {
    /// What a renewal must gain to be worth telling the kernel. The agent renews four times a term or more often; those
    /// that come a little early count too.
    pub(super) const fn step(self) -> u64 {
        self.term / 5
    }

    /// Whether it never lapses.
    pub(super) const fn is_endless(self) -> bool {
        self.until == u64::MAX
    }

    /// What the kernel is told of it: one that never lapses is renewed every hour, since nobody could end a lane whose
    /// agent and pins are gone.
    pub(super) const fn finite(self, now_ns: u64) -> Self {
        match self.until {
            u64::MAX => Self { until: now_ns.saturating_add(ENDLESS_TERM), term: ENDLESS_TERM },
            _ => self,
        }
    }
}

impl Worker {
    pub(super) fn new(name: String, status: Arc<Status>, ended: Sender<()>) -> Self {
        Self {
            name,
            status,
            channel: None,
            sides: [Family::V4, Family::V6].map(Side::new),
            lease: LeaseTime::default(),
            next_look: Instant::now(),
            changed: None,
            removing: false,
            _ended: ended,
        }
    }

    /// Until nobody can tell it anything any more; what was gathered until then is done at last. The lane stays: it
    /// lapses by itself.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.recv_timeout(self.wait()) {
                Ok(command) => {
                    self.take(command);
                    commands.try_iter().for_each(|command| self.take(command));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if !self.removing && self.sides.iter().any(Side::is_behind) {
                        // There is no later.
                        self.changed = None;
                        self.turn();
                    }
                    return;
                }
            }
            self.turn();
        }
    }

    /// How long nothing is to be done unless something is said.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let look = self.next_look.saturating_duration_since(now);
        match self.free_at() {
            _ if self.sides.iter().any(Side::is_urgent) => Duration::ZERO,
            Some(free) if self.sides.iter().any(Side::is_behind) => {
                look.min(free.saturating_duration_since(now))
            }
            _ => look,
        }
    }

    /// When the next transaction may be made; `None` for now.
    fn free_at(&self) -> Option<Instant> {
        let pause = PAUSE.min(match self.lease.step() {
            0 => PAUSE,
            step => Duration::from_nanos(step),
        });
        self.changed.filter(|_| self.sides.iter().any(Side::shares_tables)).map(|changed| changed + pause)
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Whole(endpoints) => self.sides.iter_mut().for_each(|side| side.whole(&endpoints)),
            Command::Change(delta) => {
                let removed = delta.removed.iter().map(|endpoint| (endpoint, false));
                for (endpoint, put) in removed.chain(delta.added.iter().map(|endpoint| (endpoint, true))) {
                    self.side(endpoint.family()).change(*endpoint, put);
                }
                for addr in delta.claimed {
                    self.side(Family::of(addr)).claim(addr);
                }
            }
            Command::Renew { until, term } => self.lease = LeaseTime { until, term },
            Command::Suspend => {
                self.lease.until = 0;
                self.sides.iter_mut().for_each(Side::suspend);
            }
            Command::Remove => self.removing = true,
        }
    }

    const fn side(&mut self, family: Family) -> &mut Side {
        let [v4, v6] = &mut self.sides;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    fn turn(&mut self) {
        let looking = Instant::now() >= self.next_look;
        if looking {
            self.next_look = Instant::now() + LOOK;
        }
        if self.removing {
            return self.remove();
        }
        let free = self.free_at().is_none_or(|free| Instant::now() >= free);
        for side in &mut self.sides {
            // After an error nothing is tried before the next look, but to end it.
            if !looking && side.state() == LaneState::Refused && !side.is_ending() {
                continue;
            }
            let channel = match &mut self.channel {
                Some(channel) => Ok(channel),
                none => Channel::open().map(|channel| none.insert(channel)),
            };
            let turn = Turn { name: &self.name, looking, free, lease: self.lease, status: &self.status };
            let result = channel.and_then(|channel| match side.turn(channel, &turn) {
                // Whatever was believed to be there is not: it is made anew.
                Err(error) if error.is_stale() && side.lost(&turn) => side.turn(channel, &turn),
                other => other,
            });
            match result {
                Ok(false) => {}
                Ok(true) => self.changed = Some(Instant::now()),
                Err(error) => {
                    // What it still answers would be taken for an answer to something else.
                    self.channel = None;
                    side.failed(&error);
                }
            }
            self.status.set(side.family(), side.state(), side.entries());
        }
    }

    fn remove(&self) {
        let result = Channel::open().and_then(|mut channel| {
            self.sides
                .iter()
                .try_for_each(|side| table::remove(&mut channel, side.family(), &self.name).map(drop))
        });
        if let Err(error) = result {
            log::warn!("the express lane is left to lapse: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::{
        lane::{Delta, Endpoint},
        model::Protocol,
    };

    /// Beside an iptables on nf_tables, just after a transaction.
    fn paused(v4: &[Endpoint]) -> Worker {
        let (ended, _) = channel();
        let mut worker = Worker::new("test".to_owned(), Arc::default(), ended);
        worker.sides = [Side::settled(Family::V4, v4), Side::settled(Family::V6, &[])];
        worker.next_look = Instant::now() + LOOK;
        worker.changed = Some(Instant::now());
        worker
    }

    #[test]
    fn an_endless_lease_is_told_as_hours() {
        let endless = LeaseTime { until: u64::MAX, term: 0 };
        let told = endless.finite(7);
        assert_eq!(told, LeaseTime { until: 7 + ENDLESS_TERM, term: ENDLESS_TERM });
        assert_eq!(told.step(), ENDLESS_TERM / 5);
        for other in [LeaseTime::default(), LeaseTime { until: 9, term: 5 }] {
            assert_eq!(other.finite(7), other);
        }
    }

    #[test]
    fn changes_are_gathered_but_for_those_at_addresses_that_services_take() {
        let endpoint =
            |last: u8| Endpoint { addr: [10, 0, 0, last].into(), protocol: Protocol::Tcp, port: 80 };
        let mut worker = paused(&[endpoint(1), endpoint(2)]);
        worker.take(Command::Change(Delta { removed: vec![endpoint(1)], ..Delta::default() }));
        assert!(worker.wait() > LOOK / 2, "{:?}", worker.wait());
        let claimed = vec![endpoint(2).addr];
        worker.take(Command::Change(Delta { removed: vec![endpoint(2)], claimed, ..Delta::default() }));
        assert_eq!(worker.wait(), Duration::ZERO);
    }
}
