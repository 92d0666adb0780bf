//! What other policies than those in force would say of a request: told with each decision, and never enforced.

use model::decision::Opinion;
use model::{Attributes, Shadow, Verdict};

use crate::candidate::{Candidate, Trial};
use crate::engine::{self, Evaluation, failed};
use crate::snapshot::Snapshot;

/// What the bundle's own shadow policies are called.
pub const OWN: &str = "shadow";

/// What would be said with the bundle's shadow policies enforced, if it has any, and by each candidate.
///
/// `adapters` is what the check adapters say, where they were asked. They are not asked for a shadow's sake: where only
/// the shadow would allow, its say is that of the policies. A candidate's own adapters don't run.
pub fn of(
    snapshot: &Snapshot,
    attributes: &Attributes,
    evaluation: &Evaluation<'_>,
    adapters: Opinion,
) -> Vec<Shadow> {
    let own = evaluation.shadow.clone().map(|opinion| match opinion.verdict {
        Verdict::Allow => shadow(OWN, opinion.and(adapters)),
        Verdict::Deny => shadow(OWN, opinion),
    });
    let candidates = snapshot.candidates.iter();
    own.into_iter().chain(candidates.filter_map(|tried| candidate(snapshot, attributes, tried))).collect()
}

/// What a candidate would say; nothing where it can't be tried.
fn candidate(snapshot: &Snapshot, attributes: &Attributes, candidate: &Candidate) -> Option<Shadow> {
    let opinion = match candidate.on(&attributes.resource, &snapshot.bundle) {
        Trial::TooDear => return None,
        Trial::Unknown(why) => {
            Opinion { reasons: vec![why.to_owned()], degraded: false, ..failed(String::new()) }
        }
        Trial::Evaluated(_) => match engine::evaluate(&candidate.bundle, attributes) {
            Ok(evaluation) => evaluation.opinion,
            Err(error) => failed(error.to_string()),
        },
    };
    Some(shadow(&candidate.name, opinion))
}

fn shadow(name: &str, opinion: Opinion) -> Shadow {
    let Opinion { verdict, reasons, degraded, .. } = opinion;
    let verdict = if degraded { Verdict::Deny } else { verdict };
    Shadow { name: name.to_owned(), verdict, reasons, degraded }
}
