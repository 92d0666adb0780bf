//! One Check: what the policies say, what the check adapters say, and both combined.

use std::time::Duration;

use adapters::Instance;
use futures_util::future::join_all;
use model::decision::Opinion;
use model::{Attributes, Decision, Verdict};

use crate::bundle::expression::Input;
use crate::bundle::rules::{Action, InstanceInputs};
use crate::engine::{self, Evaluation, RequestError};
use crate::snapshot::Snapshot;

/// How long all check adapters of one request together may take.
pub const ADAPTERS_DEADLINE: Duration = Duration::from_millis(500);

/// Decides one request.
///
/// The adapters are asked only where the policies allow: a deny is a deny whatever they say.
///
/// # Errors
/// When the attributes make no request that policies can be asked about.
pub async fn check(snapshot: &Snapshot, attributes: &Attributes) -> Result<Decision, RequestError> {
    let evaluation = engine::evaluate(&snapshot.bundle, attributes)?;
    let mut opinion = evaluation.opinion.clone();
    if opinion.verdict == Verdict::Allow {
        opinion = opinion.and(ask_adapters(snapshot, attributes, &evaluation).await);
    }
    let allowed = opinion.verdict == Verdict::Allow;
    let rules = &snapshot.bundle.rules;
    Ok(Decision {
        verdict: opinion.verdict,
        reasons: opinion.reasons,
        message: opinion.message,
        limits: if allowed { evaluation.limits } else { Vec::new() },
        rules: evaluation.rules.into_iter().filter(|rule| rules.reports(rule)).collect(),
        valid_for: if opinion.degraded { Duration::ZERO } else { opinion.valid_for },
        revision: snapshot.revision,
        degraded: opinion.degraded,
    })
}

async fn ask_adapters(snapshot: &Snapshot, attributes: &Attributes, evaluation: &Evaluation) -> Opinion {
    let rules = &snapshot.bundle.rules;
    let asked = evaluation.rules.iter().filter_map(|name| rules.get(name)).flat_map(|rule| {
        rule.check_actions().map(move |action| ask(snapshot, &rule.name, action, attributes, evaluation))
    });
    match tokio::time::timeout(ADAPTERS_DEADLINE, join_all(asked)).await {
        Ok(opinions) => opinions.into_iter().fold(Opinion::indifferent(), Opinion::and),
        Err(_elapsed) => refused("the check adapters took too long".to_owned()),
    }
}

async fn ask(
    snapshot: &Snapshot,
    rule: &str,
    action: &Action,
    attributes: &Attributes,
    evaluation: &Evaluation,
) -> Opinion {
    let Some(handler) = snapshot.handlers.get(&action.handler) else {
        return refused(format!("the handler `{}` is not running", action.handler));
    };
    let mut combined = Opinion::indifferent();
    for inputs in &action.instances {
        let instance = instance(inputs, attributes, evaluation);
        let opinion = match handler.check(&instance).await {
            Ok(opinion) => opinion,
            Err(error) => refused(format!("the handler `{}` failed: {error}", action.handler)),
        };
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

fn instance(inputs: &InstanceInputs, attributes: &Attributes, evaluation: &Evaluation) -> Instance {
    let value = |input: &Input| match input {
        Input::Operand(operand) => operand.read(attributes, None),
        Input::Expression { expression, .. } => evaluation.input(expression),
    };
    let fields = inputs.fields.iter().filter_map(|(name, input)| Some((name.clone(), value(input)?)));
    Instance { name: inputs.name.clone(), fields: fields.collect() }
}

fn refused(message: String) -> Opinion {
    Opinion {
        verdict: Verdict::Deny,
        reasons: Vec::new(),
        message,
        valid_for: Duration::ZERO,
        degraded: true,
    }
}
