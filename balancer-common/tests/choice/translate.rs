//! The decision around the choice: what is passed through, and why.

use balancer_common::{
    abi::{
        Algorithm::{self, LeastConnections, Random},
        Backend, BackendState, FIRST_SERVICE, FrontendKey, Mode, PROBE_TCP,
        PassReason::{self, Excluded, Inconsistent, LeaseExpired, NoBackends},
        PickReason, SlotRange, TCP, UDP,
    },
    addr::PortBe,
    translate::{self, Translation},
};

use crate::world::{SECOND, World, frontend};

/// Two Services of three backends each. What `damage` does to them makes the first one pass through.
fn check(damage: impl Fn(&mut World), expect: PassReason) {
    for algorithm in Algorithm::ALL {
        for affinity in [0, 10] {
            let mut world = World::with(algorithm, &[1; 3]);
            world.add_service(algorithm, &[1; 3]);
            world.services[FIRST_SERVICE as usize].affinity_seconds = affinity;
            assert!(matches!(world.connect(), Translation::Rewrite(_)));
            world.clients.borrow_mut().clear();
            damage(&mut world);
            let expect = Translation::PassThrough { service: FIRST_SERVICE, reason: expect };
            assert_eq!(world.connect(), expect, "{} affinity {affinity}", algorithm.name());
        }
    }
}

fn each_backend(world: &mut World, change: impl Fn(&mut Backend)) {
    world.backends[..3].iter_mut().for_each(change);
}

#[test]
fn what_is_no_service_is_a_miss() {
    let world = World::with(LeastConnections, &[1; 3]);
    let known = frontend(FIRST_SERVICE);
    for unknown in [
        frontend(FIRST_SERVICE + 1),
        FrontendKey::new(known.addr, PortBe::from_host(81), TCP),
        FrontendKey::new(known.addr, known.port, UDP),
        FrontendKey::default(),
    ] {
        assert_eq!(translate::connect(&world, &unknown), Translation::Miss);
    }
    assert!(world.reads.borrow().is_empty(), "a miss read slots");
    assert_eq!(world.turns[FIRST_SERVICE as usize].get(), 0, "a miss took a turn");
}

#[test]
fn who_is_left_alone_gets_nothing_and_changes_nothing() {
    check(|world| world.excluded = true, Excluded);
    let mut world = World::with(LeastConnections, &[1; 3]);
    world.excluded = true;
    world.connect();
    assert!(world.reads.borrow().is_empty(), "slots were read for a process that is left alone");
    assert_eq!(world.turns[FIRST_SERVICE as usize].get(), 0, "it took a turn");
    // A lapsed lease comes first: then nobody is served, which is what the figures should say.
    world.lease_expires_ns = 0;
    let lapsed = Translation::PassThrough { service: FIRST_SERVICE, reason: LeaseExpired };
    assert_eq!(world.connect(), lapsed);
}

#[test]
fn observing_chooses_the_same_and_leads_where_it_was_going() {
    for algorithm in Algorithm::ALL {
        let balancing = World::with(algorithm, &[1; 3]);
        let mut observing = World::with(algorithm, &[1; 3]);
        observing.mode = Mode::Observe;
        for _ in 0..10 {
            let dialled = frontend(FIRST_SERVICE);
            let (Translation::Rewrite(there), Translation::Observe(here)) =
                (balancing.connect(), observing.connect())
            else {
                panic!("{}: not the same outcome", algorithm.name());
            };
            assert_eq!((here.addr, here.port), (dialled.addr, dialled.port));
            assert_eq!((here.backend, here.reason), (there.backend, there.reason), "{}", algorithm.name());
            balancing.active[there.backend as usize].set(balancing.active[there.backend as usize].get() + 1);
            observing.active[here.backend as usize].set(observing.active[here.backend as usize].get() + 1);
        }
    }
    // What passes through when balancing does so when observing.
    check(
        |world| {
            world.mode = Mode::Observe;
            world.services[FIRST_SERVICE as usize].slots = SlotRange::new(0, 0);
        },
        NoBackends,
    );
}

#[test]
fn the_self_probe_is_carried_out_in_any_mode() {
    let mut world = World::with(LeastConnections, &[1; 3]);
    let probe = frontend(FIRST_SERVICE);
    world.frontends.insert(probe, PROBE_TCP);
    world.services[PROBE_TCP as usize] = world.services[FIRST_SERVICE as usize];
    world.backends.iter_mut().for_each(|backend| backend.service = PROBE_TCP);
    (world.mode, world.excluded) = (Mode::Observe, true);
    assert!(matches!(world.connect(), Translation::Rewrite(choice) if choice.service == PROBE_TCP));
}

#[test]
fn a_choice_says_where_and_why() {
    let mut world = World::with(LeastConnections, &[1; 3]);
    world.backends[0].generation = 9;
    let choice = world.choose();
    assert_eq!((choice.service, choice.backend, choice.generation), (FIRST_SERVICE, 0, 9));
    assert_eq!((choice.addr, choice.port), (world.backends[0].addr, world.backends[0].port));
    assert_eq!((choice.reason, choice.now_ns), (PickReason::Algorithm, SECOND));
    assert_eq!(world.loads(), [0; 3], "deciding counts nothing");
}

#[test]
fn a_terminating_backend_in_the_slots_serves() {
    let mut world = World::with(LeastConnections, &[1]);
    world.set_state(0, BackendState::Terminating);
    assert_eq!(world.choose().backend, 0);
}

#[test]
fn the_lease_ends_after_its_last_nanosecond() {
    let check = |now: u64, expires: u64, expired: bool| {
        let mut world = World::with(Random, &[1; 3]);
        world.now_ns.set(now);
        world.lease_expires_ns = expires;
        let passed = Translation::PassThrough { service: FIRST_SERVICE, reason: LeaseExpired };
        assert_eq!(world.connect() == passed, expired, "at {now} of {expires}");
    };
    check(SECOND, SECOND, false);
    check(SECOND, SECOND - 1, true);
    check(SECOND + 1, SECOND, true);
    check(SECOND, SECOND + 1, false);
    check(SECOND, 0, true);
    check(u64::MAX, u64::MAX, false);
    check(u64::MAX - 1, u64::MAX, false);
    check(u64::MAX, u64::MAX - 1, true);
}

#[test]
fn a_lapsed_lease_touches_nothing_and_recovers() {
    let mut world = World::with(Algorithm::ClientRoundRobin, &[1; 3]);
    world.lease_expires_ns = 0;
    world.connect();
    assert!(world.clients.borrow().is_empty());
    assert!(world.reads.borrow().is_empty());
    world.lease_expires_ns = 2 * SECOND;
    assert!(matches!(world.connect(), Translation::Rewrite(_)));
}

#[test]
fn a_service_without_backends_passes_through() {
    check(|world| world.schedule(FIRST_SERVICE, &[]), NoBackends);
    check(|world| world.services[FIRST_SERVICE as usize].slots = SlotRange::new(u32::MAX, 0), NoBackends);
}

#[test]
fn a_lapsed_lease_goes_before_a_want_of_backends() {
    check(
        |world| {
            world.schedule(FIRST_SERVICE, &[]);
            world.lease_expires_ns = 0;
        },
        LeaseExpired,
    );
}

#[test]
fn a_reused_service_passes_through() {
    check(|world| world.services[FIRST_SERVICE as usize].frontend = frontend(77), Inconsistent);
    check(|world| world.services[FIRST_SERVICE as usize].frontend.protocol = UDP, Inconsistent);
    check(|world| world.services[FIRST_SERVICE as usize].frontend.port = PortBe(0), Inconsistent);
    for word in 0..4 {
        check(|world| world.services[FIRST_SERVICE as usize].frontend.addr.0[word] ^= 1, Inconsistent);
    }
}

#[test]
fn a_service_that_is_not_there_passes_through() {
    let mut world = World::with(Random, &[1]);
    world.frontends.insert(frontend(9), 4_000_000_000);
    let expect = Translation::PassThrough { service: 4_000_000_000, reason: Inconsistent };
    assert_eq!(world.connect_to(9), expect);
}

#[test]
fn slots_that_are_not_there_pass_through() {
    check(|world| world.services[FIRST_SERVICE as usize].slots = SlotRange::new(1000, 3), Inconsistent);
    check(
        |world| world.services[FIRST_SERVICE as usize].slots = SlotRange::new(u32::MAX - 2, 3),
        Inconsistent,
    );
    check(|world| world.slots.clear(), Inconsistent);
}

#[test]
fn a_backend_that_may_not_be_used_passes_through() {
    check(|world| each_backend(world, |backend| backend.state = BackendState::Free as u16), Inconsistent);
    check(|world| each_backend(world, |backend| backend.state = 6), Inconsistent);
    check(|world| each_backend(world, |backend| backend.state = u16::MAX), Inconsistent);
    check(|world| world.backends.clear(), Inconsistent);
}

#[test]
fn a_backend_that_is_removed_while_a_program_holds_its_slots_is_still_used() {
    let mut world = World::with(LeastConnections, &[1]);
    world.set_state(0, BackendState::Removed);
    assert!(matches!(world.connect(), Translation::Rewrite(_)));
}

#[test]
fn a_backend_of_another_service_passes_through() {
    check(|world| each_backend(world, |backend| backend.service = FIRST_SERVICE + 1), Inconsistent);
    // Slots reused by the other Service while a program still holds the old run.
    check(
        |world| {
            world.services[FIRST_SERVICE as usize].slots = world.services[FIRST_SERVICE as usize + 1].slots;
        },
        Inconsistent,
    );
}

#[test]
fn damage_to_one_service_leaves_the_other_alone() {
    let mut world = World::with(LeastConnections, &[1; 3]);
    let other = world.add_service(LeastConnections, &[1; 3]);
    world.services[FIRST_SERVICE as usize] = Default::default();
    each_backend(&mut world, |backend| *backend = Default::default());
    assert!(matches!(world.connect(), Translation::PassThrough { .. }));
    assert!(matches!(world.connect_to(other), Translation::Rewrite(choice) if choice.service == other));
}
