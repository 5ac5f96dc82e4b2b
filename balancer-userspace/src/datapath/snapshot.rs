//! Reading everything at once, for people.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use balancer_common::abi::{
    Algorithm, Backend, BackendState, Control, FIRST_BACKEND, FIRST_SERVICE, LaneState, Mode, PassReason,
    PickReason, Service, ServiceMeta,
};

use super::{Access, DatapathError, Maps, Pins, boot_ns, from_text, text::backend_names};
use crate::{
    history::History,
    model::{Family, Protocol},
    view::{
        AgentView, BackendView, HealthView, LaneView, Lease, LifecycleView, Liveness, MapFill, ServiceView,
        Snapshot,
    },
};

/// Reads the maps that are pinned under `pins`.
///
/// # Errors
/// Those of [`Maps::open`].
pub fn read_snapshot(pins: &Path) -> Result<Snapshot, DatapathError> {
    let pins = Pins::new(pins);
    let maps = Maps::open(&pins, Access::Read)?;
    snapshot(&pins, &maps)
}

/// Reads `maps`, which are pinned under `pins`.
pub fn snapshot(pins: &Pins, maps: &Maps) -> Result<Snapshot, DatapathError> {
    let now_ns = boot_ns();
    let mut used = [0_u64; 3];
    let mut backends: BTreeMap<u32, Vec<BackendView>> = BTreeMap::new();
    for (id, backend) in maps.backends.iter().skip(FIRST_BACKEND as usize) {
        let state = BackendState::from_u16(backend.state);
        if state != BackendState::Free {
            used[0] += 1;
            let view = backend_view(maps, id, &backend, now_ns)?;
            backends.entry(backend.service).or_default().push(view);
        }
    }
    let mut services = Vec::new();
    for (id, meta) in maps.service_metas()? {
        let Some(service) = maps.services.get(id) else { continue };
        used[1] += 1;
        used[2] += u64::from(service.slots.len().next_power_of_two());
        let mut backends = backends.remove(&id).unwrap_or_default();
        backends.sort_by_key(|backend| backend.addr);
        services.extend(service_view(maps, id, &service, &meta, backends, now_ns));
    }
    services.sort_by(|a, b| {
        (&a.namespace, &a.name, &a.port_name, a.protocol, a.family).cmp(&(
            &b.namespace,
            &b.name,
            &b.port_name,
            b.protocol,
            b.family,
        ))
    });
    let maps_fill = vec![
        fill("SERVICES", used[1], maps.services.len() - FIRST_SERVICE, "max-services"),
        fill("BACKENDS", used[0], maps.backends.len() - FIRST_BACKEND, "max-backends"),
        fill("SLOTS", used[2], maps.slots.len(), "max-slots"),
        fill("CLIENTS", maps.count_clients(), maps.max_clients(), "max-clients"),
    ];
    Ok(Snapshot { agent: agent_view(pins, &maps.control())?, maps: maps_fill, services })
}

fn fill(name: &'static str, used: u64, capacity: u32, flag: &'static str) -> MapFill {
    MapFill { name, used, capacity: u64::from(capacity), flag }
}

fn backend_view(maps: &Maps, id: u32, backend: &Backend, now_ns: u64) -> Result<BackendView, DatapathError> {
    let slow_start_ms = maps.services.get(backend.service).map_or(0, |service| service.slow_start_ms);
    let health = maps.backend_health.get(id).unwrap_or_default();
    let [pod, node, zone] = maps.backend_meta(id)?.map(|meta| backend_names(&meta)).unwrap_or_default();
    Ok(BackendView {
        id,
        addr: SocketAddr::new(backend.addr.into(), backend.port.to_host()),
        state: BackendState::from_u16(backend.state),
        weight: backend.weight,
        pod: pod.into(),
        node: node.into(),
        zone: zone.into(),
        stats: maps.backend_stats.get(id).unwrap_or_default(),
        health: HealthView::of(&health, slow_start_ms, now_ns),
        history: History { ring: maps.backend_history.get(id).unwrap_or_default(), now_ns },
    })
}

fn service_view(
    maps: &Maps,
    id: u32,
    service: &Service,
    meta: &ServiceMeta,
    backends: Vec<BackendView>,
    now_ns: u64,
) -> Option<ServiceView> {
    let text = |bytes: &[u8]| -> Arc<str> { from_text(bytes).into() };
    let stats = maps.service_stats.get(id).unwrap_or_default();
    let frontend = SocketAddr::new(service.frontend.addr.into(), service.frontend.port.to_host());
    let problem = from_text(&meta.problem);
    Some(ServiceView {
        id,
        namespace: text(&meta.namespace),
        name: text(&meta.name),
        port_name: text(&meta.port_name),
        protocol: Protocol::from_number(service.frontend.protocol)?,
        family: Family::of(frontend.ip()),
        frontend,
        algorithm: Algorithm::from_u32(service.algorithm).unwrap_or(Algorithm::Random),
        affinity: (service.affinity_seconds > 0)
            .then(|| Duration::from_secs(u64::from(service.affinity_seconds))),
        revision: service.revision,
        problem: (!problem.is_empty()).then_some(problem),
        picks: PickReason::ALL.map(|reason| stats.picks[reason as usize]),
        passes: PassReason::ALL.map(|reason| stats.passes[reason as usize]),
        flow_evictions: stats.flow_evictions,
        lifecycle: LifecycleView::of(service, &maps.lifecycle.get(id).unwrap_or_default(), now_ns),
        backends,
    })
}

/// How long the programs will go on translating.
///
/// # Errors
/// Those of [`Maps::open`].
pub fn read_lease(pins: &Path) -> Result<Lease, DatapathError> {
    let maps = Maps::open(&Pins::new(pins), Access::Read)?;
    Ok(lease(maps.control().lease_expires_ns, boot_ns()))
}

fn lease(expires_ns: u64, now_ns: u64) -> Lease {
    match expires_ns {
        u64::MAX => Lease::Endless,
        0 => Lease::Never,
        expires if expires >= now_ns => Lease::Valid(Duration::from_nanos(expires - now_ns)),
        expires => Lease::Lapsed(Duration::from_nanos(now_ns - expires)),
    }
}

fn agent_view(pins: &Pins, control: &Control) -> Result<AgentView, DatapathError> {
    let now = boot_ns();
    let since = |then: u64| Duration::from_nanos(now.saturating_sub(then));
    let since_if = |then: u64| (then != 0).then(|| since(then));
    Ok(AgentView {
        liveness: if pins.is_locked()? { Liveness::Running } else { Liveness::Dead },
        pid: control.agent_pid,
        version: from_text(&control.agent_version),
        node: from_text(&control.node),
        source: from_text(&control.source),
        mode: Mode::from_u32(control.mode),
        excluded: control.excluded,
        cgroup: from_text(&control.cgroup).into(),
        pins: pins.root().into(),
        uptime: since(control.agent_started_ns),
        lease: lease(control.lease_expires_ns, now),
        synced: since_if(control.synced_ns),
        contact: since_if(control.contact_ns),
        changed: since_if(control.changed_ns),
        skipped: control.skipped,
        lane: [0, 1].map(|index| LaneView {
            state: LaneState::from_u32(control.lane[index]),
            entries: control.lane_entries[index],
        }),
    })
}
