//! Reports: the rules that a decision names fire once the response has ended.

use std::collections::HashMap;
use std::sync::Arc;

use adapters::{Adapter, Environment, Handler, Instance, ReportHandler};
use api::config::{self, Policies, ReportInstance, ReportRule};
use model::{Attributes, ResponseFacts};

/// The handlers and rules in use.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    handlers: HashMap<String, Built>,
    rules: HashMap<String, ReportRule>,
}

#[derive(Clone, Debug)]
struct Built {
    config: config::ReportHandler,
    handler: Arc<dyn ReportHandler>,
}

/// Why a handler can't be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    /// There is no such adapter here.
    #[error("the handler `{handler}`")]
    Adapter {
        /// The handler.
        handler: String,
        /// The adapter's name is in it.
        source: adapters::UnknownAdapter,
    },
    /// Its configuration is not valid.
    #[error("the handler `{handler}`: {mistakes}")]
    Config {
        /// The handler.
        handler: String,
        /// All mistakes.
        mistakes: String,
    },
    /// Something outside of the configuration is amiss.
    #[error("the handler `{handler}`")]
    Build {
        /// The handler.
        handler: String,
        /// What.
        source: adapters::BuildError,
    },
    /// It is no report adapter.
    #[error("the handler `{handler}` takes no reports")]
    Kind {
        /// The handler.
        handler: String,
    },
}

impl Reports {
    /// What a new configuration makes of these. Handlers that did not change stay as they are.
    pub(crate) async fn next(
        &self,
        policies: &Policies,
        environment: &Environment,
    ) -> Result<Self, ReportError> {
        let mut handlers = HashMap::new();
        for handler in &policies.handlers {
            let built = match self.handlers.get(&handler.name) {
                Some(same) if same.config == *handler => same.clone(),
                _ => Built { config: handler.clone(), handler: build(handler, environment).await? },
            };
            handlers.insert(handler.name.clone(), built);
        }
        let rules = policies.rules.iter().map(|rule| (rule.name.clone(), rule.clone())).collect();
        Ok(Self { handlers, rules })
    }

    /// Fires the rules called `names`. Never waits: a handler without room drops the report, and counts it.
    pub(crate) fn fire(&self, names: &[String], attributes: &Attributes, facts: &ResponseFacts) {
        // A rule that a newer policy state has named is not here yet; the next request finds it.
        let rules = names.iter().filter_map(|name| self.rules.get(name));
        for action in rules.flat_map(|rule| &rule.actions) {
            let Some(built) = self.handlers.get(&action.handler) else { continue };
            for instance in &action.instances {
                if !built.handler.report(&read(instance, attributes, facts)) {
                    tracing::debug!(handler = action.handler, "a report was dropped");
                }
            }
        }
    }

    /// Ends the handlers that `next` has not taken over; all that they accepted is done then.
    pub(crate) async fn close_all_but(&self, next: &Self) {
        let is_kept = |handler: &Arc<dyn ReportHandler>| {
            next.handlers.values().any(|built| Arc::ptr_eq(&built.handler, handler))
        };
        for built in self.handlers.values().filter(|built| !is_kept(&built.handler)) {
            built.handler.close().await;
        }
    }
}

impl Reports {
    /// Ends all handlers.
    pub(crate) async fn close_all(&self) {
        self.close_all_but(&Self::default()).await;
    }
}

async fn build(
    config: &config::ReportHandler,
    environment: &Environment,
) -> Result<Arc<dyn ReportHandler>, ReportError> {
    let handler = || config.name.clone();
    let adapter: &dyn Adapter = match adapters::find(&config.adapter) {
        Ok(adapter) => adapter,
        Err(source) => return Err(ReportError::Adapter { handler: handler(), source }),
    };
    let validated = match adapter.validate(&config.config, &environment.base_dir) {
        Ok(validated) => validated,
        Err(mistakes) => {
            let mistakes: Vec<_> = mistakes.into_iter().map(|mistake| mistake.message).collect();
            return Err(ReportError::Config { handler: handler(), mistakes: mistakes.join("; ") });
        }
    };
    match validated.build(environment.clone()).await {
        Ok(Handler::Report(report)) => Ok(report),
        Ok(Handler::Check(_)) => Err(ReportError::Kind { handler: handler() }),
        Err(source) => Err(ReportError::Build { handler: handler(), source }),
    }
}

fn read(instance: &ReportInstance, attributes: &Attributes, facts: &ResponseFacts) -> Instance {
    let field = |(name, operand): &(String, model::Operand)| {
        operand.read(attributes, Some(facts)).map(|value| (name.clone(), value))
    };
    Instance { name: instance.name.clone(), fields: instance.fields.iter().filter_map(field).collect() }
}
