//! Loads bundles, one after the other, and does only once what does not change between them.
//!
//! What a statement says depends on its text alone; whether the validator accepts it depends on that and on the schema.
//! So both are kept with the statement, and a load after an edit parses and validates what the edit touched. Its
//! outcome is that of a load from nothing: `policyd/tests/loader.rs` has the proof.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy_core::ast::{Expr, ExprKind, Literal};
use cedar_policy_core::validator::Validator;
use daemon::finding::{Finding, Findings};
use model::limit::Cost;
use model::{Atom, Name};
use rayon::prelude::*;

use super::cedar_file::CedarFile;
use super::conditions::Conditions;
use super::limits::ServiceLimit;
use super::links::Links;
use super::policies::Policies;
use super::schema::Types;
use super::scoped_atoms::ScopedAtoms;
use super::{
    Bundle, Files, Mesh, Schemas, decision_log, entities, jwt, limits, mesh, narrowed, rules, schema,
};
use crate::atoms::Derived;
use crate::engine::index::Index;
use crate::engine::strangers::Strangers;

/// Loads bundles, and keeps what the next load may need again.
#[derive(Debug, Default)]
pub struct Loader {
    files: BTreeMap<String, Arc<CedarFile>>,
    links: Links,
    /// The schema of the last load that came so far, and its number, from 1.
    schema: Option<(serde_json::Value, u64)>,
}

impl Loader {
    /// Reads and checks a bundle.
    ///
    /// # Errors
    /// Every mistake in every file.
    pub fn load(&mut self, files: &Files) -> Result<Bundle, Findings> {
        let mut findings = Findings::new();
        let policies = self.read_policies(files, &mut findings);
        let mesh = read_mesh(files, &mut findings);
        files.check_names(mesh.as_ref().map(Mesh::documents).as_ref(), &mut findings);
        let Some(mesh) = mesh else { return Err(findings) };
        let mut conditions = Conditions::default();
        let text = |name| files.text(name).unwrap_or_default();
        let limits = limits::read(text(limits::FILE), &mesh, &mut conditions, &mut findings);
        let adapters =
            rules::Parsed::read(text(rules::FILE), &files.folder, &mesh, &mut conditions, &mut findings);
        let derived = conditions.derived();
        let mut atoms = ScopedAtoms::default();
        // Those of shadow policies, too: what they say is part of the decision.
        policies.policies().chain(policies.shadows()).for_each(|policy| atoms.add_policy(policy));
        derived.iter().for_each(|(template, derived)| atoms.add(template, None, derived));
        atoms.settle();
        // A template that nothing links reads nothing, but its names have to be declared for the validator.
        let unlinked = policies.templates().flat_map(|template| &template.statement().derived().atoms);
        let names = read_names(atoms.iter().chain(unlinked), &adapters, &limits);
        let types = Types::read(files.text(schema::FILE));
        lower_case_headers(files, &names.iter().chain(types.names()).collect(), &mut findings);
        decision_log::check(&mesh.decision_log, &names, text(mesh::FILE), &mut findings);
        jwt::unverified(files, &names, &mesh.services, &mut findings);
        let actions = mesh.actions();
        let named = if actions.is_empty() { BTreeSet::new() } else { named_actions(&policies, &conditions) };
        let schemas = match schema::build(files.text(schema::FILE), names, types, &actions, &named) {
            Ok(schemas) => schemas,
            Err(wrong) => {
                findings.merge(wrong);
                return Err(findings);
            }
        };
        self.validate(&policies, &schemas, &mut findings);
        conditions.validate(&schemas.request, &mut findings);
        let rules = adapters.check(&schemas, &mut findings);
        let entities = entities::build(&mesh, files.text(entities::FILE), &schemas.entities, &mut findings);
        let built = entities.as_ref().map(|(entities, _)| entities);
        narrowed::check(&policies, &conditions, &mesh, built, &mut findings);
        let Some((entities, said)) = entities.filter(|_| !findings.has_errors()) else {
            return Err(findings);
        };
        let conditions_index = Index::new(&conditions.set);
        let evaluated = policies
            .policies()
            .chain(policies.shadows())
            .filter_map(|policy| policy.statement().condition())
            .map(AsRef::as_ref)
            .chain(conditions_index.conditions())
            .chain(rules.expressions());
        let strangers = Strangers::new(&entities, evaluated)
            .map_err(|error| Finding::in_file(entities::FILE, format!("{:#}", anyhow::Error::from(error))))?;
        let of_rules = rules.derived(&schemas.types);
        let of_service =
            |name: &String| (name.clone(), atoms.of_service(name, &entities, &schemas.types, &of_rules));
        Ok(Bundle {
            folder: files.folder.clone(),
            atoms: mesh.services.keys().map(of_service).collect(),
            mesh,
            policies_index: policies.index(),
            shadows_index: policies.shadows_index(),
            conditions_index,
            conditions: conditions.set,
            policies,
            schemas,
            entities,
            said,
            strangers,
            limits,
            rules,
            warnings: findings,
        })
    }

    /// The policies of all files and links.
    pub(super) fn read_policies(&mut self, files: &Files, findings: &mut Findings) -> Policies {
        let cedar: Vec<_> = files.texts.iter().filter(|(name, _)| name.ends_with(".cedar")).collect();
        let before = std::mem::take(&mut self.files);
        let read = cedar
            .into_par_iter()
            .map(|(name, text)| (name.clone(), CedarFile::read(name, text, before.get(name))));
        self.files = read.collect();
        let policies = Policies::of(&self.files, findings);
        let links = self.links.read(
            files.text(super::links::FILE).unwrap_or_default(),
            policies.templates(),
            findings,
        );
        policies.with_links(links, findings)
    }

    fn validate(&mut self, policies: &Policies, schemas: &Schemas, findings: &mut Findings) {
        let number = match &self.schema {
            Some((text, number)) if *text == schemas.text => *number,
            before => before.as_ref().map_or(1, |(_, number)| number + 1),
        };
        self.schema = Some((schemas.text.clone(), number));
        let validator = Validator::new(schemas.request.as_ref().clone());
        policies.validate(&validator, number, findings);
        self.links.validate(policies, &validator, number, findings);
    }
}

fn read_mesh(files: &Files, findings: &mut Findings) -> Option<Mesh> {
    let Some(source) = files.text(mesh::FILE) else {
        let finding = Finding::in_file(mesh::FILE, "the bundle has no mesh.yaml");
        findings.push(
            finding.with_help("it names the trust domain and the services; see policies/bookinfo for one"),
        );
        return None;
    };
    match mesh::parse(source, files) {
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

/// The ids of the actions that policies and conditions name.
fn named_actions(policies: &Policies, conditions: &Conditions<'_>) -> BTreeSet<String> {
    let written = policies.policies().chain(policies.templates()).map(|policy| policy.statement().template());
    let mut named = BTreeSet::new();
    for template in written.chain(conditions.set.policies().map(|policy| policy.as_ref().template())) {
        let scope = template.action_constraint().iter_euids();
        let conditions = template.non_scope_constraints().into_iter().flat_map(Expr::subexpressions);
        let literals = conditions.filter_map(|expr| match expr.expr_kind() {
            ExprKind::Lit(Literal::EntityUID(uid)) => Some(uid.as_ref()),
            _ => None,
        });
        let actions = scope.chain(literals).filter(|uid| uid.is_action());
        named.extend(actions.map(|uid| uid.eid().as_ref().to_owned()));
    }
    named
}

/// A header's name in capitals is a condition that never holds.
fn lower_case_headers(files: &Files, names: &BTreeSet<&Name>, findings: &mut Findings) {
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
fn read_names<'a>(
    atoms: impl Iterator<Item = &'a Atom>,
    adapters: &rules::Parsed<'_>,
    limits: &[ServiceLimit],
) -> BTreeSet<Name> {
    let mut inputs = Derived::default();
    adapters.derive(&mut inputs);
    let costs = limits.iter().filter_map(|limit| match &limit.limit.cost {
        Cost::Attribute(operand) => Some(operand),
        _ => None,
    });
    let keys = limits.iter().flat_map(|limit| &limit.limit.key);
    keys.chain(costs).for_each(|operand| inputs.operand(operand));
    let read: BTreeSet<&Name> = atoms.map(|atom| &atom.name).filter(|name| name.field().is_some()).collect();
    let inputs = inputs.atoms.into_iter().map(|atom| atom.name).filter(|name| name.field().is_some());
    read.into_iter().cloned().chain(inputs).collect()
}
