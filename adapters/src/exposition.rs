//! Where handlers show metrics of their own, next to the daemon's.
//!
//! A bundle that is loaded anew builds new handlers while the old ones still work, and a Prometheus registry
//! forgets nothing. So metrics live here: handlers that ask for the same metric share it, a new handler goes
//! on counting where the old one was, and a metric that no handler holds any more is gone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The metrics of all handlers of one process; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    metrics: Arc<Mutex<BTreeMap<String, Weak<Metric>>>>,
}

/// What a metric is. Two handlers share a metric when all of this is equal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) labels: Vec<String>,
    /// The upper bounds of a histogram's buckets; nothing for a counter.
    pub(crate) buckets: Option<Vec<f64>>,
}

/// One metric with all its series.
#[derive(Debug)]
pub(crate) struct Metric {
    shape: Shape,
    series: Series,
    /// How many series there are. Held while one is added, so that there are never more than allowed.
    count: Mutex<usize>,
}

type Labels = Vec<(String, String)>;

#[derive(Debug)]
enum Series {
    Counter(Family<Labels, Counter>),
    Histogram(Family<Labels, Histogram, Buckets>),
}

#[derive(Clone, Debug)]
struct Buckets(Vec<f64>);

/// The most series of one metric; what comes after is counted under [`OVERFLOW`].
pub const SERIES_MAX: usize = 1000;
/// The value of all labels of the one series that stands for those beyond [`SERIES_MAX`].
pub const OVERFLOW: &str = "overflow";

impl Exposition {
    /// An exposition whose metrics appear in `registry`. Once per process and registry.
    pub fn register(registry: &mut Registry) -> Self {
        let exposition = Self::default();
        registry.register_collector(Box::new(exposition.clone()));
        exposition
    }

    /// The metric of this shape: the one that exists, or a new one, which replaces one of another shape.
    pub(crate) fn metric(&self, shape: Shape) -> Arc<Metric> {
        let mut metrics = self.lock();
        match metrics.get(&shape.name).and_then(Weak::upgrade) {
            Some(metric) if metric.shape == shape => return metric,
            Some(_) => {
                tracing::info!(metric = shape.name, "the metric starts anew with other labels or buckets")
            }
            None => {}
        }
        let metric = Arc::new(Metric::new(shape));
        metrics.insert(metric.shape.name.clone(), Arc::downgrade(&metric));
        metric
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Metric>>> {
        // Each change of the map is one call, so a panic leaves it whole.
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = self.lock();
        metrics.retain(|_, metric| metric.strong_count() > 0);
        metrics.values().filter_map(Weak::upgrade).try_for_each(|metric| metric.encode(&mut encoder))
    }
}

impl Metric {
    fn new(shape: Shape) -> Self {
        let series = match &shape.buckets {
            None => Series::Counter(Family::default()),
            Some(buckets) => Series::Histogram(Family::new_with_constructor(Buckets(buckets.clone()))),
        };
        Self { shape, series, count: Mutex::new(0) }
    }

    /// Adds to the counter, or to the histogram, of the series with these label values, in the shape's order.
    pub(crate) fn record(&self, value: u32, label_values: impl Iterator<Item = String>) {
        let labels = self.shape.labels.iter().cloned().zip(label_values).collect();
        match &self.series {
            Series::Counter(family) => {
                self.in_series(family, &labels, |counter| counter.inc_by(value.into()));
            }
            Series::Histogram(family) => {
                self.in_series(family, &labels, |histogram| histogram.observe(value.into()))
            }
        }
    }

    fn in_series<M, C: MetricConstructor<M>, T>(
        &self,
        family: &Family<Labels, M, C>,
        labels: &Labels,
        record: impl FnOnce(&M) -> T,
    ) {
        if let Some(series) = family.get(labels) {
            record(&series);
            return;
        }
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have added it while this one waited.
        let is_new = family.get(labels).is_none();
        if is_new && *count >= SERIES_MAX {
            let overflow = labels.iter().map(|(name, _)| (name.clone(), OVERFLOW.to_owned())).collect();
            record(&family.get_or_create(&overflow));
        } else {
            *count += usize::from(is_new);
            record(&family.get_or_create(labels));
        }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metric: &dyn EncodeMetric = match &self.series {
            Series::Counter(family) => family,
            Series::Histogram(family) => family,
        };
        let (name, help) = (&self.shape.name, &self.shape.help);
        metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
    }
}

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}
