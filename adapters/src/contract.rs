//! The contract between Tidegate and an adapter: validate (pure), build (I/O), handle, close.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use model::Value;
use model::decision::Opinion;
use tokio::sync::watch;

use crate::exposition::Exposition;
use crate::fields::Fields;

/// What an adapter's handlers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// They have a say in decisions, before a request passes. They run in policyd.
    Check,
    /// They are told of requests, after the response. They run in the proxy.
    Report,
}

/// One way to connect to another system. It has no state: that is its handlers' affair.
pub trait Adapter: Debug + Send + Sync {
    /// The name a handler asks for it by, in `adapters.yaml`.
    fn name(&self) -> &'static str;

    /// What its handlers do.
    fn kind(&self) -> Kind;

    /// What it is for, in one line.
    fn about(&self) -> &'static str;

    /// The fields that its instances may have, whatever the configuration: for documentation.
    fn fields(&self) -> Fields;

    /// A configuration to copy from, which needs nothing else to work: for documentation and conformance.
    fn example(&self) -> serde_json::Value;

    /// Checks a handler's configuration, without I/O. Relative file names are meant from `base_dir`.
    ///
    /// # Errors
    /// All mistakes at once.
    fn validate(
        &self,
        config: &serde_json::Value,
        base_dir: &Path,
    ) -> Result<Box<dyn Validated>, Vec<ConfigError>>;
}

/// A configuration without mistakes, from which a handler can be built.
#[async_trait]
pub trait Validated: Debug + Send + Sync {
    /// The fields that instances for this handler may and must have: see [`Fields::check`].
    fn fields(&self) -> Fields;

    /// Builds the handler. May read files and open connections.
    ///
    /// # Errors
    /// When something outside of the configuration is amiss, such as a file that is not there.
    async fn build(self: Box<Self>, environment: Environment) -> Result<Handler, BuildError>;
}

/// What a handler may use of the daemon it runs in.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Where relative file names start: the bundle's folder.
    pub base_dir: PathBuf,
    /// Where metrics are shown: one for the whole process.
    pub exposition: Exposition,
}

/// A configured adapter at work.
#[derive(Clone, Debug)]
pub enum Handler {
    /// Of an adapter of [`Kind::Check`].
    Check(Arc<dyn CheckHandler>),
    /// Of an adapter of [`Kind::Report`].
    Report(Arc<dyn ReportHandler>),
}

/// Has a say in decisions.
#[async_trait]
pub trait CheckHandler: Debug + Send + Sync {
    /// This handler's opinion. Its reasons are left empty: the caller knows the rule that asked.
    ///
    /// # Errors
    /// When no opinion can be had. The caller takes that as a degraded denial, never as an allow.
    async fn check(&self, instance: &Instance) -> Result<Opinion, CheckError>;

    /// A number that changes when answers given so far may no longer hold; nothing if that never happens.
    fn changed(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// Ends background work. May be called twice; dropping the handler ends it too.
    async fn close(&self) {}
}

/// Is told of requests.
#[async_trait]
pub trait ReportHandler: Debug + Send + Sync {
    /// Takes note of `instance`, without ever waiting.
    ///
    /// True when it was accepted: it will have its effect before [`ReportHandler::close`] returns. False when
    /// it was dropped, for want of room or after a close.
    fn report(&self, instance: &Instance) -> bool;

    /// How many reports were dropped, or accepted and then lost to an error, so far.
    fn dropped(&self) -> u64;

    /// Returns when all that was accepted is done. May be called twice, also at once.
    async fn close(&self);
}

/// The values of one request that a rule hands to a handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Its name in the bundle.
    pub name: String,
    /// Its fields. One whose expression found nothing in the request (a header not sent) is left out.
    pub fields: Vec<(String, Value)>,
}

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, as a JSON pointer (RFC 6901) into the configuration, such as `/entries/3`.
    pub pointer: String,
    /// What is wrong: lower case, without full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Why a handler can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file can't be read or written.
    #[error("`{}` can't be opened", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was read, but its content is no good.
    #[error("`{}` can't be used: {reason}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
}

/// Why a handler has no opinion.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The other system can't be asked, or gave no sensible answer.
    #[error("the handler can't decide: {0}")]
    Unavailable(String),
}

impl Instance {
    /// The value of the field called `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }
}
