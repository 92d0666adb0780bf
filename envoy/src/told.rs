//! What Envoy itself is told of an answer: dynamic metadata, which its other filters and its access log read.

use api::config::Enforcement;
use model::{Decision, Shadow, Verdict};
use serde_json::{Map, Value, json};

use crate::refusal::Refusal;

/// What came of a question, by name.
pub(crate) const fn verdict(decision: &Decision) -> &'static str {
    match (decision.degraded, decision.verdict) {
        (true, _) => "degraded",
        (false, verdict) => verdict.as_str(),
    }
}

/// The verdict on what is refused before policies are asked.
pub(crate) const REFUSED: &str = "refused";
/// The verdict where nothing is decided.
pub(crate) const OFF: &str = "off";

/// Of a decision on a request to `service`.
pub(crate) fn of_decision(
    service: &str,
    enforcement: Enforcement,
    decision: &Decision,
) -> Map<String, Value> {
    let mut told = of_service(service, enforcement);
    told.insert("verdict".to_owned(), verdict(decision).into());
    told.insert("policies".to_owned(), decision.reasons.clone().into());
    told.insert("revision".to_owned(), decision.revision.to_string().into());
    if decision.verdict == Verdict::Allow {
        told.insert("limits".to_owned(), decision.limits.clone().into());
    }
    if !decision.shadows.is_empty() {
        let shadows: Map<_, _> = decision.shadows.iter().map(|one| (one.name.clone(), shadow(one))).collect();
        told.insert("shadows".to_owned(), shadows.into());
    }
    told
}

/// Of a request to `service`, if it is known, that is refused without a decision.
pub(crate) fn of_refusal(service: Option<(&str, Enforcement)>, refusal: &Refusal) -> Map<String, Value> {
    let mut told = service.map(|(name, enforcement)| of_service(name, enforcement)).unwrap_or_default();
    told.insert("verdict".to_owned(), REFUSED.into());
    told.insert("error".to_owned(), refusal.code().into());
    told
}

/// Of a request to `service`, where nothing is decided.
pub(crate) fn of_off(service: &str) -> Map<String, Value> {
    let mut told = of_service(service, Enforcement::Off);
    told.insert("verdict".to_owned(), OFF.into());
    told
}

fn of_service(service: &str, enforcement: Enforcement) -> Map<String, Value> {
    Map::from_iter([
        ("service".to_owned(), service.into()),
        ("enforcement".to_owned(), enforcement.as_str().into()),
    ])
}

fn shadow(shadow: &Shadow) -> Value {
    let verdict = if shadow.degraded { "degraded" } else { shadow.verdict.as_str() };
    json!({"verdict": verdict, "policies": shadow.reasons})
}
