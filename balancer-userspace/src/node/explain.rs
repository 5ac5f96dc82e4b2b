//! What a connect from here would do: the same decision that the programs take, on the same tables.

use std::collections::HashMap;

use balancer_common::{
    abi::{
        Algorithm, Backend, ClientKey, ClientState, FULL_SCAN, FrontendKey, Mode, PassReason, PickReason,
        Service, WINDOW,
    },
    addr::PortBe,
    health::Health,
    select::source_hash,
    tables::{Load, Tables},
    translate::{self, Translation},
};

use super::lane;
use crate::{
    agent::failure,
    cli::exit::Failure,
    datapath::{Maps, Pins, attachments, boot_ns, is_in_cgroup},
    model::Frontend,
    sockets,
    view::{
        BackendView, Candidate, Choice, ExplainedService, Explanation, PassCause, ServiceView, Snapshot,
        Verdict,
    },
};

/// The tables as they are now, of which nothing is changed by asking.
struct Frozen<'a> {
    maps: &'a Maps,
    key: FrontendKey,
    id: Option<u32>,
    service: Option<Service>,
    backends: HashMap<u32, Backend>,
    client: u64,
    excluded: bool,
}

impl Load for Frozen<'_> {
    fn slot(&self, index: u32) -> Option<(u32, u32)> {
        self.maps.slots.get(index).map(|slot| (slot.backend, slot.weight))
    }

    fn active(&self, backend: u32) -> u64 {
        self.maps.backend_stats.get(backend).map_or(0, |stats| stats.active)
    }

    fn health(&self, backend: u32) -> Health {
        self.maps.backend_health.get(backend).map(|health| health.state).unwrap_or_default()
    }

    /// What asks is no connect, and tries nothing; but a connect would.
    fn begin_trial(&self, _: u32, _: Health, _: Health) -> bool {
        true
    }

    fn take_turn(&self, service: u32) -> u32 {
        self.maps.service_stats.get(service).map_or(0, |stats| stats.turn as u32)
    }

    fn skip_turns(&self, _: u32, _: u32) {}

    fn node_offset(&self) -> u32 {
        self.maps.control().node_offset
    }

    fn random(&self) -> u32 {
        0
    }
}

impl Tables for Frozen<'_> {
    fn service_id(&self, frontend: &FrontendKey) -> Option<u32> {
        self.id.filter(|_| self.key == *frontend)
    }

    fn service(&self, id: u32) -> Option<&Service> {
        self.service.as_ref().filter(|_| self.id == Some(id))
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }

    fn lease_expires_ns(&self) -> u64 {
        self.maps.control().lease_expires_ns
    }

    fn mode(&self) -> Mode {
        Mode::from_u32(self.maps.control().mode)
    }

    fn is_excluded(&self) -> bool {
        self.excluded
    }

    fn now_ns(&self) -> u64 {
        boot_ns()
    }

    fn client(&self) -> u64 {
        self.client
    }

    fn client_state(&self, key: &ClientKey) -> Option<ClientState> {
        self.maps.client(key).ok().flatten()
    }

    fn take_client_turn(&self, key: &ClientKey) -> u32 {
        self.client_state(key).map_or(0, |state| state.turn)
    }

    fn remember_client(&self, _: &ClientKey, _: &ClientState) {}
}

/// Explains a connect to `dialled` by a process of this network namespace.
pub(super) fn explain(
    pins: &Pins,
    maps: &Maps,
    snapshot: &Snapshot,
    dialled: Frontend,
) -> Result<Explanation, Failure> {
    let key =
        FrontendKey::new(dialled.addr.into(), PortBe::from_host(dialled.port), dialled.protocol.number());
    let id = maps.frontend(&key).map_err(failure)?;
    let view = id.and_then(|id| snapshot.services.iter().find(|service| service.id == id));
    let backends = view.map(|view| view.backends.as_slice()).unwrap_or_default();
    let tables = Frozen {
        maps,
        key,
        id,
        service: id.and_then(|id| maps.services.get(id)),
        backends: backends.iter().filter_map(|view| Some((view.id, maps.backends.get(view.id)?))).collect(),
        client: sockets::own_netns_cookie().unwrap_or(0),
        excluded: is_excluded(maps),
    };
    let mut notes = Vec::new();
    let attached = attachments(pins);
    let cgroup = attached.iter().find_map(|(_, cgroup)| *cgroup);
    if cgroup.and_then(is_in_cgroup) == Some(false) {
        notes.push(format!(
            "this process is not in {}: its own connects are left alone, and this is what those of processes in \
             it meet",
            snapshot.agent.cgroup.display()
        ));
    }
    let verdict = if attached.iter().all(|(_, cgroup)| cgroup.is_none()) {
        Verdict::PassThrough(PassCause::NotAttached)
    } else {
        match (translate::connect(&tables, &key), view) {
            (Translation::Rewrite(choice), Some(view)) => {
                Verdict::Rewrite(candidates(&tables, view, choice.backend, choice.reason))
            }
            (Translation::Observe(choice), Some(view)) => {
                Verdict::Observe(candidates(&tables, view, choice.backend, choice.reason))
            }
            (Translation::PassThrough { reason, .. }, _) => {
                if reason == PassReason::NoBackends {
                    notes.extend(view.and_then(|view| view.problem.clone()));
                }
                Verdict::PassThrough(PassCause::Program(reason))
            }
            (Translation::Miss | Translation::Rewrite(_) | Translation::Observe(_), _) => {
                // The tables hold nothing of what is left alone, the reason included.
                notes.push(
                    "if it is the address of a Service, that is left alone: it or its Namespace says \
                     balancer.dev/enabled: \"false\", or --select annotated wants it said, or it is of a kind \
                     that is never balanced, or there was no room; the agent's log, at level debug, names the reason"
                        .to_owned(),
                );
                Verdict::PassThrough(PassCause::NotAService)
            }
        }
    };
    notes.extend(lane::explain(pins, snapshot, dialled, &verdict));
    Ok(Explanation {
        dialled,
        client: "this network namespace".to_owned(),
        service: view.map(|view| ExplainedService {
            namespace: view.namespace.clone(),
            name: view.name.clone(),
            port_name: view.port_name.clone(),
            algorithm: view.algorithm,
            affinity: view.affinity,
            revision: view.revision,
        }),
        verdict,
        notes,
    })
}

/// Whether this process is in a cgroup that is left alone, as far as it can tell from where it is.
fn is_excluded(maps: &Maps) -> bool {
    maps.control().excluded > 0
        && maps.excluded().unwrap_or_default().into_iter().any(|id| is_in_cgroup(id) == Some(true))
}

/// All usable backends with the chance of each to be chosen next.
fn candidates(tables: &Frozen<'_>, view: &ServiceView, chosen: u32, reason: PickReason) -> Choice {
    let usable: Vec<&BackendView> =
        view.backends.iter().filter(|backend| backend.state.is_usable()).collect();
    let slots = tables.service.map(|service| service.slots).unwrap_or_default();
    let certain = |id: u32| if id == chosen { 1.0 } else { 0.0 };
    let share: HashMap<u32, f64> = {
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for index in 0..slots.len() {
            if let Some((backend, _)) = tables.slot(slots.base().wrapping_add(index)) {
                *counts.entry(backend).or_default() += 1;
            }
        }
        counts.into_iter().map(|(id, count)| (id, f64::from(count) / f64::from(slots.len()))).collect()
    };
    let (rule, chance): (String, Box<dyn Fn(u32) -> f64>) = match (reason, view.algorithm) {
        (PickReason::Affinity, _) => {
            ("session affinity: this client was here before".to_owned(), Box::new(certain))
        }
        (PickReason::Steered, algorithm) => (
            format!("the choice of {} failed of late, or is new: another one", algorithm.name()),
            Box::new(certain),
        ),
        (PickReason::Panic, _) => (
            "more than half of the backends fail: any of them".to_owned(),
            Box::new(move |id| share.get(&id).copied().unwrap_or(0.0)),
        ),
        (_, Algorithm::LeastConnections) if slots.len() > FULL_SCAN => (
            format!("least-connections: fewest open connections of the {WINDOW} backends whose turn it is"),
            Box::new(certain),
        ),
        (_, Algorithm::LeastConnections) => (
            "least-connections: fewest open connections for its weight; ties in turn".to_owned(),
            Box::new(certain),
        ),
        (_, Algorithm::RoundRobin) => ("round-robin: its turn is next".to_owned(), Box::new(certain)),
        (_, Algorithm::ClientRoundRobin) => {
            ("client-round-robin: its turn is next for this client".to_owned(), Box::new(certain))
        }
        (_, Algorithm::SourceHash) => {
            let place = source_hash::index(tables.node_offset(), tables.client, slots.len());
            (
                format!("source-hash: this client's place in the table is {place} of {}", slots.len()),
                Box::new(certain),
            )
        }
        (_, Algorithm::Random) => {
            ("random: by weight".to_owned(), Box::new(move |id| share.get(&id).copied().unwrap_or(0.0)))
        }
    };
    Choice {
        rule,
        candidates: usable
            .iter()
            .map(|backend| Candidate {
                addr: backend.addr,
                pod: backend.pod.clone(),
                node: backend.node.clone(),
                zone: backend.zone.clone(),
                weight: backend.weight,
                active: backend.stats.active,
                chance: chance(backend.id),
                reason: if chance(backend.id) == 1.0 { "next".to_owned() } else { String::new() },
            })
            .collect(),
    }
}
