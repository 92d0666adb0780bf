//! The check adapters of a bundle, at work.

use std::collections::BTreeMap;
use std::sync::Arc;

use adapters::{CheckHandler, Environment, Handler, Kind};
use daemon::finding::{Finding, Findings};
use tokio::sync::watch;

use crate::bundle::{Bundle, rules};

/// The check handlers of one bundle, by name.
#[derive(Debug, Default)]
pub struct Handlers(BTreeMap<String, Arc<dyn CheckHandler>>);

impl Handlers {
    /// Starts every check handler of `bundle`.
    ///
    /// # Errors
    /// When one can't start: its list can't be read, say. Those already started are closed.
    pub async fn start(bundle: &Bundle) -> Result<Self, Findings> {
        let mut started = Self::default();
        let mut findings = Findings::new();
        let checking =
            bundle.rules.handlers.iter().filter(|(_, handler)| handler.adapter.kind() == Kind::Check);
        for (name, handler) in checking {
            let Ok(validated) = handler.adapter.validate(&handler.config, &bundle.folder) else { continue };
            let environment = Environment { base_dir: bundle.folder.clone(), ..Environment::default() };
            match validated.build(environment).await {
                Ok(Handler::Check(handler)) => {
                    started.0.insert(name.clone(), handler);
                }
                Ok(Handler::Report(_)) => {}
                Err(error) => {
                    let why =
                        std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
                    let message = why.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
                    findings.push(Finding::in_file(
                        rules::FILE,
                        format!("the handler `{name}` can't start: {message}"),
                    ));
                }
            }
        }
        if findings.is_empty() {
            return Ok(started);
        }
        started.close().await;
        Err(findings)
    }

    /// The handler called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn CheckHandler>> {
        self.0.get(name)
    }

    /// What tells that answers given so far may no longer hold.
    pub fn changes(&self) -> Vec<watch::Receiver<u64>> {
        self.0.values().filter_map(|handler| handler.changed()).collect()
    }

    /// Ends all handlers.
    pub async fn close(&self) {
        for handler in self.0.values() {
            handler.close().await;
        }
    }
}
