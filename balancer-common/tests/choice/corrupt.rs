//! Tables that contradict themselves in every way: a decision never panics, never reads without bound,
//! and never leads to a backend that is not a usable one of the Service that was dialled.

use std::collections::BTreeMap;

use balancer_common::{
    abi::{
        Algorithm, Backend, BackendState, ClientKey, ClientState, FIRST_SERVICE, FULL_SCAN, PassReason,
        PickReason, Service, Slot, SlotRange,
    },
    translate::Translation,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use crate::world::{Rng, World, frontend};

/// One thing that is not as the agent would have it. Indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Damage {
    Slots { service: usize, base: u32, len: u32 },
    Algorithm { service: usize, number: u32 },
    Affinity { service: usize, seconds: u32 },
    Flags { service: usize, flags: u32 },
    Frontend { service: usize, dialled: u32 },
    Slot { index: usize, slot: (u32, u32) },
    SlotsEnd { len: usize },
    State { backend: usize, state: u16 },
    Owner { backend: usize, service: u32 },
    Generation { backend: usize, generation: u32 },
    BackendsEnd { len: usize },
    Active { backend: usize, active: u64 },
    Client { client: u64, service: u32, state: ClientState },
    Turn { service: usize, turn: u32 },
    Lease { ns: u64 },
    Now { ns: u64 },
}

/// Small enough to hit what exists, or anything.
fn number(small: u32) -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..small, 1 => any::<u32>(), 1 => Just(u32::MAX), 1 => Just(0)]
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..100_000_000_000_u64, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(0)]
}

fn damage() -> impl Strategy<Value = Damage> {
    use Damage::*;
    let index = || any::<usize>();
    let client =
        (time(), number(80), 0..3_u32, number(5)).prop_map(|(used_ns, backend, generation, turn)| {
            ClientState { used_ns, backend, generation, turn, pad: 0 }
        });
    prop_oneof![
        1 => (index(), number(100), number(100)).prop_map(|(service, base, len)| Slots { service, base, len }),
        1 => (index(), number(6)).prop_map(|(service, number)| Algorithm { service, number }),
        1 => (index(), number(100)).prop_map(|(service, seconds)| Affinity { service, seconds }),
        1 => (index(), number(2)).prop_map(|(service, flags)| Flags { service, flags }),
        1 => (index(), number(4)).prop_map(|(service, dialled)| Frontend { service, dialled }),
        1 => (index(), (number(80), number(4))).prop_map(|(index, slot)| Slot { index, slot }),
        1 => index().prop_map(|len| SlotsEnd { len }),
        4 => (index(), prop_oneof![0..7_u16, any::<u16>()]).prop_map(|(backend, state)| State { backend, state }),
        4 => (index(), number(5)).prop_map(|(backend, service)| Owner { backend, service }),
        4 => (index(), 0..3_u32).prop_map(|(backend, generation)| Generation { backend, generation }),
        1 => index().prop_map(|len| BackendsEnd { len }),
        1 => (index(), any::<u64>()).prop_map(|(backend, active)| Active { backend, active }),
        1 => (0..3_u64, 2..5_u32, client).prop_map(|(client, service, state)| Client { client, service, state }),
        1 => (index(), any::<u32>()).prop_map(|(service, turn)| Turn { service, turn }),
        1 => time().prop_map(|ns| Lease { ns }),
        1 => time().prop_map(|ns| Now { ns }),
    ]
}

/// The element at an index taken modulo the length; `None` if there are none.
fn at<T>(items: &mut [T], index: usize) -> Option<&mut T> {
    let len = items.len();
    items.get_mut(index.checked_rem(len)?)
}

fn apply(world: &mut World, damage: Damage) {
    let service = |world: &mut World, index, change: &dyn Fn(&mut Service)| {
        at(&mut world.services[FIRST_SERVICE as usize..], index).into_iter().for_each(change);
    };
    let backend = |world: &mut World, index, change: &dyn Fn(&mut Backend)| {
        at(&mut world.backends, index).into_iter().for_each(change);
    };
    match damage {
        Damage::Slots { service: index, base, len } => {
            service(world, index, &|service| service.slots = SlotRange::new(base, len));
        }
        Damage::Algorithm { service: index, number } => {
            service(world, index, &|service| service.algorithm = number);
        }
        Damage::Affinity { service: index, seconds } => {
            service(world, index, &|service| service.affinity_seconds = seconds);
        }
        Damage::Flags { service: index, flags } => service(world, index, &|service| service.flags = flags),
        Damage::Frontend { service: index, dialled } => {
            service(world, index, &|service| service.frontend = frontend(dialled));
        }
        Damage::Slot { index, slot: (backend, weight) } => {
            at(&mut world.slots, index).into_iter().for_each(|slot| *slot = Slot { backend, weight });
        }
        Damage::SlotsEnd { len } => world.slots.truncate(len % (world.slots.len() + 1)),
        Damage::State { backend: index, state } => backend(world, index, &|backend| backend.state = state),
        Damage::Owner { backend: index, service } => {
            backend(world, index, &|backend| backend.service = service);
        }
        Damage::Generation { backend: index, generation } => {
            backend(world, index, &|backend| backend.generation = generation);
        }
        Damage::BackendsEnd { len } => world.backends.truncate(len % (world.backends.len() + 1)),
        Damage::Active { backend, active } => {
            at(&mut world.active, backend).into_iter().for_each(|count| count.set(active));
        }
        Damage::Client { client, service, state } => {
            let key = ClientKey { netns_cookie: client, service, pad: 0 };
            world.clients.borrow_mut().insert(key, state);
        }
        Damage::Turn { service, turn } => {
            at(&mut world.turns, service).into_iter().for_each(|turns| turns.set(turn));
        }
        Damage::Lease { ns } => world.lease_expires_ns = ns,
        Damage::Now { ns } => world.now_ns.set(ns),
    }
}

prop_compose! {
    /// Up to three Services, known as 2 to 4, and damage to them. The fourth, 900, is known but not there.
    fn world()(
        services in prop::collection::vec(
            (0..5_usize, prop_oneof![3 => 0..6_usize, 1 => 63..67_usize], prop_oneof![Just(0), 1..60_u32]),
            3,
        ),
        damages in prop::collection::vec(damage(), 0..8),
        node_offset: u32,
        seed: u64,
    ) -> World {
        let mut world = World::new();
        for (algorithm, backends, affinity_seconds) in services {
            let id = world.add_service(Algorithm::ALL[algorithm], &vec![1; backends]);
            world.services[id as usize].affinity_seconds = affinity_seconds;
        }
        world.frontends.insert(frontend(900), 900);
        world.node_offset = node_offset;
        world.rng = Rng::new(seed);
        damages.into_iter().for_each(|damage| apply(&mut world, damage));
        world
    }
}

fn check(world: &World, dialled: u32) -> Result<Translation, TestCaseError> {
    world.reads.borrow_mut().clear();
    let translation = world.connect_to(dialled);
    let reads = world.reads.borrow().len();
    prop_assert!(reads <= FULL_SCAN as usize + 1, "{reads} slots read");
    let id = world.frontends.get(&frontend(dialled));
    match translation {
        Translation::Miss => prop_assert_eq!(id, None),
        Translation::PassThrough { service, reason } => {
            prop_assert_eq!(id, Some(&service));
            let entry = world.services.get(service as usize);
            match reason {
                PassReason::LeaseExpired => prop_assert!(world.now_ns.get() > world.lease_expires_ns),
                PassReason::NoBackends => prop_assert!(entry.unwrap().slots.is_empty()),
                PassReason::Inconsistent => {}
                PassReason::NoSocketState => prop_assert!(false, "a decision knows of no sockets"),
                PassReason::Excluded => prop_assert!(false, "nothing is excluded here"),
                PassReason::Observed => prop_assert!(false, "whoever carries a choice out counts this"),
            }
        }
        Translation::Observe(choice) => prop_assert!(false, "{choice:?} is only observed"),
        Translation::Rewrite(choice) => {
            prop_assert_eq!(id, Some(&choice.service));
            let service = &world.services[choice.service as usize];
            prop_assert_eq!(service.frontend, frontend(dialled));
            let backend = &world.backends[choice.backend as usize];
            prop_assert_eq!(backend.service, choice.service);
            let state = BackendState::from_u16(backend.state);
            let just_left = choice.reason != PickReason::Affinity && state != BackendState::Free;
            prop_assert!(state.is_usable() || just_left);
            prop_assert_eq!(
                (choice.addr, choice.port, choice.generation),
                (backend.addr, backend.port, backend.generation)
            );
            prop_assert!(choice.now_ns <= world.lease_expires_ns);
            if choice.reason != PickReason::Affinity {
                let range = service.slots;
                let listed = world.reads.borrow().iter().any(|&index| {
                    index.wrapping_sub(range.base()) < range.len()
                        && world.slots[index as usize].backend == choice.backend
                });
                prop_assert!(listed, "backend {} is in no slot that was read", choice.backend);
            }
            prop_assert_eq!(
                choice.reason == PickReason::Sampled,
                choice.reason != PickReason::Affinity
                    && choice.reason != PickReason::AffinityReplaced
                    && service.algorithm == 0
                    && service.slots.len() > FULL_SCAN
            );
        }
    }
    Ok(translation)
}

/// A connect, and what is damaged before it.
#[derive(Clone, Debug)]
struct Connect {
    damage: Option<Damage>,
    dialled: u32,
    client: u64,
    later_ns: u64,
}

fn connects() -> impl Strategy<Value = Vec<Connect>> {
    let connect = (
        prop::option::weighted(0.3, damage()),
        prop_oneof![20 => 2..5_u32, 1 => Just(5), 1 => Just(900)],
        0..3_u64,
        0..5_000_000_000_u64,
    );
    prop::collection::vec(connect, 1..20).prop_map(|connects| {
        let connect = |(damage, dialled, client, later_ns)| Connect { damage, dialled, client, later_ns };
        connects.into_iter().map(connect).collect()
    })
}

/// Goes through the connects, checks each, and hands over what became of it.
fn run(
    world: &mut World,
    connects: Vec<Connect>,
    mut outcome: impl FnMut(Translation),
) -> Result<(), TestCaseError> {
    for connect in connects {
        if let Some(damage) = connect.damage {
            apply(world, damage);
        }
        world.client.set(connect.client);
        world.now_ns.set(world.now_ns.get().saturating_add(connect.later_ns));
        outcome(check(world, connect.dialled)?);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_decision_is_right_or_none(mut world in world(), connects in connects()) {
        run(&mut world, connects, |_| {})?;
    }
}

#[test]
fn the_tables_above_lead_to_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..1000 {
        let mut world = world().new_tree(&mut runner).unwrap().current();
        let connects = connects().new_tree(&mut runner).unwrap().current();
        let outcome = |translation| {
            let outcome = match translation {
                Translation::Miss => "miss".to_owned(),
                Translation::PassThrough { reason, .. } => format!("pass {}", reason.name()),
                Translation::Observe(_) => "observe".to_owned(),
                Translation::Rewrite(choice) => format!("pick {}", choice.reason.name()),
            };
            *seen.entry(outcome).or_default() += 1;
        };
        run(&mut world, connects, outcome).unwrap();
    }
    for outcome in [
        "miss",
        "pass lease-expired",
        "pass no-backends",
        "pass inconsistent",
        "pick algorithm",
        "pick sampled",
        "pick affinity",
        "pick affinity-replaced",
    ] {
        assert!(seen.get(outcome).is_some_and(|&count| count >= 25), "{outcome} in {seen:?}");
    }
}
