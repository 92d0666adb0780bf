//! `prometheus` turns instances into counters and histograms, shown at the daemon's `/metrics`.
//!
//! Label values come from requests, so strangers choose them: beyond a limit, series are counted as one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use model::Value;

use crate::config::ConfigReader;
use crate::contract::{
    Adapter, BuildError, ConfigError, Environment, Handler, Instance, Kind, ReportHandler, Validated,
};
use crate::exposition::{Metric, Shape};
use crate::fields::{Field, FieldType, Fields};

/// The adapter.
#[derive(Clone, Copy, Debug)]
pub struct Prometheus;

#[derive(Debug)]
struct Config {
    metrics: Vec<MetricConfig>,
}

#[derive(Debug)]
struct MetricConfig {
    shape: Shape,
    /// The field whose value is recorded; without one, each instance counts 1.
    value: Option<String>,
}

#[derive(Debug)]
struct PrometheusHandler {
    metrics: Vec<(Arc<Metric>, MetricConfig)>,
    dropped: AtomicU64,
    closed: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MetricKind {
    Counter,
    Histogram,
}

impl Adapter for Prometheus {
    fn name(&self) -> &'static str {
        "prometheus"
    }

    fn kind(&self) -> Kind {
        Kind::Report
    }

    fn about(&self) -> &'static str {
        "turns instances into counters and histograms at the daemon's /metrics"
    }

    fn fields(&self) -> Fields {
        Fields::open()
    }

    fn example(&self) -> serde_json::Value {
        serde_json::json!({ "metrics": [
            { "name": "bookinfo_requests", "help": "Requests by service and status", "kind": "counter",
              "labels": ["service", "code"] },
            { "name": "bookinfo_duration_ms", "help": "Time to the end of the response", "kind": "histogram",
              "value": "duration_ms", "labels": ["service"], "buckets": [5, 10, 50, 100, 500, 1000] },
        ]})
    }

    fn validate(
        &self,
        config: &serde_json::Value,
        _base_dir: &Path,
    ) -> Result<Box<dyn Validated>, Vec<ConfigError>> {
        let mut config = ConfigReader::new(config);
        config.require("metrics");
        let mut metrics: Vec<MetricConfig> = Vec::new();
        for mut inner in config.mappings("metrics", METRICS_MAX) {
            let metric = read_metric(&mut inner);
            if metrics.iter().any(|other| other.shape.name == metric.shape.name) {
                inner.reject("name", format!("there are two metrics called `{}`", metric.shape.name), None);
            }
            metrics.push(metric);
            config.absorb(inner);
        }
        config.finish()?;
        Ok(Box::new(Config { metrics }))
    }
}

fn read_metric(config: &mut ConfigReader<'_>) -> MetricConfig {
    ["name", "help", "kind"].into_iter().for_each(|key| config.require(key));
    let name = config.text("name", NAME_LENGTH_MAX).unwrap_or_default();
    let help = config.text("help", HELP_LENGTH_MAX).unwrap_or_default().to_owned();
    let kinds = [("counter", MetricKind::Counter), ("histogram", MetricKind::Histogram)];
    let kind = config.choice("kind", &kinds);
    if config.has("name") && !is_name(name) {
        config.reject(
            "name",
            "a metric's name is made of a-z, A-Z, 0-9 and `_`, and starts with a letter",
            None,
        );
    } else if name.starts_with(RESERVED_PREFIX) {
        config.reject("name", format!("names that start with `{RESERVED_PREFIX}` are Tidegate's own"), None);
    } else if kind == Some(MetricKind::Counter) && name.ends_with("_total") {
        config.reject("name", "a counter gets its `_total` by itself", None);
    }
    let value = config.text("value", NAME_LENGTH_MAX).map(str::to_owned);
    if kind == Some(MetricKind::Histogram) {
        config.require("value");
        config.require("buckets");
    } else if kind == Some(MetricKind::Counter) && config.has("buckets") {
        config.reject("buckets", "a counter has no buckets", None);
    }
    let labels = read_labels(config);
    let buckets = read_buckets(config);
    let buckets = (kind == Some(MetricKind::Histogram)).then_some(buckets);
    MetricConfig { shape: Shape { name: name.to_owned(), help, labels, buckets }, value }
}

fn read_labels(config: &mut ConfigReader<'_>) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for (pointer, label) in config.texts("labels", LABELS_MAX, NAME_LENGTH_MAX) {
        // `le` is how a histogram names its buckets, and two underscores mark Prometheus's own labels.
        if !is_name(label) || label.starts_with("__") || label == "le" {
            config.fail(pointer, format!("`{label}` can't be the name of a label"), None);
        } else if labels.iter().any(|other| other == label) {
            config.fail(pointer, format!("the label `{label}` is written twice"), None);
        } else {
            labels.push(label.to_owned());
        }
    }
    labels
}

fn read_buckets(config: &mut ConfigReader<'_>) -> Vec<f64> {
    let mut buckets: Vec<f64> = Vec::new();
    for (pointer, item) in config.items("buckets", BUCKETS_MAX) {
        match item.as_f64() {
            Some(bound) if buckets.last().is_none_or(|last| *last < bound) => buckets.push(bound),
            _ => config.fail(pointer, "a bucket's bound is a number larger than the one before it", None),
        }
    }
    buckets
}

#[async_trait]
impl Validated for Config {
    /// All labels and values that the metrics speak of must be there.
    fn fields(&self) -> Fields {
        let mut known: Vec<Field> = Vec::new();
        for metric in &self.metrics {
            let values = metric.value.iter().map(|name| (name, NUMBERS, "the value of a metric"));
            let labels = metric.shape.labels.iter().map(|name| (name, FieldType::ANY, "a label of a metric"));
            for (name, types, about) in values.chain(labels) {
                match known.iter_mut().find(|field| field.name == *name) {
                    Some(field) if field.types.len() <= types.len() => {}
                    Some(field) => field.types = types,
                    None => known.push(Field { name: name.clone().into(), types, required: true, about }),
                }
            }
        }
        Fields { known, open: true }
    }

    async fn build(self: Box<Self>, environment: Environment) -> Result<Handler, BuildError> {
        let metric = |config: MetricConfig| (environment.exposition.metric(config.shape.clone()), config);
        let metrics = self.metrics.into_iter().map(metric).collect();
        let (dropped, closed) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Handler::Report(Arc::new(PrometheusHandler { metrics, dropped, closed })))
    }
}

#[async_trait]
impl ReportHandler for PrometheusHandler {
    /// False also when a metric's value is missing, negative or no number; the other metrics are updated.
    fn report(&self, instance: &Instance) -> bool {
        let mut accepted = !self.closed.load(Ordering::Acquire);
        let metrics = if accepted { self.metrics.as_slice() } else { &[] };
        for (metric, config) in metrics {
            match config.value_of(instance) {
                Some(value) => metric.record(value, config.labels_of(instance)),
                None => accepted = false,
            }
        }
        if !accepted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        accepted
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

impl MetricConfig {
    fn value_of(&self, instance: &Instance) -> Option<u32> {
        let Some(field) = &self.value else { return Some(1) };
        match instance.get(field) {
            Some(Value::Long(value)) if *value >= 0 => Some(u32::try_from(*value).unwrap_or(u32::MAX)),
            _ => None,
        }
    }

    /// A field that the request lacks is an empty label, which Prometheus takes for none.
    fn labels_of(&self, instance: &Instance) -> impl Iterator<Item = String> {
        self.shape.labels.iter().map(|label| instance.get(label).map(shown).unwrap_or_default())
    }
}

fn shown(value: &Value) -> String {
    let mut text = match value {
        Value::Bool(value) => value.to_string(),
        Value::Long(value) | Value::Time(value) => value.to_string(),
        Value::Text(value) => value.clone(),
        Value::Ip(_) | Value::Range(_) | Value::Duration(_) | Value::Decimal(_) | Value::Texts(_) => {
            value.to_string()
        }
    };
    text.truncate(text.floor_char_boundary(LABEL_LENGTH_MAX));
    text
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

const NUMBERS: &[FieldType] = &[FieldType::Long];
const RESERVED_PREFIX: &str = "tidegate_";
const METRICS_MAX: usize = 100;
const LABELS_MAX: usize = 10;
const BUCKETS_MAX: usize = 50;
/// In bytes.
const NAME_LENGTH_MAX: usize = 128;
const HELP_LENGTH_MAX: usize = 1024;
/// Longer values of labels are cut.
const LABEL_LENGTH_MAX: usize = 128;

#[cfg(test)]
mod tests;
