use expect_test::expect;

use super::*;
use crate::bundle::{Bundle, Mesh};

const KEYS: &str =
    r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const ISSUER: &str = "{issuer: https://a.example, audiences: [shop], jwks: {file: a.jwks.json}}";

fn load(jwt: &str, taken: &str, keys: &str) -> Result<Mesh, Findings> {
    let mesh = format!(
        "trust_domain: shop.example\njwt:\n{jwt}services:\n  orders: {{instances: [{{endpoint: 127.0.0.1:80}}], jwt: [{taken}]}}\n"
    );
    let texts = [(FILE, mesh.as_str()), ("a.jwks.json", keys)];
    let texts = texts.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    let bundle = Bundle::load(&Files { folder: "bundle".into(), texts })?;
    if bundle.warnings.is_empty() { Ok(bundle.mesh) } else { Err(bundle.warnings) }
}

fn told(jwt: &str, taken: &str) -> String {
    load(jwt, taken, KEYS).map_or_else(|findings| findings.render(false), |_| "loaded".to_owned())
}

#[test]
fn an_issuer_is_read() {
    let mesh = load(&format!("  a: {ISSUER}\n"), "a", KEYS).unwrap();
    let expected = TokenIssuer {
        name: "a".into(),
        issuer: "https://a.example".into(),
        audiences: vec!["shop".into()],
        keys: KeySource::Text(KEYS.into()),
        place: TokenPlace::Header("authorization".into()),
        clock_skew: Duration::from_secs(60),
        forward: true,
        claims: Vec::new(),
    };
    assert_eq!(mesh.services["orders"].issuers, [expected]);
    let all = "  a:\n    issuer: https://a.example\n    audiences: [shop, api]\n    jwks: {url: https://a.example/jwks}\n    \
        from: {cookie: session}\n    clock_skew: 5s\n    forward: false\n    claims: {roles: [realm_access, roles]}\n  \
        b: {issuer: https://b.example, audiences: [shop], jwks: {file: a.jwks.json}, from: {header: X-Token}}\n";
    let mesh = load(all, "b, a", KEYS).unwrap();
    let [b, a] = mesh.services["orders"].issuers.as_slice() else { panic!("two issuers") };
    assert_eq!(b.place, TokenPlace::Header("x-token".into()));
    assert_eq!(
        (&a.place, a.clock_skew, a.forward),
        (&TokenPlace::Cookie("session".into()), Duration::from_secs(5), false)
    );
    assert_eq!(a.keys, KeySource::Url("https://a.example/jwks".into()));
    assert_eq!(a.claims, [("roles".to_owned(), vec!["realm_access".to_owned(), "roles".to_owned()])]);
}

#[test]
fn every_mistake_is_told_with_its_place_and_its_fix() {
    let wrong = "  a:\n    issuer: ''\n    audiences: ['']\n    jwks: {url: http://a.example/jwks}\n    \
        from: {header: host}\n    clock_skew: 1h\n    claims: {roles: []}\n";
    expect![[r#"
        error: an issuer has 1 to 1024 bytes
         --> mesh.yaml:4:13
          |
        4 |     issuer: ''
          |             ^^
          |
          = help: write it exactly as tokens have it

        error: an audience has 1 to 1024 bytes
         --> mesh.yaml:5:17
          |
        5 |     audiences: ['']
          |                 ^^
          |
          = help: write it exactly as tokens have it

        error: keys can't be fetched from here: what comes in the clear may come from anybody
         --> mesh.yaml:6:17
          |
        6 |     jwks: {url: http://a.example/jwks}
          |                 ^^^^^^^^^^^^^^^^^^^^^
          |
          = help: write `https://host/path`; `http` is for keys on the proxies' own host alone

        error: `host` is no header for a token
         --> mesh.yaml:7:11
          |
        7 |     from: {header: host}
          |           ^
          |
          = help: use `authorization`, or one of your own

        error: `1h` is no clock skew
         --> mesh.yaml:8:17
          |
        8 |     clock_skew: 1h
          |                 ^^
          |
          = help: use `0s` to `10m`

        error: there is no way to `roles`
         --> mesh.yaml:9:21
          |
        9 |     claims: {roles: []}
          |                     ^
          |
          = help: write `[realm_access, roles]`

    "#]]
    .assert_eq(&told(wrong, "a"));
}

#[test]
fn what_is_missing_is_told_and_what_is_there_twice() {
    let wrong = "  b: {issuer: https://b.example, audiences: [b], jwks: {}, from: {header: x-token, cookie: c}}\n  \
        c: {issuer: https://c.example, audiences: [c], jwks: {file: a.jwk.json}}\n";
    expect![[r#"
        error: `jwks` needs either `file` or `url`
         --> mesh.yaml:3:56
          |
        3 |   b: {issuer: https://b.example, audiences: [b], jwks: {}, from: {header: x-token, cookie: c}}
          |                                                        ^
          |
          = help: write `{file: keys.jwks.json}` for a file of the bundle, or `{url: https://…}`

        error: a token stands in one place
         --> mesh.yaml:3:66
          |
        3 |   b: {issuer: https://b.example, audiences: [b], jwks: {}, from: {header: x-token, cookie: c}}
          |                                                                  ^
          |
          = help: write `{header: x-token}`, `{cookie: session}` or `{query: access_token}`

        warning: no service takes tokens of `c`
         --> mesh.yaml:4:3
          |
        4 |   c: {issuer: https://c.example, audiences: [c], jwks: {file: a.jwk.json}}
          |   ^
          |
          = help: add `jwt: [c]` to a service

        error: the bundle has no file `a.jwk.json`
         --> mesh.yaml:4:63
          |
        4 |   c: {issuer: https://c.example, audiences: [c], jwks: {file: a.jwk.json}}
          |                                                               ^^^^^^^^^^
          |
          = help: did you mean `a.jwks.json`?

        error: `d` is no issuer of this mesh
         --> mesh.yaml:6:60
          |
        6 |   orders: {instances: [{endpoint: 127.0.0.1:80}], jwt: [b, d, accounts]}
          |                                                            ^
          |
          = help: declare it in `jwt:` at the top of the file

        error: `accounts` is no issuer of this mesh
         --> mesh.yaml:6:63
          |
        6 |   orders: {instances: [{endpoint: 127.0.0.1:80}], jwt: [b, d, accounts]}
          |                                                               ^^^^^^^^
          |
          = help: declare it in `jwt:` at the top of the file

    "#]]
    .assert_eq(&told(wrong, "b, d, accounts"));
}

#[test]
fn tokens_that_are_meant_for_anybody_are_told_unless_their_author_accepts_it() {
    let anybodys = "  a: {issuer: https://a.example, audiences: [], jwks: {file: a.jwks.json}}\n";
    expect![[r#"
        warning[any-audience]: tokens of `a` are taken here whoever they are meant for
         --> mesh.yaml:5:57
          |
        5 |   orders: {instances: [{endpoint: 127.0.0.1:80}], jwt: [a]}
          |                                                         ^
          |
          = help: name the service among its `audiences`; without, a token for any other service will do

    "#]]
    .assert_eq(&told(anybodys, "a"));
    assert_eq!(told(anybodys, "a], allow: [any-audience"), "loaded");
}

#[test]
fn issuers_that_can_not_be_told_apart_and_those_that_nobody_takes_are_told() {
    expect![[r#"
        error: `a` and `b` have the same issuer and the same place
         --> mesh.yaml:6:60
          |
        6 |   orders: {instances: [{endpoint: 127.0.0.1:80}], jwt: [a, b, a]}
          |                                                            ^
          |
          = help: a token says nothing but its issuer: keep one, with the audiences of both

        error: `a` is named twice
         --> mesh.yaml:6:63
          |
        6 |   orders: {instances: [{endpoint: 127.0.0.1:80}], jwt: [a, b, a]}
          |                                                               ^
          |
          = help: name it once

    "#]]
    .assert_eq(&told(&format!("  a: {ISSUER}\n  b: {ISSUER}\n"), "a, b, a"));
    expect![[r#"
        warning: no service takes tokens of `b`
         --> mesh.yaml:4:3
          |
        4 |   b: {issuer: https://a.example, audiences: [shop], jwks: {file: a.jwks.json}}
          |   ^
          |
          = help: add `jwt: [b]` to a service

    "#]]
    .assert_eq(&told(&format!("  a: {ISSUER}\n  b: {ISSUER}\n"), "a"));
}

#[test]
fn a_key_set_is_looked_at() {
    let told = |keys: &str| match load(&format!("  a: {ISSUER}\n"), "a", keys) {
        Ok(_) => "loaded".to_owned(),
        Err(findings) => findings.render(false),
    };
    let secret = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#;
    let private =
        "{\"keys\": [\n  {\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"11qY\", \"d\": \"nWGx\"}\n]}\n";
    let broken = "{\"keys\": [\n  {\"kty\": \"OKP\",}\n]}\n";
    let all = [secret, private, broken, "{}", "{\"keys\": []}"].map(told).concat();
    expect![[r#"
        error: no key of this set can verify a token
         --> a.jwks.json:1:1
          |
        1 | {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}
          | ^
          |
          = help: its keys have to be public keys: of the type `RSA`, `EC` or `OKP`

        error: this is a private key
         --> a.jwks.json:2:49
          |
        2 |   {"kty": "OKP", "crv": "Ed25519", "x": "11qY", "d": "nWGx"}
          |                                                 ^
          |
          = help: leave `d`, `p`, `q` and their like out of it, and make a new key: this one is no secret any more

        error: this is no key set: trailing comma at line 2 column 17
         --> a.jwks.json:2:17
          |
        2 |   {"kty": "OKP",}
          |                 ^
          |
          = help: write a JWK set (RFC 7517): `{"keys": [{"kty": "EC", …}]}`

        error: this is no key set: missing field `keys` at line 1 column 2
         --> a.jwks.json:1:2
          |
        1 | {}
          |  ^
          |
          = help: write a JWK set (RFC 7517): `{"keys": [{"kty": "EC", …}]}`

        error: no key of this set can verify a token
         --> a.jwks.json:1:1
          |
        1 | {"keys": []}
          | ^
          |
          = help: its keys have to be public keys: of the type `RSA`, `EC` or `OKP`

    "#]].assert_eq(&all);
}

#[test]
fn claims_that_no_request_ever_has_are_told() {
    let acl = "@id(\"staff\")\npermit (principal, action == Action::\"http\", resource)\nwhen { context.claims has sub };\n";
    let told = |jwt: &str, taken: &str| {
        let mesh = format!("trust_domain: shop.example\n{jwt}services: {{orders: {{{taken}}}}}\n");
        let texts = [(FILE, mesh.as_str()), ("acl.cedar", acl), ("a.jwks.json", KEYS)];
        let texts = texts.into_iter().filter(|(name, _)| !jwt.is_empty() || *name != "a.jwks.json");
        let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        Bundle::load(&Files { folder: "bundle".into(), texts }).unwrap().warnings.render(false)
    };
    expect![[r#"
        warning: claims are read, but no service takes tokens, so no request ever has claims
         --> acl.cedar:3:8
          |
        3 | when { context.claims has sub };
          |        ^^^^^^^^^^^^^^
          |
          = help: declare who signs tokens in `jwt:` of mesh.yaml, and add `jwt: [name]` to the service

    "#]]
    .assert_eq(&told("", ""));
    assert_eq!(told(&format!("jwt: {{a: {ISSUER}}}\n"), "jwt: [a]"), "");
}
