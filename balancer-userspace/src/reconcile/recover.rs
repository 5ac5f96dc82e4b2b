//! What an earlier agent left: read from the maps, so that a restart changes nothing that is right.
//!
//! That agent may have been killed between any two writes, so whatever contradicts itself is told apart
//! by what programs go by: the slots of a Service that agrees with its names. A backend that they name is
//! a member; every other one lingers, whether it was never switched to or just switched away from.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use balancer_common::abi::{
    Algorithm, Backend, BackendState, FIRST_BACKEND, FIRST_SERVICE, FIRST_SLOT, Service, ServiceMeta,
    SlotRange,
};

use super::{
    apply::{Applied, Held, Reconciler, frontend_key},
    departures::OF_ANOTHER_TIME,
    ids::IdPool,
    kernel::KernelTables,
    layout::layout,
    lingering::{Gone, Lingering},
    runs::Runs,
    settings,
    slots::{members, service_entry},
};
use crate::{
    datapath::{DatapathError, backend_meta, backend_names, from_text},
    model::{Condition, DesiredBackend, Family, Frontend, ObjectName, PortKey, Protocol},
};

/// Stands for the Service of backends whose Service is not known: no id of any.
const NO_SERVICE: u32 = u32::MAX;

impl<K: KernelTables> Reconciler<K> {
    /// Takes over what the tables hold. Writes nothing, but for entries that no agent could have
    /// completed or could use.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn recover(kernel: K, now: Instant) -> Result<Self, DatapathError> {
        let (max_services, max_backends, max_slots) = kernel.capacities();
        let leads: HashMap<_, _> = kernel.frontends()?.into_iter().collect();
        let mut owned: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut backends = HashSet::new();
        for id in FIRST_BACKEND..max_backends {
            let backend = kernel.backend(id);
            if BackendState::from_u16(backend.state) != BackendState::Free {
                owned.entry(backend.service).or_default().push(id);
                backends.insert(id);
            } else if kernel.active(id) > 0 {
                // Nobody frees such a one; whose sockets they are cannot be told.
                owned.entry(NO_SERVICE).or_default().push(id);
                backends.insert(id);
            }
        }
        let mut named = Vec::new();
        let mut nameless = Vec::new();
        for (id, meta) in kernel.service_metas()? {
            let in_range = (FIRST_SERVICE..max_services).contains(&id);
            match port(&kernel.service(id), &meta).filter(|_| in_range) {
                Some((key, applied)) => named.push((key, Applied { id, ..applied })),
                None => nameless.push(id),
            }
        }
        // Of two that claim one name, that which is dialled.
        named.sort_by_key(|(_, port)| (leads.get(&frontend_key(&port.frontend)) != Some(&port.id), port.id));
        let mut reconciler = Self {
            kernel,
            ports: HashMap::new(),
            by_service: HashMap::new(),
            leads,
            lingering: Lingering::default(),
            retired: HashMap::new(),
            services: IdPool::new(0..0, &HashSet::new()),
            backends: IdPool::new(FIRST_BACKEND..max_backends, &backends),
            runs: Runs::new(FIRST_SLOT, max_slots),
            starved: BTreeSet::new(),
            refused: BTreeSet::new(),
            frontend_freed: false,
        };
        let mut services = HashMap::new();
        for (key, applied) in named {
            if reconciler.ports.contains_key(&key) || reconciler.retired.contains_key(&key) {
                nameless.push(applied.id);
                continue;
            }
            services.insert(applied.id, frontend_key(&applied.frontend));
            let owned = owned.remove(&applied.id).unwrap_or_default();
            reconciler.recover_port(key, applied, owned, now)?;
        }
        reconciler.services = IdPool::new(FIRST_SERVICE..max_services, &services.keys().copied().collect());
        for (key, id) in reconciler.leads.clone() {
            let agrees = match services.get(&id) {
                Some(frontend) => *frontend == key,
                // The probes' own.
                None => id < FIRST_SERVICE && reconciler.kernel.service(id).frontend == key,
            };
            if !agrees {
                reconciler.kernel.remove_frontend(&key)?;
                reconciler.leads.remove(&key);
            }
        }
        for id in owned.into_values().flatten() {
            reconciler.disown(id, NO_SERVICE, now)?;
        }
        for id in nameless {
            reconciler.kernel.remove_service_meta(id)?;
        }
        Ok(reconciler)
    }

    /// Takes over one port, with the backends that say that they are its own.
    fn recover_port(
        &mut self,
        key: PortKey,
        mut applied: Applied,
        owned: Vec<u32>,
        now: Instant,
    ) -> Result<(), DatapathError> {
        let id = applied.id;
        let led_to = self.leads.get(&frontend_key(&applied.frontend)) == Some(&id);
        let reserved = self.runs.reserve(applied.slots);
        if !reserved || applied.slots.is_empty() {
            applied.slots = SlotRange::new(0, 0);
        }
        let in_slots: HashSet<u32> = (applied.slots.base()..)
            .take(applied.slots.len() as usize)
            .map(|index| self.kernel.slot(index).backend)
            .collect();
        for backend_id in owned {
            let entry = self.kernel.backend(backend_id);
            let usable = BackendState::from_u16(entry.state).is_usable() && in_slots.contains(&backend_id);
            let backend = self.desired_backend(backend_id, &entry)?;
            let place = (backend.addr, backend.port);
            if usable && !applied.members.contains_key(&place) {
                applied.members.insert(place, Held { id: backend_id, backend });
            } else {
                self.disown(backend_id, id, now)?;
            }
        }
        if !led_to && applied.members.is_empty() {
            self.runs.give_back(applied.slots, now);
            self.retired.insert(key, id);
            return Ok(());
        }
        let members = members(&applied);
        applied.settled = reserved
            && led_to
            && self.kernel.service(id) == service_entry(&applied, &members)
            && self.holds(applied.slots, &layout(applied.algorithm, &members));
        self.by_service.entry(key.service.clone()).or_default().insert(key.clone(), ());
        self.ports.insert(key, applied);
        Ok(())
    }

    /// Takes every Service port out. No backend is taken up again by the pod that it stands for: it lingers, for
    /// as long as sockets are counted under it, as one of another time, whose name ends in `(label)`. It is unused
    /// from then on, wherever its endpoint is.
    ///
    /// # Errors
    /// Whatever the kernel refuses; it may be called again.
    pub fn disband(&mut self, label: &str, now: Instant) -> Result<(), DatapathError> {
        let keys: Vec<PortKey> = self.ports.keys().cloned().collect();
        for key in keys {
            self.remove_port(&key, now)?;
        }
        let lingering: Vec<(u32, Gone)> =
            self.lingering.iter().map(|(id, gone)| (id, gone.clone())).collect();
        for (id, gone) in lingering {
            let [pod, node, zone] =
                self.kernel.backend_meta(id)?.map(|meta| backend_names(&meta)).unwrap_or_default();
            if pod.ends_with(OF_ANOTHER_TIME) {
                continue;
            }
            if gone.state != BackendState::Unused {
                self.call(id, BackendState::Unused, now);
            }
            let pod = format!("{pod} ({label})").trim_start().to_owned();
            self.kernel.set_backend_meta(id, &backend_meta(&pod, &node, &zone))?;
            let state = BackendState::Unused;
            self.lingering.insert(id, Gone { pod: Some(pod.into()), state, ..gone });
        }
        Ok(())
    }

    /// Lets a backend linger that is in nobody's slots. Whether its endpoint has left is for the first list
    /// to say, unless an earlier agent knew.
    fn disown(&mut self, id: u32, service: u32, now: Instant) -> Result<(), DatapathError> {
        let entry = self.kernel.backend(id);
        let state = match BackendState::from_u16(entry.state) {
            BackendState::Draining => BackendState::Draining,
            BackendState::Removed if entry.state == BackendState::Removed as u16 => BackendState::Removed,
            BackendState::Removed
            | BackendState::Free
            | BackendState::Ready
            | BackendState::Terminating
            | BackendState::Unused => BackendState::Unused,
        };
        let gone = Backend { state: state as u16, service, ..entry };
        if gone != entry {
            self.kernel.set_backend(id, &gone);
        }
        let DesiredBackend { addr, port, pod, .. } = self.desired_backend(id, &entry)?;
        self.lingering.insert(id, Gone { service, place: (addr, port), pod, state, since: now });
        Ok(())
    }

    fn desired_backend(&self, id: u32, backend: &Backend) -> Result<DesiredBackend, DatapathError> {
        let names = self.kernel.backend_meta(id)?.map(|meta| backend_names(&meta)).unwrap_or_default();
        let [pod, node, zone] = names.map(|name| (!name.is_empty()).then(|| Arc::<str>::from(name)));
        Ok(DesiredBackend {
            addr: backend.addr.into(),
            port: backend.port.to_host(),
            weight: backend.weight,
            condition: match BackendState::from_u16(backend.state) {
                BackendState::Terminating => Condition::Terminating,
                BackendState::Ready
                | BackendState::Removed
                | BackendState::Draining
                | BackendState::Unused
                | BackendState::Free => Condition::Ready,
            },
            pod,
            node,
            zone,
        })
    }
}

/// The port that a Service entry and its names describe, without backends; `None` if it was never
/// completed.
fn port(service: &Service, meta: &ServiceMeta) -> Option<(PortKey, Applied)> {
    let protocol = Protocol::from_number(service.frontend.protocol)?;
    let addr = IpAddr::from(service.frontend.addr);
    let text = |bytes: &[u8]| -> Arc<str> { from_text(bytes).into() };
    let key = PortKey {
        service: ObjectName { namespace: text(&meta.namespace), name: text(&meta.name) },
        port_name: text(&meta.port_name),
        protocol,
        family: Family::of(addr),
    };
    let applied = Applied {
        id: NO_SERVICE,
        frontend: Frontend { addr, port: service.frontend.port.to_host(), protocol },
        algorithm: Algorithm::from_u32(service.algorithm)?,
        affinity: (service.affinity_seconds > 0)
            .then(|| Duration::from_secs(u64::from(service.affinity_seconds))),
        connections: settings::read(service),
        problem: Some(from_text(&meta.problem)),
        members: crate::compact::CompactMap::default(),
        slots: service.slots,
        revision: service.revision,
        settled: false,
    };
    Some((key, applied))
}
