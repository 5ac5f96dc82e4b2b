//! The order of writes: every step of these changes is checked by the tables themselves.

use balancer_common::abi::Algorithm;

use super::objects::{Agent, ROOMY, port};

#[test]
fn scaling_is_never_noticed() {
    let mut agent = Agent::new(ROOMY);
    for pods in [1..=3, 1..=6, 4..=5, 4..=9] {
        assert_eq!(agent.set(port("web", 1, pods)), 1);
    }
}

#[test]
fn every_algorithm_follows_every_other() {
    let mut agent = Agent::new(ROOMY);
    for first in Algorithm::ALL {
        for second in Algorithm::ALL {
            for algorithm in [first, second] {
                let mut port = port("web", 1, 1..=5);
                port.algorithm = algorithm;
                port.backends[2].weight = 1 + algorithm as u32;
                agent.set(port);
            }
        }
    }
}
