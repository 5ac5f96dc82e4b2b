//! From objects to tables: whatever order they come in, the tables end alike, and when all is gone nothing
//! is left, no id either.

use std::time::Duration;

use arbitrary::Unstructured;
use proptest::{collection::vec, prelude::*};

use super::{fake::Sizes, objects::Agent};
use crate::model::{
    Event, Index, Selection,
    story::{self, Delivery, Step, World},
};

const SIZES: Sizes = (64, 1024, 1 << 14);

/// An index and the tables that follow it.
struct Node {
    index: Index,
    agent: Agent,
}

impl Node {
    fn new() -> Self {
        let mut agent = Agent::new(SIZES);
        // What connects meet on the way is another test's.
        agent.fake().lenient = true;
        Self { index: story::new_index(Selection::All), agent }
    }

    fn take(&mut self) {
        for dirty in self.index.take_dirty() {
            let ports = self.index.resolve(&dirty.service);
            let now = self.agent.now;
            self.agent.reconciler().apply(&dirty.service, ports, now).expect("the kernel refuses nothing");
        }
    }

    fn rest(&mut self) {
        self.agent.pass_time(Duration::from_secs(1));
        let now = self.agent.now;
        let waiting = self.agent.reconciler().sweep(now).expect("the kernel refuses nothing");
        assert!(waiting.is_empty(), "there is room for all");
    }

    fn deliver(&mut self, events: impl IntoIterator<Item = Event>, takes: &mut impl Iterator<Item = bool>) {
        for event in events {
            self.index.apply(event);
            if takes.next() == Some(true) {
                self.take();
                self.rest();
            }
        }
        self.take();
        for _ in 0..4 {
            self.rest();
        }
    }
}

/// Everything that exists, each once.
fn all(world: &World) -> Vec<Event> {
    let services = world.services.values().cloned().map(|spec| Event::Service(Box::new(spec)));
    let slices = world.slices.values().cloned().map(|spec| Event::Slice(Box::new(spec)));
    let namespaces = world.namespaces.values().cloned().map(Event::Namespace);
    services.chain(slices).chain(namespaces).chain([Event::Node(world.node.clone())]).collect()
}

/// That everything is deleted, each once.
fn none(world: &World) -> Vec<Event> {
    let services = world.services.keys().cloned().map(Event::ServiceGone);
    let slices = world.slices.keys().cloned().map(Event::SliceGone);
    let namespaces = world.namespaces.keys().cloned().map(Event::NamespaceGone);
    services.chain(slices).chain(namespaces).collect()
}

/// Each event, some of them twice, in an order that `roll` decides.
fn shuffled(events: Vec<Event>, roll: &[u16]) -> Vec<Event> {
    let copies = events.iter().enumerate().filter(|(n, _)| roll[n % roll.len()].is_multiple_of(3));
    let again: Vec<Event> = copies.map(|(_, event)| event.clone()).collect();
    let mut keyed: Vec<(u16, Event)> = events
        .into_iter()
        .chain(again)
        .enumerate()
        .map(|(n, event)| (roll[(n * 7 + 1) % roll.len()].wrapping_mul(n as u16 + 1), event))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, event)| event).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tables_depend_on_what_exists_and_nothing_outlives_it(
        data in vec(any::<u8>(), 0..1_500),
        roll in vec(any::<u16>(), 64),
        takes in vec(any::<bool>(), 128),
    ) {
        let mut u = Unstructured::new(&data);
        let (mut world, mut lived) = (World::default(), Node::new());
        while let (false, Ok(step)) = (u.is_empty(), u.arbitrary::<Step>()) {
            let again = u.arbitrary::<Delivery>() == Ok(Delivery::Twice);
            let take = matches!(step, Step::Take);
            for event in world.happens(step) {
                if again {
                    lived.index.apply(event.clone());
                }
                lived.index.apply(event);
            }
            if take {
                lived.take();
                lived.rest();
            }
        }
        lived.deliver([], &mut [].into_iter());

        // Told in another order, in parts, and some of it twice.
        let mut told = Node::new();
        told.deliver(shuffled(all(&world), &roll), &mut takes.iter().copied());
        // Told at once.
        let mut fresh = Node::new();
        fresh.deliver(
            [Event::Node(world.node.clone()), world.all_namespaces(), world.all_slices(), world.all_services()],
            &mut [].into_iter(),
        );
        prop_assert_eq!(lived.agent.tables().picture(), fresh.agent.tables().picture());
        prop_assert_eq!(told.agent.tables().picture(), fresh.agent.tables().picture());

        for node in [&mut lived, &mut told, &mut fresh] {
            node.deliver(shuffled(none(&world), &roll), &mut takes.iter().copied());
            node.agent.check_empty();
            prop_assert!(node.index.is_empty());
        }
    }
}
