//! A loader that has loaded other bundles before loads a bundle as a new one does: policies, atoms, decisions, findings.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use model::Attributes;
use proptest::prelude::*;
use tidegate_policyd::bundle::{Bundle, Files, Loader};
use tidegate_policyd::engine;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
  stock: {namespace: depot, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";

/// Statements that are fine, that the validator warns of or refuses, that depend on the author's schema, that share
/// an id, that are templates, and that do not parse.
const STATEMENTS: [&str; 16] = [
    "permit (principal, action == Action::\"http\", resource == Service::\"orders\") when { context.method == \"GET\" };\n",
    "forbid (principal, action == Action::\"http\", resource) when { context.path like \"/admin*\" };\n",
    "@id(\"tiers\") permit (principal, action == Action::\"http\", resource) when { principal has tier && principal.tier == 1 };\n",
    "@id(\"same\") permit (principal, action == Action::\"http\", resource == Service::\"stock\");\n",
    "@id(\"same\") forbid (principal, action == Action::\"http\", resource == Service::\"stock\") unless { context.tls };\n",
    "permit (principal, action == Action::\"http\", resource) when { context.headers has a && context.headers.a == \"1\" };\n",
    "permit (principal, action == Action::\"http\", resource) when { context.headers.b == \"1\" };\n",
    "permit (principal in Team::\"a\", action == Action::\"http\", resource);\n",
    "@id(\"t\") permit (principal == ?principal, action == Action::\"http\", resource) when { context.method == \"PUT\" };\n",
    "@id(\"u\") permit (principal in ?principal, action == Action::\"http\", resource == ?resource);\n",
    "permit (principal, action == Action::\"http\", resource) when { context.method == 1 };\n",
    "permit (principal, action == Action::\"http\", resource) when { false };\n",
    "permit (principal, action == Action::\"http\");\n",
    "// a comment;\n",
    "permit (principal, action == Action::\"http\", resource) when { context.path == \"aа\" };\n",
    "permit (principal, action == Action::\"http\", resource) when { context }",
];

const SCHEMAS: [&str; 4] =
    ["", "entity Workload { tier?: Long };", "entity Team; entity Workload in [Team];", "entity"];

const LINKS: [&str; 5] = [
    "",
    "links:\n  - {template: t, id: l, principal: 'Workload::\"unauthenticated\"'}\n",
    "links:\n  - {template: u, id: l, principal: 'Namespace::\"shop\"', resource: 'Service::\"stock\"'}\n",
    "links:\n  - {template: t, id: same, principal: 'Service::\"stock\"'}\n  - {template: tt, id: x}\n",
    "links:\n  - {template: t, id: l, principal: 'Team::\"a\"'}\n",
];

/// A change of a bundle: a file, and what it says from then on.
fn edit() -> impl Strategy<Value = (String, String)> {
    let statements = prop::collection::vec(prop::sample::select(STATEMENTS.to_vec()), 0..5);
    let statement = prop::sample::select(STATEMENTS[..6].to_vec());
    prop_oneof![
        4 => (0..3u8, prop::collection::vec(statement, 0..6))
            .prop_map(|(file, statements)| (format!("{file}.cedar"), statements.concat())),
        2 => (0..3u8, statements).prop_map(|(file, statements)| (format!("{file}.cedar"), statements.concat())),
        1 => prop::sample::select(SCHEMAS.to_vec()).prop_map(|text| ("schema.cedarschema".into(), text.into())),
        1 => prop::sample::select(LINKS.to_vec()).prop_map(|text| ("links.yaml".into(), text.into())),
    ]
}

fn attributes(method: &str, resource: &str) -> Attributes {
    Attributes {
        principal: "unauthenticated".parse().unwrap(),
        resource: resource.into(),
        method: method.into(),
        path: "/admin".into(),
        host: resource.into(),
        headers: BTreeMap::from([("a".to_owned(), "1".to_owned())]),
        source_ip: "10.0.0.1".parse().unwrap(),
        ..Attributes::default()
    }
}

/// All that can be observed of a bundle, or why there is none.
fn observed(loaded: &Result<Bundle, daemon::Findings>) -> (Vec<String>, &daemon::Findings) {
    let bundle = match loaded {
        Ok(bundle) => bundle,
        Err(findings) => return (Vec::new(), findings),
    };
    let mut seen = Vec::new();
    for policy in bundle.policies.policies().chain(bundle.policies.templates()) {
        let (spot, tree) = (policy.spot(), policy.tree().map(|tree| tree.to_string()));
        seen.push(format!("{} {} {} {:?} {tree:?}", policy.id(), spot.file(), spot.line(), spot.span()));
    }
    seen.push(format!("{:?} {:?}", bundle.atoms, bundle.schemas.declared));
    for method in ["GET", "PUT"] {
        for resource in ["orders", "stock"] {
            let opinion = engine::evaluate(bundle, &attributes(method, resource)).unwrap().opinion;
            seen.push(format!("{opinion:?}"));
        }
    }
    (seen, &bundle.warnings)
}

proptest! {
    #[test]
    fn a_load_after_edits_is_as_a_load_from_nothing(edits in prop::collection::vec(edit(), 1..12)) {
        let mut loader = Loader::default();
        let mut files = Files { folder: "bundle".into(), texts: BTreeMap::new() };
        files.texts.insert("mesh.yaml".into(), MESH.into());
        for (file, text) in edits {
            match text.is_empty() {
                true => files.texts.remove(&file),
                false => files.texts.insert(file, text),
            };
            let (warm, cold) = (loader.load(&files), Bundle::load(&files));
            prop_assert_eq!(observed(&warm), observed(&cold));
            prop_assert_eq!(warm.is_ok(), cold.is_ok());
        }
    }
}
