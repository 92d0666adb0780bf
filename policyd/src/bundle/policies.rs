//! The access policies of a bundle: what each one says, what it is called, and where it stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::{PolicySet, pst};
use cedar_policy_core::ast::{
    self, EntityReference, EntityUID, PolicyID, PrincipalOrResourceConstraint, SlotId,
};
use cedar_policy_core::parser::{parse_policy_or_template, parse_policy_or_template_to_est_and_ast};
use cedar_policy_core::validator::Validator;
use daemon::finding::Findings;
use rayon::prelude::*;

use super::cedar_file::{CedarFile, Spot};
use super::shadow;
use super::statement::Statement;
use crate::engine::index::{Index, Slots};

/// The annotation that names a policy: `@id("ratings-from-reviews")`.
const ID_ANNOTATION: &str = "id";
/// The longest id of a policy, in bytes.
const ID_LENGTH_MAX: usize = 256;

/// The policies and templates of a bundle.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    policies: Vec<Policy>,
    /// Those that are tried, and not enforced.
    shadows: Vec<Policy>,
    templates: Vec<Policy>,
    /// The places of policies in `policies`, sorted by id.
    by_id: Vec<u32>,
}

/// One access policy: a statement, or a link that fills the slots of a template.
#[derive(Clone, Debug)]
pub struct Policy {
    id: Arc<str>,
    statement: Arc<Statement>,
    spot: Spot,
    link: Option<Arc<Link>>,
}

/// What fills the slots of a template.
#[derive(Debug)]
pub struct Link {
    /// The template.
    pub template: Arc<Policy>,
    /// What `?principal` stands for.
    pub principal: Option<Arc<EntityUID>>,
    /// What `?resource` stands for.
    pub resource: Option<Arc<EntityUID>>,
}

impl Policy {
    pub(super) fn link(id: Arc<str>, spot: Spot, link: Arc<Link>) -> Self {
        Self { id, statement: link.template.statement.clone(), spot, link: Some(link) }
    }

    /// What it is called.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it stands: a link in `links.yaml`.
    pub const fn spot(&self) -> &Spot {
        &self.spot
    }

    /// What it says; of a link, what its template says.
    pub const fn statement(&self) -> &Arc<Statement> {
        &self.statement
    }

    /// What fills the slots, if it is a link.
    pub fn slots(&self) -> Option<&Link> {
        self.link.as_deref()
    }

    /// Whether it permits or forbids what satisfies it.
    pub fn effect(&self) -> ast::Effect {
        self.statement.template().effect()
    }

    /// The value of an annotation; of a link, of the template's. Empty for one without a value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.statement.annotation(key)
    }

    /// It as Cedar's syntax tree, its slots filled.
    pub fn to_ast(&self) -> ast::Template {
        let written = self.statement.template();
        let filled = |constraint: &PrincipalOrResourceConstraint,
                      pick: fn(&Link) -> &Option<Arc<EntityUID>>| {
            filled(constraint, self.slots().and_then(|link| pick(link).as_ref()))
        };
        ast::Template::new_shared(
            PolicyID::from_string(&*self.id),
            None,
            written.annotations_arc().clone(),
            written.effect(),
            ast::PrincipalConstraint::new(filled(written.principal_constraint().as_inner(), |link| {
                &link.principal
            })),
            written.action_constraint().clone(),
            ast::ResourceConstraint::new(filled(written.resource_constraint().as_inner(), |link| {
                &link.resource
            })),
            written.non_scope_constraints_arc().cloned(),
        )
    }

    /// It as Cedar's public type, its slots filled, without places.
    pub fn to_cedar(&self) -> Option<cedar_policy::Policy> {
        ast::Template::try_as_policy(Arc::new(self.to_ast())).ok().map(Into::into)
    }

    /// It as Cedar's public type with the places in [`Self::written`], a link as a link. Parses the text again.
    pub fn to_written(&self) -> Option<cedar_policy::Policy> {
        let id = PolicyID::from_string(&*self.id);
        let template = Arc::new(parse_policy_or_template(Some(id.clone()), self.written().text()).ok()?);
        let Some(link) = self.slots() else {
            return ast::Template::try_as_policy(template).ok().map(Into::into);
        };
        let slot = |slot: SlotId, uid: &Option<Arc<EntityUID>>| Some((slot, uid.as_deref()?.clone()));
        let slots = [slot(SlotId::principal(), &link.principal), slot(SlotId::resource(), &link.resource)];
        ast::Template::link(template, id, slots.into_iter().flatten().collect()).ok().map(Into::into)
    }

    /// Where its text stands; of a link, its template's.
    pub fn written(&self) -> &Spot {
        self.slots().map_or(&self.spot, |link| &link.template.spot)
    }

    /// It as the tree that shows `when` and `unless` as they were written, its slots filled. Parses the text again.
    pub fn tree(&self) -> Option<pst::Template> {
        let (written, _) = parse_policy_or_template_to_est_and_ast(None, self.written().text()).ok()?;
        let mut tree = pst::Template::try_from(written).ok()?;
        let slot =
            |slot: SlotId, uid: &Option<Arc<EntityUID>>| Some((slot.into(), uid.as_deref()?.clone().into()));
        let slots = self.slots().map(|link| {
            [slot(SlotId::principal(), &link.principal), slot(SlotId::resource(), &link.resource)]
        });
        let slots = slots.into_iter().flatten().flatten().collect();
        tree.id = PolicyID::from_string(&*self.id).into();
        tree.principal = tree.principal.link(&slots).ok()?;
        tree.resource = tree.resource.link(&slots).ok()?;
        Some(tree)
    }
}

/// A constraint with `value` in place of its slot.
fn filled(
    constraint: &PrincipalOrResourceConstraint,
    value: Option<&Arc<EntityUID>>,
) -> PrincipalOrResourceConstraint {
    use PrincipalOrResourceConstraint::{Eq, In, IsIn};
    let Some(value) = value else { return constraint.clone() };
    let value = EntityReference::EUID(value.clone());
    match constraint {
        Eq(EntityReference::Slot(_)) => Eq(value),
        In(EntityReference::Slot(_)) => In(value),
        IsIn(kind, EntityReference::Slot(_)) => IsIn(kind.clone(), value),
        other => other.clone(),
    }
}

impl Policies {
    /// The policies and templates of `files`, without links. A policy is called by its `@id`, else
    /// `<file>#<number>`, counted from 1.
    pub(super) fn of(files: &BTreeMap<String, Arc<CedarFile>>, findings: &mut Findings) -> Self {
        let mut all = Self::default();
        for file in files.values() {
            findings.add_source(file.source.file.clone(), file.source.text.clone());
            findings.extend(file.findings.iter().cloned());
            for (spot, number, statement) in &file.statements {
                let mut policy = Policy {
                    id: Arc::from(""),
                    statement: statement.clone(),
                    spot: spot.clone(),
                    link: None,
                };
                policy.id = match policy.annotation(ID_ANNOTATION).filter(|id| !id.is_empty()) {
                    Some(id) => id.into(),
                    None => format!("{}#{number}", file.source.file).into(),
                };
                check_id(&policy.id, spot, findings);
                if statement.is_template() { &mut all.templates } else { &mut all.policies }.push(policy);
            }
        }
        all
    }

    /// Adds links, and makes sure that no two policies have one id.
    pub(super) fn with_links(mut self, links: Vec<Policy>, findings: &mut Findings) -> Self {
        let (shadows, enforced) =
            self.policies.into_iter().chain(links).partition(|policy| shadow::is_one(policy, findings));
        (self.policies, self.shadows) = (enforced, shadows);
        self.policies.shrink_to_fit();
        let mut known: Vec<(&str, usize, &Policy)> = self
            .policies
            .iter()
            .zip(0usize..)
            .map(|(policy, place)| (policy.id(), place, policy))
            .chain(self.templates.iter().chain(&self.shadows).map(|other| (other.id(), usize::MAX, other)))
            .collect();
        known.par_sort_by_key(|(id, place, _)| (*id, *place));
        for pair in known.windows(2) {
            let [(first, _, one), (second, _, other)] = pair else { continue };
            if first == second {
                let finding = other.spot.finding(format!("duplicate template or policy id `{second}`"));
                findings.push(finding.with_help(format!(
                    "give each policy an id of its own; the other one is in {} at line {}",
                    one.spot.file(),
                    one.spot.line()
                )));
            }
        }
        let places = known.into_iter().filter_map(|(_, place, _)| u32::try_from(place).ok());
        self.by_id = places.filter(|place| *place != u32::MAX).collect();
        self
    }

    /// The policies that are enforced, in the order of files, those of links last.
    pub fn policies(&self) -> std::slice::Iter<'_, Policy> {
        self.policies.iter()
    }

    /// The policies that are tried, and not enforced.
    pub fn shadows(&self) -> std::slice::Iter<'_, Policy> {
        self.shadows.iter()
    }

    /// The policies that are enforced, sorted by id.
    pub fn by_id(&self) -> impl Iterator<Item = &Policy> {
        self.by_id.iter().filter_map(|place| self.policies.get(*place as usize))
    }

    /// The templates.
    pub fn templates(&self) -> std::slice::Iter<'_, Policy> {
        self.templates.iter()
    }

    /// How many policies are enforced, links included and templates not.
    pub const fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether none is.
    pub const fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The enforced policy called `id`. O(log policies).
    pub fn policy(&self, id: &str) -> Option<&Policy> {
        let policy = |place: u32| self.policies.get(place as usize);
        let found =
            self.by_id.binary_search_by(|place| policy(*place).map_or("", Policy::id).cmp(id)).ok()?;
        self.by_id.get(found).and_then(|place| policy(*place))
    }

    /// What is enforced for Cedar's own tools, links as the policies that they amount to. O(policies), and large.
    pub fn to_set(&self) -> PolicySet {
        // No two have one id, so there is nothing to refuse.
        PolicySet::from_policies(self.policies().filter_map(Policy::to_cedar)).unwrap_or_default()
    }

    /// What is enforced, for evaluation.
    pub fn index(&self) -> Index {
        Index::of(self.policies().map(Policy::entry))
    }

    /// What is only tried, for evaluation.
    pub fn shadows_index(&self) -> Index {
        Index::of(self.shadows().map(Policy::entry))
    }

    /// Checks every statement strictly against a schema; what the validator only suspects is a warning.
    pub(super) fn validate(&self, validator: &Validator, schema: u64, findings: &mut Findings) {
        let policies = self.policies().chain(self.shadows()).filter(|policy| policy.link.is_none());
        let written: Vec<&Policy> = self.templates().chain(policies).collect();
        let told: Vec<_> = written
            .into_par_iter()
            .flat_map_iter(|policy| {
                let told = policy.statement.validate(&policy.id, policy.spot.text(), validator, schema);
                told.into_iter().map(|finding| policy.spot.placed(finding))
            })
            .collect();
        findings.extend(told);
    }
}

impl Policy {
    /// It as an index takes it.
    pub fn entry(&self) -> crate::engine::index::Entry<'_> {
        crate::engine::index::Entry {
            id: self.id.clone(),
            template: self.statement.template(),
            condition: self.statement.condition().cloned(),
            slots: Slots {
                principal: self.slots().and_then(|link| link.principal.as_ref()),
                resource: self.slots().and_then(|link| link.resource.as_ref()),
            },
        }
    }
}

/// Adds what is wrong with an id.
pub(super) fn check_id(id: &str, spot: &Spot, findings: &mut Findings) {
    if id.len() > ID_LENGTH_MAX || id.chars().any(char::is_control) {
        let message = format!("an id has up to {ID_LENGTH_MAX} bytes on one line: {id:?}");
        findings.push(spot.finding(message).with_help("it is told to callers and written to logs"));
    }
}
