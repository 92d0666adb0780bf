use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::envoy::auth::AttributeContext;
use crate::envoy::auth::attribute_context::Request;
use crate::envoy::core::socket_address::PortSpecifier;
use crate::envoy::core::{self, HeaderMap, Metadata};

fn peer(ip: &str, principal: &str) -> Peer {
    let socket =
        core::SocketAddress { address: ip.to_owned(), port_specifier: Some(PortSpecifier::PortValue(80)) };
    let address = core::Address { address: Some(SocketAddress(socket)) };
    Peer { address: Some(address), principal: principal.to_owned() }
}

fn question(http: HttpRequest) -> AttributeContext {
    AttributeContext {
        source: Some(peer("::ffff:10.0.0.1", "spiffe://a/b")),
        destination: Some(peer("10.0.0.2", "spiffe://a/c")),
        request: Some(Request { http: Some(http) }),
        context_extensions: BTreeMap::from([("service".to_owned(), "reviews".to_owned())]),
        metadata_context: None,
    }
}

fn asked(attributes: AttributeContext) -> Result<Asked, ConvertError> {
    CheckRequest { attributes: Some(attributes) }.try_into()
}

fn http() -> HttpRequest {
    HttpRequest {
        method: "GET".to_owned(),
        path: "/a?b=c".to_owned(),
        host: "reviews:80".to_owned(),
        ..HttpRequest::default()
    }
}

#[test]
fn a_question_is_read() {
    let headers = [(":path", "/"), ("X-User", "zoë"), ("accept", "a,b")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let read = asked(question(HttpRequest { headers, ..http() })).unwrap();
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned().into());
    let expected = Asked {
        principal: "spiffe://a/b".to_owned(),
        destination: "spiffe://a/c".to_owned(),
        source_ip: Some("10.0.0.1".parse().unwrap()),
        service: Some("reviews".to_owned()),
        method: "GET".to_owned(),
        target: "/a?b=c".to_owned(),
        authority: "reviews:80".to_owned(),
        fields: vec![field("x-user", "zoë"), field("accept", "a,b")],
        is_joined: true,
        tokens: BTreeMap::new(),
    };
    assert_eq!(read, expected);
    let raw = |key: &str, raw: &'static [u8]| HeaderValue {
        key: key.to_owned(),
        value: String::new(),
        raw_value: raw.into(),
    };
    let header_map =
        Some(HeaderMap { headers: vec![raw(":method", b"GET"), raw("a", b"\xff"), raw("a", b"")] });
    let read = asked(question(HttpRequest { header_map, ..http() })).unwrap();
    assert_eq!(read.fields, [("a".to_owned(), b"\xff".as_slice().into()), field("a", "")]);
    assert!(!read.is_joined);
}

#[test]
fn what_is_missing_or_wrong_is_told() {
    let told = |attributes| asked(attributes).unwrap_err().to_string();
    assert_eq!(told(AttributeContext::default()), "the field `attributes.request.http` is missing");
    let nobody = Asked::try_from(CheckRequest::default()).unwrap_err().to_string();
    assert_eq!(nobody, "the field `attributes` is missing");
    let odd = AttributeContext { source: Some(peer("x", "")), ..question(http()) };
    assert!(told(odd).contains("attributes.source.address"));
    let bare = AttributeContext { source: None, destination: None, ..question(http()) };
    let read = asked(bare).unwrap();
    assert_eq!((read.principal.as_str(), read.source_ip), ("", None));
    let pipe = core::address::Address::Pipe(core::Pipe { path: "/s".to_owned() });
    let source = Peer { address: Some(core::Address { address: Some(pipe) }), principal: String::new() };
    assert_eq!(asked(AttributeContext { source: Some(source), ..question(http()) }).unwrap().source_ip, None);
}

#[test]
fn verified_tokens_are_taken_from_the_filter_that_verifies_them() {
    let token =
        json!({"sub": "zoë", "n": 7, "big": 1e300, "half": 0.5, "roles": ["a", true, null], "in": {"x": 1}});
    let Value::Object(object) = json!({"accounts": token, "header": "not a token"}) else { panic!() };
    let filter_metadata = BTreeMap::from([
        (TOKENS.to_owned(), to_struct(object)),
        ("another".to_owned(), to_struct(Map::from_iter([("evil".to_owned(), json!({"sub": "root"}))]))),
    ]);
    let metadata_context = Some(Metadata { filter_metadata });
    let read = asked(AttributeContext { metadata_context, ..question(http()) }).unwrap();
    assert_eq!(serde_json::to_value(&read.tokens).unwrap(), json!({"accounts": token}));
    let deep = (0..40).fold(json!({}), |inner, _| json!({"x": inner}));
    let filter_metadata =
        BTreeMap::from([(TOKENS.to_owned(), to_struct(Map::from_iter([("a".to_owned(), deep)])))]);
    let metadata_context = Some(Metadata { filter_metadata });
    let error = asked(AttributeContext { metadata_context, ..question(http()) }).unwrap_err();
    assert!(error.to_string().contains("too deep"), "{error}");
}

#[test]
fn answers_are_what_envoy_expects() {
    let told = Map::from_iter([("policies".to_owned(), json!(["a"]))]);
    let allowed = Answer {
        status: Answer::OK,
        headers: Vec::new(),
        body: String::new(),
        removed: vec!["x-tidegate-a".to_owned()],
        told: told.clone(),
    };
    let response = CheckResponse::from(allowed.clone());
    assert_eq!(response.status.unwrap().code, 0);
    assert_eq!(response.dynamic_metadata, Some(to_struct(told)));
    let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!("no OK") };
    assert_eq!(ok.headers_to_remove, ["x-tidegate-a"]);
    let headers = vec![("a".to_owned(), "b".to_owned())];
    let denied = Answer { status: 403, headers, body: "no".to_owned(), ..allowed };
    let response = CheckResponse::from(denied);
    assert_eq!(response.status.unwrap().code, PERMISSION_DENIED);
    let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("no denial") };
    assert_eq!((denied.status.unwrap().code, denied.body.as_str()), (403, "no"));
    assert_eq!(denied.headers[0].header.as_ref().unwrap().key, "a");
    assert_eq!(denied.headers[0].append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd);
}
