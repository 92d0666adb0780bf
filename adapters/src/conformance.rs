//! What every adapter has to do, as one suite that each built-in passes: see [`check`].

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use model::Value;
use serde_json::json;

use crate::contract::{Adapter, CheckHandler, Environment, Handler, Instance, Kind, ReportHandler};
use crate::fields::{FieldType, Fields};

/// Puts `adapter` through the whole suite; panics, naming it, where it fails.
pub async fn check(adapter: &dyn Adapter) {
    describes_itself(adapter);
    finds_every_mistake_in_its_configuration(adapter);
    validates_without_looking_at_files(adapter);
    let folder = tempfile::tempdir().unwrap();
    match build(adapter, &adapter.example(), folder.path()).await {
        Handler::Check(handler) => checks(adapter, handler).await,
        Handler::Report(handler) => reports(adapter, handler).await,
    }
}

/// Builds a handler for a test.
pub async fn build(adapter: &dyn Adapter, config: &serde_json::Value, base_dir: &Path) -> Handler {
    let validated = adapter.validate(config, base_dir).unwrap_or_else(|errors| panic!("{errors:?}"));
    let environment = Environment { base_dir: base_dir.to_owned(), ..Environment::default() };
    validated.build(environment).await.unwrap()
}

/// Builds a check handler for a test.
pub async fn build_check(
    adapter: &dyn Adapter,
    config: &serde_json::Value,
    base_dir: &Path,
) -> Arc<dyn CheckHandler> {
    match build(adapter, config, base_dir).await {
        Handler::Check(handler) => handler,
        Handler::Report(_) => panic!("{} reports", adapter.name()),
    }
}

/// Builds a report handler for a test.
pub async fn build_report(
    adapter: &dyn Adapter,
    config: &serde_json::Value,
    base_dir: &Path,
) -> Arc<dyn ReportHandler> {
    match build(adapter, config, base_dir).await {
        Handler::Report(handler) => handler,
        Handler::Check(_) => panic!("{} checks", adapter.name()),
    }
}

fn describes_itself(adapter: &dyn Adapter) {
    let (name, about) = (adapter.name(), adapter.about());
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
    assert!(!about.is_empty() && !about.contains('\n') && !about.ends_with('.'), "{name}: {about}");
    assert!(adapter.example().as_object().is_some_and(|example| !example.is_empty()), "{name}");
}

fn finds_every_mistake_in_its_configuration(adapter: &dyn Adapter) {
    let name = adapter.name();
    let pointers = |config: &serde_json::Value| -> Vec<String> {
        let errors = adapter.validate(config, Path::new("")).err().unwrap_or_default();
        for error in &errors {
            let text = &error.message;
            assert!(!text.is_empty() && !text.ends_with('.'), "{name}: {text}");
            assert!(config.pointer(&error.pointer).is_some(), "{name}: nothing is at {}", error.pointer);
        }
        errors.into_iter().map(|error| error.pointer).collect()
    };

    let mut config = adapter.example();
    config["no_such_key"] = json!(1);
    config["nor/this"] = json!(null);
    let mut found = pointers(&config);
    found.sort();
    assert_eq!(found, ["/no_such_key", "/nor~1this"], "{name}");

    for config in [json!(1), json!("text"), json!([1])] {
        assert!(pointers(&config).contains(&String::new()), "{name}: {config}");
    }
    for wrong in [json!(true), json!(-1.5), json!({"a": {"b": []}}), json!(""), json!([[]])] {
        let mut config = adapter.example();
        let object = config.as_object_mut().unwrap();
        object.values_mut().for_each(|value| *value = wrong.clone());
        let keys: Vec<String> = object.keys().cloned().collect();
        let found = pointers(&config);
        for key in keys {
            let at_key = format!("/{key}");
            assert!(found.iter().any(|at| at.starts_with(&at_key)), "{name}: {key}: {wrong} is accepted");
        }
    }
}

fn validates_without_looking_at_files(adapter: &dyn Adapter) {
    let nowhere = Path::new("/nonexistent/folder");
    let errors = adapter.validate(&adapter.example(), nowhere).err();
    assert_eq!(errors, None, "{}", adapter.name());
    assert!(!nowhere.exists());
}

async fn checks(adapter: &dyn Adapter, handler: Arc<dyn CheckHandler>) {
    let name = adapter.name();
    assert_eq!(adapter.kind(), Kind::Check, "{name}");
    let instance = sample(&adapter.fields());
    let opinion = handler.check(&instance).await.unwrap();
    assert_eq!(opinion.reasons, Vec::<String>::new(), "{name}: the caller knows the rule");
    assert_eq!(handler.check(&instance).await.unwrap(), opinion, "{name}: same question, same answer");
    // Whatever a request lacks or holds, there is an answer or an error.
    for value in samples() {
        let _answer =
            handler.check(&Instance { fields: vec![("value".to_owned(), value)], ..instance.clone() }).await;
    }
    tokio::join!(handler.close(), handler.close());
    handler.close().await;
}

async fn reports(adapter: &dyn Adapter, handler: Arc<dyn ReportHandler>) {
    let name = adapter.name();
    assert_eq!(adapter.kind(), Kind::Report, "{name}");
    let instance = sample(&adapter.fields());
    for _ in 0..3 {
        assert!(handler.report(&instance), "{name}: an idle handler has room");
    }
    tokio::join!(handler.close(), handler.close());
    handler.close().await;
    assert_eq!(handler.dropped(), 0, "{name}");
    assert!(!handler.report(&instance), "{name}: nothing is accepted after a close");
    assert_eq!(handler.dropped(), 1, "{name}");
}

/// An instance with every known field, and the ones that examples speak of.
fn sample(fields: &Fields) -> Instance {
    let known = fields.known.iter().map(|field| (field.name.to_string(), sample_of(field.types[0])));
    let extra = [("code", FieldType::Long), ("duration_ms", FieldType::Long), ("service", FieldType::Text)];
    let extra = extra.into_iter().filter(|_| fields.open);
    let extra = extra.map(|(name, kind)| (name.to_owned(), sample_of(kind)));
    Instance { name: "sample".to_owned(), fields: known.chain(extra).collect() }
}

fn sample_of(kind: FieldType) -> Value {
    samples().into_iter().find(|value| FieldType::of(value) == kind).unwrap()
}

fn samples() -> [Value; 5] {
    [
        Value::Bool(true),
        Value::Long(200),
        Value::Text("text".to_owned()),
        Value::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Value::Time(0),
    ]
}
