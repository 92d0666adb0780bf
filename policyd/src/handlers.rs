//! The check adapters of a bundle, at work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use adapters::{CheckHandler, Environment, Handler, Kind};
use daemon::finding::{Finding, Findings};
use tokio_stream::StreamMap;
use tokio_stream::wrappers::WatchStream;

use crate::bundle::{Bundle, rules};

/// Yields a handler's name whenever its answers given so far may no longer hold. One that has ended is left out.
pub type Changes = StreamMap<String, WatchStream<u64>>;

/// The check handlers in use, by name. Dropping the last that holds one ends it.
#[derive(Clone, Debug, Default)]
pub struct Handlers {
    running: BTreeMap<String, Running>,
    /// The last version that was given out. No two handlers, and no two states of one, have the same.
    versions: u64,
}

#[derive(Clone, Debug)]
struct Running {
    /// What it was started from, and where its files are.
    from: (rules::Handler, PathBuf),
    handler: Arc<dyn CheckHandler>,
    version: u64,
}

impl Handlers {
    /// The check handlers of `bundle`. Those whose configuration is the same go on, and their answers with them;
    /// all others are started.
    ///
    /// # Errors
    /// When one can't start: its list can't be read, say. Those just started end.
    pub async fn next(&self, bundle: &Bundle) -> Result<Self, Findings> {
        let mut next = Self { running: BTreeMap::new(), versions: self.versions };
        let mut findings = Findings::new();
        let checking =
            bundle.rules.handlers.iter().filter(|(_, handler)| handler.adapter.kind() == Kind::Check);
        for (name, handler) in checking {
            if let Some(same) = self.running.get(name).filter(|running| running.is_from(handler, bundle)) {
                next.running.insert(name.clone(), same.clone());
                continue;
            }
            match build(handler, bundle).await {
                Ok(built) => next.insert(name, (handler.clone(), bundle.folder.clone()), built),
                Err(why) => {
                    let message = format!("the handler `{name}` can't start: {why}");
                    findings.push(Finding::in_file(rules::FILE, message));
                }
            }
        }
        if findings.is_empty() { Ok(next) } else { Err(findings) }
    }

    /// Starts every check handler of `bundle`.
    ///
    /// # Errors
    /// As [`Handlers::next`].
    pub async fn start(bundle: &Bundle) -> Result<Self, Findings> {
        Self::default().next(bundle).await
    }

    /// Handlers that a test made.
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(handlers: [(&str, Arc<dyn CheckHandler>); N]) -> Self {
        let mut made = Self::default();
        let adapter = adapters::registry::BUILT_IN[0];
        let from = || rules::Handler { adapter, config: serde_json::Value::Null };
        handlers.into_iter().for_each(|(name, handler)| made.insert(name, (from(), PathBuf::new()), handler));
        made
    }

    /// The handler called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn CheckHandler>> {
        self.running.get(name).map(|running| &running.handler)
    }

    /// What the answers of the handler called `name` are made from, as a number: they may differ only if it does.
    pub fn version(&self, name: &str) -> Option<u64> {
        self.running.get(name).map(|running| running.version)
    }

    /// The same handlers, after the answers of the one called `name` have changed.
    #[must_use]
    pub fn changed(&self, name: &str) -> Self {
        let mut next = self.clone();
        next.versions += 1;
        if let Some(running) = next.running.get_mut(name) {
            running.version = next.versions;
        }
        next
    }

    /// Listens to these handlers from now on. Those of `changes` that go on are listened to without a gap.
    pub fn listen(&self, before: &Self, changes: &mut Changes) {
        let goes_on = |name: &str| {
            before.get(name).zip(self.get(name)).is_some_and(|(before, now)| Arc::ptr_eq(before, now))
        };
        for name in before.running.keys().filter(|name| !goes_on(name)) {
            changes.remove(name);
        }
        for (name, running) in self.running.iter().filter(|(name, _)| !goes_on(name)) {
            if let Some(changed) = running.handler.changed() {
                changes.insert(name.clone(), WatchStream::from_changes(changed));
            }
        }
    }

    /// Ends all handlers.
    pub async fn close(&self) {
        for running in self.running.values() {
            running.handler.close().await;
        }
    }

    fn insert(&mut self, name: &str, from: (rules::Handler, PathBuf), handler: Arc<dyn CheckHandler>) {
        self.versions += 1;
        self.running.insert(name.to_owned(), Running { from, handler, version: self.versions });
    }
}

impl Running {
    fn is_from(&self, handler: &rules::Handler, bundle: &Bundle) -> bool {
        let (from, folder) = &self.from;
        let same = from.adapter.name() == handler.adapter.name() && from.config == handler.config;
        same && *folder == bundle.folder
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
