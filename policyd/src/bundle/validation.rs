//! What Cedar's validator says of policies, in our words.

use std::collections::BTreeSet;

use cedar_policy::{PolicyId, ValidationResult, ValidationWarning};
use daemon::finding::{Finding, Findings};

use super::cedar_text::Place;
use crate::author::lint::{Lint, accepts};

/// What the validator says of policies that stand at the places that `place` tells; what it only suspects is a warning,
/// unless `allowed`, the text of `@allow`, accepts it.
pub(super) fn findings<'a>(
    result: &ValidationResult,
    place: impl Fn(&PolicyId) -> Option<Place<'a>>,
    allowed: Option<&str>,
) -> Findings {
    let mut findings = Findings::new();
    for error in result.validation_errors() {
        if let Some(place) = place(error.policy_id()) {
            place.diagnose(error, &mut findings);
        }
    }
    let is_application = |warning: &&ValidationWarning| lint_of(warning) == Lint::InapplicableScope;
    let inapplicable: BTreeSet<&PolicyId> =
        result.validation_warnings().filter(is_application).map(ValidationWarning::policy_id).collect();
    for warning in result.validation_warnings().filter(|warning| !accepts(allowed, lint_of(warning))) {
        // Without an action, the validator calls it impossible, too.
        if !is_application(&warning) && inapplicable.contains(warning.policy_id()) {
            continue;
        }
        if let Some(place) = place(warning.policy_id()) {
            findings.push(suspicion(warning, &place));
        }
    }
    findings
}

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
