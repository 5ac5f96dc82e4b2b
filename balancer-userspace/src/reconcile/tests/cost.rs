//! What changes cost, counted in reads and writes of the tables.

use std::time::Duration;

use balancer_common::abi::{Backend, BackendState};

use super::{
    fake::Sizes,
    objects::{Agent, backend, port},
};
use crate::model::{Condition, DesiredPort, Drain};

const ROOMY: Sizes = (256, 4096, 1 << 14);

/// Reads and writes of a change.
fn cost(agent: &mut Agent, change: impl FnOnce(&mut Agent)) -> (u64, u64) {
    let count = |agent: &Agent| (agent.tables().reads.get(), agent.tables().writes);
    let before = count(agent);
    change(agent);
    let after = count(agent);
    (after.0 - before.0, after.1 - before.1)
}

/// An agent with so many Services beside the one that is looked at.
fn among(services: u8) -> Agent {
    let mut agent = Agent::new(ROOMY);
    agent.set(port("web", 1, 1..=10));
    for n in 0..services {
        agent.set(port(&format!("s{n}"), n + 2, 1..=8));
    }
    agent
}

#[test]
fn a_change_costs_the_same_among_few_services_and_among_many() {
    for change in
        [port("web", 1, 1..=11), port("web", 1, 2..=9), port("web", 1, []), port("web", 200, 1..=10)]
    {
        let [alone, crowded] = [0, 100]
            .map(|services| cost(&mut among(services), |agent| assert_eq!(agent.set(change.clone()), 1)));
        assert_eq!(alone, crowded, "{change:?}");
        assert!(alone.1 > 0);
    }
}

#[test]
fn what_is_as_it_should_be_is_neither_read_nor_written() {
    let mut agent = among(20);
    assert_eq!(cost(&mut agent, |agent| assert_eq!(agent.set(port("web", 1, 1..=10)), 0)), (0, 0));
    agent.restart();
    let ports: Vec<DesiredPort> = agent.desired.values().flatten().cloned().collect();
    for port in ports {
        assert_eq!(cost(&mut agent, |agent| assert_eq!(agent.set(port), 0)), (0, 0));
    }
}

#[test]
fn a_change_writes_what_differs() {
    let writes = |change: &dyn Fn(&mut DesiredPort)| {
        let mut changed = port("web", 1, 1..=10);
        change(&mut changed);
        cost(&mut among(0), |agent| assert_eq!(agent.set(changed), 1)).1
    };
    // Names: one map entry.
    assert_eq!(writes(&|port| port.backends[3].node = Some("node-2".into())), 1);
    assert_eq!(writes(&|port| port.problem = Some("no".to_owned())), 1);
    // The four words of a backend, and its names.
    assert_eq!(writes(&|port| port.backends[3].condition = Condition::Terminating), 5);
    // Settings: the eight words of a Service.
    assert_eq!(writes(&|port| port.affinity = Some(Duration::from_secs(10))), 8);
    assert_eq!(writes(&|port| port.connections.drain = Drain::Idle), 8);
    // Another address: the Service, and two frontends.
    assert_eq!(writes(&|port| port.frontend.port = 81), 10);
    // One more: its counts, its entry, its names; that the endpoints changed; eleven slots; the Service.
    assert_eq!(writes(&|port| port.backends.push(backend(11))), 1 + 4 + 1 + 1 + 11 + 8);
    // The same, and its health.
    let slowly = |port: &mut DesiredPort| {
        port.connections.slow_start_ms = 1;
        port.backends.push(backend(11));
    };
    assert_eq!(writes(&slowly), 1 + 1 + 4 + 1 + 1 + 11 + 8);
    // One less: that the endpoints changed, nine slots, the Service, the entry of the one that is gone.
    assert_eq!(writes(&|port| drop(port.backends.pop())), 1 + 9 + 8 + 4);
}

#[test]
fn a_sweep_asks_once_for_each_backend_that_lingers() {
    let mut agent = among(100);
    agent.pass_time(Duration::from_secs(5));
    assert_eq!(cost(&mut agent, |agent| assert!(agent.sweep().is_ok())), (0, 0));
    for n in 0..100 {
        agent.apply(&format!("s{n}"), Vec::new()).expect("the kernel refuses nothing");
    }
    let fake = agent.fake();
    let gone = |entry: &Backend| u64::from(entry.state == BackendState::Unused as u16);
    fake.active = fake.backends.iter().map(gone).collect();
    agent.pass_time(Duration::from_secs(5));
    for _ in 0..3 {
        assert_eq!(cost(&mut agent, |agent| assert!(agent.sweep().is_ok())), (800, 0));
    }
    // Nor are they looked through for a Service that changes.
    let change = |agent: &mut Agent| assert_eq!(agent.set(port("web", 1, 1..=11)), 1);
    assert_eq!(cost(&mut agent, change), cost(&mut among(0), change));
}
