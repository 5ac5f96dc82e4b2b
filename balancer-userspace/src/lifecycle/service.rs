//! What is done with the connections of one Service.

use std::{collections::HashMap, time::Duration};

use balancer_common::abi::{Algorithm, Rebalance, Refusal, SERVICE_FORCED, SERVICE_TRUSTED, Service, Stop};

use super::{
    census::{self, Census, candidates, loads},
    gate::Demand,
    moving,
    offers::{AT_ONCE, Offers, SAMPLE},
    pace::Paces,
    policy::{self, Budget, Motion, PAUSE_NS, Return, Returns, STABLE_NS},
    record::{self, Counter},
    trust::{CLEAN, Lessons, Next},
};
use crate::{datapath::Maps, sockets::LiveSocket};

/// How long a connection to a backend that drains must have been quiet, at most: it will be cut otherwise.
const DRAIN_QUIET: Duration = Duration::from_millis(300);
/// The part of a process's connections that it may lose at once while a backend drains, in percent.
const DRAIN_SHARE: u16 = 25;
/// In how many turns a backend is drained, if all its connections are idle.
const DRAIN_TURNS: u64 = 20;

/// What a turn works with.
pub struct Turn<'a> {
    /// The tables.
    pub maps: &'a mut Maps,
    /// The connections of the node.
    pub census: &'a mut Census,
    /// How fast processes may lose some.
    pub paces: &'a mut Paces,
    /// When it began.
    pub now_ns: u64,
}

/// What a connection is moved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Its backend has too many.
    EvenOut,
    /// Its backend terminates.
    Drain,
}

impl Turn<'_> {
    /// Moves a connection if it may be moved now, and its process may lose one: `percent` of its own in a period.
    /// Whether it was.
    fn relocate(
        &mut self,
        subject: Subject<'_>,
        socket: &LiveSocket,
        demand: &Demand,
        percent: u16,
        purpose: Purpose,
    ) -> bool {
        let Subject { id, name, .. } = subject;
        let process = socket.tgid().unwrap_or_default();
        if self.paces.available(process, id, subject.share(socket, percent), self.now_ns) == 0 {
            return false;
        }
        let way = match moving::relocate(self.maps, self.census, socket, demand) {
            Ok(way) => way.name(),
            Err(refusal) => {
                record::count(self.maps, id, Counter::Refused(refusal));
                return false;
            }
        };
        let (done, counter) = match purpose {
            Purpose::EvenOut => ("moved", Counter::Moved),
            Purpose::Drain => ("drained", Counter::Drained),
        };
        log::info!("{name}: {done} {} ({way})", moving::describe(socket));
        record::count(self.maps, id, counter);
        match purpose {
            Purpose::EvenOut => self.paces.moved(process, id, self.now_ns),
            Purpose::Drain => self.paces.taken(process, id, self.now_ns),
        }
        true
    }
}

/// The Service that a turn works on.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Service id.
    pub id: u32,
    /// Its name, for the log.
    pub name: &'a str,
    /// Its settings.
    pub service: &'a Service,
    /// Its open connections.
    pub sockets: &'a [LiveSocket],
    /// How many of them each process has ([`held`]).
    pub held: &'a HashMap<Option<u32>, u64>,
}

/// How many of `sockets` each process has opened.
pub fn held(sockets: &[LiveSocket]) -> HashMap<Option<u32>, u64> {
    let mut held = HashMap::new();
    for socket in sockets {
        *held.entry(socket.tgid()).or_default() += 1;
    }
    held
}

impl Subject<'_> {
    /// How many connections of its process `socket` may be moved at once.
    fn share(&self, socket: &LiveSocket, percent: u16) -> u64 {
        policy::at_once(self.held.get(&socket.tgid()).copied().unwrap_or(1), percent)
    }
}

/// What is known of a Service between two turns.
#[derive(Debug)]
pub struct ServiceState {
    lessons: Lessons,
    motion: Motion,
    budget: Budget,
    returns: Returns,
    stop: Stop,
    stopped_ns: u64,
}

impl ServiceState {
    /// As an earlier agent wrote it down.
    pub fn new(maps: &Maps, service: u32) -> Self {
        let entry = record::entry(maps, service);
        Self {
            lessons: Lessons::from_record(entry.clean.into()),
            motion: Motion::Still,
            budget: Budget::default(),
            returns: Returns::default(),
            stop: Stop::from_u32(entry.stop),
            stopped_ns: entry.stopped_ns,
        }
    }

    /// Why nothing is moved.
    pub const fn stopped(&self) -> Stop {
        self.stop
    }

    /// Whether connections are to be moved now, from counters alone.
    pub fn wants(&mut self, maps: &Maps, service: &Service) -> bool {
        self.evens_out(service) && self.motion(maps, service).0 == Motion::Moving
    }

    /// Notes what came of an offer.
    pub fn learn(&mut self, maps: &Maps, service: u32, now_ns: u64, next: Next) {
        if let Next::Harmful(gap) = next {
            record::count(maps, service, Counter::Pushes);
            log::info!(
                "{}: a server spoke first, after {:.1} s of silence: silence on its connections is not idleness",
                super::worker::name(maps, service),
                gap.as_secs_f64()
            );
        }
        self.lessons.note(now_ns, next);
    }

    /// Notes whether a client came back.
    pub fn returned(&mut self, outcome: Return) {
        self.returns.note(outcome);
    }

    /// Whether idle connections are moved, rather than offered.
    const fn is_trusted(&self, service: &Service) -> bool {
        service.flags & SERVICE_TRUSTED != 0 || self.lessons.clean() >= CLEAN
    }

    fn is_allowed(&self, service: &Service) -> bool {
        matches!(Rebalance::from_u16(service.rebalance), Rebalance::Idle)
            && matches!(self.stop, Stop::None)
            && self.is_trusted(service)
    }

    /// Whether connections are moved where there are too many.
    fn evens_out(&self, service: &Service) -> bool {
        self.is_allowed(service) && is_movable(service)
    }

    /// How long a connection must be quiet.
    pub fn quiet(&self, service: &Service) -> Duration {
        self.lessons.quiet(Duration::from_millis(service.quiet_ms.into()))
    }

    fn demand(&self, service: &Service) -> Demand {
        Demand { quiet: self.quiet(service), min_age: Duration::from_millis(service.min_age_ms.into()) }
    }

    fn motion(&mut self, maps: &Maps, service: &Service) -> (Motion, Vec<policy::Excess>) {
        let (motion, excess) = policy::excess(self.motion, &loads(maps, service));
        self.motion = motion;
        (motion, excess)
    }

    /// Notices what puts an end to moving, and what allows it again.
    fn judge(&mut self, turn: &Turn<'_>, subject: Subject<'_>) {
        let Turn { maps, now_ns, .. } = turn;
        self.lessons.pass(*now_ns);
        let (quiet, push) = (self.quiet(subject.service), self.lessons.longest_push());
        record::lessons(maps, subject.id, quiet, push, self.lessons.clean());
        let entry = record::entry(maps, subject.id);
        let forced = subject.service.flags & SERVICE_FORCED != 0;
        let over =
            now_ns.saturating_sub(self.stopped_ns) > PAUSE_NS || entry.endpoints_changed_ns > self.stopped_ns;
        if self.stop == Stop::NoReconnects && over {
            self.returns.forget();
        }
        let next = if self.lessons.speaks_first() && !forced {
            Stop::ServerSpeaksFirst
        } else if self.returns.too_few() || self.stop == Stop::NoReconnects && !over {
            Stop::NoReconnects
        } else if entry.moved > 0
            && entry.harmful > 0
            && Rebalance::from_u16(subject.service.rebalance) == Rebalance::Idle
            && !self.is_trusted(subject.service)
        {
            // It was trusted once, and is not any more.
            Stop::Harm
        } else {
            Stop::None
        };
        if next != self.stop {
            (self.stop, self.stopped_ns) = (next, *now_ns);
            record::stop(maps, subject.id, next, *now_ns);
            say(subject.name, next);
        }
    }

    /// Offers and moves.
    pub fn attend(&mut self, turn: &mut Turn<'_>, subject: Subject<'_>, offers: &mut Offers) {
        self.judge(turn, subject);
        let moves = self.is_allowed(subject.service);
        if self.evens_out(subject.service) && settled(turn.maps, subject.id, turn.now_ns) {
            self.even_out(turn, subject);
        }
        // What is to be moved next is not offered: its outcome would not be seen.
        let most = if moves { SAMPLE } else { AT_ONCE };
        offers.make(turn.maps, turn.census, subject.sockets, &self.demand(subject.service), most);
    }

    fn even_out(&mut self, turn: &mut Turn<'_>, subject: Subject<'_>) {
        let Subject { service, sockets, .. } = subject;
        let demand = self.demand(service);
        let (_, excess) = self.motion(turn.maps, service);
        let mut left = self.budget.available(turn.now_ns, sockets.len() as u64, service.budget_percent);
        for from in excess {
            let mut count = from.count();
            for (socket, _) in candidates(sockets, from.backend) {
                if left == 0 || count == 0 {
                    break;
                }
                if turn.relocate(subject, socket, &demand, service.budget_percent, Purpose::EvenOut) {
                    self.budget.take();
                    (left, count) = (left - 1, count - 1);
                }
            }
        }
    }

    /// Moves idle connections away from a backend that is terminating.
    pub fn drain(&mut self, turn: &mut Turn<'_>, subject: Subject<'_>, backend: u32) {
        let Subject { id, service, sockets, .. } = subject;
        if self.lessons.speaks_first() && service.flags & SERVICE_FORCED == 0 {
            record::count(turn.maps, id, Counter::Refused(Refusal::ServerSpeaksFirst));
            return;
        }
        let asked = Duration::from_millis(service.quiet_ms.into()).min(DRAIN_QUIET);
        let demand = Demand { quiet: self.lessons.quiet(asked), min_age: Duration::ZERO };
        let mut left = census::active(turn.maps, backend).div_ceil(DRAIN_TURNS);
        for (socket, _) in candidates(sockets, backend) {
            if left == 0 {
                break;
            }
            left -= u64::from(turn.relocate(subject, socket, &demand, DRAIN_SHARE, Purpose::Drain));
        }
    }
}

fn say(name: &str, stop: Stop) {
    match stop {
        Stop::None => log::info!("{name}: idle connections may be moved again"),
        Stop::NoReconnects => log::warn!(
            "{name}: no more connections are moved: too few of the clients connected anew within ten seconds"
        ),
        Stop::Harm => log::warn!(
            "{name}: no more connections are moved before {CLEAN} offers in a row have done no harm: a server spoke first on \
             one that could have been"
        ),
        Stop::ServerSpeaksFirst => log::warn!(
            "{name}: no connections are moved: its servers often speak first, so that no silence is long enough \
             (balancer.dev/rebalance-trust: forced moves them all the same)"
        ),
    }
}

/// Whether endpoints have been as they are for long enough: those that come and go are not run after.
fn settled(maps: &Maps, service: u32, now_ns: u64) -> bool {
    now_ns.saturating_sub(record::entry(maps, service).endpoints_changed_ns) >= STABLE_NS
}

/// Whether a connection that is opened anew may go elsewhere at all.
const fn is_movable(service: &Service) -> bool {
    service.algorithm != Algorithm::SourceHash as u32 && service.affinity_seconds == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_whose_clients_are_bound_wants_nothing() {
        let state = ServiceState {
            lessons: Lessons::from_record(CLEAN),
            motion: Motion::Still,
            budget: Budget::default(),
            returns: Returns::default(),
            stop: Stop::None,
            stopped_ns: 0,
        };
        let service = Service { rebalance: Rebalance::Idle as u16, ..Service::default() };
        assert!(state.evens_out(&service));
        assert!(!state.evens_out(&Service { algorithm: Algorithm::SourceHash as u32, ..service }));
        assert!(!state.evens_out(&Service { affinity_seconds: 10_800, ..service }));
        assert!(!state.evens_out(&Service { rebalance: Rebalance::DryRun as u16, ..service }));
    }
}
