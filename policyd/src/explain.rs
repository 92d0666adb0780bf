//! Why a request is decided as it is: of each policy that concerns the service, the parts that do not hold.
//!
//! A policy's scope and conditions are taken apart, and each part is evaluated by Cedar as an expression of its own.
//! Conditions are taken apart at their outermost `&&` only, whose value is the values of both sides.

mod place;
mod reads;
mod report;

use cedar_policy::Expression;
use cedar_policy::pst::{
    ActionConstraint, BinaryOp, Clause, Effect, Expr, Policy as Pst, PrincipalConstraint, ResourceConstraint,
    Template,
};
use model::{Attributes, Value, Verdict};

pub use report::{json, text};

use crate::bundle::{Bundle, Files};
use crate::engine::{self, Evaluation, InputError, RequestError};
use crate::unit_test::Answer;
use place::{Place, Places};

/// A decision, and how each policy that concerns the service came to it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What the policies say.
    pub answer: Answer,
    /// The policies that concern the service, by id: forbids first.
    pub policies: Vec<Explained>,
    /// How many policies are for other services.
    pub others: usize,
}

/// One policy.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Its id.
    pub id: String,
    /// Whether it permits or forbids what satisfies it.
    pub effect: Verdict,
    /// Where it stands.
    pub place: Option<Place>,
    /// The parts that keep it from being satisfied. It is satisfied if there are none.
    pub unmet: Vec<Unmet>,
}

/// A part of a policy that keeps it from being satisfied.
#[derive(Clone, Debug)]
pub struct Unmet {
    /// `principal`, `action`, `resource`, `when` or `unless`.
    pub part: &'static str,
    /// The part as its author wrote it, on one line.
    pub text: String,
    /// Where it stands.
    pub place: Option<Place>,
    /// What it evaluates to.
    pub came_to: CameTo,
    /// What it reads, and the values of that in this request.
    pub values: Vec<(String, String)>,
}

/// What a part evaluates to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CameTo {
    /// It holds, which keeps an `unless` from being satisfied.
    True,
    /// It does not hold.
    False,
    /// Its evaluation fails: why.
    Error(String),
}

/// Explains what `bundle`, which was loaded from `files`, says of a request.
///
/// # Errors
/// When the attributes make no Cedar request.
pub fn explain(bundle: &Bundle, files: &Files, attributes: &Attributes) -> Result<Explanation, RequestError> {
    let evaluation = engine::evaluate(bundle, attributes)?;
    let places = Places::of(files);
    let mut policies = Vec::new();
    let mut others = 0;
    for (id, policy) in templates(bundle) {
        if concerns(&policy, &evaluation) {
            policies.push(explained(&id, &policy, &places, &evaluation));
        } else {
            others += 1;
        }
    }
    policies.sort_by_key(|policy| (policy.effect == Verdict::Allow, policy.id.clone()));
    Ok(Explanation { answer: Answer::from_evaluation(bundle, &evaluation), policies, others })
}

/// The policies as syntax trees. The loader accepts no templates, and no policies in other forms than text.
fn templates(bundle: &Bundle) -> impl Iterator<Item = (String, Template)> {
    bundle.policies.policies().filter_map(|policy| match policy.to_pst() {
        Ok(Pst::Static(tree)) => Some((policy.id().to_string(), tree.body().clone())),
        Ok(Pst::Linked(_)) | Err(_) => None,
    })
}

fn concerns(policy: &Template, evaluation: &Evaluation<'_>) -> bool {
    match &policy.resource {
        ResourceConstraint::Any => true,
        constraint => came_to(&format!("resource {constraint}"), evaluation) == CameTo::True,
    }
}

fn explained(id: &str, policy: &Template, places: &Places, evaluation: &Evaluation<'_>) -> Explained {
    let source = places.get(id);
    let mut parts = Parts { unmet: Vec::new(), evaluation };
    if policy.principal != PrincipalConstraint::Any {
        let text = format!("principal {}", policy.principal);
        parts.scope("principal", text, source.and_then(|source| source.scope(0)));
    }
    if policy.action != ActionConstraint::Any {
        let text = format!("action {}", policy.action);
        parts.scope("action", text, source.and_then(|source| source.scope(1)));
    }
    for (number, clause) in policy.clauses().iter().enumerate() {
        let pieces = source.and_then(|source| source.clauses.get(number));
        match clause {
            Clause::When(condition) => {
                let mut conjuncts = Vec::new();
                split(condition, &mut conjuncts);
                // What the author wrote is shown only if it is taken apart as Cedar takes it apart.
                let pieces = pieces.filter(|pieces| pieces.conjuncts.len() == conjuncts.len());
                for (number, conjunct) in conjuncts.into_iter().enumerate() {
                    let written = pieces.and_then(|pieces| pieces.conjuncts.get(number));
                    parts.condition("when", conjunct, written, &CameTo::True);
                }
            }
            Clause::Unless(condition) => {
                parts.condition("unless", condition, pieces.map(|pieces| &pieces.whole), &CameTo::False);
            }
        }
    }
    let effect = match policy.effect {
        Effect::Permit => Verdict::Allow,
        Effect::Forbid => Verdict::Deny,
    };
    Explained {
        id: id.to_owned(),
        effect,
        place: source.map(|source| source.place.clone()),
        unmet: parts.unmet,
    }
}

/// Collects the parts of one policy that keep it from being satisfied.
struct Parts<'e, 'b> {
    unmet: Vec<Unmet>,
    evaluation: &'e Evaluation<'b>,
}

impl Parts<'_, '_> {
    fn scope(&mut self, part: &'static str, text: String, written: Option<&(String, Place)>) {
        let came_to = came_to(&text, self.evaluation);
        if came_to != CameTo::True {
            let variable = vec![part.to_owned()];
            self.push(part, text, written, came_to, variable);
        }
    }

    fn condition(
        &mut self,
        part: &'static str,
        condition: &Expr,
        written: Option<&(String, Place)>,
        wanted: &CameTo,
    ) {
        let text = condition.to_string();
        let came_to = came_to(&text, self.evaluation);
        // Cedar evaluates from left to right and stops at what does not hold: what fails behind that never failed.
        let never_reached = matches!(came_to, CameTo::Error(_)) && !self.unmet.is_empty();
        if came_to != *wanted && !never_reached {
            self.push(part, text, written, came_to, reads::of(condition));
        }
    }

    fn push(
        &mut self,
        part: &'static str,
        text: String,
        written: Option<&(String, Place)>,
        came_to: CameTo,
        reads: Vec<String>,
    ) {
        let values = reads.into_iter().map(|name| {
            let value = value(&name, self.evaluation);
            (name, value)
        });
        let values = values.collect();
        let (text, place) = match written {
            Some((text, place)) => (text.clone(), Some(place.clone())),
            None => (text, None),
        };
        self.unmet.push(Unmet { part, text, place, came_to, values });
    }
}

/// The sides of the outermost `&&` of a condition, from left to right.
fn split<'e>(expr: &'e Expr, conjuncts: &mut Vec<&'e Expr>) {
    match expr {
        Expr::BinaryOp { op: BinaryOp::And, left, right } => {
            split(left, conjuncts);
            split(right, conjuncts);
        }
        other => conjuncts.push(other),
    }
}

fn came_to(text: &str, evaluation: &Evaluation<'_>) -> CameTo {
    let Ok(expression) = text.parse::<Expression>() else {
        return CameTo::Error(format!("`{text}` can't be evaluated by itself"));
    };
    match evaluation.input(&expression) {
        Ok(Value::Bool(true)) => CameTo::True,
        Ok(Value::Bool(false)) => CameTo::False,
        Ok(other) => CameTo::Error(format!("it is `{other}`, and neither true nor false")),
        Err(InputError::Evaluation(error)) => CameTo::Error(error.to_string()),
        Err(error @ InputError::NotSimple(_)) => CameTo::Error(error.to_string()),
    }
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
