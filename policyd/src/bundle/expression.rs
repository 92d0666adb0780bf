//! Cedar expressions in YAML: conditions (`when:`, `match:`) and inputs (`key:`, an instance's fields).

use adapters::FieldType;
use api::config::Protocol;
use cedar_policy::pst::{self, BinaryOp, Clause, Expr, Var};
use cedar_policy::{Expression, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use daemon::finding::Findings;
use model::operand::ResponseName;
use model::{Action, Name, Operand, Value};

use super::cedar_text::Place;
use crate::atoms::{Derived, context_path, literal, meaning};

/// The requests that inputs are about: those with a method and a path.
const SCOPE: &str = r#"principal, action in [Action::"http", Action::"grpc"], resource"#;

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Requests, which have a method and a path.
    Requests,
    /// Raw connections.
    Connections,
    /// Both.
    All,
}

impl About {
    /// What conditions are about that are meant for a service which speaks `protocol`.
    pub const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 | Protocol::Http2 => Self::Requests,
            Protocol::Tcp => Self::Connections,
        }
    }

    /// What a condition is about that is meant for any service: what has all that it reads.
    pub fn read_by(text: &str) -> Self {
        let Some(derived) =
            Policy::parse(None, format!("permit(principal, action, resource) when {{ {text}\n}};"))
                .ok()
                .and_then(|policy| pst::Template::try_from(policy.as_ref().template().clone()).ok())
                .map(|policy| {
                    let mut derived = Derived::default();
                    derived.policy(&policy, &meaning);
                    derived
                })
        else {
            return Self::Requests;
        };
        let all_of = |action| derived.atoms.iter().all(|atom| atom.name.is_of(action));
        match (all_of(Action::Http), all_of(Action::Tcp) && !derived.reads_everything) {
            (true, true) => Self::All,
            (false, true) => Self::Connections,
            (_, false) => Self::Requests,
        }
    }

    const fn scope(self) -> &'static str {
        match self {
            Self::Requests => SCOPE,
            Self::Connections => r#"principal, action == Action::"tcp", resource"#,
            Self::All => r#"principal, action in [Action::"http", Action::"grpc", Action::"tcp"], resource"#,
        }
    }
}

/// A condition as a policy that is satisfied when the condition holds, for what it is `about` at `service` or at any.
///
/// Nothing if it doesn't parse; what is wrong is added to `findings`.
pub fn condition<'a>(
    id: &str,
    about: About,
    service: Option<&str>,
    text: &str,
    place: Place<'a>,
    findings: &mut Findings,
) -> Option<(Policy, Place<'a>)> {
    // On its own first: `true } unless { …` would make a policy, too, but is no expression.
    if let Err(errors) = text.parse::<Expression>() {
        place.diagnose(&errors, findings);
        return None;
    }
    let scope = match service {
        Some(service) => format!("{} == Service::{}", about.scope(), quoted(service)),
        None => about.scope().to_owned(),
    };
    let prefix = format!("permit({scope}) when {{ ");
    let place = place.after(prefix.len());
    // The line break ends a comment that the author may have put last.
    match Policy::parse(Some(PolicyId::new(id)), format!("{prefix}{text}\n}};")) {
        Ok(policy) => Some((policy, place)),
        Err(errors) => {
            place.diagnose(&errors, findings);
            None
        }
    }
}

/// An input: a value taken from a request.
#[derive(Clone, Debug)]
pub enum Input {
    /// An attribute or a literal, which a proxy can read by itself. Missing where the request lacks it.
    Operand(Operand),
    /// Any other expression, which policyd evaluates.
    Expression {
        /// For evaluation.
        expression: Box<Expression>,
        /// For its atoms.
        pst: std::sync::Arc<Expr>,
        /// What it evaluates to.
        field_type: FieldType,
    },
}

impl Input {
    /// What type of value it has.
    pub const fn field_type(&self) -> FieldType {
        match self {
            Self::Expression { field_type, .. } => *field_type,
            Self::Operand(operand) => match operand {
                Operand::Context(Name::SourceIp) => FieldType::Ip,
                Operand::Context(Name::Tls) => FieldType::Bool,
                Operand::Context(Name::DestinationPort) => FieldType::Long,
                Operand::Context(Name::Time) => FieldType::Time,
                Operand::Response(ResponseName::Verdict) => FieldType::Text,
                Operand::Response(_) => FieldType::Long,
                Operand::Literal(value) => FieldType::of(value),
                _ => FieldType::Text,
            },
        }
    }
}

/// Reads an input. Nothing if it doesn't parse.
pub fn parse_input(text: &str, place: Place<'_>, findings: &mut Findings) -> Option<Expr> {
    // Parsed on its own first, for an error that points into it.
    if let Err(errors) = text.parse::<Expression>() {
        place.diagnose(&errors, findings);
        return None;
    }
    let policy = Policy::parse(None, compared(text)).ok()?.to_pst().ok()?;
    let pst::Policy::Static(policy) = policy else { return None };
    match policy.body().clauses().first()? {
        Clause::When(condition) => match condition.as_ref() {
            Expr::BinaryOp { op: BinaryOp::Eq, left, .. } => Some(left.as_ref().clone()),
            _ => None,
        },
        Clause::Unless(_) => None,
    }
}

/// Turns a parsed input into what can be evaluated, and checks its type against `schema`.
pub fn check_input(
    text: &str,
    expr: &Expr,
    schema: &Schema,
    place: Place<'_>,
    findings: &mut Findings,
) -> Option<Input> {
    if let Some(operand) = operand(expr) {
        return Some(Input::Operand(operand));
    }
    let expression = Box::new(text.parse().ok()?);
    let valid = |condition: String| validate(&condition, schema).is_none();
    let probes = [
        (FieldType::Bool, format!("({text}\n)")),
        (FieldType::Text, format!("({text}\n) like \"*\"")),
        (FieldType::Long, format!("({text}\n) < 0")),
        (FieldType::Ip, format!("({text}\n).isIpv4()")),
    ];
    // An expression's type is the one whose operator the validator lets it be used with.
    let found =
        probes.into_iter().find(|(_, condition)| valid(format!("permit({SCOPE}) when {{ {condition} }};")));
    match found {
        Some((field_type, _)) => {
            Some(Input::Expression { expression, pst: std::sync::Arc::new(expr.clone()), field_type })
        }
        None => {
            let why = validate(&compared(text), schema)
                .unwrap_or_else(|| "it is no Bool, String, Long or ipaddr".to_owned());
            findings.push(place.finding(format!("this can't be an input: {why}")));
            None
        }
    }
}

/// The operand that an expression is, if it is an attribute or a literal.
pub fn operand(expr: &Expr) -> Option<Operand> {
    if let Some(value) = literal(expr) {
        let is_simple =
            matches!(value, Value::Bool(_) | Value::Long(_) | Value::Text(_) | Value::Ip(_) | Value::Time(_));
        return is_simple.then_some(Operand::Literal(value));
    }
    if let Some(path) = context_path(expr) {
        return match path.as_slice() {
            ["response", name] => ResponseName::ALL
                .iter()
                .find(|(text, _)| text == name)
                .map(|(_, name)| Operand::Response(*name)),
            path => Name::from_context_path(path).map(Operand::Context),
        };
    }
    match expr {
        Expr::Var(Var::Principal) => Some(Operand::Principal),
        Expr::Var(Var::Action) => Some(Operand::Action),
        Expr::Var(Var::Resource) => Some(Operand::Resource),
        Expr::GetAttr { expr, attr } => match (expr.as_ref(), attr.as_str()) {
            (Expr::Var(Var::Principal), "namespace") => Some(Operand::PrincipalNamespace),
            (Expr::Var(Var::Principal), "service_account") => Some(Operand::PrincipalServiceAccount),
            _ => None,
        },
        _ => None,
    }
}

fn compared(text: &str) -> String {
    format!("permit({SCOPE}) when {{ ({text}\n) == ({text}\n) }};")
}

/// The first thing the validator says against a policy.
fn validate(policy: &str, schema: &Schema) -> Option<String> {
    let policy = match Policy::parse(None, policy) {
        Ok(policy) => policy,
        Err(error) => return Some(error.to_string()),
    };
    let set = PolicySet::from_policies([policy]).ok()?;
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    result.validation_errors().next().map(ToString::to_string)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
