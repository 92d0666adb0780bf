//! `*.cedar`: the access policies.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, ValidationWarning, Validator};
use daemon::finding::{Finding, Findings};

use super::cedar_text::Place;
use super::files::Files;
use crate::lint::{Lint, accepts};

/// The annotation that names a policy: `@id("ratings-from-reviews")`.
const ID_ANNOTATION: &str = "id";
/// The longest id of a policy, in bytes.
const ID_LENGTH_MAX: usize = 256;

/// A set of policies, and where each one stands in the bundle.
#[derive(Debug, Default)]
pub struct Policies<'a> {
    /// The policies, by id.
    pub set: PolicySet,
    places: BTreeMap<PolicyId, Place<'a>>,
}

impl<'a> Policies<'a> {
    /// Reads every `*.cedar` file. A policy is called by its `@id`, else `<file>#<number>`, counted from 1.
    pub fn read(files: &'a Files, findings: &mut Findings) -> Self {
        let mut policies = Self::default();
        let cedar = files.texts.iter().filter(|(name, _)| name.ends_with(".cedar"));
        for (file, source) in cedar {
            findings.add_source(file.clone(), source.as_str());
            policies.read_file(Place::file(file, source), findings);
        }
        policies
    }

    fn read_file(&mut self, place: Place<'a>, findings: &mut Findings) {
        let parsed = match PolicySet::from_str(place.source) {
            Ok(parsed) => parsed,
            Err(errors) => return place.diagnose(&errors, findings),
        };
        if let Some(template) = parsed.templates().next() {
            let message =
                format!("`{}` is a template, and nothing in a bundle can fill its slots", template.id());
            findings.push(
                place.finding(message).with_help("write a policy for each principal, or use a `Group`"),
            );
        }
        let mut numbered: Vec<&Policy> = parsed.policies().collect();
        numbered.sort_by_key(|policy| number(policy));
        for (policy, number) in numbered.into_iter().zip(1usize..) {
            let id = policy.annotation(ID_ANNOTATION).filter(|id| !id.is_empty());
            let id = id.map_or_else(|| format!("{}#{number}", place.file), str::to_owned);
            if id.len() > ID_LENGTH_MAX || id.chars().any(char::is_control) {
                let message = format!("an id has up to {ID_LENGTH_MAX} bytes on one line: {id:?}");
                findings.push(place.finding(message).with_help("it is told to callers and written to logs"));
            }
            self.add(policy.new_id(PolicyId::new(&id)), place, findings);
        }
    }

    /// Adds a policy that stands at `place`.
    pub fn add(&mut self, policy: Policy, place: Place<'a>, findings: &mut Findings) {
        let id = policy.id().clone();
        match self.set.add(policy) {
            Ok(()) => {
                self.places.insert(id, place);
            }
            Err(error) => {
                findings.push(place.finding(error.to_string()).with_help("give each policy an id of its own"))
            }
        }
    }

    /// The policies and where they stand, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&Policy, Place<'a>)> {
        self.places.iter().filter_map(|(id, place)| Some((self.set.policy(id)?, *place)))
    }

    /// Checks every policy strictly against `schema`; what the validator only suspects is a warning.
    pub fn validate(&self, schema: &Schema, findings: &mut Findings) {
        let result = Validator::new(schema.clone()).validate(&self.set, ValidationMode::Strict);
        for error in result.validation_errors() {
            if let Some(place) = self.places.get(error.policy_id()) {
                place.diagnose(error, findings);
            }
        }
        let is_application = |warning: &&ValidationWarning| lint_of(warning) == Lint::InapplicableScope;
        let inapplicable: BTreeSet<&PolicyId> =
            result.validation_warnings().filter(is_application).map(ValidationWarning::policy_id).collect();
        for warning in result.validation_warnings() {
            // Without an action, the validator calls it impossible, too.
            if !is_application(&warning) && inapplicable.contains(warning.policy_id()) {
                continue;
            }
            let accepted =
                self.set.policy(warning.policy_id()).is_some_and(|policy| accepts(policy, lint_of(warning)));
            if let Some(place) = self.places.get(warning.policy_id()).filter(|_| !accepted) {
                findings.push(suspicion(warning, place));
            }
        }
    }
}

/// What the validator suspects, in our words.
fn suspicion(warning: &ValidationWarning, place: &Place<'_>) -> Finding {
    let id = warning.policy_id();
    let (message, help) = match warning {
        ValidationWarning::ImpossiblePolicy(_) => (
            format!("`{id}` is never satisfied: whatever the request, its condition is false"),
            "its types alone decide that: correct the condition, or remove the policy",
        ),
        ValidationWarning::InvalidActionApplication(_) => (
            format!("`{id}` is never satisfied: no action is for such a principal and resource"),
            "a principal is a `Workload` or in a group of them, a resource a `Service` or in a group of them",
        ),
        text => (text.to_string(), "write it in letters of one alphabet, without invisible characters"),
    };
    let finding = Finding::at(place.file, place.source, place.range(warning), message).with_help(help);
    finding.as_warning().with_lint(lint_of(warning).name())
}

const fn lint_of(warning: &ValidationWarning) -> Lint {
    match warning {
        ValidationWarning::ImpossiblePolicy(_) => Lint::ImpossibleCondition,
        ValidationWarning::InvalidActionApplication(_) => Lint::InapplicableScope,
        // Mixed alphabets and invisible characters; what comes new is told without a change here.
        _ => Lint::ConfusableText,
    }
}

/// Cedar calls the policies of one text `policy0`, `policy1`, ... in their order.
fn number(policy: &Policy) -> Option<usize> {
    policy.id().to_string().strip_prefix("policy")?.parse().ok()
}
