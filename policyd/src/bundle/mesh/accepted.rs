//! What is not wrong with a service, but told of; and `allow: […]`, by which its author accepts that.

use api::config::{Enforcement, Mtls};
use daemon::config_file::span_of;
use daemon::finding::{Finding, Findings};
use serde_saphyr::Spanned;

use super::FILE;
use crate::author::lint::{Lint, unknown};

/// A service that lets everything pass does so on purpose and for a while: its author is reminded.
pub(super) fn warn_of_enforcement(
    service: &str,
    written: Option<&Spanned<Enforcement>>,
    source: &str,
    findings: &mut Findings,
) {
    let Some(written) = written else { return };
    let help = match written.value {
        Enforcement::Enforce => return,
        Enforcement::Observe => {
            "`observe` lets every request pass and only tells what would be refused; write `enforce` to refuse it"
        }
        Enforcement::Off => {
            "`off` lets every request pass undecided; write `enforce`, or first `observe` to see what that would refuse"
        }
    };
    let message = format!("requests to `{service}` are not protected");
    let finding = Finding::at(FILE, source, span_of(written, source), message).with_help(help);
    findings.push(finding.as_warning().with_lint(Lint::UnprotectedService.name()));
}

/// A service that takes callers in the clear can be called by whoever reaches its sidecar: its author is reminded.
pub(super) fn warn_of_plaintext(
    service: &str,
    written: Option<&Spanned<Mtls>>,
    source: &str,
    findings: &mut Findings,
) {
    let Some(written) = written else { return };
    let help = match written.value {
        Mtls::Strict => return,
        Mtls::Permissive => {
            "they are `Workload::\"unauthenticated\"` to policies; write `strict` once \
             `tidegate_inbound_requests_total{tls=\"none\"}` of its proxies stands still"
        }
        Mtls::Disabled => {
            "no caller has an identity there: each is `Workload::\"unauthenticated\"`, and what they say can be read \
             and changed on its way; write `permissive`, then `strict`"
        }
    };
    let message = format!("`{service}` takes callers in the clear");
    let finding = Finding::at(FILE, source, span_of(written, source), message).with_help(help);
    findings.push(finding.as_warning().with_lint(Lint::PlaintextService.name()));
}

/// What is left of `findings` in a service of which the author accepts what the lints `allowed` find. A name among them
/// that no lint has is added.
pub(super) fn rest(mut findings: Findings, allowed: &[Spanned<String>], source: &str) -> Findings {
    for name in allowed {
        let Some((message, help)) = unknown(&name.value) else { continue };
        let finding = Finding::at(FILE, source, span_of(name, source), message).with_help(help);
        findings.push(finding.as_warning().with_lint(Lint::UnknownLint.name()));
    }
    findings.retain(|finding| {
        finding.lint.is_none_or(|lint| allowed.iter().all(|allowed| allowed.value != lint))
    });
    findings
}

#[cfg(test)]
mod tests {
    use crate::bundle::Files;
    use crate::bundle::mesh;

    /// What is told of `shop`, which is written so: by lint and message.
    fn told(shop: &str) -> Vec<String> {
        let mesh = format!(
            "trust_domain: a.example\nservices:\n  shop: {shop}\n  other: {{enforcement: observe}}\n"
        );
        let document = "openapi: 3.1.0\npaths: {/a: {get: {}, put: {operationId: put, tags: [two words]}}}";
        let files =
            Files { folder: ".".into(), texts: [("api.yaml".to_owned(), document.to_owned())].into() };
        let findings = match mesh::parse(&mesh, &files) {
            Ok((_, warnings)) => warnings,
            Err(findings) => findings,
        };
        findings
            .iter()
            .map(|finding| format!("{}: {}", finding.lint.unwrap_or("-"), finding.message))
            .collect()
    }

    #[test]
    fn what_is_found_in_a_service_can_be_accepted_there() {
        let other = "unprotected-service: requests to `other` are not protected";
        let shop = "unprotected-service: requests to `shop` are not protected";
        let unnamed = "unnamed-operation: `GET /a` has no name: no operation is made of it";
        let tag = "unusable-tag: the tag `two words` can't be the name of a group: it makes none";
        let table = [
            ("{enforcement: off}", vec![shop, other]),
            ("{enforcement: off, allow: [unprotected-service]}", vec![other]),
            ("{enforcement: off, allow: [unusable-tag]}", vec![shop, other]),
            ("{openapi: api.yaml}", vec![unnamed, tag, other]),
            ("{openapi: api.yaml, allow: [unnamed-operation, unusable-tag]}", vec![other]),
            (
                "{enforcement: off, allow: [unprotected-servce]}",
                vec![shop, "unknown-lint: there is no lint `unprotected-servce`", other],
            ),
            ("{mtls: permissive}", vec!["plaintext-service: `shop` takes callers in the clear", other]),
            ("{mtls: disabled, allow: [plaintext-service]}", vec![other]),
            ("{mtls: strict}", vec![other]),
            ("{allow: [new-lint, unknown-lint]}", vec![other]),
            // A mistake is none that could be accepted.
            ("{timeout: soon, allow: [\"-\", unknown-lint]}", vec!["-: `soon` is not a duration", other]),
        ];
        for (written, expected) in table {
            assert_eq!(told(written), expected, "{written}");
        }
    }
}
