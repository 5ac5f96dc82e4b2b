//! The writes, in the one order that no connect can notice.
//!
//! For every Service port: its new backends are written, then its new slots, then the Service switches
//! to them by one store, then its frontend leads to it, and only then is what nothing refers to taken
//! away. A program that runs meanwhile sees the old set or the new one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use balancer_common::{
    abi::{Backend, BackendState, FrontendKey, SERVICE_UNIFORM, Service, ServiceMeta, SlotRange},
    addr::PortBe,
};

use super::{
    diff::{self, BackendChanges, Change, PortChanges},
    ids::{IdPool, QUARANTINE},
    kernel::KernelTables,
    layout::{self, Member},
    runs::Runs,
};
use crate::{
    datapath::{DatapathError, backend_meta, to_text},
    model::{Condition, DesiredBackend, DesiredPort, Frontend, ObjectName, PortKey},
};

/// A Service port as it is in the kernel.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Service id.
    pub id: u32,
    /// What was asked for.
    pub desired: DesiredPort,
    /// Backend ids, by address and port.
    pub(super) members: BTreeMap<(IpAddr, u16), u32>,
    pub(super) slots: SlotRange,
    pub(super) revision: u32,
    /// Set when the slots in the kernel are not those of `members`: an agent was interrupted, or there
    /// was no room.
    pub(super) stale: bool,
}

/// A backend that is gone from its Service while sockets may still be open to it.
#[derive(Clone, Debug)]
pub(super) struct Lingering {
    pub(super) service: u32,
    pub(super) addr: (IpAddr, u16),
    pub(super) pod: Option<Arc<str>>,
    pub(super) since: Instant,
}

/// Owns the tables: all that is written to them by the agent is written here.
#[derive(Debug)]
pub struct Reconciler<K> {
    pub(super) kernel: K,
    pub(super) ports: HashMap<PortKey, Applied>,
    pub(super) by_service: HashMap<ObjectName, BTreeSet<PortKey>>,
    pub(super) lingering: HashMap<u32, Lingering>,
    /// Ports that are gone, whose ids still have lingering backends.
    pub(super) retired: HashMap<PortKey, u32>,
    pub(super) services: IdPool,
    pub(super) backends: IdPool,
    pub(super) runs: Runs,
    /// Whether something could not be written for want of room; tried again when room is made.
    pub(super) starved: BTreeSet<ObjectName>,
}

impl<K: KernelTables> Reconciler<K> {
    /// The tables.
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The tables, for what does not concern Services: the lease, the probe.
    pub const fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Every Service that has a port in the kernel.
    pub fn known_services(&self) -> Vec<ObjectName> {
        self.by_service.keys().cloned().collect()
    }

    /// A port as it is in the kernel.
    pub fn port(&self, key: &PortKey) -> Option<&Applied> {
        self.ports.get(key)
    }

    /// Services, backends and slots in use.
    pub const fn used(&self) -> (u32, u32, u64) {
        (self.services.used(), self.backends.used(), self.runs.used())
    }

    /// Makes the kernel hold `desired`, all the ports of Service `name`; an empty list removes it.
    ///
    /// Returns how many ports changed. Nothing is written for a port that is as it should be. Where a map
    /// is full, what fits is served, and the port's problem names the map and the flag.
    ///
    /// # Errors
    /// Only if the kernel refuses a write for another reason; the Service is then tried again with its
    /// next change.
    pub fn apply(
        &mut self,
        name: &ObjectName,
        desired: Vec<DesiredPort>,
        now: Instant,
    ) -> Result<usize, DatapathError> {
        self.starved.remove(name);
        let wanted: BTreeSet<PortKey> = desired.iter().map(|port| port.key.clone()).collect();
        let known = self.by_service.get(name).cloned().unwrap_or_default();
        let mut changed = 0;
        // What goes, goes first: its frontends may be wanted by another port.
        for key in known.difference(&wanted) {
            self.remove_port(key, now)?;
            changed += 1;
        }
        for port in desired {
            changed += usize::from(self.apply_port(port, now)? == Change::Changed);
        }
        Ok(changed)
    }

    /// Whether applying `desired` would take a port or a backend away from Service `name`.
    pub fn would_lose(&self, name: &ObjectName, desired: &[DesiredPort]) -> bool {
        self.by_service.get(name).into_iter().flatten().any(|key| {
            let Some(applied) = self.ports.get(key) else { return false };
            desired
                .iter()
                .find(|port| port.key == *key)
                .is_none_or(|port| !diff::diff(&applied.desired, port).backends.removed.is_empty())
        })
    }

    /// Frees what nothing refers to any more. Returns Services that found no room and should be applied
    /// again, if room was made.
    pub fn sweep(&mut self, now: Instant) -> Result<Vec<ObjectName>, DatapathError> {
        let free: Vec<u32> = self
            .lingering
            .iter()
            .filter(|(id, gone)| {
                now.duration_since(gone.since) >= QUARANTINE && self.kernel.active(**id) == 0
            })
            .map(|(id, _)| *id)
            .collect();
        let mut made_room = !free.is_empty();
        for id in free {
            self.lingering.remove(&id);
            self.kernel.remove_backend_meta(id)?;
            let backend = self.kernel.backend(id);
            self.kernel.set_backend(id, &Backend { state: BackendState::Free as u16, ..backend });
            self.backends.give_back(id, now);
        }
        let busy: BTreeSet<u32> = self.lingering.values().map(|gone| gone.service).collect();
        let over: Vec<PortKey> =
            self.retired.iter().filter(|(_, id)| !busy.contains(id)).map(|(key, _)| key.clone()).collect();
        made_room |= !over.is_empty();
        for key in over {
            if let Some(id) = self.retired.remove(&key) {
                self.kernel.remove_service_meta(id)?;
                self.kernel.set_service(id, &Service::default());
                self.services.give_back(id, now);
            }
        }
        Ok(if made_room { std::mem::take(&mut self.starved).into_iter().collect() } else { Vec::new() })
    }

    fn apply_port(&mut self, desired: DesiredPort, now: Instant) -> Result<Change, DatapathError> {
        let (mut applied, changes) = match self.ports.remove(&desired.key) {
            Some(applied) => {
                let changes = diff::diff(&applied.desired, &desired);
                if changes.is_empty() && !applied.stale {
                    self.ports.insert(desired.key.clone(), applied);
                    return Ok(Change::Same);
                }
                (applied, changes)
            }
            None => match self.create(&desired, now)? {
                Some(new) => new,
                None => return Ok(Change::Changed),
            },
        };
        let key = desired.key.clone();
        let result = self.write_port(&mut applied, desired, &changes, now);
        self.by_service.entry(key.service.clone()).or_default().insert(key.clone());
        // Whatever was refused, what is in the kernel is known, and completed with the next change.
        applied.stale |= result.is_err();
        self.ports.insert(key, applied);
        result.map(|()| Change::Changed)
    }

    /// A port that is not in the kernel yet, and the changes that bring it there. `None`: no room.
    fn create(
        &mut self,
        desired: &DesiredPort,
        now: Instant,
    ) -> Result<Option<(Applied, PortChanges)>, DatapathError> {
        let id = match self.retired.remove(&desired.key) {
            Some(id) => id,
            None => {
                let Some(id) = self.services.take(now) else {
                    let capacity = self.kernel.capacities().0;
                    log::warn!(
                        "{}: {}",
                        desired.key,
                        DatapathError::Full { map: "SERVICES", capacity, flag: "max-services" }
                    );
                    self.starved.insert(desired.key.service.clone());
                    return Ok(None);
                };
                self.kernel.reset_service(id);
                id
            }
        };
        let empty = DesiredPort { backends: Vec::new(), problem: None, ..desired.clone() };
        let applied = Applied {
            id,
            desired: empty,
            members: BTreeMap::new(),
            slots: SlotRange::new(0, 0),
            revision: self.kernel.service(id).revision,
            stale: false,
        };
        let added = BackendChanges { added: desired.backends.clone(), ..BackendChanges::default() };
        let changes = PortChanges {
            backends: added,
            frontend: Change::Changed,
            settings: Change::Changed,
            problem: Change::Changed,
        };
        Ok(Some((applied, changes)))
    }

    fn write_port(
        &mut self,
        applied: &mut Applied,
        mut desired: DesiredPort,
        changes: &PortChanges,
        now: Instant,
    ) -> Result<(), DatapathError> {
        let old_frontend = applied.desired.frontend;
        let asked = desired.problem.clone();
        // The names first: an agent that is interrupted here leaves something that the next one can read.
        if changes.problem == Change::Changed {
            self.kernel.set_service_meta(applied.id, &service_meta(&desired))?;
        }
        let gone = self.write_backends(applied, &mut desired, &changes.backends, now)?;
        let old_slots = self.write_slots(applied, &mut desired, changes, now);
        let key = frontend_key(&desired.frontend);
        if changes.frontend == Change::Changed {
            match self.kernel.insert_frontend(&key, applied.id) {
                Ok(()) => {}
                Err(full @ DatapathError::Full { .. }) => {
                    desired.problem = Some(full.to_string());
                    self.starved.insert(desired.key.service.clone());
                }
                Err(error) => return Err(error),
            }
            if old_frontend != desired.frontend {
                self.remove_frontend(&old_frontend, applied.id)?;
            }
        }
        for (id, backend) in gone {
            self.retire_backend(applied.id, id, &backend, now);
        }
        if let Some(slots) = old_slots {
            self.runs.give_back(slots, now);
        }
        if desired.problem != asked {
            self.kernel.set_service_meta(applied.id, &service_meta(&desired))?;
            log::warn!("{}: {}", desired.key, desired.problem.as_deref().unwrap_or_default());
            // As asked, so that the next comparison is with what the user wants.
            desired.problem = asked;
        }
        applied.desired = desired;
        Ok(())
    }

    /// Writes new and changed backends. Returns those that are gone, which are still in the slots.
    fn write_backends(
        &mut self,
        applied: &mut Applied,
        desired: &mut DesiredPort,
        changes: &BackendChanges,
        now: Instant,
    ) -> Result<Vec<(u32, DesiredBackend)>, DatapathError> {
        let gone: Vec<_> = changes
            .removed
            .iter()
            .filter_map(|backend| {
                Some((applied.members.remove(&(backend.addr, backend.port))?, backend.clone()))
            })
            .collect();
        for backend in &changes.updated {
            if let Some(&id) = applied.members.get(&(backend.addr, backend.port)) {
                let generation = self.kernel.backend(id).generation;
                self.kernel.set_backend(id, &entry(applied.id, backend, generation));
                self.kernel.set_backend_meta(id, &names(backend))?;
            }
        }
        let mut missing = 0;
        let mut added: Vec<&DesiredBackend> = changes.added.iter().collect();
        layout::number(desired.algorithm, desired.backends.len(), &mut added, |backend| {
            (backend.addr, backend.port).into()
        });
        for backend in added {
            let place = (backend.addr, backend.port);
            let returned = self.lingering.iter().find(|(_, gone)| {
                gone.service == applied.id && gone.addr == place && gone.pod == backend.pod
            });
            let id = match returned.map(|(id, _)| *id) {
                Some(id) => {
                    self.lingering.remove(&id);
                    let generation = self.kernel.backend(id).generation;
                    self.kernel.set_backend(id, &entry(applied.id, backend, generation));
                    id
                }
                None => {
                    let Some(id) = self.backends.take(now) else {
                        missing += 1;
                        desired.backends.retain(|kept| (kept.addr, kept.port) != place);
                        continue;
                    };
                    self.kernel.reset_backend(id);
                    let generation = self.kernel.backend(id).generation.wrapping_add(1).max(1);
                    self.kernel.set_backend(id, &entry(applied.id, backend, generation));
                    id
                }
            };
            applied.members.insert(place, id);
            self.kernel.set_backend_meta(id, &names(backend))?;
        }
        if missing > 0 {
            let full = DatapathError::Full {
                map: "BACKENDS",
                capacity: self.kernel.capacities().1,
                flag: "max-backends",
            };
            desired.problem = Some(format!("{missing} endpoints left out: {full}"));
            self.starved.insert(desired.key.service.clone());
        }
        Ok(gone)
    }

    /// Lays the slots out anew where that is needed and switches the Service to them. Returns the old
    /// slots, which nothing refers to any more.
    fn write_slots(
        &mut self,
        applied: &mut Applied,
        desired: &mut DesiredPort,
        changes: &PortChanges,
        now: Instant,
    ) -> Option<SlotRange> {
        let mut old_slots = None;
        let members = members(applied, desired);
        if changes.needs_layout() || applied.stale {
            let slots = layout::layout(desired.algorithm, &members);
            let range = self.runs.take(slots.len() as u32, now).unwrap_or_else(|| {
                let full = DatapathError::Full {
                    map: "SLOTS",
                    capacity: self.kernel.capacities().2,
                    flag: "max-slots",
                };
                desired.problem = Some(format!("passed through: {full}"));
                self.starved.insert(desired.key.service.clone());
                SlotRange::new(0, 0)
            });
            if !range.is_empty() {
                self.kernel.set_slots(range.base(), &slots);
            }
            old_slots = Some(std::mem::replace(&mut applied.slots, range));
            applied.revision = applied.revision.wrapping_add(1);
            applied.stale = range.len() as usize != slots.len();
        }
        if changes.needs_layout() || old_slots.is_some() || changes.frontend == Change::Changed {
            let uniform = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
            self.kernel.set_service(
                applied.id,
                &Service {
                    slots: applied.slots,
                    frontend: frontend_key(&desired.frontend),
                    algorithm: desired.algorithm as u32,
                    affinity_seconds: desired.affinity.map_or(0, |timeout| timeout.as_secs() as u32),
                    flags: if uniform { SERVICE_UNIFORM } else { 0 },
                    backends: members.len() as u32,
                    revision: applied.revision,
                },
            );
        }
        old_slots
    }

    fn remove_port(&mut self, key: &PortKey, now: Instant) -> Result<(), DatapathError> {
        let Some(applied) = self.ports.remove(key) else { return Ok(()) };
        if let Some(keys) = self.by_service.get_mut(&key.service) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_service.remove(&key.service);
            }
        }
        self.remove_frontend(&applied.desired.frontend, applied.id)?;
        let service = self.kernel.service(applied.id);
        self.kernel.set_service(applied.id, &Service { slots: SlotRange::new(0, 0), backends: 0, ..service });
        for backend in &applied.desired.backends {
            if let Some(&id) = applied.members.get(&(backend.addr, backend.port)) {
                self.retire_backend(applied.id, id, backend, now);
            }
        }
        self.runs.give_back(applied.slots, now);
        self.retired.insert(key.clone(), applied.id);
        Ok(())
    }

    /// Removes a frontend, unless it leads to another Service by now.
    fn remove_frontend(&mut self, frontend: &Frontend, id: u32) -> Result<(), DatapathError> {
        let key = frontend_key(frontend);
        if self.kernel.frontend(&key)? == Some(id) {
            self.kernel.remove_frontend(&key)?;
        }
        Ok(())
    }

    fn retire_backend(&mut self, service: u32, id: u32, backend: &DesiredBackend, now: Instant) {
        let entry = self.kernel.backend(id);
        self.kernel.set_backend(id, &Backend { state: BackendState::Removed as u16, ..entry });
        self.lingering.insert(
            id,
            Lingering { service, addr: (backend.addr, backend.port), pod: backend.pod.clone(), since: now },
        );
    }
}

/// The backends of a port that have an id, sorted by address and port.
pub(super) fn members(applied: &Applied, desired: &DesiredPort) -> Vec<Member> {
    desired
        .backends
        .iter()
        .filter_map(|backend| {
            Some(Member {
                id: *applied.members.get(&(backend.addr, backend.port))?,
                weight: backend.weight,
                addr: SocketAddr::new(backend.addr, backend.port),
            })
        })
        .collect()
}

/// The key of what is dialled.
pub(super) fn frontend_key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(frontend.addr.into(), PortBe::from_host(frontend.port), frontend.protocol.number())
}

fn entry(service: u32, backend: &DesiredBackend, generation: u32) -> Backend {
    let state = match backend.condition {
        Condition::Ready => BackendState::Ready,
        Condition::Terminating => BackendState::Terminating,
    };
    Backend {
        addr: backend.addr.into(),
        port: PortBe::from_host(backend.port),
        state: state as u16,
        service,
        generation,
        weight: backend.weight,
    }
}

fn names(backend: &DesiredBackend) -> balancer_common::abi::BackendMeta {
    let text = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
    backend_meta(&text(&backend.pod), &text(&backend.node), &text(&backend.zone))
}

fn service_meta(port: &DesiredPort) -> ServiceMeta {
    ServiceMeta {
        namespace: to_text(&port.key.service.namespace),
        name: to_text(&port.key.service.name),
        port_name: to_text(&port.key.port_name),
        problem: to_text(port.problem.as_deref().unwrap_or_default()),
    }
}
