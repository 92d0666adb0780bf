//! One Check: what the policies say, what the check adapters say, and both combined.

use std::time::Duration;

use adapters::Instance;
use futures_util::future::join_all;
use model::decision::Opinion;
use model::{Attributes, Decision, Verdict};

use crate::bundle::expression::Input;
use crate::bundle::rules::{Action, InstanceInputs};
use crate::engine::{self, Evaluation, InputError, failed};
use crate::shadows;
use crate::snapshot::Snapshot;

/// How long all check adapters of one request together may take.
pub const ADAPTERS_DEADLINE: Duration = Duration::from_millis(500);

/// Decides one request. Whatever fails on the way makes it a denial, marked degraded and never to be cached.
///
/// The adapters are asked only where the policies allow: a deny is a deny whatever they say. What other policies would
/// say is told with the decision, and is no part of it.
pub async fn check(snapshot: &Snapshot, attributes: &Attributes) -> Decision {
    let evaluation = match engine::evaluate(&snapshot.bundle, attributes) {
        Ok(evaluation) => evaluation,
        Err(error) => {
            let opinion = failed(format!("{:#}", anyhow::Error::from(error)));
            return decision(snapshot, &attributes.resource, opinion, Vec::new(), Vec::new());
        }
    };
    let mut opinion = evaluation.opinion.clone();
    let mut adapters = Opinion::indifferent();
    if opinion.verdict == Verdict::Allow {
        adapters = ask_adapters(snapshot, attributes, &evaluation).await;
        opinion = opinion.and(adapters.clone());
    }
    let shadows = shadows::of(snapshot, attributes, &evaluation, adapters);
    let service = &attributes.resource;
    Decision { shadows, ..decision(snapshot, service, opinion, evaluation.limits, evaluation.rules) }
}

fn decision(
    snapshot: &Snapshot,
    service: &str,
    opinion: Opinion,
    limits: Vec<String>,
    rules: Vec<String>,
) -> Decision {
    let Opinion { reasons, message, degraded, .. } = opinion;
    // An adapter may allow and yet say that something failed.
    let verdict = if degraded { Verdict::Deny } else { opinion.verdict };
    let known = &snapshot.bundle.rules;
    Decision {
        verdict,
        reasons,
        message,
        // What is denied is charged to nothing.
        limits: if verdict == Verdict::Allow { limits } else { Vec::new() },
        rules: rules.into_iter().filter(|rule| known.reports(rule)).collect(),
        valid_for: if degraded { Duration::ZERO } else { opinion.valid_for },
        revision: snapshot.decisions_since(service),
        degraded,
        shadows: Vec::new(),
    }
}

async fn ask_adapters(snapshot: &Snapshot, attributes: &Attributes, evaluation: &Evaluation<'_>) -> Opinion {
    let rules = &snapshot.bundle.rules;
    let asked = evaluation.rules.iter().filter_map(|name| rules.get(name)).flat_map(|rule| {
        rule.check_actions().map(move |action| ask(snapshot, &rule.name, action, attributes, evaluation))
    });
    match tokio::time::timeout(ADAPTERS_DEADLINE, join_all(asked)).await {
        Ok(opinions) => opinions.into_iter().fold(Opinion::indifferent(), Opinion::and),
        Err(_elapsed) => failed("the check adapters took too long".to_owned()),
    }
}

async fn ask(
    snapshot: &Snapshot,
    rule: &str,
    action: &Action,
    attributes: &Attributes,
    evaluation: &Evaluation<'_>,
) -> Opinion {
    let Some(handler) = snapshot.handlers.get(&action.handler) else {
        return failed(format!("the handler `{}` is not running", action.handler));
    };
    let mut combined = Opinion::indifferent();
    for inputs in &action.instances {
        let opinion = match instance(inputs, attributes, evaluation) {
            Ok(instance) => handler.check(&instance).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let opinion = opinion.unwrap_or_else(|error| {
            failed(format!("the handler `{}` has no answer: {error}", action.handler))
        });
        combined = combined.and(Opinion { reasons: reasons(&opinion, rule), ..opinion });
    }
    combined
}

/// An adapter's deny is told by the rule that asked it; its allow determines nothing by itself.
fn reasons(opinion: &Opinion, rule: &str) -> Vec<String> {
    match opinion.verdict {
        Verdict::Deny => vec![format!("adapter/{rule}")],
        Verdict::Allow => Vec::new(),
    }
}

fn instance(
    inputs: &InstanceInputs,
    attributes: &Attributes,
    evaluation: &Evaluation<'_>,
) -> Result<Instance, InputError> {
    let mut fields = Vec::with_capacity(inputs.fields.len());
    for (name, input) in &inputs.fields {
        let value = match input {
            Input::Operand(operand) => operand.read(attributes, None),
            Input::Expression { expression, .. } => Some(evaluation.input(expression)?),
        };
        fields.extend(value.map(|value| (name.clone(), value)));
    }
    Ok(Instance { name: inputs.name.clone(), fields })
}

#[cfg(test)]
mod tests;
