//! Logs, on standard error: for people when that is a terminal, as JSON lines otherwise.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{fmt::layer, prelude::*};

/// The environment variable whose filter, when set, replaces the one given to [`init`].
pub const FILTER_VARIABLE: &str = "TIDEGATE_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// [`Format::Human`] on a terminal, [`Format::Json`] otherwise.
    #[default]
    Auto,
    /// Lines for people, with colour on a terminal unless `NO_COLOR` is set.
    Human,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter can't be read.
    #[error("`{filter}` is not a log filter such as `info` or `warn,tidegate_ca=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// This process has a logger already.
    #[error("logging was set up twice")]
    Twice(#[source] TryInitError),
}

/// A text that names no [`Format`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log format: it is `auto`, `human` or `json`")]
pub struct UnknownFormat(String);

/// Sets up logging for the whole process, once.
///
/// `filter` is in the language of `tracing_subscriber::EnvFilter`, such as `info` or `warn,tidegate_ca=debug`;
/// the variable [`FILTER_VARIABLE`] wins over it.
///
/// # Errors
/// When the filter can't be read, or logging was already set up.
pub fn init(format: Format, filter: &str) -> Result<(), LogError> {
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| filter.to_owned());
    let filter = parse_filter(&filter)?;
    let terminal = io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    match format.resolve(terminal) {
        Format::Json => registry.with(layer().json().flatten_event(true).with_writer(io::stderr)).try_init(),
        Format::Auto | Format::Human => {
            let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            registry.with(layer().with_ansi(colour).with_writer(io::stderr)).try_init()
        }
    }
    .map_err(LogError::Twice)
}

impl Format {
    const ALL: [Self; 3] = [Self::Auto, Self::Human, Self::Json];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Human => "human",
            Self::Json => "json",
        }
    }

    const fn resolve(self, terminal: bool) -> Self {
        match self {
            Self::Auto if terminal => Self::Human,
            Self::Auto => Self::Json,
            given => given,
        }
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|format| format.as_str() == text);
        known.ok_or_else(|| UnknownFormat(text.to_owned()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LogError::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_as_they_are_printed() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("xml".parse::<Format>(), Err(UnknownFormat("xml".to_owned())));
    }

    #[test]
    fn people_read_terminals_and_machines_the_rest() {
        assert_eq!(Format::Auto.resolve(true), Format::Human);
        assert_eq!(Format::Auto.resolve(false), Format::Json);
        assert_eq!(Format::Json.resolve(true), Format::Json);
        assert_eq!(Format::Human.resolve(false), Format::Human);
    }

    #[test]
    fn a_bad_filter_is_named() {
        assert!(parse_filter("warn,tidegate_ca=debug").is_ok());
        let error = parse_filter("tidegate=loud").unwrap_err().to_string();
        assert!(error.contains("`tidegate=loud`"), "{error}");
    }
}
