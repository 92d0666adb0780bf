//! The index answers as `cedar_policy::Authorizer` does: decision, determining policies, errors.
#![cfg(test)]

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request, SlotId, Template,
};
use proptest::prelude::*;
use tidegate_policyd::engine::index::{Depth, Index};

/// What is compared: the decision, and the ids of the policies behind it and of those that failed.
type Told = (Decision, BTreeSet<String>, BTreeSet<String>);

fn by_cedar(request: &Request, policies: &PolicySet, entities: &Entities) -> Told {
    let response = Authorizer::new().is_authorized(request, policies, entities);
    let errors = response.diagnostics().errors().map(|error| match error {
        cedar_policy::AuthorizationError::PolicyEvaluationError(error) => error.policy_id().to_string(),
    });
    let reasons = response.diagnostics().reason().map(ToString::to_string);
    (response.decision(), reasons.collect(), errors.collect())
}

fn by_index(request: &Request, index: &Index, entities: &Entities, depth: Depth) -> Told {
    let answer = index.answer(request, entities, depth);
    let errors = answer.errors.into_iter().map(|(id, _)| id).collect();
    let (decision, reasons) = match (answer.forbids.is_empty(), answer.permits.is_empty()) {
        (false, _) => (Decision::Deny, answer.forbids),
        (true, true) => (Decision::Deny, Vec::new()),
        (true, false) => (Decision::Allow, answer.permits),
    };
    (decision, reasons.into_iter().collect(), errors)
}

/// `Ok` when both agree; else what differs.
fn agree(request: &Request, policies: &PolicySet, index: &Index, entities: &Entities) -> Result<(), String> {
    let expected = by_cedar(request, policies, entities);
    let explained = by_index(request, index, entities, Depth::Explain);
    if explained != expected {
        return Err(format!("{request}\nCedar {expected:?}\nindex {explained:?}"));
    }
    let (decision, reasons, errors) = by_index(request, index, entities, Depth::Serve);
    let is_denied_early = !reasons.is_empty() && decision == Decision::Deny;
    let agrees = decision == expected.0
        && errors.is_subset(&expected.2)
        && if is_denied_early {
            reasons.is_subset(&expected.1)
        } else {
            (&reasons, &errors) == (&expected.1, &expected.2)
        };
    if agrees { Ok(()) } else { Err(format!("{request}\nCedar {expected:?}\nserved {reasons:?} {errors:?}")) }
}

const ENTITIES: &str = r#"[
    {"uid": {"type": "G", "id": "top"}, "attrs": {}, "parents": []},
    {"uid": {"type": "G", "id": "a"}, "attrs": {}, "parents": [{"type": "G", "id": "top"}]},
    {"uid": {"type": "G", "id": "b"}, "attrs": {}, "parents": []},
    {"uid": {"type": "U", "id": "1"}, "attrs": {"n": 1}, "parents": [{"type": "G", "id": "a"}]},
    {"uid": {"type": "U", "id": "2"}, "attrs": {}, "parents": [{"type": "G", "id": "a"}, {"type": "G", "id": "b"}]},
    {"uid": {"type": "Action", "id": "read"}, "attrs": {}, "parents": [{"type": "Action", "id": "any"}]},
    {"uid": {"type": "Action", "id": "any"}, "attrs": {}, "parents": []}
]"#;

fn entity() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["U::\"1\"", "U::\"2\"", "U::\"3\"", "G::\"a\"", "G::\"b\"", "G::\"top\""])
        .prop_map(str::to_owned)
}

fn action() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["Action::\"read\"", "Action::\"write\"", "Action::\"any\""])
        .prop_map(str::to_owned)
}

fn scope(variable: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        Just(variable.to_owned()),
        entity().prop_map(move |uid| format!("{variable} == {uid}")),
        entity().prop_map(move |uid| format!("{variable} in {uid}")),
        Just(format!("{variable} is U")),
        entity().prop_map(move |uid| format!("{variable} is U in {uid}")),
    ]
}

fn action_scope() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("action".to_owned()),
        action().prop_map(|uid| format!("action == {uid}")),
        prop::collection::vec(action(), 0..3).prop_map(|uids| format!("action in [{}]", uids.join(", "))),
    ]
}

/// Conditions that hold, don't, or fail.
fn condition() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "when { context.b }",
        "unless { context.b }",
        "when { context.n > 0 }",
        "when { context.n + 9223372036854775807 > 0 }",
        "when { principal.n == 1 }",
        "when { principal has n && principal.n == 1 }",
        "when { resource in G::\"top\" }",
    ])
}

fn policy() -> impl Strategy<Value = String> {
    (any::<bool>(), scope("principal"), action_scope(), scope("resource"), condition()).prop_map(
        |(permit, principal, action, resource, condition)| {
            let effect = if permit { "permit" } else { "forbid" };
            format!("{effect}({principal}, {action}, {resource}) {condition};\n")
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    (entity(), action(), entity(), any::<bool>(), -1i64..2).prop_map(|(principal, action, resource, b, n)| {
        let uid = |text: &str| EntityUid::from_str(text).unwrap();
        let context = Context::from_json_value(serde_json::json!({"b": b, "n": n}), None).unwrap();
        Request::new(uid(&principal), uid(&action), uid(&resource), context, None).unwrap()
    })
}

/// `TIDEGATE_CASES=100000` for a long run.
fn cases() -> u32 {
    std::env::var("TIDEGATE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(5000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_index_answers_as_cedar_does(
        policies in prop::collection::vec(policy(), 0..12),
        links in prop::collection::vec((entity(), entity()), 0..4),
        requests in prop::collection::vec(request(), 1..8),
    ) {
        let mut set = PolicySet::from_str(&policies.concat()).unwrap();
        let template = "permit(principal in ?principal, action, resource == ?resource) when { context.n > 0 };";
        set.add_template(Template::parse(Some(PolicyId::new("template")), template).unwrap()).unwrap();
        for (number, (principal, resource)) in links.iter().enumerate() {
            let slots = [(SlotId::principal(), principal.parse().unwrap()), (SlotId::resource(), resource.parse().unwrap())];
            set.link(PolicyId::new("template"), PolicyId::new(format!("link{number}")), slots.into()).unwrap();
        }
        let entities = Entities::from_json_str(ENTITIES, None).unwrap();
        let index = Index::new(&set);
        prop_assert_eq!(index.len(), policies.len() + links.len());
        for request in requests {
            prop_assert_eq!(agree(&request, &set, &index, &entities), Ok(()));
        }
    }
}

#[test]
fn only_policies_whose_scope_may_fit_are_evaluated() {
    let text: String = (0..1000)
        .map(|number| {
            format!(
                "permit(principal == U::\"{number}\", action == Action::\"read\", resource == G::\"b\");\n"
            )
        })
        .collect();
    let index = Index::new(&PolicySet::from_str(&text).unwrap());
    let entities = Entities::from_json_str(ENTITIES, None).unwrap();
    let uid = |text: &str| EntityUid::from_str(text).unwrap();
    let request =
        Request::new(uid("U::\"1\""), uid("Action::\"read\""), uid("G::\"b\""), Context::empty(), None)
            .unwrap();
    assert_eq!(index.candidates(&request, &entities), 1);
    let other =
        Request::new(uid("U::\"x\""), uid("Action::\"read\""), uid("G::\"b\""), Context::empty(), None)
            .unwrap();
    assert_eq!(index.candidates(&other, &entities), 0);
}
