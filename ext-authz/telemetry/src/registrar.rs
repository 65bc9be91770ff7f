//! Makes metrics from their definitions, and nothing that has no definition.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::typed::{Definition, LabelSet, Labels, Metric, kind};

/// A gauge of whole numbers.
pub(crate) type CountGauge = Gauge<u64, AtomicU64>;

/// A gauge of fractions.
pub(crate) type RatioGauge = Gauge<f64, AtomicU64>;

/// One metric with a sample for each label set.
#[derive(Clone, Debug)]
pub(crate) struct Samples<L: LabelSet, M, C = fn() -> M>(Family<Labels<L>, M, C>);

impl<L: LabelSet, M: Clone, C: MetricConstructor<M>> Samples<L, M, C> {
    /// The sample with these labels.
    pub(crate) fn with(&self, labels: L) -> M {
        self.0.get_or_create_owned(&Labels(labels))
    }

    /// Shows these labels no longer.
    pub(crate) fn remove(&self, labels: L) {
        self.0.remove(&Labels(labels));
    }
}

/// Registers metrics under the names, units and descriptions of the registry.
#[derive(Debug, Default)]
pub(crate) struct Registrar {
    registry: Registry,
}

impl Registrar {
    pub(crate) fn counter<L: LabelSet>(&mut self, metric: &Metric<kind::Counter, L>) -> Samples<L, Counter> {
        self.register(&metric.definition, Counter::default)
    }

    pub(crate) fn up_down<L: LabelSet>(
        &mut self,
        metric: &Metric<kind::UpDownCounter, L>,
    ) -> Samples<L, Gauge> {
        self.register(&metric.definition, Gauge::default)
    }

    pub(crate) fn gauge<L: LabelSet>(&mut self, metric: &Metric<kind::Gauge, L>) -> Samples<L, CountGauge> {
        self.register(&metric.definition, CountGauge::default)
    }

    pub(crate) fn ratio<L: LabelSet>(&mut self, metric: &Metric<kind::Gauge, L>) -> Samples<L, RatioGauge> {
        self.register(&metric.definition, RatioGauge::default)
    }

    /// `new` makes the histogram, with its buckets in the metric's unit.
    pub(crate) fn histogram<L: LabelSet>(
        &mut self,
        metric: &Metric<kind::Histogram, L>,
        new: fn() -> Histogram,
    ) -> Samples<L, Histogram> {
        self.register(&metric.definition, new)
    }

    pub(crate) fn finish(self) -> Registry {
        self.registry
    }

    fn register<L: LabelSet, M>(&mut self, definition: &Definition, new: fn() -> M) -> Samples<L, M>
    where
        M: prometheus_client::encoding::EncodeMetric
            + TypedMetric
            + Clone
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let family: Family<Labels<L>, M, fn() -> M> = Family::new_with_constructor(new);
        for labels in L::known().unwrap_or_default() {
            family.get_or_create_owned(&Labels(labels));
        }
        match definition.exposed_unit() {
            Some(unit) => {
                self.registry.register_with_unit(
                    definition.exposed_name(),
                    definition.brief,
                    unit,
                    family.clone(),
                );
            }
            None => self
                .registry
                .register(definition.exposed_name(), definition.brief, family.clone()),
        }
        Samples(family)
    }
}
