//! Values of the maps, of which anything may be said by a kernel that another version, or another program, wrote to.

use std::time::Duration;

use balancer_common::abi::{
    BackendHealth, BackendHistory, BackendMeta, BackendStats, Control, HISTORY, Lifecycle, Offer,
    OfferOutcome, Service, ServiceMeta,
};
use bytemuck::AnyBitPattern;

use crate::{
    datapath::{backend_meta, backend_names, from_text, to_text},
    evenness::{Evenness, Load},
    handshake, history,
    lifecycle::policy::{self, Motion},
    view::{HealthView, LifecycleView},
};

/// The bytes as a value of each map, one after the other from the beginning, shown as commands and metrics show it.
///
/// # Panics
///
/// If that panics, or what is shown is longer than the value or not a number.
pub fn records(data: &[u8]) {
    let now_ns = value::<u64>(data).unwrap_or_default();
    if let Some(meta) = value::<ServiceMeta>(data) {
        check_text(&meta.namespace);
        check_text(&meta.problem);
    }
    if let Some(meta) = value::<BackendMeta>(data) {
        let [pod, node, zone] = backend_names(&meta);
        let again = backend_meta(&pod, &node, &zone);
        // Replacement characters are longer than what they replace: names may be cut once, and then no more.
        let [pod, node, zone] = backend_names(&again);
        assert_eq!(backend_names(&backend_meta(&pod, &node, &zone)), [pod, node, zone]);
    }
    if let Some(control) = value::<Control>(data) {
        for text in [&control.source, &control.cgroup] {
            check_text(text);
        }
        check_text(&control.agent_version);
    }
    let service = value::<Service>(data).unwrap_or_default();
    if let Some(lifecycle) = value::<Lifecycle>(data) {
        let view = LifecycleView::of(&service, &lifecycle, now_ns);
        assert!(view.quiet >= view.configured_quiet && view.moved_since_change <= view.moved);
        assert!(view.stopped.is_none_or(|(_, ago)| ago <= Duration::from_nanos(now_ns)));
    }
    if let Some(health) = value::<BackendHealth>(data) {
        let view = HealthView::of(&health, service.slow_start_ms, now_ns);
        let _ = (view.condition.name(), view.condition.left(), view.is_noted());
        // Whatever the word is, a connect gets an answer.
        let _ = health.state.admit(now_ns, service.slow_start_ms, now_ns as u32);
        let failing = health.state.failing();
        assert!(failing == 0 || failing == u64::MAX);
        let spared = health.state.spared(now_ns, service.slow_start_ms);
        assert!(spared & failing == failing);
    }
    if let Some(mut ring) = value::<BackendHistory>(data) {
        assert!(history::read(&ring, now_ns).len() <= HISTORY);
        history::sample(&mut ring, now_ns, u64::MAX);
        assert!(history::read(&ring, now_ns).len() <= HISTORY);
    }
    if let Some(stats) = value::<BackendStats>(data) {
        let shares: Vec<_> = [0.5, 0.99].map(|q| handshake::quantile(&stats.handshakes, q)).into();
        assert!(shares[0].is_some() == shares[1].is_some());
    }
    if let Some(offer) = value::<Offer>(data) {
        let _ = OfferOutcome::from_u32(offer.outcome);
    }
    loads(data);
}

/// Counts as the maps have them, with weights: how even they are, and what would be moved.
fn loads(data: &[u8]) {
    let pairs = data.as_chunks::<12>().0.iter().take(8);
    let loads: Vec<Load> = pairs
        .map(|bytes| Load {
            connections: value(bytes).unwrap_or_default(),
            weight: value(&bytes[8..]).unwrap_or_default(),
        })
        .collect();
    if let Some(share) = Evenness::max_over_mean_of(&loads) {
        assert!(share.is_finite() && share >= 0.0, "{share}");
    }
    if loads.iter().all(|load| load.connections < 1 << 56)
        && let Some(even) = Evenness::of(&loads)
    {
        assert!(even.max_over_mean >= even.best_max_over_mean * 0.999_999, "{even:?}");
        assert!(even.jain <= even.best_jain * 1.000_001, "{even:?}");
    }
    let own: Vec<policy::Load> = (0..)
        .zip(&loads)
        .map(|(backend, load)| policy::Load { backend, active: load.connections, weight: load.weight })
        .collect();
    for motion in [Motion::Still, Motion::Moving] {
        let (_, excess) = policy::excess(motion, &own);
        assert!(excess.iter().all(|excess| excess.count() <= excess.active));
    }
}

fn check_text<const N: usize>(bytes: &[u8; N]) {
    let text = from_text(bytes);
    assert!(text.len() <= N * 3 && !text.contains('\0'));
    let cut = from_text(&to_text::<N>(&text));
    assert!(text.starts_with(&cut) && cut.len() < N);
}

/// What stands at the beginning, if there is enough of it.
fn value<T: AnyBitPattern>(data: &[u8]) -> Option<T> {
    data.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}
