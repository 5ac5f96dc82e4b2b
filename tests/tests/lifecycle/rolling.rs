//! A rolling restart without surge: one pod after the other goes, and another takes its place.

use std::{collections::VecDeque, thread::sleep, time::Duration};

use crate::{Pool, World, spread, vip};

const PAUSE: Duration = Duration::from_millis(600);

#[test]
fn it_cuts_no_request_and_ends_even() {
    let annotations = [
        ("rebalance", "idle"),
        ("rebalance-trust", "immediate"),
        ("rebalance-quiet", "300ms"),
        ("rebalance-min-age", "0s"),
        ("rebalance-budget", "50%"),
    ];
    let mut world = World::new(6, &annotations);
    world.endpoints(&[0, 1, 2], &[]);
    let mut servers: VecDeque<_> = std::mem::take(&mut world.servers).into();
    let agent = world.agent();
    let mut pools: Vec<Pool> = (0..3).map(|_| Pool::open(&world.client, 10, vip())).collect();
    for _ in 0..5 {
        pools.iter_mut().for_each(Pool::round);
    }
    for gone in 0..3 {
        let stay: Vec<usize> = (gone + 1..gone + 3).collect();
        world.endpoints(&stay, &[gone]);
        let open = || {
            let stats = agent.stats_of(vip()).unwrap();
            let addr = world.pods[gone].v4(crate::PORT).ip();
            stats
                .backends
                .iter()
                .filter(|backend| backend.address == addr)
                .map(|backend| backend.active)
                .sum::<u64>()
        };
        let mut rounds = 0;
        while open() > 0 {
            rounds += 1;
            assert!(rounds < 50, "{} connections to pod {gone} are left\n{}", open(), agent.log());
            pools.iter_mut().for_each(Pool::round);
            sleep(PAUSE);
        }
        // It ends, and what was open to it would end with it.
        drop(servers.pop_front());
        world.endpoints(&[&*stay, &[gone + 3]].concat(), &[]);
        pools.iter_mut().for_each(Pool::round);
    }
    let even = || {
        let stats = agent.stats_of(vip()).unwrap();
        stats.active == 30 && stats.evenness.unwrap().max_over_mean <= 1.1
    };
    for _ in 0..80 {
        if even() {
            break;
        }
        pools.iter_mut().for_each(Pool::round);
        sleep(PAUSE);
    }
    assert!(even(), "{:?}\n{}", spread(&agent.stats_of(vip()).unwrap()), agent.log());
    pools.into_iter().for_each(Pool::close);
}
