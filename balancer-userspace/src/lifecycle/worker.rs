//! The loop: what is to be done now, and no more than the node can spare.

use std::{
    collections::{HashMap, HashSet},
    mem::{Discriminant, discriminant},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use balancer_common::abi::{BackendState, Mode, Rebalance, SERVICE_DRAIN, SERVICE_KEEP_REMOVED, Service};

use super::{
    Departed, Report, Update,
    census::{self, Census},
    closing::Closing,
    offers::Offers,
    pace::Paces,
    service::{ServiceState, Subject, Turn, held},
};
use crate::{
    datapath::{Maps, boot_ns, from_text, thread_time},
    sockets::{LiveSocket, SocketsError, Transport},
};

/// How often it is looked whether there is anything to do.
const TURN: Duration = Duration::from_millis(500);
/// The same while something is urgent: a backend drains or is gone.
const URGENT: Duration = Duration::from_millis(200);
/// How often all connections are listed while some are being moved, and while they are only watched.
const MOVING: Duration = Duration::from_secs(1);
const WATCHING: Duration = Duration::from_secs(5);
/// How many times as long as a listing and what followed took of a processor is waited for the next one: what it may cost, in processors, is one
/// in so many. Urgent ones may cost more, for as long as something is urgent.
const SPARING: u32 = 80;
const SPARING_URGENT: u32 = 8;

/// Everything that is known between two turns.
pub(super) struct Worker {
    maps: Maps,
    reports: Sender<Report>,
    roster: Vec<u32>,
    departed: Vec<Departed>,
    services: HashMap<u32, ServiceState>,
    offers: Offers,
    paces: Paces,
    closing: Closing,
    /// When connections were listed last, and how much of a processor that and what followed took.
    listed: Option<(Instant, Duration)>,
    /// A number from 0 to 1, another one after each listing.
    jitter: f64,
    /// Trouble that was told.
    told: Told,
}

/// What an error keeps from being seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Unseen {
    Some,
    All,
}

/// Kinds of trouble that were told. Their texts hold numbers and names, which change all the time.
#[derive(Debug, Default)]
struct Told(HashSet<(Unseen, Discriminant<SocketsError>)>);

impl Told {
    /// Notes one; whether it is the first of its kind.
    fn is_new(&mut self, unseen: Unseen, error: &SocketsError) -> bool {
        self.0.insert((unseen, discriminant(error)))
    }
}

/// What a turn has to do.
struct Work {
    /// Backends that are gone, whose sockets are to be closed.
    gone: Vec<Departed>,
    /// Backends that drain.
    draining: Vec<Departed>,
    /// Services that are looked after.
    services: Vec<(u32, Service)>,
    /// Whether any of them has connections to move.
    moving: bool,
}

impl Worker {
    pub(super) fn new(maps: Maps, reports: Sender<Report>) -> Self {
        Self {
            maps,
            reports,
            roster: Vec::new(),
            departed: Vec::new(),
            services: HashMap::new(),
            offers: Offers::default(),
            paces: Paces::default(),
            closing: Closing::default(),
            listed: None,
            jitter: 0.5,
            told: Told::default(),
        }
    }

    /// Works until nobody sends updates any more.
    pub(super) fn run(mut self, updates: &Receiver<Update>) {
        let mut wait = TURN;
        loop {
            match updates.recv_timeout(wait) {
                Ok(update) => {
                    self.take(update);
                    // The latest counts.
                    updates.try_iter().for_each(|update| self.take(update));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            wait = self.turn();
        }
    }

    /// Every one, also those that are overtaken: of what is gone in between nothing is known any more, for its id is another
    /// Service's, or backend's, next.
    fn take(&mut self, update: Update) {
        (self.roster, self.departed) = (update.services, update.departed);
        let departed = self.departed.iter().map(|departed| departed.service);
        let kept: HashSet<u32> = self.roster.iter().copied().chain(departed).collect();
        self.services.retain(|id, _| kept.contains(id));
        self.paces.forget(|service| kept.contains(&service));
        self.closing.forget(&self.departed);
    }

    /// One turn; how long to wait for the next.
    fn turn(&mut self) -> Duration {
        // Nothing of the tables is looked at, and so in memory, where nobody asks for anything.
        if self.roster.is_empty() && self.departed.is_empty() {
            return TURN;
        }
        let now_ns = boot_ns();
        let control = self.maps.control();
        // Whose view is not complete, or old, knows neither who is gone nor what is even.
        let blind = control.synced_ns == 0 || control.lease_expires_ns < now_ns;
        if blind || Mode::from_u32(control.mode) == Mode::Observe {
            return TURN;
        }
        let work = self.work(now_ns);
        let urgent = !work.gone.is_empty() || !work.draining.is_empty();
        if !urgent && work.services.is_empty() {
            return TURN;
        }
        let (least, sparing) = match (urgent, work.moving) {
            (true, _) => (URGENT, SPARING_URGENT),
            (false, true) => (MOVING, SPARING),
            (false, false) => (WATCHING, SPARING),
        };
        // Nodes that saw the same change do not move in step.
        let least = least.mul_f64(0.8 + 0.4 * self.jitter);
        let due = self
            .listed
            .map_or(Duration::ZERO, |(then, took)| least.max(took * sparing).saturating_sub(then.elapsed()));
        if !due.is_zero() {
            return due.min(TURN);
        }
        self.jitter = (now_ns % 1_000) as f64 / 1_000.0;
        let (begun, used) = (Instant::now(), thread_time());
        let udp = !work.gone.is_empty();
        let transports: &[Transport] =
            if udp { &[Transport::Tcp, Transport::Udp] } else { &[Transport::Tcp] };
        match Census::take(&self.maps, transports) {
            Ok(mut census) => {
                self.tell(&census);
                self.attend(&work, &mut census);
            }
            Err(error) => {
                if self.told.is_new(Unseen::All, &error) {
                    log::warn!("connections cannot be listed, so that none is moved or closed: {error}");
                }
            }
        }
        self.listed = Some((begun, thread_time().saturating_sub(used)));
        if urgent { URGENT } else { TURN }
    }

    /// What there is to do, from counters alone.
    fn work(&mut self, now_ns: u64) -> Work {
        let of_service = |id: u32| self.maps.services.get(id).unwrap_or_default();
        let mut gone = Vec::new();
        let mut draining = Vec::new();
        for departed in &self.departed {
            if census::active(&self.maps, departed.backend) == 0 {
                continue;
            }
            let flags = of_service(departed.service).flags;
            match departed.state {
                BackendState::Removed if flags & SERVICE_KEEP_REMOVED == 0 => gone.push(*departed),
                BackendState::Draining if flags & SERVICE_DRAIN != 0 => draining.push(*departed),
                _ => {}
            }
        }
        gone.retain(|departed| self.closing.is_due(departed, now_ns));
        let mut services = Vec::new();
        let mut moving = false;
        for id in &self.roster {
            let service = of_service(*id);
            if Rebalance::from_u16(service.rebalance) != Rebalance::Off {
                let state = self.services.entry(*id).or_insert_with(|| ServiceState::new(&self.maps, *id));
                moving |= state.wants(&self.maps, &service);
                services.push((*id, service));
            }
        }
        Work { gone, draining, services, moving }
    }

    fn attend(&mut self, work: &Work, census: &mut Census) {
        let now_ns = boot_ns();
        for departed in &work.gone {
            let closed = self.closing.close(&mut self.maps, census, departed, now_ns);
            if closed > 0 {
                log::info!(
                    "{}: closed {closed} sockets to {}, which is gone",
                    name(&self.maps, departed.service),
                    self.backend(departed.backend)
                );
            }
        }
        match self.offers.collect(&mut self.maps, census, now_ns) {
            Ok(outcomes) => {
                for (service, next) in outcomes {
                    if let Some(state) = self.services.get_mut(&service) {
                        state.learn(&self.maps, service, now_ns, next);
                    }
                }
            }
            Err(error) => log::error!("offers: {error}"),
        }
        self.paces.settle(&self.maps, census, now_ns, |service, outcome| {
            if let Some(state) = self.services.get_mut(&service) {
                state.returned(outcome);
            }
        });
        let mut sockets: HashMap<u32, Vec<LiveSocket>> = HashMap::new();
        let mut counts: HashMap<u32, HashMap<Option<u32>, u64>> = HashMap::new();
        let Self { maps, services, paces, offers, reports, .. } = self;
        for departed in &work.draining {
            let id = departed.service;
            let service = maps.services.get(id).unwrap_or_default();
            let sockets = sockets.entry(id).or_insert_with(|| census.take_service(id));
            let state = services.entry(id).or_insert_with(|| ServiceState::new(maps, id));
            let name = name(maps, id);
            let held = counts.entry(id).or_insert_with(|| held(sockets));
            let subject = Subject { id, name: &name, service: &service, sockets, held };
            state.drain(&mut Turn { maps, census, paces, now_ns }, subject, departed.backend);
        }
        for (id, service) in &work.services {
            let sockets = sockets.remove(id).unwrap_or_else(|| census.take_service(*id));
            let Some(state) = services.get_mut(id) else { continue };
            let before = state.stopped();
            let name = name(maps, *id);
            let held = counts.remove(id).unwrap_or_else(|| held(&sockets));
            let subject = Subject { id: *id, name: &name, service, sockets: &sockets, held: &held };
            state.attend(&mut Turn { maps, census, paces, now_ns }, subject, offers);
            let stop = state.stopped();
            if before != stop {
                // Whoever is told may have ended.
                let _ = reports.send(Report { service: *id, stop });
            }
        }
    }

    /// Says what could not be looked at, once of each kind.
    fn tell(&mut self, census: &Census) {
        for problem in &census.incomplete {
            if self.told.is_new(Unseen::Some, problem) {
                log::warn!(
                    "not all connections can be seen, so that some are neither moved nor closed: {problem}"
                );
            }
        }
    }

    fn backend(&self, id: u32) -> String {
        let backend = self.maps.backends.get(id).unwrap_or_default();
        std::net::SocketAddr::new(backend.addr.into(), backend.port.to_host()).to_string()
    }
}

/// A Service port as the commands name it.
pub(super) fn name(maps: &Maps, service: u32) -> String {
    let Ok(Some(meta)) = maps.service_meta(service) else { return format!("Service {service}") };
    let port = from_text(&meta.port_name);
    let name = format!("{}/{}", from_text(&meta.namespace), from_text(&meta.name));
    if port.is_empty() { name } else { format!("{name}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_of_a_kind_is_told_once_whatever_its_numbers_are() {
        let mut told = Told::default();
        let told_of = |told: &mut Told, unseen, errors: [SocketsError; 3]| {
            errors.iter().filter(|error| told.is_new(unseen, error)).count()
        };
        let namespaces = || [3, 4, 3].map(|count| SocketsError::NeedsSysAdmin { count });
        assert_eq!(told_of(&mut told, Unseen::Some, namespaces()), 1);
        let hidden = [(3, 9), (4, 9), (4, 7)];
        let hidden = hidden.map(|(count, example)| SocketsError::HiddenProcesses { count, example });
        assert_eq!(told_of(&mut told, Unseen::Some, hidden), 1);
        let source = || std::io::ErrorKind::NotFound.into();
        let names = ["a", "b", "c"].map(str::to_owned);
        let gone = names.map(|name| SocketsError::EnterNamespace { name, source: source() });
        assert_eq!(told_of(&mut told, Unseen::Some, gone), 1);
        // That nothing at all is seen is something else.
        assert_eq!(told_of(&mut told, Unseen::All, namespaces()), 1);
        assert_eq!(told.0.len(), 4);
    }
}
