//! What is done with open connections, and the health of backends, as metrics. Where nothing is done and
//! nothing was noted there is no series.

use std::fmt;

use balancer_common::abi::Refusal;
use prometheus_client::{metrics::gauge::ConstGauge, registry::Unit};

use super::{
    encoder::{Encoder, by_reason},
    series::{Selection, ServiceSeries, is_left, is_rebalanced},
};
use crate::view::{Condition, HealthView, LifecycleView, Snapshot};

/// A name, what it means, and how to read it.
type Counter = (&'static str, &'static str, fn(&LifecycleView) -> u64);

const REBALANCE: [Counter; 6] = [
    (
        "balancer_rebalance_offered",
        "Connections of which it was noted what would have come of moving them",
        |lifecycle| lifecycle.offered,
    ),
    (
        "balancer_rebalance_harmless",
        "Offered connections on which the client spoke next, or that were closed",
        |lifecycle| lifecycle.harmless,
    ),
    (
        "balancer_rebalance_harmful",
        "Offered connections on which the server spoke next: a move would have cut that off",
        |lifecycle| lifecycle.harmful,
    ),
    ("balancer_rebalance_moved", "Connections that were moved to even out, by command too", |lifecycle| {
        lifecycle.moved
    }),
    (
        "balancer_rebalance_reconnected",
        "Moved connections whose process had connected anew within ten seconds",
        |lifecycle| lifecycle.reconnected,
    ),
    (
        "balancer_rebalance_lost",
        "Moved connections whose process had not connected anew within ten seconds",
        |lifecycle| lifecycle.lost,
    ),
];

const LEFT: [Counter; 2] = [
    (
        "balancer_drained_connections",
        "Connections that were moved away from terminating backends",
        |lifecycle| lifecycle.drained,
    ),
    ("balancer_closed_removed", "Sockets to backends that are gone that were closed", |lifecycle| {
        lifecycle.destroyed
    }),
];

/// Of Service ports.
pub fn services(out: &mut Encoder<'_, '_>, snapshot: &Snapshot, selection: &Selection) -> fmt::Result {
    let lifecycle = |series: &ServiceSeries| &snapshot.services[series.index].lifecycle;
    let rebalanced = || selection.services.iter().filter(|series| is_rebalanced(lifecycle(series)));
    let left = || selection.services.iter().filter(|series| is_left(lifecycle(series)));
    out.family(
        "balancer_service_max_over_mean",
        "Open connections of the fullest backend over the mean, for its weight; absent without connections or \
         without several backends",
        None,
        selection.services.iter().filter_map(|series| {
            Some((series.labels.as_slice(), ConstGauge::new(series.max_over_mean?)))
        }),
    )?;
    for (name, help, value) in REBALANCE {
        let each = rebalanced().map(|series| (series.labels.as_slice(), value(lifecycle(series))));
        out.counters(name, help, None, each)?;
    }
    out.counters(
        "balancer_rebalance_refused",
        "Attempts to move a connection that moved nothing",
        None,
        rebalanced().flat_map(|series| {
            by_reason(&series.labels, Refusal::ALL.map(Refusal::name), lifecycle(series).refused)
        }),
    )?;
    out.gauges(
        "balancer_rebalance_stopped",
        "1 where no connection is moved any more; balancer rebalance status says why",
        rebalanced().map(|series| (series.labels.as_slice(), u64::from(lifecycle(series).stopped.is_some()))),
    )?;
    out.family(
        "balancer_rebalance_quiet",
        "How long a connection must be quiet before it is moved, learned silences included",
        Some(&Unit::Seconds),
        rebalanced()
            .map(|series| (series.labels.as_slice(), ConstGauge::new(lifecycle(series).quiet.as_secs_f64()))),
    )?;
    for (name, help, value) in LEFT {
        let each = left().map(|series| (series.labels.as_slice(), value(lifecycle(series))));
        out.counters(name, help, None, each)?;
    }
    Ok(())
}

/// Of backends of which something was noted.
pub fn backends(out: &mut Encoder<'_, '_>, selection: &Selection) -> fmt::Result {
    let each = |value: fn(&HealthView) -> u64| {
        let backends = selection.services.iter().flat_map(|service| &service.backends);
        backends.filter_map(move |backend| Some((backend.labels.as_slice(), value(backend.health.as_ref()?))))
    };
    out.counters(
        "balancer_backend_ejections",
        "How often it was ejected, after failures in a row",
        None,
        each(|health| health.ejections),
    )?;
    out.counters(
        "balancer_backend_trials",
        "How often a single connect was let through to see whether it is back",
        None,
        each(|health| health.trials),
    )?;
    out.gauges(
        "balancer_backend_ejected",
        "1 while it is ejected",
        each(|health| u64::from(matches!(health.condition, Condition::Ejected(_)))),
    )
}
