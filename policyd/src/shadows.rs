//! What other policies than those in force would say of a request: told with each decision, and never enforced.

use model::decision::Opinion;
use model::{Shadow, Verdict};

use crate::engine::Evaluation;

/// What the bundle's own shadow policies are called.
pub const OWN: &str = "shadow";

/// What would be said with the bundle's shadow policies enforced; nothing if it has none.
///
/// `adapters` is what the check adapters say, where they were asked. They are not asked for a shadow's sake: where only
/// the shadow would allow, its say is that of the policies.
pub fn of(evaluation: &Evaluation<'_>, adapters: Opinion) -> Vec<Shadow> {
    let own = evaluation.shadow.clone().map(|opinion| match opinion.verdict {
        Verdict::Allow => shadow(OWN, opinion.and(adapters)),
        Verdict::Deny => shadow(OWN, opinion),
    });
    own.into_iter().collect()
}

fn shadow(name: &str, opinion: Opinion) -> Shadow {
    let Opinion { verdict, reasons, degraded, .. } = opinion;
    let verdict = if degraded { Verdict::Deny } else { verdict };
    Shadow { name: name.to_owned(), verdict, reasons, degraded }
}
