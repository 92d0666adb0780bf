//! `denier` denies whatever it is asked about: the smallest complete adapter, and the one to copy.
//!
//! Its use is a rule whose `match:` says all that is to be said, and emergencies.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::Verdict;
use model::decision::Opinion;

use crate::config::ConfigReader;
use crate::contract::{
    Adapter, BuildError, CheckError, CheckHandler, ConfigError, Environment, Handler, Instance, Kind,
    Validated,
};
use crate::fields::Fields;

/// The adapter.
#[derive(Clone, Copy, Debug)]
pub struct Denier;

/// The configuration, which is all a handler needs.
#[derive(Clone, Debug)]
struct Denial {
    message: String,
    valid_for: Duration,
}

impl Adapter for Denier {
    fn name(&self) -> &'static str {
        "denier"
    }

    fn kind(&self) -> Kind {
        Kind::Check
    }

    fn about(&self) -> &'static str {
        "denies whatever it is asked about"
    }

    fn fields(&self) -> Fields {
        Fields::open()
    }

    fn example(&self) -> serde_json::Value {
        serde_json::json!({ "message": "closed for maintenance", "valid_for": "1m" })
    }

    fn validate(
        &self,
        config: &serde_json::Value,
        _base_dir: &Path,
    ) -> Result<Box<dyn Validated>, Vec<ConfigError>> {
        let mut config = ConfigReader::new(config);
        let denial = Denial {
            message: config.text("message", MESSAGE_LENGTH_MAX).unwrap_or(MESSAGE).to_owned(),
            valid_for: config.duration("valid_for", &VALID_FOR_RANGE).unwrap_or(VALID_FOR),
        };
        config.finish()?;
        Ok(Box::new(denial))
    }
}

#[async_trait]
impl Validated for Denial {
    fn fields(&self) -> Fields {
        Denier.fields()
    }

    async fn build(self: Box<Self>, _environment: Environment) -> Result<Handler, BuildError> {
        Ok(Handler::Check(Arc::new(*self)))
    }
}

#[async_trait]
impl CheckHandler for Denial {
    async fn check(&self, _instance: &Instance) -> Result<Opinion, CheckError> {
        Ok(Opinion {
            verdict: Verdict::Deny,
            message: self.message.clone(),
            valid_for: self.valid_for,
            ..Opinion::indifferent()
        })
    }
}

const MESSAGE: &str = "denied by a rule";
/// In bytes.
const MESSAGE_LENGTH_MAX: usize = 1024;
const VALID_FOR: Duration = Duration::from_secs(60);
const VALID_FOR_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::conformance::build_check;

    #[tokio::test]
    async fn it_denies_for_the_reason_it_was_given() {
        let told =
            build_check(&Denier, &json!({"message": "go away", "valid_for": "5s"}), Path::new("")).await;
        let opinion = told.check(&Instance::default()).await.unwrap();
        assert_eq!(opinion.verdict, Verdict::Deny);
        assert_eq!((opinion.message.as_str(), opinion.valid_for), ("go away", Duration::from_secs(5)));
        let untold = build_check(&Denier, &json!(null), Path::new("")).await;
        assert_eq!(untold.check(&Instance::default()).await.unwrap().message, MESSAGE);
    }
}
