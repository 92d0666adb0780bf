//! Conditions in words: what would have to be so for one to hold, or not to hold.

use cedar_policy::pst::{BinaryOp, Expr, Literal, UnaryOp};

use super::reads;

/// What would have to be true of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phrase {
    /// The attribute, or the whole condition if it is about several.
    pub subject: String,
    /// What it would have to do: `be "GET"`.
    pub wanted: String,
}

/// What would have to be so that `expr` comes to `holds`. Nothing if it is not about one attribute.
pub(super) fn of(expr: &Expr, holds: bool) -> Option<Phrase> {
    let phrase = |subject: &Expr, wanted: String| Some(Phrase { subject: subject.to_string(), wanted });
    match expr {
        Expr::UnaryOp { op: UnaryOp::Not, expr } => of(expr, !holds),
        Expr::GetAttr { .. } if reads::is_path(expr) => phrase(expr, format!("be {holds}")),
        Expr::HasAttr { expr, .. } if !reads::is_path(expr) => None,
        Expr::HasAttr { .. } => {
            let subject = reads::of(expr).pop()?;
            Some(Phrase { subject, wanted: if holds { THERE } else { "be absent" }.to_owned() })
        }
        Expr::Like { expr: subject, .. } if reads::is_path(subject) => {
            // Cedar's text of the expression has the pattern as it is written.
            let text = expr.to_string();
            let pattern = text.split_once(" like ")?.1.trim_end_matches(')');
            phrase(subject, format!("{} {pattern}", if holds { "match" } else { "not match" }))
        }
        Expr::Is { expr: subject, entity_type, in_expr: None } if reads::is_path(subject) => {
            phrase(subject, format!("{} {entity_type}", if holds { "be a" } else { "be no" }))
        }
        Expr::BinaryOp { op: BinaryOp::Or, left, right } if holds => either(left, right, true),
        Expr::BinaryOp { op: BinaryOp::And, left, right } if !holds => either(left, right, false),
        Expr::BinaryOp { op, left, right } if reads::is_path(left) => {
            phrase(left, comparison(*op, right, holds)?)
        }
        Expr::BinaryOp { op: BinaryOp::Contains, left, right } if reads::is_path(right) => {
            let Expr::Set(members) = left.as_ref() else { return None };
            if !reads::of(left).is_empty() {
                return None;
            }
            let members: Vec<String> = members.iter().map(ToString::to_string).collect();
            let verb = if holds { "be one of" } else { "be none of" };
            phrase(right, format!("{verb} {}", members.join(", ")))
        }
        Expr::BinaryOp { op, left, right } if reads::is_path(right) => {
            phrase(right, comparison(mirrored(*op)?, left, holds)?)
        }
        _ => None,
    }
}

/// What is wanted of an attribute that has to be there.
pub(super) const THERE: &str = "be there";

/// Two phrases of which one would do, if they are about the same.
fn either(left: &Expr, right: &Expr, holds: bool) -> Option<Phrase> {
    let (left, right) = (of(left, holds)?, of(right, holds)?);
    let wanted = format!("{} or {}", left.wanted, right.wanted);
    (left.subject == right.subject).then_some(Phrase { subject: left.subject, wanted })
}

fn comparison(op: BinaryOp, with: &Expr, holds: bool) -> Option<String> {
    let is_time = matches!(with, Expr::UnaryOp { op: UnaryOp::Datetime, .. });
    let chosen = |time, other| if is_time { time } else { other };
    let less = chosen("be before", "be less than");
    let not_less = chosen("be no earlier than", "be at least");
    let more = chosen("be after", "be more than");
    let not_more = chosen("be no later than", "be at most");
    let (so, otherwise) = match op {
        BinaryOp::Eq => ("be", "be other than"),
        BinaryOp::NotEq => ("be other than", "be"),
        BinaryOp::Less => (less, not_less),
        BinaryOp::LessEq => (not_more, more),
        BinaryOp::Greater => (more, not_more),
        BinaryOp::GreaterEq => (not_less, less),
        BinaryOp::In | BinaryOp::IsInRange => ("be in", "not be in"),
        _ => return None,
    };
    Some(format!("{} {}", if holds { so } else { otherwise }, shown(with)))
}

/// The operator that says the same with its sides exchanged.
const fn mirrored(op: BinaryOp) -> Option<BinaryOp> {
    match op {
        BinaryOp::Eq | BinaryOp::NotEq => Some(op),
        BinaryOp::Less => Some(BinaryOp::Greater),
        BinaryOp::LessEq => Some(BinaryOp::GreaterEq),
        BinaryOp::Greater => Some(BinaryOp::Less),
        BinaryOp::GreaterEq => Some(BinaryOp::LessEq),
        _ => None,
    }
}

/// A literal in its shortest form.
fn shown(expr: &Expr) -> String {
    match expr {
        Expr::UnaryOp { op: UnaryOp::Ip | UnaryOp::Datetime, expr } => match expr.as_ref() {
            Expr::Literal(Literal::String(text)) => text.to_string(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn said(condition: &str, holds: bool) -> Option<String> {
        let policy = format!("permit (principal, action, resource) when {{ {condition} }};");
        let policy = Policy::parse(None, policy).unwrap();
        let expr = Expr::try_from(policy.as_ref().non_scope_constraints().unwrap().clone()).unwrap();
        let Phrase { subject, wanted } = of(&expr, holds)?;
        Some(format!("{subject} would have to {wanted}"))
    }

    #[test]
    fn conditions_about_one_attribute_are_put_in_words() {
        let table = [
            (r#"context.method == "GET""#, r#"context.method: be "GET""#, r#"be other than "GET""#),
            (r#""GET" != context.method"#, r#"context.method: be other than "GET""#, r#"be "GET""#),
            (r#"context.path like "/a/\*/*""#, r#"context.path: match "/a/\*/*""#, r#"not match "/a/\*/*""#),
            (r#"context.headers has "x-u""#, r#"context.headers["x-u"]: be there"#, "be absent"),
            ("context.tls", "context.tls: be true", "be false"),
            ("!context.tls", "context.tls: be false", "be true"),
            (
                r#"["A", "B"].contains(context.method)"#,
                r#"context.method: be one of "A", "B""#,
                r#"be none of "A", "B""#,
            ),
            (
                r#"context.source_ip.isInRange(ip("10.0.0.0/8"))"#,
                "context.source_ip: be in 10.0.0.0/8",
                "not be in 10.0.0.0/8",
            ),
            (
                r#"context.time < datetime("2030-03-01")"#,
                "context.time: be before 2030-03-01",
                "be no earlier than 2030-03-01",
            ),
            (
                r#"datetime("2030-03-01") < context.time"#,
                "context.time: be after 2030-03-01",
                "be no later than 2030-03-01",
            ),
            ("principal.tier <= 2", "principal.tier: be at most 2", "be more than 2"),
            (
                r#"principal in Namespace::"shop""#,
                r#"principal: be in Namespace::"shop""#,
                r#"not be in Namespace::"shop""#,
            ),
            (r#"principal is Workload"#, "principal: be a Workload", "be no Workload"),
        ];
        for (condition, held, not) in table {
            let (subject, held) = held.split_once(": ").unwrap();
            assert_eq!(said(condition, true).unwrap(), format!("{subject} would have to {held}"));
            assert_eq!(said(condition, false).unwrap(), format!("{subject} would have to {not}"));
        }
        let or = r#"context.path like "/a/*" || context.path == "/b""#;
        assert_eq!(said(or, true).unwrap(), r#"context.path would have to match "/a/*" or be "/b""#);
    }

    #[test]
    fn what_is_about_more_is_not() {
        for condition in
            [r#"context.tls || context.method == "GET""#, "[principal].contains(principal)", "1 + 1 == 2"]
        {
            assert_eq!(said(condition, true), None, "{condition}");
        }
    }
}
