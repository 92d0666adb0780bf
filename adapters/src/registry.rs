//! All adapters, by name. A new adapter is one file, and one line here.

use crate::config::did_you_mean;
use crate::contract::Adapter;
use crate::{denier, file, list, prometheus, stdio};

/// The adapters that come with Tidegate.
pub static BUILT_IN: [&dyn Adapter; 5] =
    [&denier::Denier, &list::List, &stdio::Stdio, &file::File, &prometheus::Prometheus];

/// No adapter has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no adapter `{name}`")]
pub struct UnknownAdapter {
    /// The name asked for.
    pub name: String,
    /// What to do about it.
    pub help: String,
}

/// The adapter called `name`.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> Result<&'static dyn Adapter, UnknownAdapter> {
    BUILT_IN.into_iter().find(|adapter| adapter.name() == name).ok_or_else(|| {
        let names = || BUILT_IN.iter().map(|adapter| adapter.name());
        let help = match did_you_mean(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "it is one of {}",
                names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            ),
        };
        UnknownAdapter { name: name.to_owned(), help }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_found_by_name() {
        for adapter in BUILT_IN {
            assert_eq!(find(adapter.name()).unwrap().name(), adapter.name());
        }
        let error = find("denyer").unwrap_err();
        assert_eq!(error.to_string(), "there is no adapter `denyer`");
        assert_eq!(error.help, "did you mean `denier`?");
        let help = find("x").unwrap_err().help;
        assert_eq!(help, "it is one of `denier`, `list`, `stdio`, `file`, `prometheus`");
    }

    #[tokio::test]
    async fn every_adapter_conforms() {
        for adapter in BUILT_IN {
            crate::conformance::check(adapter).await;
        }
    }
}
