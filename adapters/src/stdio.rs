//! `stdio` writes instances as lines of JSON to standard output or standard error.

use std::path::Path;
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
pub struct Stdio;

#[derive(Clone, Copy, Debug)]
enum Stream {
    Out,
    Err,
}

impl Adapter for Stdio {
    fn name(&self) -> &'static str {
        "stdio"
    }

    fn kind(&self) -> Kind {
        Kind::Report
    }

    fn about(&self) -> &'static str {
        "writes instances as lines of JSON to standard output or standard error"
    }

    fn fields(&self) -> Fields {
        Fields::open()
    }

    fn example(&self) -> serde_json::Value {
        serde_json::json!({ "stream": "stdout" })
    }

    fn validate(
        &self,
        config: &serde_json::Value,
        _base_dir: &Path,
    ) -> Result<Box<dyn Validated>, Vec<ConfigError>> {
        let mut config = ConfigReader::new(config);
        let stream = config.choice("stream", &[("stdout", Stream::Out), ("stderr", Stream::Err)]);
        config.finish()?;
        Ok(Box::new(stream.unwrap_or(Stream::Out)))
    }
}

#[async_trait]
impl Validated for Stream {
    fn fields(&self) -> Fields {
        Stdio.fields()
    }

    async fn build(self: Box<Self>, _environment: Environment) -> Result<Handler, BuildError> {
        let dropped = Counter::default();
        let writer = match *self {
            Self::Out => LineWriter::to_stream(tokio::io::stdout(), "standard output", dropped),
            Self::Err => LineWriter::to_stream(tokio::io::stderr(), "standard error", dropped),
        };
        Ok(Handler::Report(Arc::new(Lines::start(writer))))
    }
}
