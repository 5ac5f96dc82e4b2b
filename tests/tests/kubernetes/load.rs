//! Many changes at many Services. `cargo xtask bench --only load` measures the same with optimised programs.

use std::time::Duration;

use anyhow::{Result, ensure};
use balancer_tests::bench::load::{Load, measure};

/// It takes a minute because that is what is asked of the agent: queues that grow slowly would show only then.
#[test]
fn no_change_is_lost_among_many() -> Result<()> {
    let outcome = measure(Load { services: 5_000, per_second: 500, duration: Duration::from_secs(60) })?;
    println!("{outcome:#?}");
    ensure!(outcome.changes_per_second > 480.0, "{outcome:?}");
    ensure!(outcome.rss_mib < 100.0, "{outcome:?}");
    ensure!(outcome.cores < 0.5, "{outcome:?}");
    ensure!(outcome.median_ms < 10.0, "{outcome:?}");
    Ok(())
}
