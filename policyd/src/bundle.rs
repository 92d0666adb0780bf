//! A bundle: what a policy author writes, read and checked as a whole.
//!
//! All mistakes of all files are found at once, and a bundle with a mistake is no [`Bundle`].

pub mod cedar_text;
pub mod entities;
pub mod expression;
pub mod files;
pub mod limits;
pub mod mesh;
pub mod policies;
pub mod rules;
pub mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cedar_policy::pst::{EntityOrSlot, Policy as Pst, ResourceConstraint, Template};
use cedar_policy::{Entities, EntityUid, PolicySet};
use daemon::finding::{Finding, Findings};
use model::{AtomSet, Name};

pub use files::Files;
pub use mesh::Mesh;
pub use schema::Schemas;

use crate::atoms::Derived;
use limits::ServiceLimit;
use policies::Policies;
use rules::Rules;

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
        let mut everything = Derived::default();
        trees(&policies.set).chain(trees(&conditions.set)).flatten().for_each(|p| everything.policy(&p));
        adapters.derive(&mut everything);
        limits.iter().flat_map(|limit| &limit.limit.key).for_each(|operand| everything.operand(operand));
        let names = declared(&everything);
        lower_case_headers(files, &names, &mut findings);
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
        let mut bundle = Self {
            folder: files.folder.clone(),
            atoms: BTreeMap::new(),
            mesh,
            policies: policies.set,
            conditions: conditions.set,
            schemas,
            entities,
            limits,
            rules,
            warnings: findings,
        };
        bundle.atoms =
            bundle.mesh.services.keys().map(|name| (name.clone(), bundle.atoms_of(name))).collect();
        Ok(bundle)
    }

    /// The atoms of every policy and condition that may concern `service`.
    fn atoms_of(&self, service: &str) -> AtomSet {
        let mut derived = Derived::default();
        for policy in trees(&self.policies).chain(trees(&self.conditions)) {
            match policy {
                Some(policy) if self.may_concern(&policy, service) => derived.policy(&policy),
                Some(_) => {}
                None => derived.reads_everything = true,
            }
        }
        self.rules.derive(&mut derived);
        AtomSet::new(derived.atoms, !derived.reads_everything)
    }

    /// False only if the policy's scope rules the service out, so that it is never satisfied and never fails.
    fn may_concern(&self, policy: &Template, service: &str) -> bool {
        let is = |entity: &EntityOrSlot, test: fn(&Self, &EntityUid, &EntityUid) -> bool| {
            let EntityOrSlot::Entity(uid) = entity else { return true };
            let (Ok(scope), Some(service)) = (uid.to_string().parse::<EntityUid>(), service_uid(service))
            else {
                return true;
            };
            test(self, &scope, &service)
        };
        match &policy.resource {
            ResourceConstraint::Eq(entity) => is(entity, |_, scope, service| scope == service),
            ResourceConstraint::In(entity) | ResourceConstraint::IsIn(_, entity) => {
                is(entity, |bundle, scope, service| {
                    scope == service || bundle.entities.is_ancestor_of(scope, service)
                })
            }
            ResourceConstraint::Any | ResourceConstraint::Is(_) => true,
        }
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
    match mesh::parse(source) {
        Ok(mesh) => Some(mesh),
        Err(wrong) => {
            findings.merge(wrong);
            None
        }
    }
}

/// The policies as syntax trees; nothing for one that can't be shown so, and may read anything.
fn trees(set: &PolicySet) -> impl Iterator<Item = Option<Template>> {
    set.policies().map(|policy| match policy.to_pst() {
        Ok(Pst::Static(policy)) => Some(policy.body().clone()),
        Ok(Pst::Linked(_)) | Err(_) => None,
    })
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

/// The headers and query parameters that something reads.
fn declared(derived: &Derived) -> BTreeSet<Name> {
    derived.atoms.iter().map(|atom| &atom.name).filter(|name| name.is_optional()).cloned().collect()
}

fn service_uid(name: &str) -> Option<EntityUid> {
    Some(EntityUid::from_type_name_and_id("Service".parse().ok()?, cedar_policy::EntityId::new(name)))
}
