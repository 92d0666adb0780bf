//! Bundles: the examples load, and every mistake is told with its place and its fix.

use std::collections::BTreeMap;
use std::path::Path;

use expect_test::expect;
use tidegate_policyd::bundle::{Bundle, Files};

fn files(texts: &[(&str, &str)]) -> Files {
    let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Files { folder: "bundle".into(), texts: texts.collect::<BTreeMap<_, _>>() }
}

const MESH: &str = "\
trust_domain: shop.example
services:
  orders:
    namespace: shop
    instances: [{version: v1, endpoint: '127.0.0.1:80'}]
";

fn told(texts: &[(&str, &str)]) -> String {
    match Bundle::load(&files(texts)) {
        Ok(bundle) => format!("loaded\n{}", bundle.warnings.render(false)),
        Err(findings) => findings.render(false),
    }
}

#[test]
fn every_example_loads_without_a_warning() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut count = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("mesh.yaml").exists() {
            let bundle = Bundle::load(&Files::read(&folder).unwrap())
                .unwrap_or_else(|f| panic!("{}", f.render(false)));
            assert!(bundle.warnings.is_empty(), "{}", bundle.warnings.render(false));
            assert!(bundle.atoms.values().all(model::AtomSet::is_cacheable), "{}", folder.display());
            count += 1;
        }
    }
    assert!(count > 0);
}

#[test]
fn a_mistake_in_a_policy_is_shown_where_it_is() {
    let acl = "permit (principal, action == Action::\"http\", resource)\nwhen { context.pth like \"/x\" };\n\npermit (principal, action resource);\n";
    expect![[r#"
        error: for policy `acl.cedar#1`, attribute `pth` in context for Action::"http" not found
         --> acl.cedar:2:8
          |
        2 | when { context.pth like "/x" };
          |        ^^^^^^^^^^^
          |
          = help: did you mean `path`?

        error: unexpected token `resource`: expected `!=`, `)`, `,`, `:`, `<`, `<=`, `==`, `>`, `>=`, `in`, or `is`
         --> acl.cedar:4:27
          |
        4 | permit (principal, action resource);
          |                           ^^^^^^^^

    "#]].assert_eq(&told(&[("mesh.yaml", MESH), ("acl.cedar", acl)]));
    let acl = "permit (principal, action == Action::\"http\", resource)\nwhen { context.pth like \"/x\" };\n\npermit (principal == Workloat::\"a\", action, resource);\n@id(\"x\")\npermit (principal, action == Action::\"http\", resource) when { context.headers[\"x-user\"] == \"a\" };";
    expect![[r#"
        error: for policy `acl.cedar#1`, attribute `pth` in context for Action::"http" not found
         --> acl.cedar:2:8
          |
        2 | when { context.pth like "/x" };
          |        ^^^^^^^^^^^
          |
          = help: did you mean `path`?

        warning[inapplicable-scope]: `acl.cedar#2` is never satisfied: no action is for such a principal and resource
         --> acl.cedar:4:1
          |
        4 | permit (principal == Workloat::"a", action, resource);
          | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: a principal is a `Workload` or in a group of them, a resource a `Service` or in a group of them

        error: for policy `acl.cedar#2`, unrecognized entity type `Workloat`
         --> acl.cedar:4:22
          |
        4 | permit (principal == Workloat::"a", action, resource);
          |                      ^^^^^^^^
          |
          = help: did you mean `Workload`?

        error: for policy `x`, unable to guarantee safety of access to optional attribute `headers["x-user"]` in context for Action::"http"
         --> acl.cedar:6:63
          |
        6 | permit (principal, action == Action::"http", resource) when { context.headers["x-user"] == "a" };
          |                                                               ^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: try testing for the attribute's presence with `context.headers has "x-user" && ..`

    "#]].assert_eq(&told(&[("mesh.yaml", MESH), ("acl.cedar", acl)]));
}

#[test]
fn all_mistakes_of_a_mesh_are_told_at_once() {
    let mesh = "trust_domain: Shop!\ncertificate_ttl: 1s\nservices:\n  orders:\n    timeout: soon\n    instances:\n      - {version: v1, command: [a], endpoint: 'x:1'}\n";
    expect![[r#"
        error: this is not a trust domain: the trust domain may hold only a-z, 0-9, `.`, `-` and `_`, not `S`
         --> mesh.yaml:1:15
          |
        1 | trust_domain: Shop!
          |               ^^^^^
          |
          = help: use a name such as `bookinfo.example`

        error: `1s` is out of range
         --> mesh.yaml:2:18
          |
        2 | certificate_ttl: 1s
          |                  ^^
          |
          = help: use 5s to 90d

        error: `soon` is not a duration
         --> mesh.yaml:5:14
          |
        5 |     timeout: soon
          |              ^^^^
          |
          = help: write it as `30s`, `15m` or `1h`

        error: `orders-v1` has both `command` and `endpoint`
         --> mesh.yaml:7:32
          |
        7 |       - {version: v1, command: [a], endpoint: 'x:1'}
          |                                ^
          |
          = help: `command` is for a program to start, `endpoint` for one that runs: keep one

    "#]]
    .assert_eq(&told(&[("mesh.yaml", mesh)]));
}

#[test]
fn a_service_that_is_not_enforced_is_told_of() {
    let service = |name: &str, mode: &str| format!("  {name}:\n    enforcement: {mode}\n");
    let mesh = |services: &[String]| format!("trust_domain: shop.example\nservices:\n{}", services.concat());
    let modes = [service("orders", "observe"), service("payments", "off"), service("users", "enforce")];
    expect![[r#"
        loaded
        warning[unprotected-service]: requests to `orders` are not protected
         --> mesh.yaml:4:18
          |
        4 |     enforcement: observe
          |                  ^^^^^^^
          |
          = help: `observe` lets every request pass and only tells what would be refused; write `enforce` to refuse it

        warning[unprotected-service]: requests to `payments` are not protected
         --> mesh.yaml:6:18
          |
        6 |     enforcement: off
          |                  ^^^
          |
          = help: `off` lets every request pass undecided; write `enforce`, or first `observe` to see what that would refuse

    "#]].assert_eq(&told(&[("mesh.yaml", &mesh(&modes))]));
    expect![[r#"
        error: unknown value `obsevre`
         --> mesh.yaml:4:18
          |
        4 |     enforcement: obsevre
          |                  ^^^^^^^
          |
          = help: did you mean `observe`?

    "#]]
    .assert_eq(&told(&[("mesh.yaml", &mesh(&[service("orders", "obsevre")]))]));
    let wrong = [service("orders", "off"), "  users: {timeout: soon}\n".to_owned()];
    expect![[r#"
        warning[unprotected-service]: requests to `orders` are not protected
         --> mesh.yaml:4:18
          |
        4 |     enforcement: off
          |                  ^^^
          |
          = help: `off` lets every request pass undecided; write `enforce`, or first `observe` to see what that would refuse

        error: `soon` is not a duration
         --> mesh.yaml:5:20
          |
        5 |   users: {timeout: soon}
          |                    ^^^^
          |
          = help: write it as `30s`, `15m` or `1h`

    "#]]
    .assert_eq(&told(&[("mesh.yaml", &mesh(&wrong))]));
}

#[test]
fn a_service_is_enforced_unless_the_mesh_says_otherwise() {
    let services = "{a: {}, b: {enforcement: enforce}, c: {enforcement: observe}, d: {enforcement: off}}";
    let mesh = format!("trust_domain: shop.example\nservices: {services}\n");
    let bundle = Bundle::load(&files(&[("mesh.yaml", &mesh)])).unwrap();
    let modes: Vec<_> = bundle.mesh.services.values().map(|service| service.enforcement.as_str()).collect();
    assert_eq!(modes, ["enforce", "enforce", "observe", "off"]);
}

#[test]
fn all_mistakes_of_limits_are_told_at_once() {
    let limits = "limits:\n  - name: a\n    service: order\n    rate: 5 per moon\n    key: [context.header]\n  - name: a\n    rate: 1/s\n    when: context.method = 3\n    key: [context.response.code]\n";
    expect![[r#"
        error: there is no service `order`
         --> limits.yaml:3:14
          |
        3 |     service: order
          |              ^^^^^
          |
          = help: did you mean `orders`?

        error: this is not a rate: `moon` is not a duration such as `s`, `10s`, `min`, `1h` or `1d`
         --> limits.yaml:4:11
          |
        4 |     rate: 5 per moon
          |           ^^^^^^^^^^
          |
          = help: write it as `100/s`, `100/min` or `5 per 10s`

        error: `context.header` can't be part of a key
         --> limits.yaml:5:11
          |
        5 |     key: [context.header]
          |           ^^^^^^^^^^^^^^
          |
          = help: use an attribute: `principal`, `principal.namespace`, `context.source_ip`, `context.headers["x-user"]`, ...

        error: two limits are called `a`
         --> limits.yaml:6:11
          |
        6 |   - name: a
          |           ^
          |
          = help: the name tells limits apart in headers and metrics

        error: '=' is not a valid operator in Cedar
         --> limits.yaml:8:11
          |
        8 |     when: context.method = 3
          |           ^^^^^^^^^^^^^^^^^^
          |
          = help: try using '==' instead

        error: `context.response.code` can't be part of a key
         --> limits.yaml:9:11
          |
        9 |     key: [context.response.code]
          |           ^^^^^^^^^^^^^^^^^^^^^
          |
          = help: use an attribute: `principal`, `principal.namespace`, `context.source_ip`, `context.headers["x-user"]`, ...

    "#]].assert_eq(&told(&[("mesh.yaml", MESH), ("limits.yaml", limits)]));
}

#[test]
fn all_mistakes_of_adapters_are_told_at_once_with_those_of_other_files() {
    let adapters = "handlers:\n  - {name: l, adapter: lst}\n  - {name: m, adapter: list, config: {mode: deni}}\n  - {name: p, adapter: denier}\ninstances:\n  - name: i\n    fields: {value: context.method, valu: principal}\nrules:\n  - name: r\n    match: context.path\n    actions: [{handler: k, instances: [i]}, {handler: p, instances: [j]}]\n";
    let limits = "limits: [{name: l, rate: never}]";
    expect![[r#"
        error: there is no adapter `lst`
         --> adapters.yaml:2:24
          |
        2 |   - {name: l, adapter: lst}
          |                        ^^^
          |
          = help: did you mean `list`?

        error: the config of `m` at `/mode`: this must be `deny` or `allow`
         --> adapters.yaml:3:12
          |
        3 |   - {name: m, adapter: list, config: {mode: deni}}
          |            ^
          |
          = help: did you mean `deny`?

        error: the config of `m`: the key `match` is missing
         --> adapters.yaml:3:12
          |
        3 |   - {name: m, adapter: list, config: {mode: deni}}
          |            ^

        error: the config of `m`: there is neither `entries` nor `file`
         --> adapters.yaml:3:12
          |
        3 |   - {name: m, adapter: list, config: {mode: deni}}
          |            ^
          |
          = help: an empty list is written `entries: []`

        error: for policy `rule/r`, unexpected type: expected Bool but saw String
          --> adapters.yaml:10:12
           |
        10 |     match: context.path
           |            ^^^^^^^^^^^^

        error: there is no handler `k`
          --> adapters.yaml:11:25
           |
        11 |     actions: [{handler: k, instances: [i]}, {handler: p, instances: [j]}]
           |                         ^

        error: there is no instance `j`
          --> adapters.yaml:11:70
           |
        11 |     actions: [{handler: k, instances: [i]}, {handler: p, instances: [j]}]
           |                                                                      ^

        error: this is not a rate: write it as `100/s`, `100/min` or `5 per 10s`
         --> limits.yaml:1:26
          |
        1 | limits: [{name: l, rate: never}]
          |                          ^^^^^

    "#]]
    .assert_eq(&told(&[("mesh.yaml", MESH), ("limits.yaml", limits), ("adapters.yaml", adapters)]));
}

#[test]
fn a_bundle_without_a_mesh_says_so() {
    expect![[r#"
        error: the bundle has no mesh.yaml
        --> mesh.yaml
         = help: it names the trust domain and the services; see policies/bookinfo for one

    "#]]
    .assert_eq(&told(&[("acl.cedar", "")]));
}

#[test]
fn an_unknown_key_is_a_mistake() {
    let mesh = "trust_domain: shop.example\nservices:\n  orders:\n    instance: []\n";
    expect![[r#"
        error: unknown field `instance`
         --> mesh.yaml:4:5
          |
        4 |     instance: []
          |     ^^^^^^^^
          |
          = help: did you mean `instances`?

    "#]]
    .assert_eq(&told(&[("mesh.yaml", mesh)]));
}

#[test]
fn entities_are_checked_against_the_schema() {
    let entities = r#"[{"uid": {"type": "Groop", "id": "a"}, "attrs": {}, "parents": []}]"#;
    expect![[r#"
        error: error during entity deserialization: entity `Groop::"a"` has type `Groop` which is not declared in the schema
         --> entities.json:1:1
          |
        1 | [{"uid": {"type": "Groop", "id": "a"}, "attrs": {}, "parents": []}]
          | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

    "#]].assert_eq(&told(&[("mesh.yaml", MESH), ("entities.json", entities)]));
    expect![[r#"
        error: this is not a list of entities: key must be a string at line 2 column 2
         --> entities.json:2:2
          |
        2 | {]
          |  ^
          |
          = help: write `[{"uid": {"type": "Group", "id": "…"}, "attrs": {}, "parents": []}]`; the caller without identity is `unauthenticated`

    "#]].assert_eq(&told(&[("mesh.yaml", MESH), ("entities.json", "[\n{]")]));
}

#[test]
fn a_file_that_would_not_be_read_is_told_of() {
    let texts = [("mesh.yaml", MESH), ("limits.yml", ""), ("adapter.yaml", ""), ("renovate.json", "{}")];
    expect![[r#"
        error: this file is not read: no file of a bundle has this name
        --> adapter.yaml
         = help: did you mean `adapters.yaml`?

        error: this file is not read: no file of a bundle has this name
        --> limits.yml
         = help: did you mean `limits.yaml`?

        warning: this file is not read: no file of a bundle has this name
        --> renovate.json
         = help: keep it out of the bundle's folder

    "#]]
    .assert_eq(&told(&texts));
    expect![[r#"
        loaded
        warning: this file is not read: no file of a bundle has this name
        --> renovate.json
         = help: keep it out of the bundle's folder

    "#]]
    .assert_eq(&told(&[("mesh.yaml", MESH), ("renovate.json", "{}")]));
}

#[test]
fn a_header_in_capitals_is_a_mistake() {
    let acl =
        "forbid (principal, action == Action::\"http\", resource) when { context.headers has \"X-Debug\" };";
    expect![[r#"
        error: there is never a header `X-Debug`: names of headers are in lower case here
         --> acl.cedar:1:84
          |
        1 | forbid (principal, action == Action::"http", resource) when { context.headers has "X-Debug" };
          |                                                                                    ^^^^^^^
          |
          = help: write `x-debug`

    "#]]
    .assert_eq(&told(&[("mesh.yaml", MESH), ("acl.cedar", acl)]));
}

#[test]
fn entities_can_add_to_what_is_known_but_not_change_it() {
    let entities = r#"[
  {"uid": {"type": "Group", "id": "a"}, "attrs": {}, "parents": []},
  {"uid": {"__entity": {"type": "Group", "id": "b"}}, "attrs": {}, "parents": [{"type": "Group", "id": "a"}]},
  {"uid": {"type": "Workload", "id": "spiffe://shop.example/ns/far/sa/away"}, "attrs": {}, "parents": [{"type": "Group", "id": "b"}]},
  {"uid": {"type": "Service", "id": "orders"}, "attrs": {"namespace": "NS"}, "parents": []}
]"#;
    let fine = entities.replace("NS", "shop");
    expect![[r#"
        loaded
    "#]]
    .assert_eq(&told(&[("mesh.yaml", MESH), ("entities.json", &fine)]));
    expect![[r#"
        error: `namespace` of `orders` is "shop" already, and can't be "NS" too
         --> entities.json:1:1
          |
        1 | [
          | ^
          |
          = help: leave it out

    "#]]
    .assert_eq(&told(&[("mesh.yaml", MESH), ("entities.json", entities)]));
    expect![[r#"
        error: error during entity deserialization: missing field `uid`
         --> entities.json:1:1
          |
        1 | [{}, {}]
          | ^^^^^^^^

    "#]]
    .assert_eq(&told(&[("mesh.yaml", MESH), ("entities.json", "[{}, {}]")]));
}

#[test]
fn ids_names_and_conditions_are_what_they_seem() {
    let acl = "@id(\"a\\nb\") permit (principal, action, resource);";
    let limits = "limits:\n  - {name: l, rate: 1/s, when: 'true } unless { false'}\n";
    let adapters =
        "handlers: [{name: out, adapter: stdio}]\nrules:\n  - {name: \"a b\", actions: [{handler: out}]}\n";
    let texts =
        [("mesh.yaml", MESH), ("acl.cedar", acl), ("limits.yaml", limits), ("adapters.yaml", adapters)];
    expect![[r#"
        error: an id has up to 256 bytes on one line: "a\nb"
         --> acl.cedar:1:1
          |
        1 | @id("a\nb") permit (principal, action, resource);
          | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: it is told to callers and written to logs

        error: `a b` can't be the name of one of the rules
         --> adapters.yaml:3:12
          |
        3 |   - {name: "a b", actions: [{handler: out}]}
          |            ^^^^^
          |
          = help: use a-z, A-Z, 0-9, `-`, `_` and `.`

        error: unexpected token `}`
         --> limits.yaml:2:38
          |
        2 |   - {name: l, rate: 1/s, when: 'true } unless { false'}
          |                                      ^

    "#]]
    .assert_eq(&told(&texts));
}
