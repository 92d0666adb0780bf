//! `*.cedar`: the access policies.

use std::collections::BTreeMap;
use std::str::FromStr;

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use daemon::finding::Findings;

use super::cedar_text::Place;
use super::files::Files;

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
        let mut warnings = Findings::new();
        for warning in result.validation_warnings() {
            if let Some(place) = self.places.get(warning.policy_id()) {
                place.diagnose(warning, &mut warnings);
            }
        }
        findings.extend(warnings.iter().map(|finding| finding.clone().as_warning()));
    }
}

/// Cedar calls the policies of one text `policy0`, `policy1`, ... in their order.
fn number(policy: &Policy) -> Option<usize> {
    policy.id().to_string().strip_prefix("policy")?.parse().ok()
}
