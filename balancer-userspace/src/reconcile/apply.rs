//! The writes, in the one order that no connect can notice.
//!
//! For every Service port: its new backends are written, then its new slots, then the Service switches
//! to them by one store, then its frontend leads to it, and only then is what nothing refers to taken
//! away. A program that runs meanwhile sees the old set or the new one.
//!
//! **Invariant:** after every call, failed or not, what is kept here is what the kernel holds. A port that
//! is not as it was asked for is not `settled`, and its Service is tried again by the next sweep.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    time::{Duration, Instant},
};

use balancer_common::{
    abi::{Algorithm, BackendState, FrontendKey, Service, ServiceMeta, SlotRange},
    addr::PortBe,
};

use super::{
    departures::state_of,
    diff::{self, Change},
    ids::IdPool,
    kernel::KernelTables,
    lingering::{Lingering, Place},
    runs::Runs,
    settings,
};
use crate::{
    compact::CompactMap,
    datapath::{DatapathError, boot_ns, from_text, to_text},
    model::{ConnectionSettings, DesiredBackend, DesiredPort, Frontend, ObjectName, PortKey},
};

/// A Service port as it is in the kernel.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Service id.
    pub id: u32,
    pub(super) frontend: Frontend,
    pub(super) algorithm: Algorithm,
    pub(super) affinity: Option<Duration>,
    pub(super) connections: ConnectionSettings,
    /// The problem that stands beside its names; `None` if these are not written.
    pub(super) problem: Option<String>,
    pub(super) members: CompactMap<Place, Held>,
    pub(super) slots: SlotRange,
    pub(super) revision: u32,
    /// Whether all of it is as it was asked for.
    pub(super) settled: bool,
}

/// A backend that has its id.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: u32,
    pub(super) backend: DesiredBackend,
}

/// What became of a port.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    change: Change,
    lacks: Vec<String>,
}

impl Outcome {
    /// Something was written.
    pub(super) const fn changed(&mut self) {
        self.change = Change::Changed;
    }

    /// Something found no room.
    pub(super) fn lacks(&mut self, what: String) {
        self.lacks.push(what);
    }
}

/// Owns the tables: all that is written to them by the agent is written here.
#[derive(Debug)]
pub struct Reconciler<K> {
    pub(super) kernel: K,
    pub(super) ports: HashMap<PortKey, Applied>,
    pub(super) by_service: HashMap<ObjectName, CompactMap<PortKey, ()>>,
    /// FRONTENDS, as it is.
    pub(super) leads: HashMap<FrontendKey, u32>,
    pub(super) lingering: Lingering,
    /// Ports that are gone, whose ids still have lingering backends.
    pub(super) retired: HashMap<PortKey, u32>,
    pub(super) services: IdPool,
    pub(super) backends: IdPool,
    pub(super) runs: Runs,
    /// Services that could not have all that they ask for, for want of room.
    pub(super) starved: BTreeSet<ObjectName>,
    /// Services for which the kernel refused something.
    pub(super) refused: BTreeSet<ObjectName>,
    /// Whether a frontend was removed since the last sweep.
    pub(super) frontend_freed: bool,
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

    /// Whether Service `name` could not have all that it asks for, for want of room.
    pub fn is_starved(&self, name: &ObjectName) -> bool {
        self.starved.contains(name)
    }

    /// Services, backends and slots in use.
    pub const fn used(&self) -> (u32, u32, u64) {
        (self.services.used(), self.backends.used(), self.runs.used())
    }

    /// Whether applying `desired` would take a port or a backend away from Service `name`, or say of an endpoint
    /// that it has left.
    pub fn would_lose(&self, name: &ObjectName, desired: &[DesiredPort]) -> bool {
        let leaves = |port: &DesiredPort| {
            let id = self.ports.get(&port.key).map(|applied| applied.id);
            id.or_else(|| self.retired.get(&port.key).copied()).is_some_and(|id| self.would_leave(id, port))
        };
        if desired.iter().any(leaves) {
            return true;
        }
        self.by_service.get(name).into_iter().flat_map(CompactMap::keys).any(|key| {
            let Some(applied) = self.ports.get(key) else { return false };
            let held = applied.members.values().map(|held| &held.backend);
            desired
                .iter()
                .find(|port| port.key == *key)
                .is_none_or(|port| !diff::diff(held, &port.backends).removed.is_empty())
        })
    }

    /// Makes the kernel hold `desired`, all the ports of Service `name`; an empty list removes it.
    ///
    /// Returns how many ports changed. Nothing is written for a port that is as it should be. Where a map
    /// is full, what fits is served, and the port's problem names the map and the flag.
    ///
    /// # Errors
    /// Only if the kernel refuses a write for another reason: the first such. The Service is then among
    /// those that the next [`Reconciler::sweep`] returns.
    pub fn apply(
        &mut self,
        name: &ObjectName,
        desired: Vec<DesiredPort>,
        now: Instant,
    ) -> Result<usize, DatapathError> {
        self.starved.remove(name);
        self.refused.remove(name);
        let mut gone: BTreeSet<PortKey> =
            self.by_service.get(name).into_iter().flat_map(CompactMap::keys).cloned().collect();
        let mut changed = 0;
        let mut failed = None;
        let mut count = |result: Result<Change, DatapathError>| match result {
            Ok(Change::Same) => {}
            Ok(Change::Changed) => changed += 1,
            Err(error) => failed = failed.take().or(Some(error)),
        };
        for port in &desired {
            gone.remove(&port.key);
            count(self.apply_port(port, now));
        }
        // What goes, goes last: a port that has got another name is served throughout.
        for key in gone {
            count(self.remove_port(&key, now).map(|()| Change::Changed));
        }
        match failed {
            None => Ok(changed),
            Some(error) => {
                self.refused.insert(name.clone());
                Err(error)
            }
        }
    }

    /// Frees what nothing refers to any more. Returns the Services that should be applied again: those
    /// for which the kernel refused something and, if there is room that there was not, those that lack it.
    ///
    /// # Errors
    /// What the kernel refuses; it is tried again by the next sweep.
    pub fn sweep(&mut self, now: Instant) -> Result<Vec<ObjectName>, DatapathError> {
        let over: Vec<u32> = self
            .lingering
            .iter()
            .filter(|(id, gone)| {
                now.duration_since(gone.since) >= super::ids::QUARANTINE && self.kernel.active(*id) == 0
            })
            .map(|(id, _)| id)
            .collect();
        for id in over {
            self.free_backend(id, now)?;
        }
        let over: Vec<(PortKey, u32)> = self
            .retired
            .iter()
            .filter(|(_, id)| !self.lingering.has_any_of(**id))
            .map(|(key, id)| (key.clone(), *id))
            .collect();
        for (key, id) in over {
            self.kernel.remove_service_meta(id)?;
            self.kernel.set_service(id, &Service::default());
            self.retired.remove(&key);
            self.services.give_back(id, now);
        }
        let mut again = mem::take(&mut self.refused);
        let pools = [self.services.has_grown(now), self.backends.has_grown(now), self.runs.has_grown(now)];
        if mem::take(&mut self.frontend_freed) || pools.contains(&true) {
            again.append(&mut self.starved);
        }
        Ok(again.into_iter().collect())
    }

    fn apply_port(&mut self, desired: &DesiredPort, now: Instant) -> Result<Change, DatapathError> {
        let mut applied = match self.ports.remove(&desired.key) {
            Some(applied) if self.is_as_desired(&applied, desired) => {
                let restated = self.restate(applied.id, desired, now);
                self.ports.insert(desired.key.clone(), applied);
                return Ok(if restated { Change::Changed } else { Change::Same });
            }
            Some(applied) => applied,
            None => match self.create(desired, now) {
                Some(new) => new,
                None => return Ok(Change::Same),
            },
        };
        let mut outcome = Outcome::default();
        let result = self.write_port(&mut applied, desired, now, &mut outcome);
        applied.settled = result.is_ok() && outcome.lacks.is_empty();
        if !outcome.lacks.is_empty() {
            self.starved.insert(desired.key.service.clone());
        }
        self.by_service.entry(desired.key.service.clone()).or_default().insert(desired.key.clone(), ());
        self.ports.insert(desired.key.clone(), applied);
        result.map(|()| outcome.change)
    }

    fn is_as_desired(&self, applied: &Applied, desired: &DesiredPort) -> bool {
        applied.settled
            && (applied.frontend, applied.algorithm, applied.affinity, applied.connections)
                == (desired.frontend, desired.algorithm, desired.affinity, desired.connections)
            && self.leads.get(&frontend_key(&desired.frontend)) == Some(&applied.id)
            && applied.problem.as_deref().unwrap_or_default() == shown(desired.problem.as_deref())
            && applied.members.values().map(|held| &held.backend).eq(&desired.backends)
    }

    /// A port that is not in the kernel yet. `None`: no room.
    fn create(&mut self, desired: &DesiredPort, now: Instant) -> Option<Applied> {
        let id = match self.retired.remove(&desired.key) {
            Some(id) => id,
            None => {
                let Some(id) = self.services.take(now) else {
                    let capacity = self.kernel.capacities().0;
                    let full = DatapathError::Full { map: "SERVICES", capacity, flag: "max-services" };
                    log::warn!("{}: {full}", desired.key);
                    self.starved.insert(desired.key.service.clone());
                    return None;
                };
                self.kernel.reset_service(id);
                id
            }
        };
        self.kernel.set_endpoints_changed(id, boot_ns());
        Some(Applied {
            id,
            frontend: desired.frontend,
            algorithm: desired.algorithm,
            affinity: desired.affinity,
            connections: desired.connections,
            problem: None,
            members: CompactMap::default(),
            slots: SlotRange::new(0, 0),
            revision: self.kernel.service(id).revision,
            settled: false,
        })
    }

    fn write_port(
        &mut self,
        applied: &mut Applied,
        desired: &DesiredPort,
        now: Instant,
        outcome: &mut Outcome,
    ) -> Result<(), DatapathError> {
        // The names first: an agent that is interrupted here leaves something that the next one can read.
        if applied.problem.is_none() {
            self.write_names(applied, desired, desired.problem.as_deref(), outcome)?;
        }
        if applied.frontend != desired.frontend {
            // It leads here by its old address no more: that makes room, and the Service will not agree.
            self.remove_frontend(&applied.frontend, applied.id)?;
            applied.frontend = desired.frontend;
        }
        let gone = self.write_backends(applied, desired, now, outcome)?;
        self.write_slots(applied, desired, now, outcome);
        let led = self.lead(&desired.frontend, applied.id, outcome);
        for held in &gone {
            let (place, pod) = ((held.backend.addr, held.backend.port), held.backend.pod.as_ref());
            self.retire(applied.id, held, state_of(desired, place, pod), now);
        }
        if self.restate(applied.id, desired, now) {
            outcome.changed();
        }
        led?;
        let parts: Vec<&str> =
            outcome.lacks.iter().map(String::as_str).chain(desired.problem.as_deref()).collect();
        let problem = (!parts.is_empty()).then(|| parts.join("; "));
        if applied.problem.as_deref() != Some(&*shown(problem.as_deref())) {
            if !outcome.lacks.is_empty() {
                log::warn!("{}: {}", desired.key, outcome.lacks.join("; "));
            }
            self.write_names(applied, desired, problem.as_deref(), outcome)?;
        }
        Ok(())
    }

    fn write_names(
        &mut self,
        applied: &mut Applied,
        desired: &DesiredPort,
        problem: Option<&str>,
        outcome: &mut Outcome,
    ) -> Result<(), DatapathError> {
        let key = &desired.key;
        let meta = ServiceMeta {
            namespace: to_text(&key.service.namespace),
            name: to_text(&key.service.name),
            port_name: to_text(&key.port_name),
            problem: to_text(problem.unwrap_or_default()),
        };
        self.kernel.set_service_meta(applied.id, &meta)?;
        applied.problem = Some(from_text(&meta.problem));
        outcome.changed();
        Ok(())
    }

    /// Makes a frontend lead to a Service, unless it does.
    fn lead(&mut self, frontend: &Frontend, id: u32, outcome: &mut Outcome) -> Result<(), DatapathError> {
        let key = frontend_key(frontend);
        if self.leads.get(&key) == Some(&id) {
            return Ok(());
        }
        match self.kernel.insert_frontend(&key, id) {
            Ok(()) => {
                self.leads.insert(key, id);
                outcome.changed();
                Ok(())
            }
            Err(full @ DatapathError::Full { .. }) => {
                outcome.lacks(format!("passed through: {full}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a frontend, unless it leads to another Service by now.
    fn remove_frontend(&mut self, frontend: &Frontend, id: u32) -> Result<(), DatapathError> {
        let key = frontend_key(frontend);
        if self.leads.get(&key) == Some(&id) {
            self.kernel.remove_frontend(&key)?;
            self.leads.remove(&key);
            self.frontend_freed = true;
        }
        Ok(())
    }

    pub(super) fn remove_port(&mut self, key: &PortKey, now: Instant) -> Result<(), DatapathError> {
        let Some(applied) = self.ports.get(key) else { return Ok(()) };
        let (id, frontend) = (applied.id, applied.frontend);
        self.remove_frontend(&frontend, id)?;
        let service = self.kernel.service(id);
        self.kernel.set_service(id, &settings::retired(&service));
        let Some(applied) = self.ports.remove(key) else { return Ok(()) };
        // Its pods may well live: nobody said that they have left.
        for held in applied.members.values() {
            self.retire(id, held, BackendState::Unused, now);
        }
        self.forget_departures(id, now);
        self.runs.give_back(applied.slots, now);
        self.retired.insert(key.clone(), id);
        if let Some(keys) = self.by_service.get_mut(&key.service) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_service.remove(&key.service);
            }
        }
        Ok(())
    }
}

/// The key of what is dialled.
pub(super) fn frontend_key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(frontend.addr.into(), PortBe::from_host(frontend.port), frontend.protocol.number())
}

/// As much of a problem as is kept beside the names of a Service.
fn shown(problem: Option<&str>) -> String {
    const KEPT: usize = size_of::<ServiceMeta>() - mem::offset_of!(ServiceMeta, problem);
    from_text(&to_text::<KEPT>(problem.unwrap_or_default()))
}
