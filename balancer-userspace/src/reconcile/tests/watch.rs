//! What every program that runs now relies on: checked after every store.

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use balancer_common::{
    abi::{Backend, BackendState, FrontendKey, PassReason, Service, SlotRange},
    translate::Translation,
};

use super::fake::Fake;
use crate::reconcile::ids::QUARANTINE;

/// What the store that has just happened may have broken.
pub(super) enum Touched {
    Service(u32),
    Slot(u32),
    /// A backend, and the Service that it was of before.
    Backend(u32, u32),
    Frontend(FrontendKey),
}

/// What a connect to a frontend may meet while the tables are being changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed {
    /// Where it may be sent.
    pub(super) targets: BTreeSet<SocketAddr>,
    /// Whether it must be sent somewhere: it has been before the change and will be after it.
    pub(super) must_be_sent: bool,
}

/// The slots of a Service that a program may still be reading.
#[derive(Debug)]
pub(super) struct Released {
    pub(super) at: Instant,
    pub(super) service: u32,
    pub(super) slots: SlotRange,
}

impl Fake {
    /// What every program that runs now relies on, as far as `touched` bears on it.
    pub(super) fn check(&self, touched: Touched) {
        if self.lenient {
            return;
        }
        match touched {
            Touched::Service(id) => {
                let key = self.services[id as usize].frontend;
                self.check_frontend(&key);
                for (key, _) in self.frontends.iter().filter(|(_, led)| **led == id) {
                    self.check_frontend(key);
                }
            }
            Touched::Frontend(key) => self.check_frontend(&key),
            Touched::Slot(index) => {
                for (id, service) in self.live() {
                    if within(service.slots, index) {
                        self.check_slot(id, index);
                    }
                }
                for released in self.readers() {
                    if within(released.slots, index) {
                        let owner = self.backends[self.slots[index as usize].backend as usize].service;
                        assert_eq!(
                            owner, released.service,
                            "slot {index} was given away while a program may read it"
                        );
                    }
                }
            }
            Touched::Backend(id, before) => {
                let owners = [before, self.backends[id as usize].service];
                for (service, entry) in self.live().filter(|(service, _)| owners.contains(service)) {
                    for index in entry.slots.base()..entry.slots.base() + entry.slots.len() {
                        if self.slots[index as usize].backend == id {
                            self.check_slot(service, index);
                        }
                    }
                }
                for released in self.readers().filter(|released| owners.contains(&released.service)) {
                    for index in released.slots.base()..released.slots.base() + released.slots.len() {
                        assert!(
                            self.slots[index as usize].backend != id
                                || self.backends[id as usize].service == released.service
                                    && self.backends[id as usize].state != BackendState::Free as u16,
                            "backend {id} was given away while a program may hold slots that name it"
                        );
                    }
                }
            }
        }
    }

    /// Services that a frontend leads to and that agree to it.
    fn live(&self) -> impl Iterator<Item = (u32, &Service)> {
        self.frontends.iter().filter_map(|(key, &id)| {
            let service = self.services.get(id as usize)?;
            (service.frontend == *key).then_some((id, service))
        })
    }

    fn readers(&self) -> impl Iterator<Item = &Released> {
        self.released.iter().filter(|released| self.now.duration_since(released.at) < QUARANTINE)
    }

    fn check_slot(&self, service: u32, index: u32) {
        let backend = self.slots[index as usize].backend;
        let entry = self.backends[backend as usize];
        assert_eq!(entry.service, service, "slot {index} of service {service} names backend {backend}");
        assert!(
            BackendState::from_u16(entry.state).is_usable(),
            "slot {index} of service {service} names backend {backend}, which is in state {}",
            entry.state
        );
        let Some(allowed) = &self.allowed else { return };
        let addr = SocketAddr::new(entry.addr.into(), entry.port.to_host());
        let targets = &allowed[&self.services[service as usize].frontend].targets;
        assert!(targets.contains(&addr), "slot {index} leads to {addr}, which is none of {targets:?}");
    }

    /// Dials `key` in every way.
    fn check_frontend(&self, key: &FrontendKey) {
        let Some(allowed) = self.allowed.as_ref() else { return };
        let nothing = Allowed::default();
        let allowed = allowed.get(key).unwrap_or(&nothing);
        if let Some((id, service)) = self.live().find(|(_, service)| service.frontend == *key) {
            for index in service.slots.base()..service.slots.base() + service.slots.len() {
                self.check_slot(id, index);
            }
        }
        let clients: BTreeSet<u64> =
            self.clients.borrow().keys().map(|client| client.netns_cookie).chain([77]).collect();
        for client in clients {
            match self.look(key, client, 0x9e37_79b9_u32.wrapping_mul(self.writes as u32)) {
                Translation::Rewrite(choice) => {
                    let addr = SocketAddr::new(choice.addr.into(), choice.port.to_host());
                    assert!(
                        allowed.targets.contains(&addr),
                        "a connect is sent to {addr}, which is none of {:?}",
                        allowed.targets
                    );
                }
                Translation::Observe(choice) => panic!("{choice:?} is only observed"),
                Translation::Miss => assert!(!allowed.must_be_sent, "a connect missed its Service"),
                Translation::PassThrough { reason, .. } => assert!(
                    !allowed.must_be_sent && reason == PassReason::NoBackends,
                    "a connect was passed through: {reason:?}"
                ),
            }
        }
    }

    /// Ids of backends: handed out with a generation that they never had, and not while anything may
    /// still refer to their last use.
    pub(super) fn check_lease(&mut self, id: u32, old: &Backend, new: &Backend) {
        let free = BackendState::Free as u16;
        if new.state == free {
            assert_eq!(self.active[id as usize], 0, "backend {id} is freed with sockets open to it");
        }
        if self.lenient {
            return;
        }
        if new.generation != old.generation {
            assert_eq!(old.state, free, "backend {id} is handed out while in use");
            assert_eq!(self.active[id as usize], 0, "backend {id} is handed out with sockets open to it");
            assert!(self.generations.insert((id, new.generation)), "a generation of backend {id} returned");
            if let Some(at) = self.removed_at.get(&id) {
                assert!(self.now.duration_since(*at) >= QUARANTINE, "backend {id} is handed out too soon");
            }
        } else {
            assert!(old.state != free || new.state == free, "backend {id} returns with its old generation");
        }
        if !BackendState::from_u16(new.state).is_usable() {
            self.removed_at.insert(id, self.now);
        }
    }
}

fn within(slots: SlotRange, index: u32) -> bool {
    index.checked_sub(slots.base()).is_some_and(|offset| offset < slots.len())
}
