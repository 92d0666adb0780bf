//! Derives the atoms of a condition: what the proxy must look at to tell requests apart.
//!
//! The rule that makes this sound: the value of an expression is a function of the principal, the action, the
//! resource, the policy state, and the outcomes of the atoms derived from it. An expression over the context
//! that is no atom of its own puts the values it reads into the key; a node of an unknown kind, or a read of
//! the context as a whole, makes decisions uncacheable. Errors are outcomes too, see [`model::atom::Outcome`].

use std::net::IpAddr;

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, PatternElem, Template, UnaryOp, Var};
use cedar_policy::{EvalResult, Expression};
use ipnet::IpNet;
use model::{Atom, Name, Operand, Pattern, Record, Test, Value};

/// The atoms of one or more expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derived {
    /// The atoms, in the order found, with repetitions.
    pub atoms: Vec<Atom>,
    /// Something is read that no atom stands for: decisions must not be cached.
    pub reads_everything: bool,
}

impl Derived {
    /// Adds the atoms of a policy's conditions. Its scope reads no context.
    pub fn policy(&mut self, policy: &Template) {
        for clause in policy.clauses() {
            match clause {
                Clause::When(expr) | Clause::Unless(expr) => self.expr(expr),
            }
        }
    }

    /// Adds the atoms of an expression.
    pub fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Literal(_) | Expr::Slot(_) => {}
            Expr::Var(Var::Context) => self.reads_everything = true,
            Expr::Var(_) => {}
            Expr::GetAttr { expr: inner, .. } => match context_path(expr) {
                Some(path) => self.read(&path, Test::Value),
                None => self.expr(inner),
            },
            Expr::HasAttr { expr: inner, attrs } => match context_path(inner) {
                Some(mut path) => {
                    path.extend(attrs.iter().map(|attribute| attribute.as_str()));
                    self.read(&path, Test::Present);
                }
                None => self.expr(inner),
            },
            Expr::Like { expr: inner, pattern } => match name_of(inner) {
                Some(name) => self.atom(name, Test::Like(to_pattern(pattern))),
                None => self.expr(inner),
            },
            Expr::UnaryOp { expr, .. } => self.expr(expr),
            Expr::BinaryOp { op, left, right } => match comparison(*op, left, right) {
                Some((name, test)) => self.atom(name, test),
                None => {
                    self.expr(left);
                    self.expr(right);
                }
            },
            Expr::Is { expr, in_expr, .. } => {
                self.expr(expr);
                in_expr.iter().for_each(|expr| self.expr(expr));
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                [cond, then_expr, else_expr].into_iter().for_each(|expr| self.expr(expr));
            }
            Expr::Set(members) => members.iter().for_each(|expr| self.expr(expr)),
            Expr::Record(fields) => fields.values().for_each(|expr| self.expr(expr)),
            // A node of a kind that did not exist when this was written may read anything.
            _ => self.reads_everything = true,
        }
    }

    /// Adds what an operand reads, which is a value.
    pub fn operand(&mut self, operand: &Operand) {
        if let Operand::Context(name) = operand {
            self.atom(name.clone(), Test::Value);
        }
    }

    fn read(&mut self, path: &[&str], test: Test) {
        match Name::from_context_path(path) {
            Some(name) => self.atom(name, test),
            // `context has headers` is always true; any other use of a whole record reads all of it.
            None if test == Test::Present
                && matches!(path, [record] if Record::from_name(record).is_some()) => {}
            None => self.reads_everything = true,
        }
    }

    fn atom(&mut self, name: Name, test: Test) {
        self.atoms.push(Atom { name, test });
    }
}

/// The path below `context` that an expression reads: `["headers", "x"]` for `context.headers["x"]`.
pub fn context_path(expr: &Expr) -> Option<Vec<&str>> {
    match expr {
        Expr::Var(Var::Context) => Some(Vec::new()),
        Expr::GetAttr { expr, attr } => {
            let mut path = context_path(expr)?;
            path.push(attr);
            Some(path)
        }
        _ => None,
    }
}

/// The value an expression is, if it is a literal.
pub fn literal(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Literal(Literal::Bool(value)) => Some(Value::Bool(*value)),
        Expr::Literal(Literal::Long(value)) => Some(Value::Long(*value)),
        Expr::Literal(Literal::String(value)) => Some(Value::Text(value.to_string())),
        Expr::UnaryOp { op: UnaryOp::Ip, expr } => match network(expr)? {
            // Cedar's `==` compares ranges: only a range of one address equals an address.
            range if range.prefix_len() == range.max_prefix_len() => Some(Value::Ip(range.addr())),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOp::Datetime, expr } => datetime(expr).map(Value::Time),
        _ => None,
    }
}

fn name_of(expr: &Expr) -> Option<Name> {
    Name::from_context_path(&context_path(expr)?)
}

/// The atom that decides a comparison, if one side is a fact and the other a literal.
///
/// `>` and `>=` have the atoms of `<=` and `<`: the outcome says the same, negated, and errs in the same cases.
fn comparison(op: BinaryOp, left: &Expr, right: &Expr) -> Option<(Name, Test)> {
    let fact_first = || Some((name_of(left)?, literal(right)?));
    let fact_last = || Some((name_of(right)?, literal(left)?));
    let test = |pair: (Name, Value), test: fn(Value) -> Test| (pair.0, test(pair.1));
    match op {
        BinaryOp::Eq | BinaryOp::NotEq => {
            fact_first().or_else(fact_last).map(|pair| test(pair, Test::Equals))
        }
        BinaryOp::Less | BinaryOp::GreaterEq => fact_first()
            .map(|pair| test(pair, Test::Less))
            .or_else(|| fact_last().map(|pair| test(pair, Test::LessOrEqual))),
        BinaryOp::LessEq | BinaryOp::Greater => fact_first()
            .map(|pair| test(pair, Test::LessOrEqual))
            .or_else(|| fact_last().map(|pair| test(pair, Test::Less))),
        BinaryOp::Contains => match left {
            Expr::Set(members) => {
                let values: Option<Vec<Value>> = members.iter().map(|member| literal(member)).collect();
                Some((name_of(right)?, Test::OneOf(values?)))
            }
            _ => None,
        },
        BinaryOp::IsInRange => match right {
            Expr::UnaryOp { op: UnaryOp::Ip, expr } => Some((name_of(left)?, Test::InRange(network(expr)?))),
            _ => None,
        },
        _ => None,
    }
}

fn to_pattern(elements: &[PatternElem]) -> Pattern {
    let mut pieces = vec![String::new()];
    for element in elements {
        match (element, pieces.last_mut()) {
            (PatternElem::Char(c), Some(piece)) => piece.push(*c),
            _ => pieces.push(String::new()),
        }
    }
    let mut pieces = pieces.into_iter();
    Pattern::new(pieces.next().unwrap_or_default(), pieces.collect())
}

fn network(text: &Expr) -> Option<IpNet> {
    let Expr::Literal(Literal::String(text)) = text else { return None };
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Cedar reads the text, so that both sides agree on what it means.
fn datetime(text: &Expr) -> Option<i64> {
    let Expr::Literal(Literal::String(text)) = text else { return None };
    let text = serde_json::to_string(text.as_str()).ok()?;
    let expression: Expression =
        format!(r#"datetime({text}).durationSince(datetime("1970-01-01")).toMilliseconds()"#).parse().ok()?;
    match crate::engine::evaluate_constant(&expression)? {
        EvalResult::Long(millis) => Some(millis),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::{Policy, pst};

    use super::*;

    fn derived(condition: &str) -> Derived {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        let policy = Policy::parse(None, text).unwrap();
        let pst::Policy::Static(policy) = policy.to_pst().unwrap() else { panic!("a static policy") };
        let mut derived = Derived::default();
        derived.policy(policy.body());
        derived
    }

    fn one(condition: &str) -> (Name, Test) {
        let derived = derived(condition);
        assert!(!derived.reads_everything, "{condition}");
        assert_eq!(derived.atoms.len(), 1, "{condition}: {:?}", derived.atoms);
        let atom = derived.atoms.into_iter().next().unwrap();
        (atom.name, atom.test)
    }

    #[test]
    fn simple_tests_become_atoms() {
        let header = || Name::Header("x-user".into());
        let text = |text: &str| Value::Text(text.into());
        let path = |pieces: &[&str]| {
            Test::Like(pieces.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>().try_into().unwrap())
        };
        let table = [
            (r#"context.method == "GET""#, Name::Method, Test::Equals(text("GET"))),
            (r#""GET" != context.method"#, Name::Method, Test::Equals(text("GET"))),
            (r#"context.path like "/a/*/b\*""#, Name::Path, path(&["/a/", "/b*"])),
            (r#"context.headers has "x-user""#, header(), Test::Present),
            (r#"context has headers.q"#, Name::Header("q".into()), Test::Present),
            (r#"context.headers["x-user"] == "a""#, header(), Test::Equals(text("a"))),
            (
                r#"["GET", "HEAD"].contains(context.method)"#,
                Name::Method,
                Test::OneOf(vec![text("GET"), text("HEAD")]),
            ),
            (
                r#"context.source_ip.isInRange(ip("10.0.0.0/8"))"#,
                Name::SourceIp,
                Test::InRange("10.0.0.0/8".parse().unwrap()),
            ),
            (
                r#"context.source_ip == ip("::1")"#,
                Name::SourceIp,
                Test::Equals(Value::Ip("::1".parse().unwrap())),
            ),
            (r#"context.time < datetime("1970-01-02")"#, Name::Time, Test::Less(Value::Time(86_400_000))),
            (r#"context.time >= datetime("1970-01-02")"#, Name::Time, Test::Less(Value::Time(86_400_000))),
            (
                r#"datetime("1970-01-02") < context.time"#,
                Name::Time,
                Test::LessOrEqual(Value::Time(86_400_000)),
            ),
            ("context.tls", Name::Tls, Test::Value),
            ("!context.tls", Name::Tls, Test::Value),
        ];
        for (condition, name, test) in table {
            assert_eq!(one(condition), (name, test), "{condition}");
        }
    }

    #[test]
    fn what_is_no_atom_reads_values() {
        assert_eq!(one("context.path == principal.namespace"), (Name::Path, Test::Value));
        assert_eq!(one(r#"context.source_ip == ip("10.0.0.0/8")"#), (Name::SourceIp, Test::Value));
        assert_eq!(one("context.source_ip.isLoopback()"), (Name::SourceIp, Test::Value));
        assert_eq!(one(r#"context.time.toTime() < duration("8h")"#), (Name::Time, Test::Value));
        let two = derived("if context.tls then context.method == context.path else false");
        assert_eq!(two.atoms.len(), 3);
        assert_eq!(derived(r#"principal in Group::"a" && resource.namespace == "b""#), Derived::default());
    }

    #[test]
    fn what_reads_a_whole_record_reads_everything() {
        for condition in
            ["context == {}", "{a: context.headers} == {}", "context.other.thing", "context has other"]
        {
            assert!(derived(condition).reads_everything, "{condition}");
        }
        assert_eq!(derived("context has headers"), Derived::default());
    }
}
