//! Evening out: what was spread over few backends comes to those that are new.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{Pool, World, spread, vip};

/// Fast enough for a test; the gate is as it always is.
const FAST: [(&str, &str); 5] = [
    ("rebalance", "idle"),
    ("rebalance-trust", "immediate"),
    ("rebalance-quiet", "300ms"),
    ("rebalance-min-age", "0s"),
    ("rebalance-budget", "50%"),
];

const PAUSE: Duration = Duration::from_millis(700);

#[test]
fn three_become_six_and_no_request_is_hurt() {
    let world = World::new(6, &FAST);
    world.endpoints(&[0, 1, 2], &[]);
    let agent = world.agent();
    let mut pools: Vec<Pool> = (0..3).map(|_| Pool::open(&world.client, 10, vip())).collect();
    for _ in 0..5 {
        pools.iter_mut().for_each(Pool::round);
    }
    assert_eq!(spread(&agent.stats_of(vip()).unwrap()), [10, 10, 10]);
    world.endpoints(&[0, 1, 2, 3, 4, 5], &[]);
    let even = |agent: &balancer_tests::agent::Agent<'_>| {
        let stats = agent.stats_of(vip()).unwrap();
        stats.backends.len() == 6 && stats.active == 30 && stats.evenness.unwrap().max_over_mean <= 1.2
    };
    let mut done = false;
    for _ in 0..80 {
        pools.iter_mut().for_each(Pool::round);
        if even(&agent) {
            done = true;
            break;
        }
        sleep(PAUSE);
    }
    let stats = agent.stats_of(vip()).unwrap();
    assert!(done, "{:?}\n{}", spread(&stats), agent.log());
    let replaced: u64 = pools.iter().map(|pool| pool.replaced).sum();
    assert!((12..=20).contains(&replaced), "{replaced} connections were moved: {:?}", spread(&stats));
    pools.into_iter().for_each(Pool::close);
}

/// What is moved for one that gets a tenth of the connects would come back to the others.
#[test]
fn nothing_is_moved_for_new_backends_before_their_slow_start_is_over() {
    let world = World::new(4, &[&FAST[..], &[("slow-start", "20s")]].concat());
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 12, vip());
    (0..5).for_each(|_| pool.round());
    let begun = Instant::now();
    world.endpoints(&[0, 1, 2, 3], &[]);
    // Endpoints are the same for long enough after ten seconds.
    let moved = pool.rounds(PAUSE, Duration::from_secs(60), || {
        let stats = agent.stats_of(vip()).unwrap();
        stats.backends.len() == 4 && stats.backends.iter().any(|backend| backend.closed > 0)
    });
    assert!(moved, "{}", agent.log());
    assert!(begun.elapsed() > Duration::from_secs(20), "moved after {:?}", begun.elapsed());
    pool.close();
}

#[test]
fn a_dry_run_moves_nothing_and_learns() {
    let world =
        World::new(4, &[("rebalance", "dry-run"), ("rebalance-quiet", "300ms"), ("rebalance-min-age", "0s")]);
    world.endpoints(&[0, 1], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 8, vip());
    (0..5).for_each(|_| pool.round());
    world.endpoints(&[0, 1, 2, 3], &[]);
    let harmless = |agent: &balancer_tests::agent::Agent<'_>| {
        let metrics = agent.http("/metrics").unwrap().1;
        let line = metrics.lines().find(|line| line.starts_with("balancer_rebalance_harmless_total{"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    assert!(pool.rounds(PAUSE, Duration::from_secs(40), || harmless(&agent) >= 8.0), "{}", agent.log());
    assert_eq!(pool.replaced, 0);
    assert_eq!(spread(&agent.stats_of(vip()).unwrap()), [4, 4, 0, 0]);
    pool.close();
}

#[test]
fn without_being_asked_nothing_is_moved() {
    let world = World::new(2, &[]);
    world.endpoints(&[0], &[]);
    let agent = world.agent();
    let mut pool = Pool::open(&world.client, 8, vip());
    (0..5).for_each(|_| pool.round());
    world.endpoints(&[0, 1], &[]);
    assert!(!pool.rounds(PAUSE, Duration::from_secs(14), || false));
    assert_eq!((pool.replaced, spread(&agent.stats_of(vip()).unwrap())), (0, vec![8, 0]));
    pool.close();
}
