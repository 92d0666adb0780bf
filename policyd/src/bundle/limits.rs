//! `limits.yaml`: rate limits.

use std::num::NonZeroU32;

use cedar_policy::pst::Expr;
use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings, did_you_mean};
use model::limit::RateError;
use model::{FailMode, Limit, Operand, Rate, Scope};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::cedar_text::Place;
use super::conditions::Conditions;
use super::expression::{About, condition, operand, parse_input};
use super::mesh::Mesh;
use crate::author::yaml_schema::one_of;

/// The file's name within a bundle.
pub const FILE: &str = "limits.yaml";

/// Before a limit's name in the id of its condition.
pub const ID_PREFIX: &str = "limit/";

/// The most parts of a limit's key.
const KEY_PARTS_MAX: usize = 8;

/// Rate limits.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "limits.yaml")]
pub(crate) struct RawLimits {
    /// The limits. A request is charged to all that concern it.
    #[serde(default)]
    limits: Vec<RawLimit>,
}

/// A rate limit.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limit")]
struct RawLimit {
    /// Unique; in headers, logs and metrics. Of a-z, A-Z, 0-9, `-`, `_` and `.`.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9._-]{1,128}$"))]
    name: Spanned<String>,
    /// Whose requests it is for; every service's by default.
    #[schemars(with = "Option<String>")]
    service: Option<Spanned<String>>,
    /// A Cedar condition: only such requests are charged.
    #[schemars(with = "Option<String>", example = r#"context.path like "/api/*""#)]
    when: Option<Spanned<String>>,
    /// Whose requests are counted together: up to 8 attributes or literals. Without it, all are.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(max = 8), example = ["principal", "context.source_ip"])]
    key: Vec<Spanned<String>>,
    /// A count of at least 1, and a time of 1ms to 30d.
    #[schemars(with = "String", example = "100/s", example = "5 per 10s")]
    rate: Spanned<String>,
    /// How many may come at once after a pause; the rate's count by default.
    #[schemars(with = "Option<u32>", range(min = 1))]
    burst: Option<Spanned<u32>>,
    /// Whether each proxy counts for itself, or policyd for all; `mesh` by default.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<Scope>")]
    scope: Scope,
    /// Whether requests are refused while policyd can't be asked; the service's by default.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<FailMode>")]
    fail_mode: Option<FailMode>,
}

/// A limit, and the one service it is for, if its author named one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLimit {
    /// The limit.
    pub limit: Limit,
    /// The service, or any.
    pub service: Option<String>,
}

/// Reads `limits.yaml`; the conditions are added to `conditions`.
pub fn read<'a>(
    source: &'a str,
    mesh: &Mesh,
    conditions: &mut Conditions<'a>,
    findings: &mut Findings,
) -> Vec<ServiceLimit> {
    findings.add_source(FILE, source);
    let raw: RawLimits = match config_file::parse(FILE, source) {
        Ok(raw) => raw,
        Err(wrong) => {
            findings.merge(wrong);
            return Vec::new();
        }
    };
    let mut limits: Vec<ServiceLimit> = Vec::new();
    let mut names = std::collections::BTreeSet::new();
    for raw in &raw.limits {
        let wrong =
            |place: std::ops::Range<usize>, message: String| Finding::at(FILE, source, place, message);
        if !names.insert(&raw.name.value) {
            let message = format!("two limits are called `{}`", raw.name.value);
            findings.push(
                wrong(span_of(&raw.name, source), message)
                    .with_help("the name tells limits apart in headers and metrics"),
            );
        }
        if !is_token(&raw.name.value) {
            let message = format!("`{}` can't be the name of a limit", raw.name.value);
            findings.push(
                wrong(span_of(&raw.name, source), message).with_help("use a-z, A-Z, 0-9, `-`, `_` and `.`"),
            );
        }
        let service = raw.service.as_ref().and_then(|service| known_service(service, source, mesh, findings));
        let (when, place) = match &raw.when {
            Some(when) => {
                (when.value.as_str(), Place::value(FILE, source, span_of(when, source), &when.value))
            }
            None => ("true", Place::value(FILE, source, span_of(&raw.name, source), &raw.name.value)),
        };
        let id = format!("{ID_PREFIX}{}", raw.name.value);
        let limited = service.as_ref().and_then(|name| mesh.services.get(name));
        let about = limited.map_or_else(|| About::read_by(when), |limited| About::of(limited.protocol));
        if let Some((policy, place)) = condition(&id, about, service.as_deref(), when, place, findings) {
            conditions.add(policy, place, findings);
        }
        if let Some(limit) = limit(raw, source, service.as_deref(), mesh, findings) {
            limits.push(ServiceLimit { limit, service });
        }
    }
    limits
}

fn limit(
    raw: &RawLimit,
    source: &str,
    service: Option<&str>,
    mesh: &Mesh,
    findings: &mut Findings,
) -> Option<Limit> {
    if raw.key.len() > KEY_PARTS_MAX {
        let message = format!("the key has more than {KEY_PARTS_MAX} parts");
        findings.push(Finding::at(FILE, source, span_of(&raw.name, source), message));
    }
    let key = raw.key.iter().filter_map(|text| key_part(text, source, findings)).collect();
    let rate: Rate = match raw.rate.value.parse() {
        Ok(rate) => rate,
        Err(error) => {
            let finding =
                Finding::at(FILE, source, span_of(&raw.rate, source), format!("this is not a rate: {error}"));
            let help = "write it as `100/s`, `100/min` or `5 per 10s`";
            findings.push(if error == RateError::Form { finding } else { finding.with_help(help) });
            return None;
        }
    };
    let burst = match &raw.burst {
        None => rate.count,
        Some(burst) => match NonZeroU32::new(burst.value) {
            Some(count) => count,
            None => {
                let finding =
                    Finding::at(FILE, source, span_of(burst, source), "a burst of 0 lets nothing pass");
                findings.push(finding.with_help("use a `forbid` policy to let nothing pass"));
                return None;
            }
        },
    };
    let fail_mode = raw.fail_mode.unwrap_or_else(|| {
        service
            .and_then(|service| mesh.services.get(service))
            .map_or(FailMode::Closed, |service| service.fail_mode)
    });
    Some(Limit { name: raw.name.value.clone(), scope: raw.scope, rate, burst, key, fail_mode })
}

fn key_part(text: &Spanned<String>, source: &str, findings: &mut Findings) -> Option<Operand> {
    let place = Place::value(FILE, source, span_of(text, source), &text.value);
    let expr: Expr = parse_input(&text.value, place, findings)?;
    match operand(&expr) {
        Some(Operand::Response(_)) | None => {
            let help = "use an attribute: `principal`, `principal.namespace`, `context.source_ip`, `context.headers[\"x-user\"]`, ...";
            findings.push(place.finding(format!("`{}` can't be part of a key", text.value)).with_help(help));
            None
        }
        operand => operand,
    }
}

/// The service's name, if the mesh has it; a finding otherwise.
pub fn known_service(
    service: &Spanned<String>,
    source: &str,
    mesh: &Mesh,
    findings: &mut Findings,
) -> Option<String> {
    if mesh.services.contains_key(&service.value) {
        return Some(service.value.clone());
    }
    let finding = Finding::at(
        FILE,
        source,
        span_of(service, source),
        format!("there is no service `{}`", service.value),
    );
    findings.push(match did_you_mean(&service.value, mesh.services.keys().map(String::as_str)) {
        Some(name) => finding.with_help(format!("did you mean `{name}`?")),
        None => finding.with_help("name a service of mesh.yaml"),
    });
    None
}

/// Whether a name can stand in a header and in a metric's label.
pub(crate) fn is_token(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 128 && name.bytes().all(allowed)
}
