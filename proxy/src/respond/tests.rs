use api::config::Exposure;
use model::{Limit, Mode, Principal, Revision, Verdict};

use super::*;

fn denied(reasons: &[&str], message: &str) -> Refusal {
    Refusal::Denied(Arc::new(Decision {
        verdict: Verdict::Deny,
        reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        message: message.to_owned(),
        limits: vec![],
        rules: vec![],
        valid_for: Duration::ZERO,
        revision: Revision::default(),
        degraded: false,
        shadows: Vec::new(),
    }))
}

fn balance(name: &str, remaining: u64, retry_after_ms: u64) -> Balance {
    let limit = Limit::of_rate(name, Mode::Local, "5 per 10s".parse().unwrap(), vec![]);
    Balance {
        limit: Arc::new(limit),
        remaining,
        retry_after: Duration::from_millis(retry_after_ms),
        reset: Duration::from_millis(8001),
    }
}

fn body(response: Response<Vec<u8>>) -> String {
    String::from_utf8(response.into_body()).unwrap()
}

#[test]
fn only_those_who_may_know_are_told_the_policy() {
    let table = [
        (
            denied(&["acl.cedar#2"], ""),
            true,
            Some("acl.cedar#2"),
            r#"{"error":"denied","message":"a policy forbids this request","policy":["acl.cedar#2"],"request_id":"id"}"#,
        ),
        (
            denied(&[], ""),
            true,
            Some("none"),
            r#"{"error":"denied","message":"no policy permits this request","policy":[],"request_id":"id"}"#,
        ),
        (
            denied(&["a", "b"], "on the list"),
            true,
            Some("a, b"),
            r#"{"error":"denied","message":"on the list","policy":["a","b"],"request_id":"id"}"#,
        ),
        (
            denied(&["a"], "on the list"),
            false,
            None,
            r#"{"error":"denied","message":"the request is not allowed","request_id":"id"}"#,
        ),
    ];
    for (refusal, shows, header, text) in table {
        let response = refuse(&refusal, "id", shows);
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers().get(POLICY).map(|value| value.to_str().unwrap()), header);
        assert_eq!(body(response), text);
    }
    let mesh = Principal::Workload("spiffe://a/b".parse().unwrap());
    let outside = Principal::Unauthenticated;
    let shown = [Exposure::None, Exposure::Mesh, Exposure::All]
        .map(|exposure| [exposure.tells(&mesh), exposure.tells(&outside)]);
    assert_eq!(shown, [[false, false], [true, false], [true, true]]);
}

#[test]
fn over_a_limit_the_caller_is_told_when_to_come_again() {
    let response = refuse(&Refusal::Limited(balance("by \"user\"", 0, 2500)), "id", true);
    assert_eq!(response.status(), 429);
    let header = |name| response.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap());
    assert_eq!(header(header::RETRY_AFTER), Some("3"));
    assert_eq!(header(RATE_LIMIT_POLICY), Some(r#""by \"user\"";q=5;w=10"#));
    assert_eq!(header(RATE_LIMIT), Some(r#""by \"user\"";r=0;t=3"#));
    let soon = refuse(&Refusal::Limited(balance("x", 0, 1)), "id", true);
    assert_eq!(soon.headers().get(header::RETRY_AFTER).unwrap(), "1");
    assert_eq!(
        body(response),
        r#"{"error":"limited","message":"over the limit `by \"user\"`: 5 per 10s","request_id":"id"}"#
    );
}

#[test]
fn an_allowed_caller_is_told_what_is_left() {
    assert_eq!(rate_limit(&[]), None);
    let (policy, state) = rate_limit(&[balance("a", 1, 0), balance("é", 3, 0)]).unwrap();
    assert_eq!(policy, r#""a";q=5;w=10, "?";q=5;w=10"#);
    assert_eq!(state, r#""a";r=1;t=9, "?";r=3;t=9"#);
}

#[test]
fn each_refusal_has_its_status_and_code() {
    let service = || "shop".to_owned();
    let timeout = Duration::from_secs(1);
    let table = [
        (Refusal::Malformed(Malformed::TwoLengths), 400, "bad_request"),
        (Refusal::Malformed(Malformed::Connect), 405, "method_not_allowed"),
        (Refusal::Malformed(Malformed::HeadTimeout), 408, "request_timeout"),
        (Refusal::Malformed(Malformed::TargetTooLong), 414, "uri_too_long"),
        (Refusal::Malformed(Malformed::HeadTooLarge), 431, "headers_too_large"),
        (Refusal::Path(PathError::Ambiguous), 400, "bad_request"),
        (Refusal::PolicyUnavailable(String::new()), 503, "policy_unavailable"),
        (Refusal::LimitUnavailable { limit: String::new(), why: String::new() }, 503, "limit_unavailable"),
        (Refusal::Overloaded, 503, "overloaded"),
        (Refusal::NoSuchService(service()), 404, "no_such_service"),
        (Refusal::NoConfig, 503, "not_ready"),
        (UpstreamError::NoneHealthy { service: service() }.into(), 503, "no_healthy_upstream"),
        (UpstreamError::Timeout { service: service(), timeout }.into(), 504, "upstream_timeout"),
        (
            UpstreamError::Unexpected { service: service(), status: StatusCode::CONTINUE }.into(),
            502,
            "upstream_failed",
        ),
    ];
    for (refusal, status, code) in table {
        let response = refuse(&refusal, "id", true);
        assert_eq!((response.status().as_u16(), refusal.code()), (status, code), "{refusal}");
    }
}
