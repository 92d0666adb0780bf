//! What the policies say of one request: a pure function of a [`Bundle`] and [`Attributes`].

pub mod index;
pub(crate) mod request;
pub mod strangers;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use cedar_policy::{Context, Entities, EntityUid, EvalResult, Expression, Request, eval_expression};
use ipnet::IpNet;
use model::decision::Opinion;
use model::{AtomSet, Attributes, Value, Verdict};

use index::{Answer, Depth};
pub use request::RequestError;

use crate::bundle::{Bundle, limits, rules};

/// What the policies say, and which conditions hold.
#[derive(Debug)]
pub struct Evaluation<'b> {
    /// The access policies' say.
    pub opinion: Opinion,
    /// What it would be with the shadow policies enforced, if the bundle has any.
    pub shadow: Option<Opinion>,
    /// The names of the limits whose `when:` holds.
    pub limits: Vec<String>,
    /// The names of the rules whose `match:` holds.
    pub rules: Vec<String>,
    /// The Cedar request, for the inputs of check adapters.
    request: Request,
    /// The entities, the caller's included.
    entities: Cow<'b, Entities>,
}

/// Why an input of an adapter has no value.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Its evaluation failed.
    #[error("an input can't be evaluated: {0}")]
    Evaluation(#[source] Box<cedar_policy::EvaluationError>),
    /// It is a set, a record, a range of addresses.
    #[error("an input evaluates to `{0}`, which is no simple value")]
    NotSimple(String),
}

/// Evaluates the policies and conditions of `bundle` on a request.
///
/// Cedar skips a policy whose evaluation fails, a `forbid` too, so any failure means deny, marked degraded.
///
/// # Errors
/// When the attributes make no Cedar request.
pub fn evaluate<'b>(bundle: &'b Bundle, attributes: &Attributes) -> Result<Evaluation<'b>, RequestError> {
    let request = request::build(attributes, bundle)?;
    let entities = request::entities(attributes, &request, bundle)?;
    let answer = bundle.policies_index.answer(&request, &entities, Depth::Serve);
    let mut shadow = (!bundle.shadows_index.is_empty()).then(|| {
        let tried = bundle.shadows_index.answer(&request, &entities, Depth::Serve);
        opinion(together(answer.clone(), tried), bundle)
    });
    let mut opinion = opinion(answer, bundle);
    let conditions = bundle.conditions_index.answer(&request, &entities, Depth::Serve);
    if let Some(error) = conditions.errors.first() {
        opinion = failed(told(error));
        shadow = shadow.map(|_| opinion.clone());
    }
    let (mut limits, mut rules) = (Vec::new(), Vec::new());
    for id in conditions.permits {
        if let Some(name) = id.strip_prefix(limits::ID_PREFIX) {
            limits.push(name.to_owned());
        } else if let Some(name) = id.strip_prefix(rules::ID_PREFIX) {
            rules.push(name.to_owned());
        }
    }
    limits.sort();
    rules.sort();
    if !bundle.atoms.get(&attributes.resource).is_some_and(AtomSet::is_cacheable) {
        // It depends on what no key holds: it is this request's alone.
        opinion.valid_for = Duration::ZERO;
    }
    Ok(Evaluation { opinion, shadow, limits, rules, request, entities })
}

impl Evaluation<'_> {
    /// The ids of all `forbid` policies that are satisfied, sorted. The opinion names one only.
    pub fn forbids(&self, bundle: &Bundle) -> Vec<String> {
        bundle.policies_index.answer(&self.request, &self.entities, Depth::Explain).forbids
    }

    /// The value of an expression on this request.
    ///
    /// # Errors
    /// When the evaluation fails, or ends in a value of no simple type.
    pub fn input(&self, expression: &Expression) -> Result<Value, InputError> {
        let value = eval_expression(&self.request, &self.entities, expression);
        match value.map_err(|error| InputError::Evaluation(Box::new(error)))? {
            EvalResult::Bool(value) => Ok(Value::Bool(value)),
            EvalResult::Long(value) => Ok(Value::Long(value)),
            EvalResult::String(value) => Ok(Value::Text(value)),
            EvalResult::EntityUid(uid) => Ok(Value::Text(uid.id().unescaped().to_owned())),
            EvalResult::ExtensionValue(text) => {
                address(&text).map(Value::Ip).ok_or(InputError::NotSimple(text))
            }
            other @ (EvalResult::Set(_) | EvalResult::Record(_)) => {
                Err(InputError::NotSimple(other.to_string()))
            }
        }
    }
}

/// The address in Cedar's `ip("…")`, if it is one and not a range.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.strip_prefix("ip(\"")?.strip_suffix("\")")?;
    match text.parse::<IpNet>() {
        Ok(range) => (range.prefix_len() == range.max_prefix_len()).then(|| range.addr()),
        Err(_) => text.parse().ok(),
    }
}

/// The value of an expression that reads nothing of a request.
pub fn evaluate_constant(expression: &Expression) -> Option<EvalResult> {
    let nobody: EntityUid = "Workload::\"\"".parse().ok()?;
    let request = Request::new(nobody.clone(), nobody.clone(), nobody, Context::empty(), None).ok()?;
    eval_expression(&request, &Entities::empty(), expression).ok()
}

/// A satisfied `forbid` denies, whatever else has failed. Without one, any failure denies, marked degraded.
fn opinion(answer: Answer, bundle: &Bundle) -> Opinion {
    let (verdict, reasons, message) = match (answer.forbids, answer.errors.first(), answer.permits) {
        (forbids, _, _) if !forbids.is_empty() => {
            let message = format!("forbidden by `{}`", forbids.join("`, `"));
            (Verdict::Deny, forbids, message)
        }
        (_, Some(error), _) => return failed(told(error)),
        (_, None, permits) if permits.is_empty() => {
            (Verdict::Deny, permits, "no policy permits this request".to_owned())
        }
        (_, None, permits) => (Verdict::Allow, permits, String::new()),
    };
    Opinion { verdict, reasons, message, valid_for: bundle.mesh.decision_validity, degraded: false }
}

/// What the policies of two indexes say, as if they were in one.
fn together(mut one: Answer, other: Answer) -> Answer {
    one.forbids.extend(other.forbids);
    one.permits.extend(other.permits);
    one.errors.extend(other.errors);
    one.forbids.sort();
    one.permits.sort();
    one
}

fn told((id, why): &(String, String)) -> String {
    format!("error while evaluating policy `{id}`: {why}")
}

/// What a failure to decide amounts to: a denial that says why, and holds for this request alone.
pub(crate) fn failed(message: String) -> Opinion {
    Opinion {
        verdict: Verdict::Deny,
        reasons: Vec::new(),
        message,
        valid_for: Duration::ZERO,
        degraded: true,
    }
}
