//! Cedar's own integration tests, through our index: decisions, determining policies and errors as Cedar's authors
//! expect them. The cases lie beside the repository, where they exist; the test says so where they don't.
#![cfg(test)]

use std::str::FromStr;

use cedar_policy::{Context, Entities, PolicySet, Request, Schema};
use policyd::engine::index::{Depth, Index};
use tidegate_tests::cedar_corpus::{Case, cases, ids, uid};

/// Runs a case; how many requests it has.
fn run(case: &Case) -> usize {
    let set = PolicySet::from_str(&case.policies).unwrap();
    let (schema, _) = Schema::from_cedarschema_str(&case.schema).unwrap();
    let entities = Entities::from_json_str(&case.entities, Some(&schema)).unwrap();
    let index = Index::new(&set);
    for request in &case.requests {
        let action = uid(&request["action"]);
        let validated = request["validateRequest"] == true;
        let context = Context::from_json_value(request["context"].clone(), Some((&schema, &action))).unwrap();
        let made = Request::new(
            uid(&request["principal"]),
            action,
            uid(&request["resource"]),
            context,
            validated.then_some(&schema),
        );
        let answer = index.answer(&made.unwrap(), &entities, Depth::Explain);
        let (decision, reasons) = match (answer.forbids.is_empty(), answer.permits.is_empty()) {
            (false, _) => ("deny", answer.forbids),
            (true, true) => ("deny", Vec::new()),
            (true, false) => ("allow", answer.permits),
        };
        let told =
            (decision, reasons.into_iter().collect(), answer.errors.into_iter().map(|(id, _)| id).collect());
        let expected =
            (request["decision"].as_str().unwrap(), ids(&request["reason"]), ids(&request["errors"]));
        assert_eq!(told, expected, "{}: {}", case.name, request["description"]);
    }
    case.requests.len()
}

#[test]
fn cedars_own_cases_pass() {
    let Some(cases) = cases("cedars_own_cases_pass") else { return };
    let requests: usize = cases.iter().map(run).sum();
    assert!(cases.len() > 1000 && requests > 10_000, "only {} cases with {requests} requests", cases.len());
}
