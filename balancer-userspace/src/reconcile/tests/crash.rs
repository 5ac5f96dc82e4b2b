//! An agent that dies between any two writes, or that the kernel refuses one.

use super::objects::{Agent, ROOMY, port};
use crate::model::DesiredPort;

/// Every way in which `change` can be cut short is completed by the next agent, without a connect noticing.
fn check(before: &[DesiredPort], after: &[DesiredPort]) {
    let group = |ports: &[DesiredPort]| {
        let mut services: Vec<_> = ports.iter().map(|port| port.key.service.name.to_string()).collect();
        services.dedup();
        services
            .into_iter()
            .map(|name| {
                let own = ports.iter().filter(|port| *port.key.service.name == *name).cloned().collect();
                (name, own)
            })
            .collect::<Vec<(String, Vec<DesiredPort>)>>()
    };
    for lives_for in 0.. {
        let mut agent = Agent::new(ROOMY);
        for (service, ports) in group(before) {
            agent.apply(&service, ports).expect("the kernel refuses nothing");
        }
        agent.fake().lives_for = Some(lives_for);
        for (service, ports) in group(after) {
            let _ = agent.apply(&service, ports);
        }
        let finished = agent.fake().lives_for != Some(0);
        agent.restart();
        for (service, ports) in group(after) {
            agent.apply(&service, ports).expect("the kernel refuses nothing");
        }
        agent.check_settled();
        if finished {
            assert!(lives_for > 1, "the change wrote nothing");
            return;
        }
    }
}

#[test]
fn a_new_service_is_completed() {
    check(&[], &[port("a", 1, 1..=3)]);
}

#[test]
fn a_pod_that_took_over_an_address_is_completed() {
    let mut new = port("a", 1, 1..=2);
    new.backends[0].pod = Some("another".into());
    check(&[port("a", 1, 1..=2)], &[new]);
}

#[test]
fn scaling_is_completed() {
    check(&[port("a", 1, 1..=2)], &[port("a", 1, 2..=4)]);
    check(&[port("a", 1, 1..=2)], &[port("a", 1, [])]);
    check(&[port("a", 1, [])], &[port("a", 1, 1..=2)]);
}

#[test]
fn a_new_address_is_completed() {
    check(&[port("a", 1, 1..=2)], &[port("a", 2, 1..=2)]);
    check(&[port("a", 1, 1..=2), port("b", 2, 3..=4)], &[port("a", 2, 1..=2), port("b", 1, 3..=4)]);
}

#[test]
fn a_port_that_is_renamed_is_served_throughout() {
    let mut renamed = port("a", 1, 1..=2);
    renamed.key.port_name = "http".into();
    check(&[port("a", 1, 1..=2)], &[renamed]);
}

#[test]
fn a_refused_write_is_made_up_for_by_a_sweep() {
    let ports = [port("a", 1, 1..=3), port("a", 2, 3..=5), port("a", 2, [])];
    for refuses_after in 0..24 {
        let mut agent = Agent::new(ROOMY);
        // Whether an old address is left without a gap depends on what is refused.
        agent.scarce = true;
        agent.fake().refuses_after = Some(refuses_after);
        for port in &ports {
            let _ = agent.apply("a", vec![port.clone()]);
            while agent.sweep().is_err() {}
            agent.sweep().expect("one call alone is refused");
            agent.check_settled();
        }
        let _ = agent.apply("a", Vec::new());
        for _ in 0..4 {
            agent.pass_time(std::time::Duration::from_secs(1));
            let _ = agent.sweep();
        }
        agent.fake().refuses_after = None;
        agent.check_empty();
    }
}
