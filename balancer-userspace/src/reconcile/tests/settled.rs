//! What the tables hold once all is done.

use std::{collections::BTreeMap, net::SocketAddr};

use balancer_common::abi::{Backend, BackendState, SERVICE_UNIFORM, Service, SlotRange};

use super::{
    fake::Fake,
    objects::{Agent, endpoint, key},
};
use crate::{
    datapath::{backend_names, from_text, to_text},
    model::{Condition, DesiredPort},
    reconcile::{
        layout::{self, Member},
        settings,
    },
};

impl Fake {
    /// Everything that a program or a person can tell, without ids and places: for every frontend its
    /// Service, and where its slots lead.
    pub(super) fn picture(&self) -> Vec<String> {
        self.frontends
            .iter()
            .map(|(frontend, id)| {
                let service = self.services[*id as usize];
                let Service { frontend: own, algorithm, affinity_seconds, flags, backends, .. } = service;
                let meta = &self.service_metas[id];
                let slots: Vec<_> = (service.slots.base()..)
                    .take(service.slots.len() as usize)
                    .map(|index| self.slots[index as usize])
                    .map(|slot| {
                        let Backend { addr, port, state, weight, .. } = self.backends[slot.backend as usize];
                        let names = backend_names(&self.backend_metas[&slot.backend]);
                        (addr, port, state, weight, slot.weight, names)
                    })
                    .collect();
                format!(
                    "{frontend:?} {own:?} {algorithm} {affinity_seconds} {flags} {backends} {:?} {} {slots:?}",
                    self.owner(frontend),
                    from_text(&meta.problem)
                )
            })
            .collect()
    }
}

impl Agent {
    /// The tables hold what was asked for last, all of it, and nothing else but what lingers.
    pub(super) fn check_settled(&self) {
        let desired: Vec<DesiredPort> = self.desired.values().flatten().cloned().collect();
        let used = self.used();
        let fake = self.tables();
        assert_eq!(fake.frontends.len(), desired.len(), "frontends");
        let mut ready = 0;
        let mut slots = 0;
        for port in &desired {
            let dialled = key(&port.frontend);
            let id = *fake.frontends.get(&dialled).unwrap_or_else(|| panic!("{} is not led to", port.key));
            let service = fake.services[id as usize];
            assert_eq!(service.frontend, dialled);
            assert_eq!(fake.owner(&dialled).as_ref(), Some(&port.key));
            assert_eq!(
                from_text(&fake.service_metas[&id].problem),
                from_text(&to_text::<192>(port.problem.as_deref().unwrap_or_default()))
            );
            assert_eq!(service.algorithm, port.algorithm as u32);
            assert_eq!(
                u64::from(service.affinity_seconds),
                port.affinity.map_or(0, |timeout| timeout.as_secs())
            );
            assert_eq!(service.backends as usize, port.backends.len());
            let weights: Vec<u32> = port.backends.iter().map(|backend| backend.weight).collect();
            let uniform = weights.windows(2).all(|pair| pair[0] == pair[1]);
            let flags = settings::written(&port.connections).flags;
            assert_eq!(service.flags, flags | if uniform { SERVICE_UNIFORM } else { 0 });
            assert_eq!(settings::read(&service), port.connections);
            assert!(fake.lenient || fake.endpoint_changes[id as usize] > 0, "the port was created");
            ready += port.backends.len();
            slots += self::slots(service.slots);
            let found: Vec<(SocketAddr, u32)> = (service.slots.base()..)
                .take(service.slots.len() as usize)
                .map(|index| fake.slots[index as usize])
                .map(|slot| {
                    let backend = fake.backends[slot.backend as usize];
                    (SocketAddr::new(backend.addr.into(), backend.port.to_host()), slot.weight)
                })
                .collect();
            assert_eq!(found, laid_out(port), "slots of {}", port.key);
            self.check_backends(port, id);
        }
        let usable = |state| BackendState::from_u16(state).is_usable();
        let held: Vec<u16> =
            fake.backends.iter().map(|backend| backend.state).filter(|state| *state != 0).collect();
        assert_eq!(held.iter().filter(|state| usable(**state)).count(), ready, "usable backends");
        assert_eq!(held.len() as u32, used.1, "backends in use");
        assert_eq!(fake.service_metas.len() as u32, used.0, "Services in use");
        let free = |id: &u32| fake.backends[*id as usize].state == BackendState::Free as u16;
        assert!(!fake.backend_metas.keys().any(free), "names of backends that are free");
        assert_eq!(slots, used.2, "slots in use");
    }

    fn check_backends(&self, port: &DesiredPort, id: u32) {
        let fake = self.tables();
        self.check_departed(port, id);
        let mine: BTreeMap<SocketAddr, u32> = (0_u32..)
            .zip(&fake.backends)
            .filter(|(_, backend)| backend.service == id && BackendState::from_u16(backend.state).is_usable())
            .map(|(id, backend)| (SocketAddr::new(backend.addr.into(), backend.port.to_host()), id))
            .collect();
        assert_eq!(mine.len(), port.backends.len());
        for backend in &port.backends {
            let id = mine[&SocketAddr::new(backend.addr, backend.port)];
            let entry = fake.backends[id as usize];
            let state = match backend.condition {
                Condition::Ready => BackendState::Ready,
                Condition::Terminating => BackendState::Terminating,
            };
            assert_eq!((entry.state, entry.weight), (state as u16, backend.weight));
            let names = backend_names(&fake.backend_metas[&id]);
            let wanted = [&backend.pod, &backend.node, &backend.zone]
                .map(|name| name.as_deref().unwrap_or_default().to_owned());
            assert_eq!(names, wanted);
        }
    }

    /// Of every backend that is in no slots it is said what the slices say.
    fn check_departed(&self, port: &DesiredPort, service: u32) {
        let fake = self.tables();
        let reconciler = self.reconciler.as_ref().expect("an agent always has its tables");
        for (id, _, state, _) in reconciler.departed().filter(|(_, owner, ..)| *owner == service) {
            let entry = fake.backends[id as usize];
            assert_eq!(entry.state, state as u16);
            let names = fake.backend_metas.get(&id).map(backend_names);
            let [pod, ..] = names.unwrap_or_default();
            let place = SocketAddr::new(entry.addr.into(), entry.port.to_host());
            let expect = endpoint(port, place, &pod).unwrap_or(BackendState::Removed);
            assert!(state == expect || pod.ends_with(')'), "backend {id} is {state:?}, not {expect:?}");
        }
    }

    /// Nothing is left of anything.
    pub(super) fn check_empty(&self) {
        assert_eq!(self.used(), (0, 0, 0));
        let fake = self.tables();
        assert!(fake.frontends.is_empty() && fake.service_metas.is_empty() && fake.backend_metas.is_empty());
        assert!(fake.backends.iter().all(|backend| backend.state == BackendState::Free as u16));
        assert!(fake.services.iter().all(|service| service.slots.is_empty()));
    }
}

/// The slots that a range takes, with the rounding up.
fn slots(range: SlotRange) -> u64 {
    if range.is_empty() { 0 } else { u64::from(range.len().next_power_of_two()) }
}

fn laid_out(port: &DesiredPort) -> Vec<(SocketAddr, u32)> {
    let addr = |index: usize| SocketAddr::new(port.backends[index].addr, port.backends[index].port);
    let members: Vec<Member> = port
        .backends
        .iter()
        .enumerate()
        .map(|(index, backend)| Member { id: index as u32, weight: backend.weight, addr: addr(index) })
        .collect();
    layout::layout(port.algorithm, &members)
        .iter()
        .map(|slot| (addr(slot.backend as usize), slot.weight))
        .collect()
}
