//! `file` appends instances as lines of JSON to a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use daemon::LineWriter;
use prometheus_client::metrics::counter::Counter;

use crate::config::ConfigReader;
use crate::contract::{Adapter, BuildError, ConfigError, Environment, Handler, Kind, Validated};
use crate::fields::Fields;
use crate::lines::Lines;

/// The adapter.
#[derive(Clone, Copy, Debug)]
pub struct File;

#[derive(Debug)]
struct Target(PathBuf);

impl Adapter for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn kind(&self) -> Kind {
        Kind::Report
    }

    fn about(&self) -> &'static str {
        "appends instances as lines of JSON to a file"
    }

    fn fields(&self) -> Fields {
        Fields::open()
    }

    fn example(&self) -> serde_json::Value {
        serde_json::json!({ "path": "access.jsonl" })
    }

    fn validate(
        &self,
        config: &serde_json::Value,
        base_dir: &Path,
    ) -> Result<Box<dyn Validated>, Vec<ConfigError>> {
        let mut config = ConfigReader::new(config);
        config.require("path");
        let path = config.text("path", PATH_LENGTH_MAX).unwrap_or_default();
        config.finish()?;
        Ok(Box::new(Target(base_dir.join(path))))
    }
}

#[async_trait]
impl Validated for Target {
    fn fields(&self) -> Fields {
        File.fields()
    }

    async fn build(self: Box<Self>, _environment: Environment) -> Result<Handler, BuildError> {
        let Self(path) = *self;
        let opened = LineWriter::to_file(&path, None, Counter::default()).await;
        let writer = opened.map_err(|source| BuildError::File { path, source })?;
        Ok(Handler::Report(Arc::new(Lines::start(writer))))
    }
}

/// In bytes: Linux's own limit.
pub(crate) const PATH_LENGTH_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use model::Value;
    use serde_json::json;

    use super::*;
    use crate::conformance::build_report;
    use crate::contract::Instance;

    #[tokio::test]
    async fn what_was_accepted_stands_in_the_file_after_a_close() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.jsonl");
        std::fs::write(&path, "before\n").unwrap();
        let handler = build_report(&File, &json!({"path": "access.jsonl"}), folder.path()).await;
        let instance = |n| Instance { name: "a".to_owned(), fields: vec![("n".to_owned(), Value::Long(n))] };
        assert!((0..1000).all(|n| handler.report(&instance(n))));
        handler.close().await;
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: String = (0..1000).map(|n| format!("{{\"instance\":\"a\",\"n\":{n}}}\n")).collect();
        assert_eq!(text, format!("before\n{expected}"));
    }

    #[tokio::test]
    async fn a_file_that_cant_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let validated = File.validate(&json!({"path": "no/such/folder"}), folder.path()).unwrap();
        let error = validated.build(Environment::default()).await.unwrap_err().to_string();
        assert!(error.ends_with("no/such/folder` can't be opened"), "{error}");
    }
}
