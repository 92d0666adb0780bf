//! Derives the atoms of a condition: what the proxy must look at to tell requests apart.
//!
//! The rule that makes this sound: the value of an expression is a function of the principal, the action, the
//! resource, the policy state, and the outcomes of the atoms derived from it. An expression over the context
//! that is no atom of its own puts the values it reads into the key; a node of an unknown kind, or a read of
//! the context as a whole, makes decisions uncacheable. Errors are outcomes too, see [`model::atom::Outcome`].

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, PatternElem, Template, UnaryOp, Var};
use ipnet::IpNet;
use model::{Atom, Kind, Name, Operand, Pattern, Record, Step, Test, Value};

/// The atoms of one or more expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derived {
    /// The atoms, in the order found, with repetitions.
    pub atoms: Vec<Atom>,
    /// Something is read that no atom stands for: decisions must not be cached.
    pub reads_everything: bool,
}

/// What a path below `context` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A fact.
    Fact(Name),
    /// A record that every request has. Asking whether it is there reads nothing.
    Record,
    /// Anything else: whoever reads it reads everything.
    Other,
}

/// Says what a path below `context` stands for, such as `["headers", "x"]` for `context.headers["x"]`.
pub type Meanings<'m> = dyn Fn(&[&str]) -> Meaning + 'm;

/// The fact that an expression is, after steps.
type Reading = (Name, Vec<Step>);

impl Derived {
    /// Adds the atoms of a policy's conditions. Its scope reads no context.
    pub fn policy(&mut self, policy: &Template, meanings: &Meanings<'_>) {
        for clause in policy.clauses() {
            match clause {
                Clause::When(expr) | Clause::Unless(expr) => self.expr(expr, meanings),
            }
        }
    }

    /// Adds the atoms of an expression.
    pub fn expr(&mut self, expr: &Expr, meanings: &Meanings<'_>) {
        if let Some((reading, tests)) = tests(expr, meanings) {
            tests.into_iter().for_each(|test| self.atom(&reading, test));
            return;
        }
        if let Some(reading) = reading(expr, meanings) {
            self.atom(&reading, Test::Value);
            return;
        }
        match expr {
            Expr::Literal(_) | Expr::Slot(_) => {}
            Expr::Var(Var::Context) => self.reads_everything = true,
            Expr::Var(_) => {}
            Expr::GetAttr { expr: inner, .. } => match context_path(expr) {
                Some(_) => self.reads_everything = true,
                None => self.expr(inner, meanings),
            },
            Expr::HasAttr { expr: inner, attrs } => match context_path(inner) {
                Some(mut path) => {
                    path.extend(attrs.iter().map(|attribute| attribute.as_str()));
                    self.reads_everything |= meanings(&path) != Meaning::Record;
                }
                None => self.expr(inner, meanings),
            },
            Expr::Like { expr, .. } | Expr::UnaryOp { expr, .. } => self.expr(expr, meanings),
            Expr::BinaryOp { left, right, .. } => {
                [left, right].into_iter().for_each(|expr| self.expr(expr, meanings));
            }
            Expr::Is { expr, in_expr, .. } => {
                self.expr(expr, meanings);
                in_expr.iter().for_each(|expr| self.expr(expr, meanings));
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                [cond, then_expr, else_expr].into_iter().for_each(|expr| self.expr(expr, meanings));
            }
            Expr::Set(members) => members.iter().for_each(|expr| self.expr(expr, meanings)),
            Expr::Record(fields) => fields.values().for_each(|expr| self.expr(expr, meanings)),
            // A node of a kind that did not exist when this was written may read anything.
            _ => self.reads_everything = true,
        }
    }

    /// Adds what an operand reads, which is a value.
    pub fn operand(&mut self, operand: &Operand) {
        if let Operand::Context(name) = operand {
            self.atoms.push(Atom::new(name.clone(), Test::Value));
        }
    }

    /// The same atoms, for texts that are read as types before anything else: `kind` says of each name as which.
    #[must_use]
    pub fn typed(mut self, kind: impl Fn(&Name) -> Option<Kind>) -> Self {
        self.atoms.iter_mut().for_each(|atom| read_as(atom, kind(&atom.name)));
        self
    }

    fn atom(&mut self, (name, steps): &Reading, test: Test) {
        self.atoms.push(Atom { name: name.clone(), steps: steps.clone(), test });
    }
}

/// What paths stand for in the built-in schema.
pub fn meaning(path: &[&str]) -> Meaning {
    match (Name::from_context_path(path), path) {
        (Some(name), _) => Meaning::Fact(name),
        (None, [record]) if Record::from_name(record).is_some() => Meaning::Record,
        _ => Meaning::Other,
    }
}

/// Has the text that `atom` is about read as `kind` first.
pub fn read_as(atom: &mut Atom, kind: Option<Kind>) {
    if let Some(kind) = kind {
        atom.steps.insert(0, Step::Read(kind));
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

/// The value an expression is, if it is a literal, or steps on one.
pub fn literal(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Literal(Literal::Bool(value)) => Some(Value::Bool(*value)),
        Expr::Literal(Literal::Long(value)) => Some(Value::Long(*value)),
        Expr::Literal(Literal::String(value)) => Some(Value::Text(value.to_string())),
        Expr::UnaryOp { op: UnaryOp::Neg, expr } => match literal(expr)? {
            Value::Long(value) => value.checked_neg().map(Value::Long),
            _ => None,
        },
        Expr::UnaryOp { op, expr } => match constructed(*op) {
            Some(kind) => match expr.as_ref() {
                Expr::Literal(Literal::String(text)) => kind.read(text).map(|fact| fact.to_value()),
                _ => None,
            },
            None => stepped(&literal(expr)?, step(*op)?),
        },
        Expr::BinaryOp { op, left, right } => stepped(&literal(left)?, step_with(*op, &literal(right)?)?),
        Expr::Set(members) => {
            let text = |member: &Expr| match literal(member)? {
                Value::Text(text) => Some(text),
                _ => None,
            };
            members.iter().map(|member| text(member)).collect::<Option<_>>().map(Value::Texts)
        }
        _ => None,
    }
}

fn stepped(value: &Value, step: Step) -> Option<Value> {
    step.on(value.as_fact()).ok().map(|fact| fact.to_value())
}

/// The fact that an expression is, if it is one, or steps on one.
fn reading(expr: &Expr, meanings: &Meanings<'_>) -> Option<Reading> {
    if let Some(path) = context_path(expr) {
        return fact(&path, meanings);
    }
    let (inner, step) = match expr {
        Expr::UnaryOp { op, expr } => (expr, step(*op)?),
        Expr::BinaryOp { op, left, right } => match (literal(right), literal(left)) {
            (Some(right), None) => (left, step_with(*op, &right)?),
            (None, Some(Value::Time(end))) if *op == BinaryOp::DurationSince => (right, Step::Until(end)),
            _ => return None,
        },
        _ => return None,
    };
    let (name, mut steps) = reading(inner, meanings)?;
    steps.push(step);
    Some((name, steps))
}

fn fact(path: &[&str], meanings: &Meanings<'_>) -> Option<Reading> {
    match meanings(path) {
        Meaning::Fact(name) => Some((name, Vec::new())),
        Meaning::Record | Meaning::Other => None,
    }
}

/// The fact whose tests decide an expression, and these tests: it is a function of their outcomes, and errs where
/// they do.
fn tests(expr: &Expr, meanings: &Meanings<'_>) -> Option<(Reading, Vec<Test>)> {
    match expr {
        Expr::HasAttr { expr, attrs } => {
            let mut path = context_path(expr)?;
            path.extend(attrs.iter().map(|attribute| attribute.as_str()));
            Some((fact(&path, meanings)?, vec![Test::Present]))
        }
        Expr::Like { expr, pattern } => {
            Some((reading(expr, meanings)?, vec![Test::Like(to_pattern(pattern))]))
        }
        Expr::UnaryOp { op, expr } => {
            let ranges: &[&str] = match op {
                UnaryOp::IsIPv4 => &["0.0.0.0/0"],
                UnaryOp::IsIPV6 => &["::/0"],
                UnaryOp::IsLoopback => &["127.0.0.0/8", "::1/128"],
                UnaryOp::IsMulticast => &["224.0.0.0/4", "ff00::/8"],
                _ => return None,
            };
            let test = |range: &&str| range.parse().ok().map(Test::InRange);
            Some((reading(expr, meanings)?, ranges.iter().map(test).collect::<Option<_>>()?))
        }
        Expr::BinaryOp { op, left, right } => match (reading(left, meanings), reading(right, meanings)) {
            (Some(fact), None) => Some((fact, fact_first(*op, literals(right)?)?)),
            (None, Some(fact)) => Some((fact, fact_last(*op, literals(left)?)?)),
            _ => None,
        },
        _ => None,
    }
}

/// A literal, and the members of it if it is a set.
type Literals = (Option<Value>, Option<Vec<Value>>);

fn literals(expr: &Expr) -> Option<Literals> {
    let members = match expr {
        Expr::Set(members) => members.iter().map(|member| literal(member)).collect(),
        _ => None,
    };
    let literals = (literal(expr), members);
    (literals != (None, None)).then_some(literals)
}

/// The tests that decide `fact op literal`.
///
/// `>` and `>=` have the tests of `<=` and `<`: the outcome says the same, negated, and errs in the same cases.
fn fact_first(op: BinaryOp, (value, members): Literals) -> Option<Vec<Test>> {
    let test = match (op, value) {
        (BinaryOp::Eq | BinaryOp::NotEq, Some(value)) => Test::Equals(value),
        (BinaryOp::Less | BinaryOp::GreaterEq, Some(value)) => Test::Less(ordered(value)?),
        (BinaryOp::LessEq | BinaryOp::Greater, Some(value)) => Test::LessOrEqual(ordered(value)?),
        (BinaryOp::DecimalLessThan | BinaryOp::DecimalGreaterEq, Some(value @ Value::Decimal(_))) => {
            Test::Less(value)
        }
        (BinaryOp::DecimalLessEq | BinaryOp::DecimalGreater, Some(value @ Value::Decimal(_))) => {
            Test::LessOrEqual(value)
        }
        (BinaryOp::IsInRange, Some(Value::Ip(address))) => Test::InRange(IpNet::from(address)),
        (BinaryOp::IsInRange, Some(Value::Range(range))) => Test::InRange(range),
        (BinaryOp::Contains, Some(value)) => Test::Contains(value),
        (BinaryOp::ContainsAny | BinaryOp::ContainsAll, _) => return each(members?),
        _ => return None,
    };
    Some(vec![test])
}

/// The tests that decide `literal op fact`.
fn fact_last(op: BinaryOp, (value, members): Literals) -> Option<Vec<Test>> {
    let test = match (op, value) {
        (BinaryOp::Eq | BinaryOp::NotEq, Some(value)) => Test::Equals(value),
        (BinaryOp::Less | BinaryOp::GreaterEq, Some(value)) => Test::LessOrEqual(ordered(value)?),
        (BinaryOp::LessEq | BinaryOp::Greater, Some(value)) => Test::Less(ordered(value)?),
        (BinaryOp::DecimalLessThan | BinaryOp::DecimalGreaterEq, Some(value @ Value::Decimal(_))) => {
            Test::LessOrEqual(value)
        }
        (BinaryOp::DecimalLessEq | BinaryOp::DecimalGreater, Some(value @ Value::Decimal(_))) => {
            Test::Less(value)
        }
        (BinaryOp::Contains, _) => Test::OneOf(members?),
        (BinaryOp::ContainsAny, _) => return each(members?),
        _ => return None,
    };
    Some(vec![test])
}

/// A set holds any, or all, of some literals: that is known from each. Of none of them nothing would be asked, and
/// an error where the fact is no set would go unseen.
fn each(members: Vec<Value>) -> Option<Vec<Test>> {
    (!members.is_empty()).then(|| members.into_iter().map(Test::Contains).collect())
}

/// What Cedar's `<` compares: on other types it is an error.
fn ordered(value: Value) -> Option<Value> {
    matches!(value, Value::Long(_) | Value::Time(_) | Value::Duration(_)).then_some(value)
}

/// What type a constructor such as `ip` makes.
const fn constructed(op: UnaryOp) -> Option<Kind> {
    match op {
        UnaryOp::Ip => Some(Kind::Ip),
        UnaryOp::Decimal => Some(Kind::Decimal),
        UnaryOp::Datetime => Some(Kind::Time),
        UnaryOp::Duration => Some(Kind::Duration),
        _ => None,
    }
}

const fn step(op: UnaryOp) -> Option<Step> {
    match op {
        UnaryOp::ToDate => Some(Step::ToDate),
        UnaryOp::ToTime => Some(Step::ToTime),
        UnaryOp::ToMilliseconds => Some(Step::ToMilliseconds),
        UnaryOp::ToSeconds => Some(Step::ToSeconds),
        UnaryOp::ToMinutes => Some(Step::ToMinutes),
        UnaryOp::ToHours => Some(Step::ToHours),
        UnaryOp::ToDays => Some(Step::ToDays),
        _ => None,
    }
}

const fn step_with(op: BinaryOp, value: &Value) -> Option<Step> {
    match (op, value) {
        (BinaryOp::Offset, Value::Duration(by)) => Some(Step::Offset(*by)),
        (BinaryOp::DurationSince, Value::Time(start)) => Some(Step::Since(*start)),
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

#[cfg(test)]
mod tests;
