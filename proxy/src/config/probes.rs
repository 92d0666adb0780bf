//! `probes`: what an orchestrator may ask of the application in the clear.

use http::uri::PathAndQuery;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::Reader;
use crate::probes::Probes;

/// The most paths.
const PATHS_MAX: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProbes {
    listen: Spanned<String>,
    paths: Spanned<Vec<String>>,
}

impl Reader<'_> {
    pub(super) fn probes(&mut self, raw: Option<RawProbes>) -> Option<Option<Probes>> {
        let Some(RawProbes { listen, paths }) = raw else { return Some(None) };
        let listen = self.socket(&listen);
        if paths.value.is_empty() || paths.value.len() > PATHS_MAX {
            return self.wrong(&paths, format!("name 1 to {PATHS_MAX} paths"));
        }
        let is_path = |path: &&String| {
            path.starts_with('/') && path.parse::<PathAndQuery>().is_ok_and(|read| read.as_str() == **path)
        };
        if let Some(path) = paths.value.iter().find(|path| !is_path(path)) {
            return self.wrong(&paths, format!("`{path}` is no path, such as `/healthz`"));
        }
        Some(Some(Probes { listen: listen?, paths: paths.value }))
    }
}
