//! A snapshot of the maps as metrics.

use std::{fmt, time::Duration};

use balancer_common::abi::{BackendStats, Mode, PassReason, PickReason};
use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, metrics::gauge::ConstGauge, registry::Unit,
};

use super::{
    encoder::{Encoder, Handshakes, by_reason},
    lifecycle,
    series::{BackendSeries, FAILURES, Labels, Selection, ServiceSeries, failures},
};
use crate::{
    model::{Family, Protocol},
    view::{AgentView, Lease, Snapshot},
};

/// Encodes a snapshot, once.
#[derive(Debug)]
pub struct SnapshotCollector {
    snapshot: Snapshot,
    selection: Selection,
    max_series: u32,
}

impl SnapshotCollector {
    /// Chooses what to serve.
    pub fn new(snapshot: Snapshot, max_series: u32) -> Self {
        let selection = Selection::of(&snapshot, usize::try_from(max_series).unwrap_or(usize::MAX));
        Self { snapshot, selection, max_series }
    }
}

impl Collector for SnapshotCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Encoder::new(&mut encoder);
        agent(&mut out, &self.snapshot.agent)?;
        self.tables(&mut out)?;
        self.services(&mut out)?;
        lifecycle::services(&mut out, &self.snapshot, &self.selection)?;
        self.backends(&mut out)?;
        self.tcp_backends(&mut out)?;
        lifecycle::backends(&mut out, &self.selection)
    }
}

fn agent(out: &mut Encoder<'_, '_>, agent: &AgentView) -> fmt::Result {
    let info: Labels = vec![
        ("version", agent.version.clone()),
        ("node", agent.node.clone()),
        ("source", agent.source.clone()),
        ("mode", agent.mode.name().to_owned()),
        ("cgroup", agent.cgroup.display().to_string()),
    ];
    out.info("balancer_agent", "The agent", [&info])?;
    let mut seconds = |name, help, value: Option<f64>| {
        value.map_or(Ok(()), |value| out.single(name, help, Some(&Unit::Seconds), &ConstGauge::new(value)))
    };
    let age = |age: Option<Duration>| age.map(|age| age.as_secs_f64());
    seconds("balancer_agent_uptime", "Time since the agent started", Some(agent.uptime.as_secs_f64()))?;
    seconds(
        "balancer_lease_remaining",
        "Time until connects are no longer balanced unless the lease is renewed; below 0 once it lapsed, absent for a \
         lease that never lapses",
        match agent.lease {
            Lease::Endless => None,
            Lease::Valid(rest) => Some(rest.as_secs_f64()),
            Lease::Lapsed(since) => Some(-since.as_secs_f64()),
            Lease::Never => Some(0.0),
        },
    )?;
    seconds("balancer_sync_age", "Time since the view became complete; absent before", age(agent.synced))?;
    seconds(
        "balancer_source_contact_age",
        "Time since the source was last known to be in touch with what it watches",
        age(agent.contact),
    )?;
    seconds("balancer_tables_change_age", "Time since the tables last changed", age(agent.changed))?;
    out.gauge(
        "balancer_observing",
        "1 while connects are only observed, and none is balanced (--mode observe)",
        u64::from(agent.mode == Mode::Observe),
    )?;
    out.gauge(
        "balancer_excluded_cgroups",
        "Cgroups whose processes are left alone: pods that opted out, and --exclude-cgroup",
        agent.excluded.into(),
    )?;
    let lanes = [Family::V4, Family::V6].map(|family| (family, agent.lane(family)));
    let states: Vec<Labels> = lanes
        .iter()
        .map(|(family, lane)| {
            vec![("family", family.name().to_owned()), ("state", lane.state.name().to_owned())]
        })
        .collect();
    out.info("balancer_express_lane", "What became of the express lane (--express-lane)", &states)?;
    out.gauges(
        "balancer_express_lane_entries",
        "Endpoints that the express lane holds: connects there pass by kube-proxy's iptables rules",
        lanes.iter().map(|(family, lane)| ([("family", family.name().to_owned())], u64::from(lane.entries))),
    )?;
    out.gauge("balancer_synced", "1 once the view is complete", u64::from(agent.synced.is_some()))?;
    out.gauge(
        "balancer_skipped_objects",
        "Objects that the agent had to skip; its log names them",
        agent.skipped.into(),
    )
}

impl SnapshotCollector {
    fn tables(&self, out: &mut Encoder<'_, '_>) -> fmt::Result {
        let map = |name: &str| [("map", name.to_ascii_lowercase())];
        let maps = &self.snapshot.maps;
        out.gauges(
            "balancer_map_entries",
            "Entries in use",
            maps.iter().map(|fill| (map(fill.name), fill.used)),
        )?;
        out.gauges(
            "balancer_map_capacity",
            "Entries that there is room for",
            maps.iter().map(|fill| (map(fill.name), fill.capacity)),
        )?;
        let services = &self.snapshot.services;
        out.gauge(
            "balancer_services",
            "Service ports, each address family counted apart",
            services.len() as u64,
        )?;
        out.gauge(
            "balancer_services_with_problems",
            "Service ports that are not served as written; balancer services says why",
            services.iter().filter(|service| service.has_problem()).count() as u64,
        )?;
        let left_out = self.selection.left_out;
        let dialled = |value: &'static str| [("dialled", value)];
        out.gauges(
            "balancer_metrics_series_left_out",
            "Series of Services and backends that --metrics-max-series leaves out, by whether this node dialled the Service",
            [(dialled("true"), left_out.dialled), (dialled("false"), left_out.undialled)],
        )?;
        out.gauge("balancer_metrics_series_limit", "--metrics-max-series", self.max_series.into())
    }

    fn services(&self, out: &mut Encoder<'_, '_>) -> fmt::Result {
        let selected = &self.selection.services;
        let view = |series: &ServiceSeries| &self.snapshot.services[series.index];
        let infos: Vec<Labels> = selected
            .iter()
            .map(|series| {
                let mut labels = series.labels.clone();
                labels.push(("address", view(series).frontend.ip().to_string()));
                labels.push(("algorithm", view(series).algorithm.name().to_owned()));
                labels
            })
            .collect();
        out.info("balancer_service", "A Service port", &infos)?;
        out.gauges(
            "balancer_service_usable_backends",
            "Backends that may be chosen",
            selected.iter().map(|series| (series.labels.as_slice(), series.usable)),
        )?;
        out.counters(
            "balancer_service_picks",
            "Connects and first datagrams that were sent to a backend",
            None,
            selected.iter().flat_map(|series| {
                let reasons = PickReason::ALL.map(PickReason::name);
                by_reason(&series.labels, reasons, view(series).picks)
            }),
        )?;
        out.counters(
            "balancer_service_pass_throughs",
            "Connects and datagrams that were left alone",
            None,
            selected.iter().flat_map(|series| {
                let reasons = PassReason::ALL.map(PassReason::name);
                by_reason(&series.labels, reasons, view(series).passes)
            }),
        )?;
        out.counters(
            "balancer_service_flow_evictions",
            "Unconnected UDP sockets that talked to too many Services and forgot this one",
            None,
            selected
                .iter()
                .filter(|series| series.protocol == Protocol::Udp)
                .map(|series| (series.labels.as_slice(), view(series).flow_evictions)),
        )
    }

    fn backends(&self, out: &mut Encoder<'_, '_>) -> fmt::Result {
        let backends = || self.selection.services.iter().flat_map(|service| &service.backends);
        let each = |value: fn(&BackendSeries) -> u64| {
            backends().map(move |backend| (backend.labels.as_slice(), value(backend)))
        };
        out.gauges(
            "balancer_backend_connections",
            "Sockets that are connected or connecting now",
            each(|backend| backend.stats.active),
        )?;
        out.gauges(
            "balancer_backend_usable",
            "1 where the backend may be chosen, 0 once it was removed",
            each(|backend| backend.usable.into()),
        )?;
        out.counters("balancer_backend_opened", "Attempts", None, each(|backend| backend.stats.opened))?;
        out.counters(
            "balancer_backend_established",
            "Attempts that succeeded",
            None,
            each(|backend| backend.stats.established),
        )?;
        out.counters(
            "balancer_backend_failed",
            "Attempts that failed",
            None,
            backends().flat_map(|backend| by_reason(&backend.labels, FAILURES, failures(&backend.stats))),
        )?;
        out.counters(
            "balancer_backend_closed",
            "Sockets that were closed",
            None,
            each(|backend| backend.stats.closed),
        )
    }

    fn tcp_backends(&self, out: &mut Encoder<'_, '_>) -> fmt::Result {
        let backends = || {
            let all = self.selection.services.iter().flat_map(|service| &service.backends);
            all.filter(|backend| backend.protocol == Protocol::Tcp)
        };
        let each = |value: fn(&BackendStats) -> u64| {
            backends().map(move |backend| (backend.labels.as_slice(), value(&backend.stats)))
        };
        out.counters(
            "balancer_backend_received",
            "Payload received, added when a connection closes",
            Some(&Unit::Bytes),
            each(|stats| stats.bytes_in),
        )?;
        out.counters(
            "balancer_backend_sent",
            "Payload acknowledged by the backend, added when a connection closes",
            Some(&Unit::Bytes),
            each(|stats| stats.bytes_out),
        )?;
        out.counters(
            "balancer_backend_retransmits",
            "Segments sent again, added when a connection closes",
            None,
            each(|stats| stats.retransmits),
        )?;
        out.family(
            "balancer_backend_handshake",
            "Time from connect() to the end of the TCP handshake",
            Some(&Unit::Seconds),
            backends().map(|backend| (backend.labels.as_slice(), Handshakes(&backend.stats))),
        )
    }
}
