//! The check adapters of a bundle, at work.

use std::collections::BTreeMap;
use std::sync::Arc;

use adapters::{CheckHandler, Environment, Handler, Kind};
use daemon::finding::{Finding, Findings};
use futures_util::stream::{SelectAll, select_all};
use tokio_stream::wrappers::WatchStream;

use crate::bundle::{Bundle, rules};

/// Yields whenever a handler's answers given so far may no longer hold. A handler that has ended is left out.
pub type Changes = SelectAll<WatchStream<u64>>;

/// The check handlers of one bundle, by name. Dropping them ends them.
#[derive(Debug, Default)]
pub struct Handlers(BTreeMap<String, Arc<dyn CheckHandler>>);

impl Handlers {
    /// Starts every check handler of `bundle`.
    ///
    /// # Errors
    /// When one can't start: its list can't be read, say. Those already started end.
    pub async fn start(bundle: &Bundle) -> Result<Self, Findings> {
        let mut started = Self::default();
        let mut findings = Findings::new();
        let checking =
            bundle.rules.handlers.iter().filter(|(_, handler)| handler.adapter.kind() == Kind::Check);
        for (name, handler) in checking {
            match build(handler, bundle).await {
                Ok(handler) => {
                    started.0.insert(name.clone(), handler);
                }
                Err(why) => {
                    let message = format!("the handler `{name}` can't start: {why}");
                    findings.push(Finding::in_file(rules::FILE, message));
                }
            }
        }
        if findings.is_empty() { Ok(started) } else { Err(findings) }
    }

    /// Handlers that a test made.
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(handlers: [(&str, Arc<dyn CheckHandler>); N]) -> Self {
        Self(handlers.into_iter().map(|(name, handler)| (name.to_owned(), handler)).collect())
    }

    /// The handler called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn CheckHandler>> {
        self.0.get(name)
    }

    /// The changes from now on.
    pub fn changes(&self) -> Changes {
        select_all(self.0.values().filter_map(|handler| handler.changed()).map(WatchStream::from_changes))
    }

    /// Ends all handlers.
    pub async fn close(&self) {
        for handler in self.0.values() {
            handler.close().await;
        }
    }
}

async fn build(handler: &rules::Handler, bundle: &Bundle) -> Result<Arc<dyn CheckHandler>, String> {
    let validated = handler
        .adapter
        .validate(&handler.config, &bundle.folder)
        .map_err(|errors| errors.into_iter().map(|error| error.message).collect::<Vec<_>>().join("; "))?;
    let environment = Environment { base_dir: bundle.folder.clone(), ..Environment::default() };
    match validated.build(environment).await {
        Ok(Handler::Check(handler)) => Ok(handler),
        Ok(Handler::Report(_)) => Err(format!("`{}` does not check", handler.adapter.name())),
        Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
    }
}
