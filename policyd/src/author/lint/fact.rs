//! What a part of a condition says of one value, such as the path, and whether two such parts exclude each other.

use std::cmp::Ordering;
use std::net::IpAddr;

use cedar_policy::{EntityUid, EvalResult, Expression};
use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal, Pattern, UnaryOp};
use ipnet::IpNet;

use super::condition::Part;
use super::wildcard;
use crate::engine::evaluate_constant;

/// What a part says: that a test of a fact holds, or that it does not.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// What is tested: any expression that is no literal.
    pub(super) fact: Expr,
    test: Test,
    holds: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Equals(Value),
    OneOf(Vec<Value>),
    Less(i64),
    LessOrEqual(i64),
    Like(Pattern),
    Within(IpNet),
    Present,
}

/// A literal. Times and durations are numbers: one fact is not compared with both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Number(i64),
    Text(String),
    Entity(EntityUid),
    Net(IpNet),
}

impl Claim {
    /// What `part` says. A part that is no comparison is a fact of its own, which is true or false.
    pub(super) fn of(part: &Part<'_>) -> Self {
        let (mut expr, mut holds) = (part.expr, !part.negated);
        while let ExprKind::UnaryApp { op: UnaryOp::Not, arg } = expr.expr_kind() {
            expr = arg;
            holds = !holds;
        }
        let (fact, test, flipped) =
            compared(expr).unwrap_or_else(|| (expr.clone(), Test::Equals(Value::Bool(true)), false));
        let holds = holds != flipped;
        match test {
            // Not to be true is to be false.
            Test::Equals(Value::Bool(value)) if !holds => {
                Self { fact, test: Test::Equals(Value::Bool(!value)), holds: true }
            }
            test => Self { fact, test, holds },
        }
    }

    /// That a fact is this entity.
    pub(super) fn equals(fact: Expr, entity: EntityUid) -> Self {
        Self { fact, test: Test::Equals(Value::Entity(entity)), holds: true }
    }

    /// Whether this claim and `other`, of the same fact, are never true together.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        self.excludes_in_order(other) || other.excludes_in_order(self)
    }

    fn excludes_in_order(&self, other: &Self) -> bool {
        let fails = |value: &Value| other.test.on(value).is_some_and(|outcome| outcome != other.holds);
        match (&self.test, self.holds) {
            (Test::Equals(value), true) => fails(value),
            (Test::OneOf(values), true) => values.iter().all(fails),
            (test, holds) if *test == other.test => holds != other.holds,
            (Test::Like(pattern), true) => match &other.test {
                Test::Like(second) if other.holds => !wildcard::meet(pattern, second),
                Test::Like(second) => wildcard::within(pattern, second),
                _ => false,
            },
            (Test::Within(range), true) => match &other.test {
                Test::Within(second) if other.holds => !range.contains(second) && !second.contains(range),
                Test::Within(second) => second.contains(range),
                _ => false,
            },
            _ => match (self.bound(), other.bound()) {
                (Some(Bound::AtLeast(low)), Some(Bound::AtMost(high))) => low > high,
                _ => false,
            },
        }
    }

    /// The values that this claim leaves, if it names them all, without those that `others` exclude.
    pub(super) fn left_by<'c>(&'c self, others: &[&Self]) -> Option<Vec<&'c Value>> {
        let Test::OneOf(values) = &self.test else { return None };
        let fits =
            |value: &&Value| others.iter().all(|other| other.test.on(value).is_none_or(|v| v == other.holds));
        self.holds.then(|| values.iter().filter(fits).collect())
    }

    fn bound(&self) -> Option<Bound> {
        let next = |number: i64| number.checked_add(1);
        Some(match (&self.test, self.holds) {
            (Test::Less(number), true) => Bound::AtMost(number.checked_sub(1)?),
            (Test::LessOrEqual(number), true) => Bound::AtMost(*number),
            (Test::Less(number), false) => Bound::AtLeast(*number),
            (Test::LessOrEqual(number), false) => Bound::AtLeast(next(*number)?),
            _ => return None,
        })
    }
}

/// A bound of numbers, both ends included.
enum Bound {
    AtLeast(i64),
    AtMost(i64),
}

impl Test {
    /// Its outcome on a value; nothing if that can't be told.
    fn on(&self, value: &Value) -> Option<bool> {
        match (self, value) {
            (Self::Equals(expected), value) => expected.same_as(value),
            (Self::OneOf(values), value) => {
                let outcomes: Option<Vec<bool>> = values.iter().map(|one| one.same_as(value)).collect();
                Some(outcomes?.contains(&true))
            }
            (Self::Less(bound), Value::Number(number)) => Some(number.cmp(bound) == Ordering::Less),
            (Self::LessOrEqual(bound), Value::Number(number)) => Some(number.cmp(bound) != Ordering::Greater),
            (Self::Like(pattern), Value::Text(text)) => Some(pattern.wildcard_match(text)),
            (Self::Within(range), Value::Net(net)) => Some(range.contains(net)),
            (Self::Present, _) => Some(true),
            _ => None,
        }
    }
}

impl Value {
    /// The value of a literal.
    pub(super) fn of(expr: &Expr) -> Option<Self> {
        match expr.expr_kind() {
            ExprKind::Lit(Literal::Bool(value)) => Some(Self::Bool(*value)),
            ExprKind::Lit(Literal::Long(value)) => Some(Self::Number(*value)),
            ExprKind::Lit(Literal::String(value)) => Some(Self::Text(value.to_string())),
            ExprKind::Lit(Literal::EntityUID(uid)) => {
                Some(Self::Entity(EntityUid::from(uid.as_ref().clone())))
            }
            ExprKind::ExtensionFunctionApp { fn_name, args } => {
                let [argument] = args.as_slice() else { return None };
                let ExprKind::Lit(Literal::String(text)) = argument.expr_kind() else { return None };
                match fn_name.to_string().as_str() {
                    "ip" => text
                        .parse()
                        .ok()
                        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
                        .map(Self::Net),
                    "datetime" => number(&format!(r#"({expr}).durationSince(datetime("1970-01-01"))"#)),
                    "duration" => number(&format!("({expr})")),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether Cedar's `==` holds; nothing where two texts of one range of addresses may differ.
    fn same_as(&self, other: &Self) -> Option<bool> {
        match (self, other) {
            (Self::Net(left), Self::Net(right)) if left != right && left.trunc() == right.trunc() => None,
            _ => Some(self == other),
        }
    }
}

/// Cedar reads times, so that both sides agree on what they mean.
fn number(duration: &str) -> Option<Value> {
    let expression: Expression = format!("{duration}.toMilliseconds()").parse().ok()?;
    match evaluate_constant(&expression)? {
        EvalResult::Long(millis) => Some(Value::Number(millis)),
        _ => None,
    }
}

/// The fact and the test of a comparison with a literal, and whether the comparison is the test's negation.
fn compared(expr: &Expr) -> Option<(Expr, Test, bool)> {
    match expr.expr_kind() {
        ExprKind::BinaryApp { op, arg1, arg2 } => match (op, Value::of(arg1), Value::of(arg2)) {
            (BinaryOp::Eq, None, Some(value)) => Some((arg1.as_ref().clone(), Test::Equals(value), false)),
            (BinaryOp::Eq, Some(value), None) => Some((arg2.as_ref().clone(), Test::Equals(value), false)),
            (BinaryOp::Less, None, Some(Value::Number(n))) => {
                Some((arg1.as_ref().clone(), Test::Less(n), false))
            }
            (BinaryOp::LessEq, None, Some(Value::Number(n))) => {
                Some((arg1.as_ref().clone(), Test::LessOrEqual(n), false))
            }
            // `1 < a` is `!(a <= 1)`.
            (BinaryOp::Less, Some(Value::Number(n)), None) => {
                Some((arg2.as_ref().clone(), Test::LessOrEqual(n), true))
            }
            (BinaryOp::LessEq, Some(Value::Number(n)), None) => {
                Some((arg2.as_ref().clone(), Test::Less(n), true))
            }
            (BinaryOp::Contains, None, None) => {
                let ExprKind::Set(members) = arg1.expr_kind() else { return None };
                let values: Option<Vec<Value>> = members.iter().map(Value::of).collect();
                Some((arg2.as_ref().clone(), Test::OneOf(values?), false))
            }
            _ => None,
        },
        ExprKind::Like { expr, pattern } => Some((expr.as_ref().clone(), Test::Like(pattern.clone()), false)),
        ExprKind::HasAttr { expr, attr } => {
            Some((Expr::get_attr(expr.as_ref().clone(), attr.clone()), Test::Present, false))
        }
        ExprKind::ExtensionFunctionApp { fn_name, args } if fn_name.to_string() == "isInRange" => {
            let [fact, range] = args.as_slice() else { return None };
            match Value::of(range)? {
                Value::Net(range) => Some((fact.clone(), Test::Within(range), false)),
                _ => None,
            }
        }
        _ => None,
    }
}
