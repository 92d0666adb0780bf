//! Why a request is decided as it is: of each policy that concerns the service, the parts that do not hold.
//!
//! A policy is taken apart into its [`clauses`], and each part is evaluated by Cedar as an expression of its own.

mod change;
mod phrase;
mod reads;
mod report;

use cedar_policy::{Expression, pst};
use model::decision::Opinion;
use model::{Attributes, Value};

pub use change::{Change, Verified, Want};
pub use report::{json, text};

use crate::author::unit_test::Answer;
use crate::bundle::clauses::{self, CameTo, Clauses, Condition, Kind, Part, Place};
use crate::bundle::{Bundle, Files};
use crate::engine::{self, Evaluation, InputError, RequestError};

/// A decision, and how each policy that concerns the service came to it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What the policies say.
    pub answer: Answer,
    /// What it would be with the shadow policies enforced, if the bundle has any.
    pub shadow: Option<Opinion>,
    /// The policies that concern the service, by id: forbids first, shadow policies last.
    pub policies: Vec<Explained>,
    /// How many policies are for other services.
    pub others: usize,
    /// What would have to change for the request to be decided the other way.
    pub changes: Vec<Change>,
}

/// One policy.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Its id.
    pub id: String,
    /// Whether it permits or forbids what satisfies it.
    pub kind: Kind,
    /// Whether it is tried and not enforced: it has no part in the decision.
    pub is_shadow: bool,
    /// Where it stands.
    pub place: Place,
    /// The parts that keep it from being satisfied. It is satisfied if there are none.
    pub unmet: Vec<Unmet>,
}

/// A part of a policy that keeps it from being satisfied: one that does not hold or, of an `unless` all of whose parts
/// hold, each of these.
#[derive(Clone, Debug)]
pub struct Unmet {
    /// The part.
    pub part: Part,
    /// What it evaluates to.
    pub came_to: CameTo,
    /// What it reads, and the values of that in this request.
    pub values: Vec<(String, String)>,
}

/// Why a request can't be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The attributes make no Cedar request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The files are not those of the bundle.
    #[error("{0}")]
    Files(#[from] daemon::Findings),
}

/// Explains what `bundle`, which was loaded from `files`, says of a request.
///
/// # Errors
/// When the attributes make no Cedar request.
pub fn explain(bundle: &Bundle, files: &Files, attributes: &Attributes) -> Result<Explanation, ExplainError> {
    let evaluation = engine::evaluate(bundle, attributes)?;
    let all = clauses::read(files, &bundle.mesh)?.into_iter();
    let (mut concerned, others): (Vec<Clauses>, Vec<Clauses>) = all
        .filter(|clauses| matches!(clauses.kind, Kind::Permit | Kind::Forbid))
        .partition(|clauses| concerns(clauses, &evaluation));
    let order = |clauses: &Clauses| (clauses.is_shadow, clauses.kind, clauses.name.clone());
    concerned.sort_by_key(order);
    let enforced = concerned.partition_point(|clauses| !clauses.is_shadow);
    let deciding = concerned.get(..enforced).unwrap_or_default();
    Ok(Explanation {
        answer: Answer::from_evaluation(bundle, &evaluation),
        shadow: evaluation.shadow.clone(),
        others: others.len(),
        changes: change::changes(bundle, deciding, attributes, &evaluation),
        policies: concerned.into_iter().map(|clauses| explained(clauses, &evaluation)).collect(),
    })
}

fn concerns(clauses: &Clauses, evaluation: &Evaluation<'_>) -> bool {
    let mut resource = clauses.scope.iter().filter(|part| part.word == "resource");
    resource.all(|part| part.came_to(evaluation) == CameTo::True)
}

fn explained(clauses: Clauses, evaluation: &Evaluation<'_>) -> Explained {
    let mut unmet: Vec<Unmet> = Vec::new();
    let Clauses { name: id, kind, is_shadow, place, scope, conditions } = clauses;
    let scope = Condition { is_unless: false, parts: scope };
    for Condition { is_unless, parts } in std::iter::once(scope).chain(conditions) {
        let parts = parts.into_iter().map(|part| (part.came_to(evaluation), part));
        let mut parts: Vec<(CameTo, Part)> = parts.collect();
        if is_unless {
            keep_if_it_holds(&mut parts);
        } else {
            parts.retain(|(came_to, _)| *came_to != CameTo::True);
        }
        for (came_to, part) in parts {
            // Cedar evaluates from left to right and stops at what does not hold: what fails behind that never failed.
            if !matches!(came_to, CameTo::Error(_)) || unmet.is_empty() {
                unmet.push(Unmet { values: values(&part, evaluation), part, came_to });
            }
        }
    }
    Explained { id, kind, is_shadow, place, unmet }
}

/// Of an `unless`: all of its parts if they all hold, the one that fails if Cedar gets there, else none.
fn keep_if_it_holds(parts: &mut Vec<(CameTo, Part)>) {
    match parts.iter().position(|(came_to, _)| *came_to != CameTo::True) {
        None => {}
        Some(stop) => {
            parts.truncate(stop + 1);
            let last = parts.drain(..).next_back().filter(|(came_to, _)| *came_to != CameTo::False);
            parts.extend(last);
        }
    }
}

/// What a part reads, and the values of that.
fn values(part: &Part, evaluation: &Evaluation<'_>) -> Vec<(String, String)> {
    // A node that the public syntax tree does not know is evaluated, but its values are not shown.
    let Ok(tree) = pst::Expr::try_from(part.expr().clone()) else { return Vec::new() };
    let names = reads::of(&tree).into_iter();
    let shown = names.map(|name| {
        let value = value(&name, evaluation);
        (name, value)
    });
    shown.collect()
}

/// The value of an attribute, as Cedar would write it.
fn value(name: &str, evaluation: &Evaluation<'_>) -> String {
    let Ok(expression) = name.parse::<Expression>() else { return "unknown".to_owned() };
    match evaluation.input(&expression) {
        Ok(Value::Text(text)) => serde_json::Value::from(text).to_string(),
        Ok(other) => other.to_string(),
        Err(InputError::NotSimple(text)) => text,
        Err(InputError::Evaluation(_)) => "absent".to_owned(),
    }
}

#[cfg(test)]
mod tests;
