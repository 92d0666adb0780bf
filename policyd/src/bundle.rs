//! A bundle: what a policy author writes, read and checked as a whole.
//!
//! All mistakes of all files are found at once, and a bundle with a mistake is no [`Bundle`].

pub mod cedar_text;
pub mod clauses;
pub mod decision_log;
pub mod entities;
pub mod expression;
pub mod files;
pub mod limits;
pub mod mesh;
pub mod policies;
pub mod rules;
pub mod schema;
mod scoped_atoms;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cedar_policy::{Entities, PolicySet};
use daemon::finding::{Finding, Findings};
use model::{AtomSet, Name};

pub use files::Files;
pub use mesh::Mesh;
pub use schema::Schemas;

use crate::atoms::Derived;
use crate::engine::index::Index;
use limits::ServiceLimit;
use policies::Policies;
use rules::Rules;
use scoped_atoms::ScopedAtoms;

/// A bundle without mistakes.
#[derive(Debug)]
pub struct Bundle {
    /// The folder it came from: what relative file names start from.
    pub folder: PathBuf,
    /// The mesh.
    pub mesh: Mesh,
    /// The access policies.
    pub policies: PolicySet,
    /// The conditions of limits and rules: policies that are satisfied when the condition holds.
    pub conditions: PolicySet,
    /// The access policies, for evaluation.
    pub policies_index: Index,
    /// The conditions, for evaluation.
    pub conditions_index: Index,
    /// What policies may read.
    pub schemas: Schemas,
    /// Workloads, services, namespaces, and what the author adds.
    pub entities: Entities,
    /// The rate limits.
    pub limits: Vec<ServiceLimit>,
    /// The handlers and rules.
    pub rules: Rules,
    /// The atoms by service: what a proxy has to look at.
    pub atoms: BTreeMap<String, AtomSet>,
    /// What its author may have meant otherwise.
    pub warnings: Findings,
}

impl Bundle {
    /// Reads and checks a bundle.
    ///
    /// # Errors
    /// Every mistake in every file.
    pub fn load(files: &Files) -> Result<Self, Findings> {
        let mut findings = Findings::new();
        files.check_names(&mut findings);
        let policies = Policies::read(files, &mut findings);
        let Some(mesh) = read_mesh(files, &mut findings) else { return Err(findings) };
        let mut conditions = Policies::default();
        let text = |name| files.text(name).unwrap_or_default();
        let limits = limits::read(text(limits::FILE), &mesh, &mut conditions, &mut findings);
        let adapters =
            rules::Parsed::read(text(rules::FILE), &files.folder, &mesh, &mut conditions, &mut findings);
        let mut atoms = ScopedAtoms::default();
        atoms.add(&policies.set);
        atoms.add(&conditions.set);
        let names = read_names(&atoms, &adapters, &limits);
        lower_case_headers(files, &names, &mut findings);
        decision_log::check(&mesh.decision_log, &names, text(mesh::FILE), &mut findings);
        let schemas = match schema::build(files.text(schema::FILE), names) {
            Ok(schemas) => schemas,
            Err(wrong) => {
                findings.merge(wrong);
                return Err(findings);
            }
        };
        policies.validate(&schemas.request, &mut findings);
        conditions.validate(&schemas.request, &mut findings);
        let rules = adapters.check(&schemas, &mut findings);
        let entities = entities::build(&mesh, files.text(entities::FILE), &schemas.request, &mut findings);
        let Some(entities) = entities.filter(|_| !findings.has_errors()) else { return Err(findings) };
        rules.derive(atoms.of_all());
        let of_service = |name: &String| (name.clone(), atoms.of_service(name, &entities));
        Ok(Self {
            folder: files.folder.clone(),
            atoms: mesh.services.keys().map(of_service).collect(),
            mesh,
            policies_index: Index::new(&policies.set),
            conditions_index: Index::new(&conditions.set),
            policies: policies.set,
            conditions: conditions.set,
            schemas,
            entities,
            limits,
            rules,
            warnings: findings,
        })
    }
}

/// Reads the conditions of limits and rules. What is wrong with them is told by [`Bundle::load`], too.
pub(crate) fn read_conditions<'a>(
    files: &'a Files,
    mesh: &Mesh,
    conditions: &mut Policies<'a>,
    findings: &mut Findings,
) {
    let text = |name| files.text(name).unwrap_or_default();
    limits::read(text(limits::FILE), mesh, conditions, findings);
    rules::Parsed::read(text(rules::FILE), &files.folder, mesh, conditions, findings);
}

fn read_mesh(files: &Files, findings: &mut Findings) -> Option<Mesh> {
    let Some(source) = files.text(mesh::FILE) else {
        let finding = Finding::in_file(mesh::FILE, "the bundle has no mesh.yaml");
        findings.push(
            finding.with_help("it names the trust domain and the services; see policies/bookinfo for one"),
        );
        return None;
    };
    match mesh::parse(source) {
        Ok((mesh, warnings)) => {
            findings.merge(warnings);
            Some(mesh)
        }
        Err(wrong) => {
            findings.merge(wrong);
            None
        }
    }
}

/// A header's name in capitals is a condition that never holds.
fn lower_case_headers(files: &Files, names: &BTreeSet<Name>, findings: &mut Findings) {
    for name in names {
        let Name::Header(header) = name else { continue };
        if !header.bytes().any(|b| b.is_ascii_uppercase()) {
            continue;
        }
        let message = format!("there is never a header `{header}`: names of headers are in lower case here");
        let found =
            files.texts.iter().find_map(|(file, text)| Some((file, text, text.find(header.as_str())?)));
        let finding = match found {
            Some((file, text, start)) => Finding::at(file, text, start..start + header.len(), message),
            None => Finding::in_file(mesh::FILE, message),
        };
        findings.push(finding.with_help(format!("write `{}`", header.to_ascii_lowercase())));
    }
}

/// The headers, query parameters, cookies and claims that something reads.
fn read_names(atoms: &ScopedAtoms, adapters: &rules::Parsed<'_>, limits: &[ServiceLimit]) -> BTreeSet<Name> {
    let mut inputs = Derived::default();
    adapters.derive(&mut inputs);
    limits.iter().flat_map(|limit| &limit.limit.key).for_each(|operand| inputs.operand(operand));
    let read = atoms.iter().chain([&inputs]).flat_map(|derived| &derived.atoms).map(|atom| &atom.name);
    read.filter(|name| name.field().is_some()).cloned().collect()
}
