use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::author::unit_test::RequestText;
use crate::author::written;

const MESH: &str = "trust_domain: a.example\nservices: {orders: {namespace: shop}, users: {}}\n";
const ACL: &str = r#"@id("reads")
permit (principal, action == Action::"http", resource == Service::"orders")
when { context.method == "GET" && context.path like "/orders/*" }
unless { context.headers has "x-old" && context.headers["x-old"] == "yes" };

forbid (principal, action, resource == Service::"users") when { true };
"#;
const LIMITS: &str = "\
limits:
  - {name: all, rate: 1/s}
  - name: writes
    service: orders
    when: context.method == \"PUT\" && context.tls
    rate: 1/s
";

fn files(acl: &str) -> Files {
    written::files(&[("mesh.yaml", MESH), ("acl.cedar", acl), ("limits.yaml", LIMITS)])
}

fn of(requests: &[RequestText]) -> Coverage {
    measured(ACL, requests)
}

fn measured(acl: &str, requests: &[RequestText]) -> Coverage {
    let files = files(acl);
    let bundle = written::load(&files);
    let attributes: Vec<Attributes> =
        requests.iter().map(|request| request.attributes(&bundle.mesh).unwrap()).collect();
    measure(&bundle, &files, &attributes).unwrap()
}

fn request(method: &str, path: &str, old: Option<&str>) -> RequestText {
    RequestText {
        service: "orders".to_owned(),
        method: Some(method.to_owned()),
        path: Some(path.to_owned()),
        headers: old.into_iter().map(|old| ("x-old".to_owned(), old.to_owned())).collect(),
        ..RequestText::default()
    }
}

/// Each policy and part with its numbers.
fn told(coverage: &Coverage) -> Vec<String> {
    let policy = |policy: &Covered| {
        let Covered { name, in_scope, satisfied, .. } = policy;
        let head = format!("{} {name}: {satisfied} of {in_scope}", policy.kind.marked(policy.is_shadow));
        let part = |Tried { part, held, did_not, failed }: &Tried| {
            format!("  {}: {held} {did_not} {failed}", part.text)
        };
        std::iter::once(head).chain(policy.parts.iter().map(part)).collect::<Vec<_>>()
    };
    coverage.policies.iter().flat_map(policy).collect()
}

#[test]
fn what_cedar_does_not_reach_is_not_counted() {
    let requests = [
        request("PUT", "/orders/1", None),
        request("GET", "/", Some("yes")),
        request("GET", "/orders/1", None),
        request("GET", "/orders/1", Some("no")),
    ];
    let coverage = of(&requests);
    assert_eq!(
        told(&coverage),
        [
            "permit reads: 2 of 4",
            r#"  context.method == "GET": 3 1 0"#,
            r#"  context.path like "/orders/*": 2 1 0"#,
            r#"  context.headers has "x-old": 1 1 0"#,
            r#"  context.headers["x-old"] == "yes": 0 1 0"#,
            "forbid acl.cedar#2: 0 of 0",
            "limit all: 4 of 4",
            "limit writes: 0 of 4",
            r#"  context.method == "PUT": 1 3 0"#,
            "  context.tls: 0 1 0",
        ]
    );
    assert_eq!(coverage.outcomes(), Share { seen: 2 + 7 + 3, of: 4 + 12 });
    assert_eq!(coverage.satisfied(), Share { seen: 2, of: 4 });
    expect![[r#"
        TN:
        SF:policies/a/acl.cedar
        FN:1,permit reads
        FNDA:2,permit reads
        FN:6,forbid acl.cedar#2
        FNDA:0,forbid acl.cedar#2
        FNF:2
        FNH:1
        BRDA:3,0,0,3
        BRDA:3,0,1,1
        BRDA:3,1,0,2
        BRDA:3,1,1,1
        BRDA:4,2,0,1
        BRDA:4,2,1,1
        BRDA:4,3,0,0
        BRDA:4,3,1,1
        BRF:8
        BRH:7
        DA:1,4
        DA:3,4
        DA:4,2
        DA:6,0
        LF:4
        LH:3
        end_of_record
        SF:policies/a/limits.yaml
        FN:2,limit all
        FNDA:4,limit all
        FN:5,limit writes
        FNDA:0,limit writes
        FNF:2
        FNH:1
        BRDA:5,0,0,1
        BRDA:5,0,1,3
        BRDA:5,1,0,0
        BRDA:5,1,1,1
        BRF:4
        BRH:3
        DA:2,4
        DA:5,4
        LF:2
        LH:2
        end_of_record
    "#]]
    .assert_eq(&lcov(&coverage, std::path::Path::new("policies/a")));
}

#[test]
fn shadow_policies_are_shown_and_no_total_has_them() {
    let tried = "@id(\"tried\") @shadow(\"true\") forbid (principal, action == Action::\"http\", resource) \
                 when { context.path like \"/orders/*\" };\n";
    let requests = [request("GET", "/orders/1", None), request("GET", "/", None)];
    let (without, with) = (of(&requests), measured(&format!("{ACL}{tried}"), &requests));
    assert!(!told(&without).join("\n").contains("tried"));
    let shown = told(&with);
    assert_eq!(shown[6..8], ["shadow forbid tried: 1 of 2", "  context.path like \"/orders/*\": 1 1 0"]);
    assert_eq!((with.outcomes(), with.satisfied()), (without.outcomes(), without.satisfied()));
    let folder = std::path::Path::new("");
    assert_eq!(lcov(&with, folder), lcov(&without, folder));
    assert_eq!(with.json()["policies"][2]["shadow"], true);
    assert_eq!(with.json()["policies"][0]["shadow"], false);
}

#[test]
fn nothing_is_seen_without_requests() {
    let coverage = of(&[]);
    assert_eq!(coverage.outcomes(), Share { seen: 0, of: 16 });
    assert!(lcov(&coverage, std::path::Path::new("")).contains("BRDA:3,0,0,-\n"));
}

#[test]
fn a_share_is_never_rounded_up() {
    let percent = |seen, of| Share { seen, of }.percent();
    assert_eq!(
        [percent(2, 3), percent(999_999, 1_000_000), percent(1, 1), percent(0, 0)],
        [66.6, 99.9, 100.0, 100.0]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The law: a policy is counted as satisfied as often as Cedar says that it is.
    #[test]
    fn policies_are_satisfied_as_often_as_cedar_says(
        methods in proptest::collection::vec(("GET|PUT", "/orders/1|/", proptest::option::of("yes|no")), 0..8),
    ) {
        let requests: Vec<RequestText> =
            methods.iter().map(|(method, path, old)| request(method, path, old.as_deref())).collect();
        let bundle = written::load(&files(ACL));
        let satisfied = |request: &&RequestText| {
            let opinion = engine::evaluate(&bundle, &request.attributes(&bundle.mesh).unwrap()).unwrap().opinion;
            opinion.reasons == ["reads"]
        };
        prop_assert_eq!(of(&requests).policies[0].satisfied, requests.iter().filter(satisfied).count());
    }
}
