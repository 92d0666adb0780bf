//! One policy or template of a Cedar file, apart from its id and from where it stands: what a reload keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cedar_policy::{ValidationResult, pst};
use cedar_policy_core::ast::{self, Expr, PolicyID, PolicySet};
use cedar_policy_core::parser::{parse_policy_or_template, parse_policyset};
use cedar_policy_core::validator::{ValidationMode, Validator};
use daemon::finding::{Finding, Findings};

use super::cedar_text::Place;
use super::validation;
use crate::atoms::{Derived, meaning};
use crate::author::lint::ALLOW;
use crate::engine::index::condition;

/// A policy or template as its text says it.
#[derive(Debug)]
pub struct Statement {
    /// Without an id, and without the places that Cedar's parser puts at every node: each would keep the text alive,
    /// and be counted up and down in every evaluation.
    template: ast::Template,
    condition: Option<Arc<Expr>>,
    derived: Derived,
    /// The number of the last schema that the validator had nothing to say under; 0 for none.
    clean_under: AtomicU64,
}

impl Statement {
    /// Reads the text of one statement.
    ///
    /// # Errors
    /// What Cedar's parser says, as if the statement were a file of its own.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<Finding>> {
        parse(text, "").map(Self::of)
    }

    /// Reads `count` statements that make up a text. Faster than one by one, for Cedar's lexer is built anew for each
    /// text.
    ///
    /// Nothing if Cedar's parser does not find so many, or has something to say: then one by one tells what.
    pub(super) fn parse_all(text: &str, count: usize) -> Option<Vec<Self>> {
        let set = parse_policyset(text).ok().filter(|set| set.all_templates().count() == count)?;
        // So Cedar calls the policies of one text, in their order.
        let ids = (0..count).map(|number| PolicyID::from_string(format!("policy{number}")));
        ids.map(|id| Some(Self::of(set.get_template(&id)?.new_id(PolicyID::from_string(""))))).collect()
    }

    fn of(parsed: ast::Template) -> Self {
        let (template, derived) = match pst::Template::try_from(parsed.clone()) {
            Ok(tree) => {
                let mut derived = Derived::default();
                derived.policy(&tree, &meaning);
                derived.atoms.shrink_to_fit();
                // The way there and back leaves the places behind, and nothing else: that is checked.
                let plain = ast::Template::try_from(tree).ok().filter(|plain| *plain == parsed);
                (plain.unwrap_or(parsed), derived)
            }
            // One that can't be shown as such a tree may read anything.
            Err(_) => (parsed, Derived { reads_everything: true, ..Derived::default() }),
        };
        let condition = condition(&template);
        Self { template, condition, derived, clean_under: AtomicU64::new(0) }
    }

    /// Whether it has slots, to be filled by links.
    pub fn is_template(&self) -> bool {
        self.template.slots().next().is_some()
    }

    /// Its syntax tree, whose id means nothing.
    pub fn template(&self) -> &ast::Template {
        &self.template
    }

    /// What is to be evaluated once its scope is known to fit.
    pub fn condition(&self) -> Option<&Arc<Expr>> {
        self.condition.as_ref()
    }

    /// The atoms of its conditions.
    pub fn derived(&self) -> &Derived {
        &self.derived
    }

    /// What the validator says of it under the schema called `number`, as if `text`, which it was made of, were a
    /// file of its own. Remembered if that is nothing.
    pub(super) fn validate(&self, id: &str, text: &str, validator: &Validator, number: u64) -> Vec<Finding> {
        if self.clean_under.load(Ordering::Relaxed) == number {
            return Vec::new();
        }
        let result = validator
            .validate(&set_of(self.template.new_id(PolicyID::from_string(id))), ValidationMode::Strict);
        if result.validation_errors().next().is_none() && result.validation_warnings().next().is_none() {
            self.clean_under.store(number, Ordering::Relaxed);
            return Vec::new();
        }
        // Once more, with the places.
        let parsed = match parse(text, id) {
            Ok(parsed) => parsed,
            Err(findings) => return findings,
        };
        let allowed = annotation(&parsed, ALLOW).map(ToOwned::to_owned);
        let result = ValidationResult::from(validator.validate(&set_of(parsed), ValidationMode::Strict));
        let findings = validation::findings(&result, |_| Some(Place::file("", text)), allowed.as_deref());
        if findings.is_empty() {
            self.clean_under.store(number, Ordering::Relaxed);
        }
        findings.iter().cloned().collect()
    }

    /// The value of an annotation. Empty for one without a value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        annotation(&self.template, key)
    }
}

fn annotation<'t>(template: &'t ast::Template, key: &str) -> Option<&'t str> {
    let (_, annotation) = template.annotations().find(|(known, _)| AsRef::<str>::as_ref(known) == key)?;
    Some(&annotation.val)
}

fn parse(text: &str, id: &str) -> Result<ast::Template, Vec<Finding>> {
    parse_policy_or_template(Some(PolicyID::from_string(id)), text).map_err(|errors| {
        let mut findings = Findings::new();
        Place::file("", text).diagnose(&errors, &mut findings);
        findings.iter().cloned().collect()
    })
}

/// A set of one. It can't refuse its only member.
fn set_of(template: ast::Template) -> PolicySet {
    let mut set = PolicySet::new();
    let template = Arc::new(template);
    let added = match ast::Template::try_as_policy(template.clone()) {
        Ok(policy) => set.add(policy),
        Err(_has_slots) => set.add_template(Arc::unwrap_or_clone(template)),
    };
    debug_assert!(added.is_ok());
    set
}
