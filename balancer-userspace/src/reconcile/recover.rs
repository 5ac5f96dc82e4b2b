//! What an earlier agent left: read from the maps, so that a restart changes nothing that is right.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use balancer_common::abi::{
    Algorithm, Backend, BackendState, FIRST_BACKEND, FIRST_SERVICE, FIRST_SLOT, Service, ServiceMeta,
};

use super::{
    apply::{Applied, Lingering, Reconciler, members},
    ids::IdPool,
    kernel::KernelTables,
    layout::layout,
    runs::Runs,
};
use crate::{
    datapath::{DatapathError, backend_names, from_text},
    model::{Condition, DesiredBackend, DesiredPort, Family, Frontend, ObjectName, PortKey, Protocol},
};

impl<K: KernelTables> Reconciler<K> {
    /// Takes over what the tables hold. Writes nothing, but for entries that no agent could have
    /// completed or could use.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn recover(kernel: K, now: Instant) -> Result<Self, DatapathError> {
        let (max_services, max_backends, max_slots) = kernel.capacities();
        let mut reconciler = Self {
            kernel,
            ports: HashMap::new(),
            by_service: HashMap::new(),
            lingering: HashMap::new(),
            retired: HashMap::new(),
            services: IdPool::new(0..0, &HashSet::new()),
            backends: IdPool::new(0..0, &HashSet::new()),
            runs: Runs::new(FIRST_SLOT, max_slots),
            starved: BTreeSet::new(),
        };
        let mut owned: HashMap<u32, Vec<(u32, Backend)>> = HashMap::new();
        for id in FIRST_BACKEND..max_backends {
            let backend = reconciler.kernel.backend(id);
            if BackendState::from_u16(backend.state) != BackendState::Free {
                owned.entry(backend.service).or_default().push((id, backend));
            }
        }
        let mut services = HashSet::new();
        let mut backends = HashSet::new();
        for (id, meta) in reconciler.kernel.service_metas()? {
            let service = reconciler.kernel.service(id);
            let Some(port) = port(&service, &meta).filter(|_| id < max_services) else {
                reconciler.kernel.remove_service_meta(id)?;
                continue;
            };
            services.insert(id);
            let owned = owned.remove(&id).unwrap_or_default();
            backends.extend(owned.iter().map(|(id, _)| *id));
            reconciler.recover_port(id, &service, port, owned, now)?;
        }
        // Backends of Services that nobody can name.
        for (id, backend) in owned.into_values().flatten() {
            let active = reconciler.kernel.active(id);
            reconciler.kernel.set_backend(id, &Backend { state: BackendState::Free as u16, ..backend });
            reconciler.kernel.remove_backend_meta(id)?;
            log::warn!("backend {id} belongs to no Service; freed, with {active} sockets open to it");
        }
        // Frontends that lead nowhere: their connects are passed through anyway.
        for (key, id) in reconciler.kernel.frontends()? {
            if id >= FIRST_SERVICE && !services.contains(&id) {
                reconciler.kernel.remove_frontend(&key)?;
            }
        }
        reconciler.services = IdPool::new(FIRST_SERVICE..max_services, &services);
        reconciler.backends = IdPool::new(FIRST_BACKEND..max_backends, &backends);
        Ok(reconciler)
    }

    fn recover_port(
        &mut self,
        id: u32,
        service: &Service,
        mut desired: DesiredPort,
        owned: Vec<(u32, Backend)>,
        now: Instant,
    ) -> Result<(), DatapathError> {
        let key = desired.key.clone();
        let mut members_by_place = BTreeMap::new();
        let mut duplicate = false;
        for (backend_id, backend) in owned {
            let entry = self.desired_backend(backend_id, &backend)?;
            let place = (entry.addr, entry.port);
            let usable = BackendState::from_u16(backend.state).is_usable();
            if usable && members_by_place.insert(place, backend_id).is_none() {
                desired.backends.push(entry);
            } else {
                duplicate |= usable;
                self.lingering
                    .insert(backend_id, Lingering { service: id, addr: place, pod: entry.pod, since: now });
            }
        }
        desired.backends.sort_by_key(|backend| (backend.addr, backend.port));
        let led_to = self.kernel.frontend(&service.frontend)? == Some(id);
        if !led_to && desired.backends.is_empty() {
            self.retired.insert(key, id);
            return Ok(());
        }
        let reserved = self.runs.reserve(service.slots);
        let mut applied = Applied {
            id,
            shown: desired.problem.clone(),
            desired,
            members: members_by_place,
            slots: if reserved { service.slots } else { balancer_common::abi::SlotRange::new(0, 0) },
            revision: service.revision,
            stale: true,
        };
        let expected = layout(applied.desired.algorithm, &members(&applied, &applied.desired));
        let same_slots =
            (service.slots.base()..).zip(&expected).all(|(index, slot)| self.kernel.slot(index) == *slot);
        applied.stale = duplicate
            || !reserved
            || !led_to
            || expected.len() != service.slots.len() as usize
            || !same_slots;
        self.by_service.entry(key.service.clone()).or_default().insert(key.clone());
        self.ports.insert(key, applied);
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
                BackendState::Ready | BackendState::Removed | BackendState::Free => Condition::Ready,
            },
            pod,
            node,
            zone,
        })
    }
}

/// The port that a Service entry and its names describe, without backends; `None` if it was never
/// completed.
fn port(service: &Service, meta: &ServiceMeta) -> Option<DesiredPort> {
    let protocol = Protocol::from_number(service.frontend.protocol)?;
    let addr = IpAddr::from(service.frontend.addr);
    let text = |bytes: &[u8]| -> Arc<str> { from_text(bytes).into() };
    let problem = from_text(&meta.problem);
    Some(DesiredPort {
        key: PortKey {
            service: ObjectName { namespace: text(&meta.namespace), name: text(&meta.name) },
            port_name: text(&meta.port_name),
            protocol,
            family: Family::of(addr),
        },
        frontend: Frontend { addr, port: service.frontend.port.to_host(), protocol },
        algorithm: Algorithm::from_u32(service.algorithm)?,
        affinity: (service.affinity_seconds > 0)
            .then(|| Duration::from_secs(u64::from(service.affinity_seconds))),
        backends: Vec::new(),
        problem: (!problem.is_empty()).then_some(problem),
    })
}
