//! What a solver proves of two bundles: `policyd::author::diff::symbolic`, with the real cvc5.

#![cfg(test)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::Verdict;
use policyd::author::diff::symbolic::{self, Proof, Solver, Symbolic};
use policyd::author::diff::{self, Side};
use policyd::author::unit_test::{Answer, RequestText};
use policyd::bundle::{Bundle, Files};
use tidegate_tests::program;

const MESH: &str = "trust_domain: a.example
services: {orders: {namespace: shop}, stock: {namespace: depot}}
";
const ORDERS: &str = "permit (principal, action == Action::\"http\", resource == Service::\"orders\")";

/// The files of a bundle with this policy, and with others in place of the usual ones.
fn files(acl: &str, others: &[(&str, &str)]) -> Files {
    let all = [("mesh.yaml", MESH), ("acl.cedar", acl)].into_iter().chain(others.iter().copied());
    let texts: BTreeMap<_, _> = all.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    Files { folder: ".".into(), texts }
}

fn load(files: &Files) -> Bundle {
    Bundle::load(files).unwrap_or_else(|findings| panic!("{}", findings.render(false)))
}

async fn compare(solver: &Path, old: &Files, new: &Files) -> Symbolic {
    let solver = Solver { program: solver.to_owned(), timeout: Duration::from_secs(60) };
    let (before, after) = (load(old), load(new));
    let (old, new) = (Side { bundle: &before, files: old }, Side { bundle: &after, files: new });
    symbolic::compare(old, new, &solver, &|_| {}).await
}

fn cvc5(test: &str) -> Option<PathBuf> {
    program::find("cvc5", test)
}

/// How the new bundle relates to the old one: `=`, `>` if it allows more, `<` if less, `<>` if both. Each request that
/// is told is decided again.
fn relation(found: &Symbolic, old: &Files, new: &Files) -> String {
    let Symbolic::Done(comparison) = found else { panic!("{}", symbolic::text(found)) };
    let (old, new) = (load(old), load(new));
    let (mut gained, mut lost) = (false, false);
    for environment in &comparison.environments {
        for (proof, by_new, seen) in
            [(&environment.gained, true, &mut gained), (&environment.lost, false, &mut lost)]
        {
            match proof {
                Proof::None => {}
                Proof::Request(example) => {
                    // As a user would write it down.
                    let request = RequestText::of(&example.request).attributes(&new.mesh).unwrap();
                    let allows = |bundle| Answer::of(bundle, &request).decision == Verdict::Allow;
                    assert_eq!((allows(&old), allows(&new)), (!by_new, by_new), "{}", symbolic::text(found));
                    *seen = true;
                }
                Proof::Unconfirmed(_) | Proof::Unknown(_) => panic!("{}", symbolic::text(found)),
            }
        }
    }
    match (gained, lost) {
        (false, false) => "=",
        (true, false) => ">",
        (false, true) => "<",
        (true, true) => "<>",
    }
    .to_owned()
}

#[tokio::test]
async fn conditions_are_compared_by_what_they_mean() {
    let Some(cvc5) = cvc5("conditions_are_compared_by_what_they_mean") else { return };
    for (old, new, expected) in [
        // Other words for the same.
        (
            "context.method == \"GET\" || context.method == \"HEAD\"",
            "[\"HEAD\", \"GET\"].contains(context.method)",
            "=",
        ),
        (
            "context.path like \"/a/*\" && context.tls",
            "!(!context.tls || !(context.path like \"/a/*\"))",
            "=",
        ),
        (
            "context.source_ip.isInRange(ip(\"10.0.0.0/8\"))",
            "context.source_ip.isInRange(ip(\"10.0.0.0/9\")) || context.source_ip.isInRange(ip(\"10.128.0.0/9\"))",
            "=",
        ),
        ("context.path like \"/*\"", "true", "="),
        // More, less, and both.
        ("context.path like \"/a/*\"", "context.path like \"/a*\"", ">"),
        ("context.method == \"GET\"", "context.method == \"GET\" && context.path != \"/secret\"", "<"),
        ("context.method == \"GET\"", "context.method == \"PUT\"", "<>"),
        // Corners of texts, addresses, times and headers.
        (
            "context.path like \"/a/*\" || context.path like \"/b/*\"",
            "(context.path like \"/b/*\" || context.path like \"/a/*\") && !(context.path like \"/c*\")",
            "=",
        ),
        (
            "context.path like \"/*ab*\" && context.path like \"/*bc*\"",
            "context.path like \"/*abc*\" || context.path like \"/*ab*bc*\"",
            "<",
        ),
        (
            "context.source_ip.isInRange(ip(\"10.0.0.0/8\"))",
            "context.source_ip.isInRange(ip(\"10.0.0.0/9\"))",
            "<",
        ),
        ("context.time < datetime(\"2030-01-01\")", "context.time <= datetime(\"2030-01-01\")", ">"),
        (
            "context.headers has \"a\" && context.headers[\"a\"] == \"1\"",
            "context.headers has \"a\" && context.headers[\"a\"] like \"1*\" && !(context.headers[\"a\"] like \"1?*\")",
            ">",
        ),
        // What one bundle reads need not be read by the other one.
        ("context.tls", "context.tls || (context.query has page && context.query.page == \"7\")", ">"),
        // Who calls: strangers are in their namespaces, and have no other attributes than parts of their ids.
        ("principal in Namespace::\"shop\"", "principal.namespace == \"shop\"", "="),
        ("principal in Namespace::\"shop\"", "principal.namespace like \"shop*\"", ">"),
        ("principal.trust_domain == \"a.example\"", "principal.trust_domain == \"b.example\"", "<>"),
        ("principal == Workload::\"unauthenticated\"", "principal.trust_domain == \"\"", "="),
        (
            "principal == Workload::\"spiffe://b.example/ns/far/sa/away\"",
            "principal == Workload::\"spiffe://b.example/ns/far/sa/away\" && principal.namespace == \"far\"",
            "=",
        ),
        ("principal == Workload::\"nobody\"", "false", "="),
    ] {
        let [old, new] = [old, new].map(|condition| files(&format!("{ORDERS} when {{ {condition} }};"), &[]));
        let found = compare(&cvc5, &old, &new).await;
        assert_eq!(relation(&found, &old, &new), expected, "{}", symbolic::text(&found));
        let back = compare(&cvc5, &new, &old).await;
        let mirrored = expected.chars().rev().map(|c| {
            if c == '<' {
                '>'
            } else if c == '>' {
                '<'
            } else {
                c
            }
        });
        assert_eq!(relation(&back, &new, &old), mirrored.collect::<String>(), "{}", symbolic::text(&back));
    }
}

#[tokio::test]
async fn a_corner_that_no_boundary_shows_is_found() {
    let Some(cvc5) = cvc5("a_corner_that_no_boundary_shows_is_found") else { return };
    // Of a text that is compared with another one, and of so many patterns, boundaries show a sample.
    let same = "context.headers has \"a\" && context.headers has \"b\" && context.headers[\"a\"] == context.headers[\"b\"]";
    let corner = format!(
        "{same} && context.headers[\"a\"] like \"x*yz*w\" && !(context.headers[\"b\"] like \"*q*yz*\")"
    );
    let old = files(&format!("{ORDERS} when {{ context.method == \"GET\" }};"), &[]);
    let new = files(&format!("{ORDERS} when {{ context.method == \"GET\" || ({corner}) }};"), &[]);
    let (before, after) = (load(&old), load(&new));
    let difference =
        diff::diff(Side { bundle: &before, files: &old }, Side { bundle: &after, files: &new }, &|_| {});
    assert!(difference.decisions.changes.is_empty(), "{}", diff::text(&difference));
    let found = compare(&cvc5, &old, &new).await;
    assert_eq!(relation(&found, &old, &new), ">", "{}", symbolic::text(&found));
    let told = symbolic::text(&found);
    assert!(told.starts_with("symbolic: differs in 1 of 3 environments, equivalent in 2\n"), "{told}");
    assert!(told.contains("  Workload, http, Service: the new bundle is more permissive\n"), "{told}");
    assert!(told.contains("tidegate policy explain BUNDLE --service orders --method "), "{told}");
    let json = symbolic::json(&found);
    assert_eq!(json["result"], "differs");
    assert_eq!(json["environments"][1]["allowed_by_new_alone"]["request"]["service"], "orders", "{json}");
}

const TEMPLATE: &str =
    "@id(\"readers\") permit (principal == ?principal, action == Action::\"http\", resource == ?resource);
@id(\"tried\") @shadow(\"true\") permit (principal, action, resource);";

fn link(id: &str, service: &str) -> String {
    format!(
        "- {{template: readers, id: {id}, principal: 'Workload::\"spiffe://a.example/ns/shop/sa/orders\"', resource: 'Service::\"{service}\"'}}\n"
    )
}

/// Of many policies, those that are in both bundles need not be told to the solver.
#[tokio::test]
async fn what_does_not_change_is_not_asked_about() {
    let Some(cvc5) = cvc5("what_does_not_change_is_not_asked_about") else { return };
    let many: String =
        (0..600).map(|n| format!("{ORDERS} when {{ context.path == \"/many/{n}\" }};\n")).collect();
    let with = |condition: &str| files(&format!("{many}{ORDERS} when {{ {condition} }};"), &[]);
    let old = with("context.path == \"/a\"");
    for (condition, expected) in [
        ("context.path == \"/b\"", "<>"),
        ("context.path like \"/a*\"", ">"),
        ("context.path == \"/a\" && context.path != \"/b\"", "="),
    ] {
        let new = with(condition);
        let found = compare(&cvc5, &old, &new).await;
        assert_eq!(relation(&found, &old, &new), expected, "{}", symbolic::text(&found));
    }
    // An unchanged policy allows it, too: then all are needed, and these are too many.
    let found = compare(&cvc5, &old, &with("context.path == \"/a\" || context.path == \"/many/7\"")).await;
    let told = symbolic::text(&found);
    assert!(told.contains("a solver is not asked about more than 500 policies"), "{told}");
    let one = |more: &str| {
        files(
            &format!(
                "{ORDERS} when {{ context.path like \"/many/*\" }};\n{ORDERS} when {{ context.path == \"/a\"{more} }};"
            ),
            &[],
        )
    };
    let (old, new) = (one(""), one(" || context.path == \"/many/7\""));
    let found = compare(&cvc5, &old, &new).await;
    assert_eq!(relation(&found, &old, &new), "=", "{}", symbolic::text(&found));
}

#[tokio::test]
async fn links_are_policies_and_shadow_policies_are_none() {
    let Some(cvc5) = cvc5("links_are_policies_and_shadow_policies_are_none") else { return };
    let links = |links: &[String]| format!("links:\n{}", links.concat());
    let one = links(&[link("one", "stock")]);
    let two = links(&[link("one", "stock"), link("two", "orders")]);
    let old = files(TEMPLATE, &[("links.yaml", &one)]);
    let new = files(TEMPLATE, &[("links.yaml", &two)]);
    let found = compare(&cvc5, &old, &new).await;
    assert_eq!(relation(&found, &old, &new), ">", "{}", symbolic::text(&found));
    // A link is what it amounts to.
    let written = "permit (principal == Workload::\"spiffe://a.example/ns/shop/sa/orders\", action == Action::\"http\", resource == Service::\"stock\");";
    let found = compare(&cvc5, &old, &files(written, &[])).await;
    assert_eq!(symbolic::text(&found), "symbolic: equivalent in all 3 environments\n");
}

#[tokio::test]
async fn entities_are_those_of_the_bundles() {
    let Some(cvc5) = cvc5("entities_are_those_of_the_bundles") else { return };
    let entities = |tier: &str| {
        format!(
            r#"[{{"uid": {{"type": "Group", "id": "ops"}}, "attrs": {{}}, "parents": []}},
            {{"uid": {{"type": "Group", "id": "all"}}, "attrs": {{}}, "parents": []}},
            {{"uid": {{"type": "Workload", "id": "spiffe://a.example/ns/shop/sa/orders"}}, "attrs": {{"tier": {tier}}},
              "parents": [{{"type": "Group", "id": "ops"}}, {{"type": "Group", "id": "all"}}]}}]"#
        )
    };
    let (one, two) = (entities("1"), entities("2"));
    let schema = ("schema.cedarschema", "entity Workload { tier?: Long };");
    let with = |condition: &str, entities: &str| {
        files(&format!("{ORDERS} when {{ {condition} }};"), &[("entities.json", entities), schema])
    };
    for (old, new, expected) in [
        ("principal in Group::\"ops\"", "principal in Group::\"all\"", "="),
        (
            "principal in Group::\"ops\"",
            "principal == Workload::\"spiffe://a.example/ns/shop/sa/orders\"",
            "=",
        ),
        ("principal has tier && principal.tier == 1", "principal in Group::\"ops\"", "="),
        ("principal has tier && principal.tier > 1", "principal in Group::\"ops\"", ">"),
        // `orders` is the only service there.
        ("true", "resource in Namespace::\"shop\"", "="),
    ] {
        let (old, new) = (with(old, &one), with(new, &one));
        let found = compare(&cvc5, &old, &new).await;
        assert_eq!(relation(&found, &old, &new), expected, "{}", symbolic::text(&found));
    }
    // Of entities that differ nothing is known. So the solver finds what is no request to these bundles.
    let (old, new) = (with("principal in Group::\"ops\"", &one), with("principal in Group::\"all\"", &two));
    let found = compare(&cvc5, &old, &new).await;
    let told = symbolic::text(&found);
    assert!(told.starts_with("symbolic: equivalent in 2 of 3 environments, not known of 1\n"), "{told}");
    assert!(told.contains("allowed by the new bundle alone: could not be confirmed"), "{told}");
    assert!(told.contains("  not compared: what follows from entities that differ: `Workload::\"spiffe://a.example/ns/shop/sa/orders\"`\n"), "{told}");
    assert!(!found.differs());
}

#[tokio::test]
async fn schemas_that_differ_are_joined_or_told() {
    let Some(cvc5) = cvc5("schemas_that_differ_are_joined_or_told") else { return };
    let with = |condition: &str, schema: &str| {
        files(&format!("{ORDERS} when {{ {condition} }};"), &[("schema.cedarschema", schema)])
    };
    let (text, number) = ("type Headers = { tier?: String };", "type Headers = { tier?: Long };");
    let has = "context.headers has tier";
    let told = symbolic::text(&compare(&cvc5, &with(has, text), &with(has, number)).await);
    assert_eq!(
        told,
        "symbolic: not done: the schemas differ: `context.headers[\"tier\"]` is a `String` in the old one, and a `Long` in the new one\n"
    );
    let (long, boolean) = ("entity Workload { tier?: Long };", "entity Workload { tier?: Bool };");
    let of_long = with("principal has tier && principal.tier == 1", long);
    let told = symbolic::text(
        &compare(&cvc5, &of_long, &with("principal has tier && principal.tier", boolean)).await,
    );
    assert_eq!(told, "symbolic: not done: the schemas differ, and none of them fits `acl.cedar#1`\n");
    // One that declares more fits both.
    let found = compare(&cvc5, &files(&format!("{ORDERS} when {{ false }};"), &[]), &of_long).await;
    let told = symbolic::text(&found);
    // Nobody has a tier.
    assert!(
        told.starts_with("symbolic: equivalent in all 3 environments, as far as they were compared\n"),
        "{told}"
    );
    assert!(told.contains("not compared: what only one of the schemas says of entities"), "{told}");
}

#[tokio::test]
async fn each_operation_is_an_environment() {
    let Some(cvc5) = cvc5("each_operation_is_an_environment") else { return };
    let mesh = |more: &str| {
        format!(
            "trust_domain: a.example\nservices:\n  orders:\n    namespace: shop\n    operations:\n      getOrder: {{method: GET, path: '/orders/{{id}}'}}\n      getFile: {{method: GET, path: '/files/{{*path}}'}}\n{more}"
        )
    };
    let (two, three) =
        (mesh(""), mesh("      putOrder: {method: PUT, path: '/orders/{id}', groups: [write]}\n"));
    let with = |condition: &str, mesh: &str| {
        let acl = format!(
            "permit (principal, action in Action::\"http\", resource == Service::\"orders\") when {{ {condition} }};"
        );
        files(&acl, &[("mesh.yaml", mesh)])
    };
    for (old, new, expected) in [
        ("action == Action::\"getOrder\"", "context has operation && context.operation == \"getOrder\"", "="),
        (
            "action == Action::\"getOrder\"",
            "action == Action::\"getOrder\" && context.path like \"/orders/*\"",
            "=",
        ),
        // `HEAD` is for the same operation.
        (
            "action == Action::\"getOrder\"",
            "action == Action::\"getOrder\" && context.method == \"GET\"",
            "<",
        ),
        (
            "action == Action::\"getOrder\"",
            "context.path like \"/orders/*\" && context.method == \"GET\"",
            "<>",
        ),
        ("action == Action::\"getFile\"", "context.path like \"/files/*/*\"", "<>"),
    ] {
        let (old, new) = (with(old, &two), with(new, &two));
        let found = compare(&cvc5, &old, &new).await;
        assert_eq!(relation(&found, &old, &new), expected, "{}", symbolic::text(&found));
    }
    let told = symbolic::text(&compare(&cvc5, &with("true", &two), &with("true", &three)).await);
    assert_eq!(
        told,
        "symbolic: equivalent in all 5 environments, as far as they were compared
  not compared: operations that only one bundle has: `putOrder`
  not compared: requests that are for another operation in each bundle, of: `orders`
"
    );
}

#[tokio::test]
async fn what_is_not_proven_is_told() {
    let Some(cvc5) = cvc5("what_is_not_proven_is_told") else { return };
    let with = |condition: &str| files(&format!("@id(\"readers\") {ORDERS} when {{ {condition} }};"), &[]);
    let plain = with("context.tls");
    // A solver's texts end before the last characters.
    let found = compare(&cvc5, &plain, &with("context.path == \"/\u{10ffff}\"")).await;
    let told = symbolic::text(&found);
    assert!(told.starts_with("symbolic: equivalent in 2 of 3 environments, not known of 1\n"), "{told}");
    assert!(told.contains("    `readers` can't be told to the solver: failed to encode SMT terms"), "{told}");
    // A policy that fails denies everything.
    let age = "context.time.durationSince(datetime(\"0000-01-01\").offset(duration(\"-9223372036854775000ms\"))) > duration(\"1d\")";
    let told = symbolic::text(&compare(&cvc5, &plain, &with(age)).await);
    assert!(told.contains("not compared: requests on which the evaluation of `readers` fails"), "{told}");
}

#[tokio::test]
async fn without_a_solver_nothing_is_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    };
    let with = |condition: &str| files(&format!("{ORDERS} when {{ {condition} }};"), &[]);
    let (old, new) = (with("context.tls"), with("context.path == \"/\""));
    let as_if = "[ \"$1\" = --version ] && echo 'This is cvc5' && exit";
    let unsure = script(
        "unsure",
        &format!("{as_if}\nwhile read -r line; do case $line in '(check-sat)') echo unknown;; esac; done"),
    );
    let broken = script("broken", &format!("{as_if}\nexit 1"));
    let other = script("other", "echo 'This is something else'");
    for (solver, expected) in [
        (folder.path().join("none"), "symbolic: not done: cvc5 was not found: no `"),
        (other, "symbolic: not done: `"),
        (unsure, "the solver did not find an answer within 60s; see `--solver-timeout`"),
        (broken, "the solver failed: "),
    ] {
        let found = compare(&solver, &old, &new).await;
        let told = symbolic::text(&found);
        assert!(told.contains(expected) && !found.differs(), "{told}");
    }
}
