//! A bundle: what a policy author writes, read and checked as a whole.
//!
//! All mistakes of all files are found at once, and a bundle with a mistake is no [`Bundle`].

mod cedar_file;
pub mod cedar_text;
pub mod clauses;
pub mod conditions;
pub mod decision_log;
pub mod entities;
pub mod expression;
pub mod files;
mod jwt;
pub mod limits;
pub mod links;
mod loader;
pub mod mesh;
mod narrowed;
pub mod operations;
pub mod policies;
pub mod rules;
pub mod schema;
pub mod scope;
mod scoped_atoms;
mod shadow;
mod statement;
mod validation;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cedar_policy::{Entities, PolicySet};
use daemon::finding::Findings;
use model::AtomSet;

pub use cedar_file::{Source, Spot};
pub(crate) use conditions::Conditions;
pub use files::Files;
pub use loader::Loader;
pub use mesh::Mesh;
pub use policies::{Policies, Policy};
pub use schema::Schemas;
pub use statement::Statement;

use crate::engine::index::Index;
use crate::engine::strangers::Strangers;
use limits::ServiceLimit;
use rules::Rules;

/// A bundle without mistakes.
#[derive(Debug)]
pub struct Bundle {
    /// The folder it came from: what relative file names start from.
    pub folder: PathBuf,
    /// The mesh.
    pub mesh: Mesh,
    /// The access policies.
    pub policies: Policies,
    /// The conditions of limits and rules: policies that are satisfied when the condition holds.
    pub conditions: PolicySet,
    /// The access policies, for evaluation.
    pub policies_index: Index,
    /// The access policies that are tried and not enforced, for evaluation.
    pub shadows_index: Index,
    /// The conditions, for evaluation.
    pub conditions_index: Index,
    /// What policies may read.
    pub schemas: Schemas,
    /// Workloads, services, namespaces, and what the author adds.
    pub entities: Entities,
    /// What the author adds to them.
    pub said: entities::Said,
    /// What is left of `entities` for callers that are not among them.
    pub strangers: Strangers,
    /// The limits, by name.
    pub limits: Vec<ServiceLimit>,
    /// The handlers and rules.
    pub rules: Rules,
    /// The atoms by service: what a proxy has to look at.
    pub atoms: BTreeMap<String, AtomSet>,
    /// What its author may have meant otherwise.
    pub warnings: Findings,
}

impl Bundle {
    /// Reads and checks a bundle. A [`Loader`] that is kept does the same, and faster each time but the first.
    ///
    /// # Errors
    /// Every mistake in every file.
    pub fn load(files: &Files) -> Result<Self, Findings> {
        Loader::default().load(files)
    }

    /// The limit called `name`. O(log limits).
    pub fn limit(&self, name: &str) -> Option<&ServiceLimit> {
        let place = self.limits.binary_search_by_key(&name, |limit| limit.limit.name.as_str()).ok()?;
        self.limits.get(place)
    }
}

/// Reads the conditions of limits and rules. What is wrong with them is told by [`Bundle::load`], too.
pub(crate) fn read_conditions<'a>(
    files: &'a Files,
    mesh: &Mesh,
    conditions: &mut Conditions<'a>,
    findings: &mut Findings,
) {
    let text = |name| files.text(name).unwrap_or_default();
    limits::read(text(limits::FILE), mesh, conditions, findings);
    rules::Parsed::read(text(rules::FILE), &files.folder, mesh, conditions, findings);
}
