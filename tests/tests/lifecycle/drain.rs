//! Draining: connections leave a backend that terminates before it ends them.

use std::time::Duration;

use crate::{Pool, World, spread, vip, vip6};

#[test]
fn a_terminating_backend_loses_its_idle_connections() {
    for to in [vip(), vip6()] {
        let world = World::new(3, &[("drain", "idle")]);
        world.endpoints(&[0, 1, 2], &[]);
        let agent = world.agent();
        let mut pools: Vec<Pool> = (0..3).map(|_| Pool::open(&world.client, 6, to)).collect();
        for _ in 0..5 {
            pools.iter_mut().for_each(Pool::round);
        }
        world.endpoints(&[0, 1], &[2]);
        let mut left = u64::MAX;
        for _ in 0..30 {
            pools.iter_mut().for_each(Pool::round);
            let stats = agent.stats_of(to).unwrap();
            left =
                stats.backends.iter().filter(|backend| backend.state == "draining").map(|it| it.active).sum();
            if left == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let stats = agent.stats_of(to).unwrap();
        assert_eq!(left, 0, "{to}: {:?}\n{}", spread(&stats), agent.log());
        assert_eq!(pools.iter().map(|pool| pool.replaced).sum::<u64>(), 6);
        assert_eq!(stats.active, 18);
        pools.into_iter().for_each(Pool::close);
    }
}

#[test]
fn a_backend_that_is_not_ready_keeps_its_connections() {
    let world = World::new(2, &[("rebalance", "idle"), ("rebalance-trust", "immediate")]);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 6, vip());
    (0..5).for_each(|_| pool.round());
    let slice = world.manifests.slice("web");
    let mut slice =
        slice.port("tcp", balancer_userspace::model::Protocol::Tcp, crate::PORT).pod(&world.pods[0]);
    for addr in world.pods[1].addresses().both() {
        slice =
            slice.endpoint(balancer_tests::manifests::Endpoint::not_ready(addr).pod(world.pods[1].name()));
    }
    slice.write().unwrap();
    assert!(!pool.rounds(Duration::from_millis(500), Duration::from_secs(5), || false));
    let stats = agent.stats_of(vip()).unwrap();
    assert_eq!((pool.replaced, spread(&stats)), (0, vec![3, 3]));
    assert_eq!(stats.backends[1].state, "unused");
    pool.close();
}
