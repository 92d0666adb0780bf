//! What a policy's author most likely meant otherwise, though it loads: `tidegate policy check` tells it.
//!
//! policyd itself never looks at a bundle in this way: a change has to reach the proxies fast, and a finding of a lint is
//! no mistake. Each lint looks at one policy after the other, or at those that an index finds for it, so that ten
//! thousand policies take seconds. Each says only what is sure, as far as the bundle alone can tell.
//!
//! # Layout
//! - [`name`]: the lints' names, and how an author accepts a finding;
//! - `source`: the policies with their places, and the findings;
//! - `condition`: conditions taken apart;
//! - `fact`: what a part of a condition says of one value, and whether two such parts exclude each other;
//! - `wildcard`: what `like` patterns match, compared with each other;
//! - one module a family of lints: `action`, `scope`, `contradiction`, `covered`, `path`, `confusable`.

mod action;
mod condition;
mod confusable;
mod contradiction;
mod covered;
mod fact;
pub mod name;
mod path;
mod scope;
mod source;
mod wildcard;

#[cfg(test)]
mod tests;

use daemon::finding::{Finding, Findings};

pub(crate) use name::unknown;
pub use name::{ALLOW, Lint, accepts};

use crate::bundle::{Bundle, Files};
use source::{Report, Sources};

/// What is to be told of a bundle, which was loaded from `files` without a mistake: the warnings that it was loaded with,
/// and what all lints find.
///
/// O(policies × (parts of a condition + ancestors of what a scope names)), but for conditions that many policies share.
pub fn lint(bundle: &Bundle, files: &Files) -> Findings {
    let sources = Sources::read(bundle, files);
    let mut report = Report::default();
    name::check(&sources.policies, &mut report);
    scope::check(&sources.policies, bundle, &mut report);
    action::check(&sources.policies, bundle, &mut report);
    covered::check(&sources.policies, bundle, &mut report);
    for source in sources.all() {
        contradiction::check(source, &mut report);
        path::check(source, &mut report);
    }
    confusable::check(&sources, bundle, files, &mut report);
    let mut findings = report.findings(files);
    let impossible = |finding: &&Finding| finding.lint == Some(Lint::ImpossibleCondition.name());
    let ours: Vec<Finding> = findings.iter().filter(impossible).cloned().collect();
    // The validator finds some of them, too, but can't say where.
    let said = |warning: &Finding| {
        let within = |finding: &Finding| {
            finding.file == warning.file
                && warning.span.start <= finding.span.start
                && finding.span.end <= warning.span.end
        };
        impossible(&warning) && ours.iter().any(within)
    };
    findings.extend(bundle.warnings.iter().filter(|warning| !said(warning)).cloned());
    findings
}
