use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::*;
use crate::exposition::{Exposition, OVERFLOW, SERIES_MAX};

struct Fixture {
    registry: Registry,
    environment: Environment,
}

impl Fixture {
    fn new() -> Self {
        let mut registry = Registry::default();
        let exposition = Exposition::register(&mut registry);
        Self { registry, environment: Environment { exposition, ..Environment::default() } }
    }

    async fn build(&self, config: &serde_json::Value) -> Arc<dyn ReportHandler> {
        let validated = Prometheus.validate(config, Path::new("")).unwrap();
        match validated.build(self.environment.clone()).await.unwrap() {
            Handler::Report(handler) => handler,
            Handler::Check(_) => panic!("it reports"),
        }
    }

    fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }
}

fn instance(service: &str, duration_ms: i64) -> Instance {
    let fields = vec![
        ("service".to_owned(), Value::Text(service.to_owned())),
        ("duration_ms".to_owned(), Value::Long(duration_ms)),
    ];
    Instance { name: "request".to_owned(), fields }
}

fn counter() -> serde_json::Value {
    json!({"metrics": [{"name": "requests", "help": "Requests", "kind": "counter", "labels": ["service"]}]})
}

#[tokio::test]
async fn instances_become_series() {
    let fixture = Fixture::new();
    let mut config = counter();
    let histogram = json!({
        "name": "duration_ms", "help": "Time", "kind": "histogram", "value": "duration_ms", "buckets": [10, 100.5],
    });
    config["metrics"].as_array_mut().unwrap().push(histogram);
    let handler = fixture.build(&config).await;
    assert!(handler.report(&instance("reviews", 7)));
    assert!(handler.report(&instance("reviews", 70)));
    assert!(!handler.report(&instance("reviews", -1)));
    assert_eq!(handler.dropped(), 1);
    assert_eq!(
        fixture.render(),
        "# HELP duration_ms Time\n# TYPE duration_ms histogram\nduration_ms_sum{} 77.0\nduration_ms_count{} 2\n\
         duration_ms_bucket{le=\"10.0\"} 1\nduration_ms_bucket{le=\"100.5\"} 2\nduration_ms_bucket{le=\"+Inf\"} 2\n\
         # HELP requests Requests\n# TYPE requests counter\nrequests_total{service=\"reviews\"} 3\n# EOF\n"
    );
}

#[tokio::test]
async fn a_rebuilt_handler_goes_on_counting_and_a_dropped_one_leaves_nothing() {
    let fixture = Fixture::new();
    let old = fixture.build(&counter()).await;
    assert!(old.report(&instance("a", 0)));
    let new = fixture.build(&counter()).await;
    drop(old);
    assert!(new.report(&instance("a", 0)));
    assert!(fixture.render().contains("requests_total{service=\"a\"} 2\n"));
    let mut other_labels = counter();
    other_labels["metrics"][0]["labels"] = json!([]);
    let newest = fixture.build(&other_labels).await;
    assert!(newest.report(&instance("a", 0)) && new.report(&instance("a", 0)));
    assert!(fixture.render().contains("requests_total{} 1\n"), "{}", fixture.render());
    drop((new, newest));
    assert_eq!(fixture.render(), "# EOF\n");
}

#[tokio::test]
async fn strangers_cant_make_endless_series_or_labels() {
    let fixture = Fixture::new();
    let handler = fixture.build(&counter()).await;
    for n in 0..SERIES_MAX + 5 {
        assert!(handler.report(&instance(&format!("s{n}"), 0)));
    }
    assert!(handler.report(&instance("s0", 0)));
    let text = fixture.render();
    assert_eq!(text.matches("requests_total{").count(), SERIES_MAX + 1);
    assert!(text.contains(&format!("requests_total{{service=\"{OVERFLOW}\"}} 5\n")));
    assert!(text.contains("requests_total{service=\"s0\"} 2\n"));
    let long = shown(&Value::Text("é".repeat(LABEL_LENGTH_MAX)));
    assert_eq!(long.len(), LABEL_LENGTH_MAX);
}

#[test]
fn bad_metrics_are_told_all_at_once() {
    let metric = |extra: serde_json::Value| {
        let mut metric = json!({"name": "n", "help": "h", "kind": "counter"});
        metric.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        metric
    };
    let table = [
        (metric(json!({"name": "1n"})), vec!["/metrics/0/name"]),
        (metric(json!({"name": "tidegate_x"})), vec!["/metrics/0/name"]),
        (metric(json!({"name": "x_total"})), vec!["/metrics/0/name"]),
        (metric(json!({"kind": "histogram"})), vec!["/metrics/0", "/metrics/0"]),
        (metric(json!({"buckets": [1]})), vec!["/metrics/0/buckets"]),
        (
            metric(json!({"labels": ["a", "a", "le", "__x", "ä"]})),
            (1..5).map(|_| "/metrics/0/labels/").collect(),
        ),
        (
            metric(json!({"kind": "histogram", "value": "v", "buckets": [1, 1, "x"]})),
            vec!["/metrics/0/buckets/"; 2],
        ),
        (metric(json!({"lables": []})), vec!["/metrics/0/lables"]),
        (json!({}), vec!["/metrics/0"; 3]),
    ];
    for (metric, expected) in table {
        let config = json!({"metrics": [metric]});
        let errors = Prometheus.validate(&config, Path::new("")).err().unwrap_or_default();
        assert_eq!(errors.len(), expected.len(), "{config}: {errors:?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.pointer.starts_with(expected), "{config}: {}", error.pointer);
        }
    }
    let twice = json!({"metrics": [metric(json!({})), metric(json!({}))]});
    assert_eq!(Prometheus.validate(&twice, Path::new("")).unwrap_err()[0].pointer, "/metrics/1/name");
}

#[test]
fn the_fields_are_those_that_the_metrics_speak_of() {
    let fields = Prometheus.validate(&Prometheus.example(), Path::new("")).unwrap().fields();
    let errors = fields.check(&[("duration_ms", FieldType::Text), ("code", FieldType::Long)]).unwrap_err();
    let said: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(said, ["the field `duration_ms` is a String, not a Long", "the field `service` is missing"]);
}
