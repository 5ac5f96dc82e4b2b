//! Writing families of metrics.

use std::fmt;

use balancer_common::abi::{BackendStats, handshake_bound_ns};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::series::Labels;

/// The labels of a series that has a reason besides those of its Service or backend.
pub type WithReason<'a> = (&'a [(&'static str, String)], [(&'static str, &'static str); 1]);

/// A series for each reason.
pub fn by_reason<'a, const N: usize>(
    labels: &'a Labels,
    reasons: [&'static str; N],
    counts: [u64; N],
) -> impl Iterator<Item = (WithReason<'a>, u64)> {
    reasons
        .into_iter()
        .zip(counts)
        .map(move |(reason, count)| ((labels.as_slice(), [("reason", reason)]), count))
}

/// Writes one family after the other. A family without series is not written at all.
#[derive(Debug)]
pub struct Encoder<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl<'a, 'b> Encoder<'a, 'b> {
    /// Into `encoder`.
    pub const fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Self(encoder)
    }

    /// A family of any type.
    pub fn family<L: EncodeLabelSet, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        series: impl IntoIterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        let Some((_, first)) = series.peek() else { return Ok(()) };
        let help = format!("{help}.");
        let mut encoder = self.0.encode_descriptor(name, &help, unit, first.metric_type())?;
        series.try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(&labels)?))
    }

    /// A family of one series without labels.
    pub fn single(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        metric: &dyn EncodeMetric,
    ) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(name, &format!("{help}."), unit, metric.metric_type())?)
    }

    /// Counters.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            unit,
            series.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value))),
        )
    }

    /// Gauges of whole numbers.
    pub fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            None,
            series.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value))),
        )
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.single(name, help, None, &ConstGauge::new(value))
    }

    /// Facts as labels.
    pub fn info<'l>(
        &mut self,
        name: &str,
        help: &str,
        labels: impl IntoIterator<Item = &'l Labels>,
    ) -> fmt::Result {
        let mut labels = labels.into_iter().peekable();
        if labels.peek().is_none() {
            return Ok(());
        }
        let help = format!("{help}.");
        let mut encoder = self.0.encode_descriptor(name, &help, None, MetricType::Info)?;
        labels.try_for_each(|labels| encoder.encode_info(labels))
    }
}

/// The handshake histogram of a backend.
#[derive(Debug)]
pub struct Handshakes<'a>(pub &'a BackendStats);

impl EncodeMetric for Handshakes<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let buckets: Vec<(f64, u64)> = self
            .0
            .handshakes
            .iter()
            .enumerate()
            .map(|(index, &count)| {
                (handshake_bound_ns(index).map_or(f64::INFINITY, |ns| ns as f64 / 1e9), count)
            })
            .collect();
        let count = crate::evenness::total(&self.0.handshakes);
        encoder.encode_histogram::<NoLabelSet>(self.0.handshake_ns as f64 / 1e9, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
