use expect_test::expect;

use super::super::{Bundle, Files};

const MESH: &str = "\
trust_domain: shop.example
services:
  reviews: {namespace: shop, operations: {getReview: {method: GET, path: '/reviews/{id}'}}}
  plain: {namespace: other}
";

fn told(acl: &str, limits: &str) -> String {
    let texts = [("mesh.yaml", MESH), ("acl.cedar", acl), ("limits.yaml", limits)];
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned()));
    match Bundle::load(&Files { folder: ".".into(), texts: texts.collect() }) {
        Ok(_) => String::new(),
        Err(findings) => findings.render(false),
    }
}

#[test]
fn equality_with_http_is_told_where_the_service_has_operations() {
    for acl in [
        r#"forbid (principal, action == Action::"http", resource == Service::"plain");"#,
        r#"forbid (principal, action == Action::"http", resource in Namespace::"other");"#,
        r#"forbid (principal, action in Action::"http", resource);"#,
        r#"forbid (principal, action in [Action::"http", Action::"grpc"], resource);"#,
        r#"forbid (principal, action == Action::"getReview", resource);"#,
        r#"forbid (principal, action, resource) when { action in Action::"http" && action != Action::"tcp" };"#,
    ] {
        assert_eq!(told(acl, ""), "", "{acl}");
    }
    let acl = r#"
@id("no-deletes")
forbid (principal, action == Action::"http", resource) when { context.method == "DELETE" };
@id("in-the-namespace")
forbid (
  principal,
  action == Action::"http",
  resource in Namespace::"shop"
);
@id("in-conditions")
forbid (principal, action, resource == Service::"reviews")
when { principal.namespace == "x" && action == Action::"http" }
unless { [Action::"http", Action::"grpc"].contains(action) };
"#;
    let limits = "limits: [{name: l, rate: 1/s, when: 'Action::\"http\" == action'}]";
    expect![[r#"
        error: `no-deletes` does not concern requests that are for an operation: their action is in `Action::"http"`, but not equal to it
         --> acl.cedar:3:30
          |
        3 | forbid (principal, action == Action::"http", resource) when { context.method == "DELETE" };
          |                              ^^^^^^^^^^^^^^
          |
          = help: write `action in Action::"http"`

        error: `in-the-namespace` does not concern requests that are for an operation: their action is in `Action::"http"`, but not equal to it
         --> acl.cedar:7:13
          |
        7 |   action == Action::"http",
          |             ^^^^^^^^^^^^^^
          |
          = help: write `action in Action::"http"`

        error: `in-conditions` does not concern requests that are for an operation: their action is in `Action::"http"`, but not equal to it
          --> acl.cedar:12:38
           |
        12 | when { principal.namespace == "x" && action == Action::"http" }
           |                                      ^^^^^^^^^^^^^^^^^^^^^^^^
           |
           = help: write `action in Action::"http"`

        error: `in-conditions` does not concern requests that are for an operation: their action is in `Action::"http"`, but not equal to it
          --> acl.cedar:13:10
           |
        13 | unless { [Action::"http", Action::"grpc"].contains(action) };
           |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           |
           = help: write `action in Action::"http"`

        error: `limit/l` does not concern requests that are for an operation: their action is in `Action::"http"`, but not equal to it
         --> limits.yaml:1:38
          |
        1 | limits: [{name: l, rate: 1/s, when: 'Action::"http" == action'}]
          |                                      ^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: write `action in Action::"http"`

    "#]].assert_eq(&told(acl, limits));
}
