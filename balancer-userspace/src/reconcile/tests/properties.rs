//! Whatever happens, in whatever order, whenever the agent dies: programs never notice, the tables end as
//! they should be, and nothing is left behind.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    fake::Sizes,
    objects::{Agent, key},
    story::{Cluster, Event, SERVICES, event},
};

const ROOMY: Sizes = (256, 1024, 1 << 16);

/// A cluster, an agent, and the connections that are open.
struct World {
    cluster: Cluster,
    agent: Agent,
    open: Vec<u32>,
    /// The next change is cut short.
    crash: Option<u64>,
    refuse: Option<u64>,
}

impl World {
    fn new(sizes: Sizes, scarce: bool) -> Self {
        let mut agent = Agent::new(sizes);
        agent.scarce = scarce;
        Self { cluster: Cluster::new(), agent, open: Vec::new(), crash: None, refuse: None }
    }

    fn live(&mut self, event: &Event) {
        match *event {
            Event::Open { at: (service, port), client, roll } => {
                let (_, ports) = self.cluster.desired(service);
                if let Some(port) = ports.get(port)
                    && let Some(choice) = self.agent.fake().dial(&key(&port.frontend), client, roll)
                {
                    self.open.push(choice.backend);
                }
            }
            Event::Close { index } => {
                if !self.open.is_empty() {
                    let backend = self.open.swap_remove(index % self.open.len());
                    self.agent.fake().active[backend as usize] -= 1;
                }
            }
            Event::Sweep { after_ms } => {
                self.agent.pass_time(Duration::from_millis(after_ms));
                self.agent.sweep().expect("the kernel refuses nothing");
            }
            Event::Crash { lives_for } => self.crash = Some(lives_for),
            Event::Refuse { after } => self.refuse = Some(after),
            _ => {
                let concerned = self.cluster.happens(event);
                self.apply(&concerned);
            }
        }
    }

    fn apply(&mut self, services: &[usize]) {
        if services.is_empty() {
            return;
        }
        let (crash, refuse) = (self.crash.take(), self.refuse.take());
        let scarce = self.agent.scarce;
        // What is cut short may leave a Service without its address; the next attempt mends that.
        self.agent.scarce |= refuse.is_some();
        self.agent.fake().lives_for = crash;
        self.agent.fake().refuses_after = refuse;
        for service in services {
            let (name, ports) = self.cluster.desired(*service);
            let result = self.agent.apply(&name.name, ports);
            assert!(result.is_ok() || crash.is_some() || refuse.is_some(), "{result:?}");
        }
        if crash.is_some() {
            self.agent.restart();
            // It may take long before the new agent knows what should be.
            for _ in 0..3 {
                self.agent.pass_time(Duration::from_secs(1));
                let now = self.agent.now;
                self.agent.reconciler().sweep(now).expect("the kernel refuses nothing");
            }
            for service in 0..SERVICES {
                let (name, ports) = self.cluster.desired(service);
                self.agent.apply(&name.name, ports).expect("the kernel refuses nothing");
            }
        } else if refuse.is_some() {
            self.agent.fake().refuses_after = None;
            self.agent.sweep().expect("the kernel refuses nothing");
        }
        self.agent.scarce = scarce;
    }

    /// Delivers everything again: nothing is written.
    fn is_idempotent(&mut self) {
        let before = self.agent.fake().writes;
        for service in 0..SERVICES {
            let (name, ports) = self.cluster.desired(service);
            let changed = self.agent.apply(&name.name, ports).expect("the kernel refuses nothing");
            assert_eq!(changed, 0);
        }
        assert_eq!(self.agent.fake().writes, before, "a redelivery wrote something");
    }

    /// All but the first so many Services go, and all connections are closed.
    fn shrink_to(&mut self, services: usize) {
        for backend in self.open.drain(..) {
            self.agent.fake().active[backend as usize] -= 1;
        }
        for service in services..SERVICES {
            self.cluster.happens(&Event::Remove { service });
            let (name, ports) = self.cluster.desired(service);
            self.agent.apply(&name.name, ports).expect("the kernel refuses nothing");
        }
        for _ in 0..4 {
            self.agent.pass_time(Duration::from_secs(1));
            self.agent.sweep().expect("the kernel refuses nothing");
        }
    }

    /// Whether there is room for all that there is now.
    fn fits(&self, sizes: Sizes) -> bool {
        let mut fresh = Agent::new(sizes);
        fresh.scarce = true;
        for service in 0..SERVICES {
            let (name, ports) = self.cluster.desired(service);
            fresh.apply(&name.name, ports).expect("the kernel refuses nothing");
        }
        fresh.reconciler().starved.is_empty()
    }

    fn end(mut self) {
        self.shrink_to(0);
        self.agent.check_empty();
    }
}

proptest! {
    #[test]
    fn programs_never_notice_and_nothing_is_left_behind(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::new(ROOMY, false);
        for event in &events {
            world.live(event);
            world.agent.check_settled();
        }
        world.is_idempotent();
        let mut fresh = Agent::new(ROOMY);
        for service in 0..SERVICES {
            let (name, ports) = world.cluster.desired(service);
            fresh.apply(&name.name, ports).expect("the kernel refuses nothing");
        }
        prop_assert_eq!(world.agent.tables().picture(), fresh.tables().picture());
        world.end();
    }

    #[test]
    fn with_too_little_room_nobody_is_misled_and_all_is_served_when_there_is_enough(
        events in prop::collection::vec(event(), 1..40),
        services in 1..6_u32,
        backends in 1..16_u32,
        slots in prop_oneof![1..64_u32, Just(1 << 14)],
    ) {
        let sizes = (2 + services, 2 + backends, 2 + slots);
        let mut world = World::new(sizes, true);
        for event in &events {
            world.live(event);
        }
        world.shrink_to(2);
        // Where slots are few, a Service may stand in its own way.
        if slots > 64 && world.fits(sizes) {
            world.agent.check_settled();
        }
        world.end();
    }
}
