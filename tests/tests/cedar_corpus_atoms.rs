//! Atoms, on Cedar's own integration tests: what is derived from a condition, and what it comes to natively, against
//! Cedar's evaluation. The cases lie beside the repository, where they exist; the test says so where they don't.
//!
//! Their policies read no context. So constants are lifted out of their conditions: `ip("…").isLoopback()` becomes
//! `context.c0.isLoopback()`, for a request whose context holds the constant, or lacks it where it is an error. That
//! changes nothing of what Cedar decides, which is checked; and then other requests hold other constants.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::str::FromStr;

use cedar_policy::pst::{self, BinaryOp, Clause, Expr, UnaryOp};
use cedar_policy::{
    Context, Entities, EvalResult, Expression, Policy, PolicyId, PolicySet, Request, RestrictedExpression,
    Schema, eval_expression,
};
use model::atom::Outcome;
use model::{Action, AtomSet, Fact, Facts, Keys, Name, Principal, Room, Test, Value};
use policyd::atoms::{Derived, Meaning, literal};
use policyd::engine::index::{Depth, Index};
use serde_json::{Value as Json, json};
use tidegate_tests::cedar_corpus::{self, Case};

/// How many contexts each request is tried with, and how many requests of each case.
const CONTEXTS: usize = 16;
const REQUESTS: usize = 3;

/// Constants that any request may hold, beside those of its case: of each type, and on both sides of many tests.
const CONSTANTS: &[&str] = &[
    "true",
    "false",
    "0",
    "-1",
    "9223372036854775807",
    "\"\"",
    "\"a\"",
    "\"*\"",
    "[]",
    "[\"a\"]",
    "[\"a\", \"\"]",
    "ip(\"127.0.0.1\")",
    "ip(\"10.0.0.0/8\")",
    "ip(\"::1\")",
    "ip(\"ff00::/8\")",
    "ip(\"224.0.0.1\")",
    "decimal(\"0.0\")",
    "decimal(\"-1.5\")",
    "datetime(\"1970-01-01\")",
    "datetime(\"2024-02-29T23:59:59.999+0100\")",
    "duration(\"0ms\")",
    "duration(\"-1d1h\")",
    "duration(\"9223372036854775807ms\")",
];

/// A constant, in both worlds.
#[derive(Clone, Debug)]
struct Constant {
    cedar: RestrictedExpression,
    native: Value,
}

/// What became of a case.
#[derive(Default)]
struct Lifted {
    policies: Vec<Policy>,
    /// By name within the context: the constant that was there.
    constants: BTreeMap<String, Option<Constant>>,
}

/// A context that facts can be read of.
struct Known(BTreeMap<String, Constant>);

/// What was seen in all cases together.
#[derive(Default)]
struct Seen {
    lifted: usize,
    cacheable: usize,
    compared: usize,
    by_outcome: HashMap<Outcome, usize>,
    shared: usize,
}

impl Facts for Known {
    fn principal(&self) -> &Principal {
        &Principal::Unauthenticated
    }

    fn action(&self) -> Action {
        Action::Http
    }

    fn resource(&self) -> &str {
        ""
    }

    fn fact<'a>(&'a self, name: &Name, _room: &'a mut String) -> Option<Fact<'a>> {
        let Name::Header(name) = name else { return None };
        Some(self.0.get(name)?.native.as_fact())
    }
}

impl Constant {
    /// Nothing if it can't be a fact; nothing within if Cedar fails on it.
    fn read(expr: &Expr) -> Option<Option<Self>> {
        let cedar = RestrictedExpression::from_str(&expr.to_string()).ok()?;
        match (Context::from_pairs([("c".to_owned(), cedar.clone())]), literal(expr)) {
            (Ok(_), Some(native)) => Some(Some(Self { cedar, native })),
            (Ok(_), None) => None,
            (Err(_), None) => Some(None),
            (Err(error), Some(native)) => panic!("{expr} is read as {native:?}, but {error}"),
        }
    }
}

/// The syntax tree of an expression in JSON.
fn tree(body: &Json) -> Option<Expr> {
    let any = json!({"op": "All"});
    let compared = json!({"==": {"left": body, "right": body}});
    let policy = json!({
        "effect": "permit", "principal": any, "action": any, "resource": any,
        "conditions": [{"kind": "when", "body": compared}]
    });
    let pst::Policy::Static(policy) = Policy::from_json(None, policy).ok()?.to_pst().ok()? else {
        return None;
    };
    match policy.body().clauses().first()? {
        Clause::When(condition) => match condition.as_ref() {
            Expr::BinaryOp { left, .. } => Some(left.as_ref().clone()),
            _ => None,
        },
        Clause::Unless(_) => None,
    }
}

impl Lifted {
    fn policy(&mut self, policy: &Policy) {
        let mut json = policy.to_json().unwrap();
        for condition in json["conditions"].as_array_mut().unwrap() {
            self.expr(&mut condition["body"]);
        }
        self.policies.push(Policy::from_json(Some(policy.id().clone()), json).unwrap());
    }

    /// Lifts a constant out of each operation within an expression.
    fn expr(&mut self, expr: &mut Json) {
        let Some((operator, operands)) = expr.as_object_mut().and_then(|node| node.iter_mut().next()) else {
            return;
        };
        match operator.as_str() {
            "Value" | "Var" | "ip" | "decimal" | "datetime" | "duration" => {}
            "&&" | "||" | "!" | "if-then-else" | "Set" | "Record" => self.each(operands),
            _ => {
                // From the left, and of every second operation with two operands from the right.
                let turned = self.constants.len() % 2 == 1;
                let operand = match operands {
                    Json::Array(operands) if turned => operands.last_mut(),
                    Json::Array(operands) => operands.first_mut(),
                    Json::Object(operands) if turned && operands.contains_key("right") => {
                        operands.get_mut("right")
                    }
                    Json::Object(operands) => match operands.contains_key("left") {
                        true => operands.get_mut("left"),
                        false => operands.get_mut("arg"),
                    },
                    _ => None,
                };
                if !operand.is_some_and(|operand| self.innermost(operand)) {
                    self.each(operands);
                }
            }
        }
    }

    fn each(&mut self, operands: &mut Json) {
        match operands {
            Json::Array(operands) => operands.iter_mut().for_each(|operand| self.expr(operand)),
            Json::Object(operands) => operands.values_mut().for_each(|operand| self.expr(operand)),
            _ => {}
        }
    }

    /// Lifts the constant on which an operand's steps are made, if it is one.
    fn innermost(&mut self, operand: &mut Json) -> bool {
        if let Some(constant) = tree(operand).and_then(|expr| Constant::read(&expr)) {
            let name = format!("c{}", self.constants.len());
            *operand = json!({".": {"left": {"Var": "context"}, "attr": name}});
            self.constants.insert(name, constant);
            return true;
        }
        let Some((operator, operands)) = operand.as_object_mut().and_then(|node| node.iter_mut().next())
        else {
            return false;
        };
        let is_step = operator.starts_with("to") || ["offset", "durationSince"].contains(&operator.as_str());
        match operands {
            Json::Array(operands) if is_step => {
                operands.first_mut().is_some_and(|operand| self.innermost(operand))
            }
            _ => false,
        }
    }
}

/// An operation that is an atom, or several, as Cedar evaluates it.
struct Operation {
    text: String,
    expression: Expression,
    derived: Derived,
    /// What Cedar said for each outcome of the atoms.
    said: HashMap<Vec<Outcome>, Option<bool>>,
}

/// Whether an expression is a literal or an attribute, or steps on one: nothing that is true or false by itself.
fn is_value(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(_) | Expr::Var(_) => true,
        Expr::GetAttr { expr, .. } => is_value(expr),
        Expr::UnaryOp { op, expr } => {
            let is_test =
                matches!(op, UnaryOp::IsIPv4 | UnaryOp::IsIPV6 | UnaryOp::IsLoopback | UnaryOp::IsMulticast);
            !is_test && !matches!(op, UnaryOp::Not | UnaryOp::IsEmpty) && is_value(expr)
        }
        Expr::BinaryOp { op: BinaryOp::Offset | BinaryOp::DurationSince, left, right } => {
            is_value(left) && is_value(right)
        }
        Expr::Set(members) => members.iter().all(|member| is_value(member)),
        _ => false,
    }
}

fn operations(expr: &Expr, meanings: &dyn Fn(&[&str]) -> Meaning, found: &mut Vec<Operation>) {
    use Expr::{BinaryOp as Binary, UnaryOp as Unary};
    let is_test = match expr {
        Expr::Like { expr, .. } | Expr::HasAttr { expr, .. } => is_value(expr),
        Unary { op, expr } => {
            matches!(op, UnaryOp::IsIPv4 | UnaryOp::IsIPV6 | UnaryOp::IsLoopback | UnaryOp::IsMulticast)
                && is_value(expr)
        }
        Binary { op, left, right } => {
            !matches!(op, BinaryOp::And | BinaryOp::Or) && is_value(left) && is_value(right)
        }
        _ => false,
    };
    if is_test {
        let mut derived = Derived::default();
        derived.expr(expr, meanings);
        let is_whole = derived.atoms.iter().all(|atom| atom.test != Test::Value);
        if is_whole && !derived.reads_everything && !derived.atoms.is_empty() {
            let text = expr.to_string();
            if let Ok(expression) = text.parse() {
                found.push(Operation { text, expression, derived, said: HashMap::new() });
                return;
            }
        }
    }
    let mut inner = |exprs: &[&Expr]| exprs.iter().for_each(|expr| operations(expr, meanings, found));
    match expr {
        Unary { expr, .. } | Expr::Like { expr, .. } | Expr::HasAttr { expr, .. } => inner(&[expr]),
        Binary { left, right, .. } => inner(&[left, right]),
        Expr::IfThenElse { cond, then_expr, else_expr } => inner(&[cond, then_expr, else_expr]),
        Expr::Set(members) => members.iter().for_each(|member| operations(member, meanings, found)),
        _ => {}
    }
}

impl Operation {
    /// Compares the atoms' outcomes with what Cedar says.
    fn compare(
        &mut self,
        case: &str,
        request: &Request,
        entities: &Entities,
        known: &Known,
        seen: &mut Seen,
    ) {
        let outcomes: Vec<Outcome> = self.derived.atoms.iter().map(|atom| atom.on(known)).collect();
        let said = match eval_expression(request, entities, &self.expression) {
            Ok(EvalResult::Bool(said)) => Some(said),
            Ok(other) => panic!("{case}: {} is {other}", self.text),
            Err(_) => None,
        };
        let errs = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Absent | Outcome::Error));
        assert_eq!(errs, said.is_none(), "{case}: {} on {:?} came to {outcomes:?}", self.text, known.0);
        let before = self.said.entry(outcomes.clone()).or_insert(said);
        assert_eq!(*before, said, "{case}: {} on {:?} came to {outcomes:?}", self.text, known.0);
        if let ([one], Some(said)) = (outcomes.as_slice(), said) {
            // One test says the same as the operation, or always the opposite.
            let opposite = if *one == Outcome::True { Outcome::False } else { Outcome::True };
            let of_opposite = self.said.get(&vec![opposite]);
            assert!(
                of_opposite.is_none_or(|of_opposite| *of_opposite == Some(!said)),
                "{case}: {}",
                self.text
            );
        }
        seen.compared += 1;
        outcomes.into_iter().for_each(|outcome| *seen.by_outcome.entry(outcome).or_default() += 1);
    }
}

/// A number that looks random, and is the same for the same case.
fn scrambled(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*seed >> 33).unwrap()
}

/// The contexts of a case: as its constants stood, and then changed in some of them.
fn contexts(lifted: &Lifted, constants: &[Constant], seed: &mut u64) -> Vec<Known> {
    let as_they_stood = || lifted.constants.iter().filter_map(|(name, c)| Some((name.clone(), c.clone()?)));
    let mut pool: Vec<Option<Constant>> = lifted.constants.values().cloned().collect();
    pool.extend(constants.iter().cloned().map(Some));
    pool.push(None);
    let mut contexts = vec![Known(as_they_stood().collect())];
    for _ in 1..CONTEXTS {
        let mut known: BTreeMap<String, Constant> = as_they_stood().collect();
        for name in lifted.constants.keys() {
            if scrambled(seed).is_multiple_of(2) {
                match pool[scrambled(seed) % pool.len()].clone() {
                    Some(constant) => known.insert(name.clone(), constant),
                    None => known.remove(name),
                };
            }
        }
        contexts.push(Known(known));
    }
    contexts
}

fn run(case: &Case, constants: &[Constant], seen: &mut Seen) {
    let set = PolicySet::from_str(&case.policies).unwrap();
    let mut lifted = Lifted::default();
    let mut policies: Vec<&Policy> = set.policies().collect();
    policies.sort_by_key(|policy| policy.id().to_string());
    policies.into_iter().for_each(|policy| lifted.policy(policy));
    if lifted.constants.is_empty() {
        return;
    }
    seen.lifted += lifted.constants.len();
    let mut seed = u64::try_from(case.policies.len()).unwrap();
    let contexts = contexts(&lifted, constants, &mut seed);
    let meanings = |path: &[&str]| match path {
        [name] => Meaning::Fact(Name::Header((*name).to_owned())),
        _ => Meaning::Other,
    };
    let mut derived = Derived::default();
    let mut operations_found = Vec::new();
    for policy in &lifted.policies {
        // A call with too many arguments has no such tree: as in bundles, it may read anything.
        let Ok(pst::Policy::Static(policy)) = policy.to_pst() else {
            derived.reads_everything = true;
            continue;
        };
        derived.policy(policy.body(), &meanings);
        for clause in policy.body().clauses() {
            let (Clause::When(expr) | Clause::Unless(expr)) = clause;
            operations(expr, &meanings, &mut operations_found);
        }
    }
    let is_cacheable = !derived.reads_everything;
    seen.cacheable += usize::from(is_cacheable);
    let keys = Keys::new(&AtomSet::new(derived.atoms, is_cacheable));
    let lifted_set = PolicySet::from_policies(lifted.policies.clone()).unwrap();
    let (schema, _) = Schema::from_cedarschema_str(&case.schema).unwrap();
    let entities = Entities::from_json_str(&case.entities, Some(&schema)).unwrap();
    let index = Index::new(&lifted_set);
    for request in case.requests.iter().take(REQUESTS) {
        let mut decided = HashMap::new();
        for (number, known) in contexts.iter().enumerate() {
            let pairs = known.0.iter().map(|(name, constant)| (name.clone(), constant.cedar.clone()));
            let [principal, action, resource] =
                ["principal", "action", "resource"].map(|part| cedar_corpus::uid(&request[part]));
            let context = Context::from_pairs(pairs).unwrap();
            let made = Request::new(principal, action, resource, context, None).unwrap();
            let answer = index.answer(&made, &entities, Depth::Explain);
            let errors: BTreeSet<String> = answer.errors.iter().map(|(id, _)| id.clone()).collect();
            let answer = (answer.forbids, answer.permits, errors);
            if number == 0 {
                let reasons = if answer.0.is_empty() { &answer.1 } else { &answer.0 };
                let told = (reasons.iter().cloned().collect(), answer.2.clone());
                let expected = (cedar_corpus::ids(&request["reason"]), cedar_corpus::ids(&request["errors"]));
                assert_eq!(told, expected, "{}: {}", case.name, lifted_set);
            }
            for operation in &mut operations_found {
                operation.compare(&case.name, &made, &entities, known, seen);
            }
            if is_cacheable {
                let key = keys.encode(known, &mut Room::default()).to_vec();
                match decided.get(&key) {
                    Some(before) => {
                        assert_eq!(*before, answer, "{}: {} on {:?}", case.name, lifted_set, known.0);
                        seen.shared += 1;
                    }
                    None => drop(decided.insert(key, answer)),
                }
            }
        }
    }
}

#[test]
fn atoms_come_to_what_cedar_says() {
    let Some(cases) = cedar_corpus::cases("atoms_come_to_what_cedar_says") else { return };
    let constant = |text: &&str| {
        let policy = format!("permit(principal, action, resource) when {{ {text} == {text} }};");
        let json = Policy::parse(Some(PolicyId::new("c")), policy).unwrap().to_json().unwrap();
        Constant::read(&tree(&json["conditions"][0]["body"]["=="]["left"]).unwrap()).unwrap().unwrap()
    };
    let constants: Vec<Constant> = CONSTANTS.iter().map(constant).collect();
    let mut seen = Seen::default();
    for case in &cases {
        run(case, &constants, &mut seen);
    }
    let told = format!(
        "{} constants lifted, {} cases cacheable, {} operations compared {:?}, {} decisions shared",
        seen.lifted, seen.cacheable, seen.compared, seen.by_outcome, seen.shared
    );
    assert!(
        seen.lifted > 500 && seen.cacheable > 300 && seen.compared > 10_000 && seen.shared > 1000,
        "{told}"
    );
    assert!(seen.by_outcome.values().all(|count| *count > 100) && seen.by_outcome.len() == 4, "{told}");
}
