//! Tables that no agent would leave: a new one starts all the same, and puts them right.

use std::{collections::BTreeMap, time::Duration};

use balancer_common::{
    abi::{
        Backend, BackendMeta, BackendState, FIRST_BACKEND, FIRST_SERVICE, FrontendKey, Service, ServiceMeta,
        Slot, SlotRange,
    },
    addr::PortBe,
};
use proptest::prelude::*;

use super::{
    fake::{Fake, Sizes},
    objects::{Agent, key, port},
};
use crate::{datapath::to_text, model::DesiredPort};

const SIZES: Sizes = (8, 24, 64);
const SECOND: Duration = Duration::from_secs(1);

/// Few enough addresses and names to collide.
fn frontend() -> impl Strategy<Value = FrontendKey> {
    let protocol = prop_oneof![4 => Just(6_u8), 1 => Just(17), 1 => any::<u8>()];
    let pad = prop_oneof![8 => Just(0_u8), 1 => any::<u8>()];
    (1..5_u8, protocol, pad).prop_map(|(n, protocol, pad)| FrontendKey {
        protocol,
        pad,
        ..key(&port("x", n, []).frontend)
    })
}

fn service() -> impl Strategy<Value = Service> {
    let base = prop_oneof![6 => 0..70_u32, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    let len = prop_oneof![6 => 0..10_u32, 2 => 0..100_u32, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    let algorithm = prop_oneof![6 => 0..6_u32, 1 => any::<u32>()];
    let rest = prop::array::uniform4(prop_oneof![Just(0), Just(1), any::<u32>()]);
    (base, len, frontend(), algorithm, rest).prop_map(|(base, len, frontend, algorithm, rest)| Service {
        slots: SlotRange::new(base, len),
        frontend,
        algorithm,
        affinity_seconds: rest[0],
        flags: rest[1],
        backends: rest[2],
        revision: rest[3],
        slow_start_ms: rest[2],
        quiet_ms: rest[3],
        min_age_ms: rest[0],
        rebalance: rest[1] as u16,
        budget_percent: rest[2] as u16,
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    let state = prop_oneof![8 => 0..7_u16, 1 => any::<u16>()];
    let owner = prop_oneof![8 => 0..9_u32, 1 => any::<u32>()];
    let weight = prop_oneof![6 => 0..4_u32, 1 => any::<u32>()];
    (1..6_u8, state, owner, weight, any::<u32>()).prop_map(|(n, state, service, weight, generation)| {
        Backend {
            addr: super::objects::backend(n).addr.into(),
            port: PortBe::from_host(8080),
            state,
            service,
            generation,
            weight,
        }
    })
}

fn service_meta() -> impl Strategy<Value = ServiceMeta> {
    let random = any::<[u8; 32]>().prop_map(|bytes| {
        let mut meta: ServiceMeta = bytemuck::Zeroable::zeroed();
        meta.name[..32].copy_from_slice(&bytes);
        meta.namespace = [0xff; 64];
        meta.problem[..32].copy_from_slice(&bytes);
        meta
    });
    let plausible = (0..4_u8).prop_map(|n| ServiceMeta {
        namespace: to_text("shop"),
        name: to_text(&format!("s{n}")),
        port_name: to_text(""),
        problem: to_text("something"),
    });
    prop_oneof![4 => plausible, 1 => random]
}

fn backend_meta() -> impl Strategy<Value = BackendMeta> {
    prop_oneof![
        (1..6_u8).prop_map(|n| crate::datapath::backend_meta(&format!("pod-{n}"), "", "")),
        any::<u8>().prop_map(|byte| BackendMeta { text: [byte; 440] }),
    ]
}

prop_compose! {
    fn tables()(
        services in prop::collection::vec(service(), SIZES.0 as usize),
        backends in prop::collection::vec(backend(), SIZES.1 as usize),
        slots in prop::collection::vec((0..26_u32, 0..3_u32), SIZES.2 as usize),
        active in prop::collection::vec(prop_oneof![4 => Just(0), 1 => 1..3_u64, 1 => any::<u64>()], SIZES.1 as usize),
        frontends in prop::collection::btree_map(frontend(), prop_oneof![8 => 0..9_u32, 1 => any::<u32>()], 0..8),
        honest in any::<[bool; 8]>(),
        service_metas in prop::collection::btree_map(
            prop_oneof![8 => 0..9_u32, 1 => any::<u32>()], service_meta(), 0..8),
        backend_metas in prop::collection::btree_map(0..SIZES.1, backend_meta(), 0..24),
    ) -> Fake {
        let mut fake = Fake::new(SIZES);
        fake.services = services;
        // The probes' own, which nobody else writes.
        fake.services[..FIRST_SERVICE as usize].fill(Service::default());
        fake.backends = backends;
        fake.backends[..FIRST_BACKEND as usize].fill(Backend::default());
        fake.slots = slots.into_iter().map(|(backend, weight)| Slot { backend, weight }).collect();
        fake.active = active;
        fake.frontends = frontends;
        for id in (FIRST_SERVICE..SIZES.0).filter(|id| honest[*id as usize]) {
            let key = fake.services[id as usize].frontend;
            fake.frontends.insert(key, id);
        }
        fake.service_metas = service_metas;
        let free = |id: u32| fake.backends[id as usize].state == BackendState::Free as u16;
        fake.backend_metas = backend_metas.into_iter().filter(|(id, _)| !free(*id)).collect();
        fake.lenient = true;
        fake
    }
}

/// What the source says exists, whatever the tables say.
fn desired() -> Vec<DesiredPort> {
    vec![port("s0", 1, 1..=3), port("s1", 2, 2..=2), port("s9", 9, 1..=4)]
}

proptest! {
    #[test]
    fn whatever_stands_in_the_tables_a_new_agent_puts_right(fake in tables()) {
        let open: BTreeMap<u32, u64> = (FIRST_BACKEND..SIZES.1)
            .map(|id| (id, fake.active[id as usize]))
            .filter(|(_, active)| *active > 0)
            .collect();
        let mut agent = Agent::on(fake);
        agent.scarce = true;
        // Sweeps before anything is known do no harm.
        for _ in 0..3 {
            agent.pass_time(SECOND);
            let now = agent.now;
            agent.reconciler().sweep(now).expect("the kernel refuses nothing");
        }
        let wanted = desired();
        for name in agent.reconciler().known_services() {
            if wanted.iter().all(|port| port.key.service != name) {
                let now = agent.now;
                agent.reconciler().apply(&name, Vec::new(), now).expect("the kernel refuses nothing");
            }
        }
        for id in open.keys() {
            agent.fake().active[*id as usize] = 0;
        }
        for port in &wanted {
            agent.set(port.clone());
        }
        for _ in 0..4 {
            agent.pass_time(SECOND);
            agent.sweep().expect("the kernel refuses nothing");
        }
        agent.check_settled();
        agent.fake().lenient = false;
        agent.restart();
        let before = agent.fake().writes;
        for port in &wanted {
            prop_assert_eq!(agent.set(port.clone()), 0);
        }
        prop_assert_eq!(agent.fake().writes, before);
        for port in &wanted {
            agent.apply(&port.key.service.name, Vec::new()).expect("the kernel refuses nothing");
        }
        for _ in 0..3 {
            agent.pass_time(SECOND);
            agent.sweep().expect("the kernel refuses nothing");
        }
        prop_assert_eq!(agent.used(), (0, 0, 0));
        let fake = agent.tables();
        prop_assert!(fake.frontends.is_empty() && fake.service_metas.is_empty() && fake.backend_metas.is_empty());
        prop_assert!(fake.backends.iter().all(|backend| backend.state == BackendState::Free as u16));
    }
}

/// Tables as an agent leaves them, spoilt by `spoil`: a new agent serves the same as before.
fn check(spoil: impl FnOnce(&mut Fake, u32, u32)) {
    let ports = [port("a", 1, 1..=3), port("b", 2, 4..=6)];
    let mut agent = Agent::new(super::objects::ROOMY);
    for port in &ports {
        agent.set(port.clone());
    }
    let ids = ports.each_ref().map(|port| agent.tables().frontends[&key(&port.frontend)]);
    agent.fake().lenient = true;
    spoil(agent.fake(), ids[0], ids[1]);
    agent.restart();
    for port in &ports {
        agent.set(port.clone());
    }
    for _ in 0..3 {
        agent.pass_time(SECOND);
        agent.sweep().expect("the kernel refuses nothing");
    }
    agent.check_settled();
    agent.fake().lenient = false;
    for port in &ports {
        agent.apply(&port.key.service.name, Vec::new()).expect("the kernel refuses nothing");
    }
    for _ in 0..3 {
        agent.pass_time(SECOND);
        agent.sweep().expect("the kernel refuses nothing");
    }
    assert_eq!(agent.used(), (0, 0, 0));
}

#[test]
fn two_services_on_one_run_of_slots_are_parted() {
    check(|fake, a, b| fake.services[a as usize].slots = fake.services[b as usize].slots);
}

#[test]
fn runs_that_overlap_or_leave_the_map_are_replaced() {
    for slots in [
        SlotRange::new(3, 4),
        SlotRange::new(2, u32::MAX),
        SlotRange::new(u32::MAX, 1),
        SlotRange::new(u32::MAX, u32::MAX),
        SlotRange::new(8191, 3),
        SlotRange::new(0, 2),
    ] {
        check(|fake, a, _| fake.services[a as usize].slots = slots);
    }
}

#[test]
fn names_without_a_service_and_a_service_without_names_are_dropped() {
    check(|fake, a, b| {
        fake.services[a as usize] = Service::default();
        fake.service_metas.remove(&b);
        let meta = fake.service_metas[&a];
        fake.service_metas.insert(30, meta);
        fake.service_metas.insert(u32::MAX, meta);
        fake.service_metas.insert(0, meta);
    });
}

#[test]
fn two_services_of_one_name_become_one() {
    check(|fake, a, b| {
        let meta = fake.service_metas[&a];
        fake.service_metas.insert(b, meta);
    });
}

#[test]
fn backends_of_nobody_wait_for_their_sockets() {
    let mut agent = Agent::new(super::objects::ROOMY);
    agent.set(port("a", 1, [1]));
    let dialled = key(&port("a", 1, []).frontend);
    let choice = agent.fake().dial(&dialled, 1, 0).expect("there is a backend");
    agent.fake().service_metas.clear();
    agent.fake().lenient = true;
    agent.restart();
    assert!(agent.tables().frontends.is_empty());
    let mut held = |rounds: u32| {
        for _ in 0..rounds {
            agent.pass_time(SECOND);
            agent.sweep().expect("the kernel refuses nothing");
        }
        agent.restart();
        let held = agent.used();
        agent.fake().active[choice.backend as usize] = 0;
        held
    };
    assert_eq!(held(3), (0, 1, 0), "a socket is open to it");
    assert_eq!(held(3), (0, 0, 0));
}
