//! How soon the lane follows beside an iptables that works on nf_tables: changes are gathered, but for those that cannot
//! wait.

use std::{
    thread,
    time::{Duration, Instant},
};

use balancer_userspace::model::Family;

use super::rules::{FAMILIES, Tool, endpoints, found, portals, wait_for_lane, wait_for_pods};
use crate::set::{PORT, Set, wait_for};

/// What comes at once comes within this time, and what is gathered does not.
const AT_ONCE: Duration = Duration::from_millis(2500);

/// With the default lease transactions are 5 s apart: one has just been made.
fn settled(pods: usize) -> Set {
    let set = Set::new(pods);
    portals(&set.node, Tool::Nft);
    set
}

#[test]
fn a_backend_whose_address_a_service_takes_goes_at_once() {
    let set = settled(3);
    let _agent = set.agent_with(&["--express-lane"]);
    wait_for_pods(&set, &set.pods.iter().collect::<Vec<_>>(), PORT);
    // It goes with its Service first, which may wait; then another Service has its address.
    let start = Instant::now();
    set.backends("shop/web", 0..2);
    thread::sleep(Duration::from_secs(1));
    let gone = set.pods[2].v4(PORT);
    let holds = || found(&set, Family::V4).unwrap().endpoints.is_superset(&endpoints([gone]));
    assert!(holds(), "it was not gathered");
    set.manifests.service("shop/own").cluster_ip(gone.ip()).port(80).write().unwrap();
    wait_for("it goes", || !holds());
    assert!(start.elapsed() < AT_ONCE, "it took {:?}", start.elapsed());
    // And one that is a backend still.
    let start = Instant::now();
    set.manifests.service("shop/other").cluster_ip(set.pods[1].v4(PORT).ip()).port(80).write().unwrap();
    wait_for_lane(&set, Family::V4, &endpoints([set.pods[0].v4(PORT)]));
    assert!(start.elapsed() < AT_ONCE, "it took {:?}", start.elapsed());
}

#[test]
fn what_was_gathered_is_done_when_the_agent_ends() {
    let set = settled(2);
    let mut agent = set.agent_with(&["--express-lane"]);
    wait_for_pods(&set, &set.pods.iter().collect::<Vec<_>>(), PORT);
    set.backends("shop/web", 0..1);
    thread::sleep(Duration::from_secs(1));
    let held = |family| found(&set, family).unwrap().endpoints.len();
    assert_eq!(FAMILIES.map(held), [2, 2], "it was not gathered");
    agent.terminate().unwrap();
    wait_for_pods(&set, &[&set.pods[0]], PORT);
}
