//! `limits.yaml`: how much of what may be used, by whom.

mod written;

use std::sync::Arc;

use cedar_policy::pst::Expr;
use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings, did_you_mean};
use model::limit::{Cost, Refusal};
use model::{Allowance, FailMode, Limit, Mode, Name, OnStoreFailure, Operand, Value};
use serde_saphyr::Spanned;

pub(crate) use self::written::RawLimits;
use self::written::{Bytes, RawLimit, RawOverride, RawRefusal, fixed_cost};

use super::cedar_text::Place;
use super::conditions::Conditions;
use super::expression::{About, condition, operand, parse_input};
use super::mesh::Mesh;
/// The file's name within a bundle.
pub const FILE: &str = "limits.yaml";

/// Before a limit's name in the id of its condition.
pub const ID_PREFIX: &str = "limit/";

/// The most parts of a limit's key.
const KEY_PARTS_MAX: usize = 8;
/// The most bytes of a refusal's body, and of a header field's value.
const BODY_MAX: usize = 4096;
/// Header fields that a refusal has anyway, or that say how long it is.
const OURS: [&str; 6] =
    ["connection", "content-length", "transfer-encoding", "retry-after", "ratelimit", "ratelimit-policy"];

/// A limit, and the one service it is for, if its author named one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLimit {
    /// The limit.
    pub limit: Arc<Limit>,
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
            limits.push(ServiceLimit { limit: Arc::new(limit), service });
        }
    }
    limits.sort_by(|one, other| one.limit.name.cmp(&other.limit.name));
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
    let key: Vec<Operand> = raw.key.iter().filter_map(|text| key_part(text, source, findings)).collect();
    let told =
        |wrong: Vec<Finding>, findings: &mut Findings| wrong.into_iter().for_each(|one| findings.push(one));
    let allowance = raw.allowance(source).map_err(|wrong| told(wrong, findings)).ok();
    let overrides =
        raw.overrides.iter().filter_map(|other| overridden(other, &key, raw, source, findings)).collect();
    let fail_mode = service
        .and_then(|service| mesh.services.get(service))
        .map_or(FailMode::Closed, |service| service.fail_mode);
    let cost = cost(raw, source, findings)?;
    let mode = mode(raw, allowance.as_ref()?, source, findings)?;
    let refusal = refusal(&raw.refusal, source, findings);
    Some(Limit {
        name: raw.name.value.clone(),
        allowance: allowance?,
        key,
        overrides,
        cost,
        mode,
        on_store_failure: raw.on_store_failure.unwrap_or(match fail_mode {
            FailMode::Closed => OnStoreFailure::Closed,
            FailMode::Open => OnStoreFailure::Open,
        }),
        shadow: raw.shadow,
        refusal,
    })
}

fn mode(raw: &RawLimit, allowance: &Allowance, source: &str, findings: &mut Findings) -> Option<Mode> {
    let local_only = raw.bandwidth.is_some() || matches!(allowance, Allowance::Concurrency(_));
    match raw.mode {
        None if local_only => Some(Mode::Local),
        None => Some(Mode::default()),
        Some(Mode::Leased | Mode::Exact) if local_only => {
            let message = "what is under way, and bytes, are counted by each proxy for itself";
            let finding = Finding::at(FILE, source, span_of(&raw.name, source), message);
            findings.push(finding.with_help("write `mode: local`, or leave it out"));
            None
        }
        Some(mode) => Some(mode),
    }
}

fn cost(raw: &RawLimit, source: &str, findings: &mut Findings) -> Option<Cost> {
    if raw.bandwidth.is_some() {
        if let Some(cost) = &raw.cost {
            let message = "`bandwidth` costs the bytes that pass";
            findings.push(
                Finding::at(FILE, source, span_of(cost, source), message).with_help("leave `cost` out"),
            );
            return None;
        }
        return Some(match raw.bytes {
            Bytes::Request => Cost::RequestBytes,
            Bytes::Response => Cost::ResponseBytes,
            Bytes::Both => Cost::Bytes,
        });
    }
    match &raw.cost {
        None => Some(Cost::default()),
        Some(text) => match fixed_cost(&text.value) {
            Some(count) => Some(Cost::Fixed(count.get())),
            None => Some(Cost::Attribute(key_part(text, source, findings)?)),
        },
    }
}

fn overridden(
    other: &RawOverride,
    key: &[Operand],
    raw: &RawLimit,
    source: &str,
    findings: &mut Findings,
) -> Option<(String, Allowance)> {
    let place = span_of(&other.key, source);
    let allowance = raw.overridden(other, source);
    let allowance = allowance.map_err(|wrong| wrong.into_iter().for_each(|one| findings.push(one))).ok();
    let mut wrong = |message: String| findings.push(Finding::at(FILE, source, place.clone(), message));
    if raw.key.len() != other.key.value.len() {
        wrong(format!("the limit's key has {} parts, and this one {}", raw.key.len(), other.key.value.len()));
        return None;
    }
    let mut values = Vec::new();
    for (operand, text) in key.iter().zip(&other.key.value) {
        let value = match operand {
            Operand::Context(Name::SourceIp) => text.parse().map(Value::Ip).ok(),
            Operand::Context(Name::DestinationPort) => text.parse().map(Value::Long).ok(),
            Operand::Context(Name::Tls) => text.parse().map(Value::Bool).ok(),
            _ => Some(Value::Text(text.clone())),
        };
        if value.is_none() {
            wrong(format!("`{text}` is not of the type that this part of the key has"));
        }
        values.push(value);
    }
    Some((::limits::key::of_values(&values), allowance?))
}

fn refusal(raw: &RawRefusal, source: &str, findings: &mut Findings) -> Refusal {
    let mut wrong = |place: std::ops::Range<usize>, message: String| {
        findings.push(Finding::at(FILE, source, place, message));
    };
    if let Some(status) = raw.status.as_ref().filter(|status| !(400..600).contains(&status.value)) {
        wrong(span_of(status, source), format!("{} is not a status that refuses", status.value));
    }
    let mut headers = Vec::new();
    for (name, value) in &raw.headers {
        let visible = |text: &str| text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let is_ours = OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours));
        if !is_token(name) || is_ours || !visible(&value.value) || value.value.len() > BODY_MAX {
            wrong(
                span_of(value, source),
                format!("`{name}` can't be a header field of a refusal with this value"),
            );
        }
        headers.push((name.to_ascii_lowercase(), value.value.clone()));
    }
    if let Some(body) = raw.body.as_ref().filter(|body| body.value.len() > BODY_MAX) {
        wrong(span_of(body, source), format!("the body has more than {BODY_MAX} bytes"));
    }
    Refusal {
        status: raw.status.as_ref().map(|status| status.value),
        headers,
        body: raw.body.as_ref().map(|body| body.value.clone()),
    }
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
