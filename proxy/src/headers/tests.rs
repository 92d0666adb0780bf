use super::*;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let pair = |&(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
        (name.parse().unwrap(), value.parse().unwrap())
    };
    lines.iter().map(pair).collect()
}

#[test]
fn hop_by_hop_headers_end_here() {
    type Lines = &'static [(&'static str, &'static str)];
    let table: &[(Lines, Lines)] = &[
        (&[("connection", "close"), ("a", "b")], &[("a", "b")]),
        (
            &[
                ("connection", "x-one, X-Two"),
                ("connection", "x-3"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("x-3", "3"),
            ],
            &[],
        ),
        (
            &[("connection", "host, content-length"), ("host", "a"), ("content-length", "1")],
            &[("host", "a"), ("content-length", "1")],
        ),
        (
            &[
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "x"),
                ("proxy-authenticate", "x"),
            ],
            &[],
        ),
        (&[("te", "gzip, trailers")], &[("te", "trailers")]),
        (&[("te", "gzip")], &[]),
        (&[("transfer-encoding", "chunked"), ("trailer", "x")], &[("trailer", "x")]),
        (&[("connection", "upgrade"), ("upgrade", "websocket"), ("expect", "100-continue")], &[]),
    ];
    for (before, after) in table {
        let mut headers = map(before);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(after), "{before:?}");
    }
}

#[test]
fn nobody_passes_for_tidegate() {
    let mut headers = map(&[
        ("x-tidegate-policy", "a"),
        ("X-Tidegate-Other", "b"),
        ("x-forwarded-client-cert", "URI=c"),
        ("x-tide", "d"),
    ]);
    strip_own(&mut headers);
    assert_eq!(headers, map(&[("x-tide", "d")]));
    let id = |account: &str| format!("spiffe://a/ns/b/sa/{account}").parse::<SpiffeId>().unwrap();
    set_client_cert(&mut headers, &id("me"), &id("you"));
    assert_eq!(headers[FORWARDED_CLIENT_CERT], "By=spiffe://a/ns/b/sa/me;URI=spiffe://a/ns/b/sa/you");
}

#[test]
fn hops_are_replaced_at_the_edge_and_appended_in_the_mesh() {
    let caller = "10.0.0.9".parse().unwrap();
    let said = [
        ("host", "shop"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil"),
    ];
    let mut headers = map(&said);
    forwarded_from_outside(&mut headers, caller);
    assert_eq!(
        headers,
        map(&[
            ("host", "shop"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop")
        ])
    );
    let mut headers = map(&said);
    forwarded_in_mesh(&mut headers, caller);
    assert_eq!(
        headers,
        map(&[
            ("host", "shop"),
            ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.0.0.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil")
        ])
    );
    let mut headers = map(&[("host", "shop")]);
    forwarded_in_mesh(&mut headers, caller);
    assert_eq!(
        headers,
        map(&[
            ("host", "shop"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop")
        ])
    );
}

#[test]
fn ids_are_kept_when_well_formed_and_made_otherwise() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let good = format!("00-{trace}-00f067aa0ba902b7-01");
    let mut headers = map(&[("x-request-id", "abc"), ("traceparent", &good)]);
    assert_eq!(ids(&mut headers), Ids { request_id: "abc".into(), trace_id: trace.into() });
    assert_eq!(headers, map(&[("x-request-id", "abc"), ("traceparent", &good)]));

    let long = "x".repeat(REQUEST_ID_MAX + 1);
    let zeros = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
    let extended = format!("{good}-x");
    let upper = good.to_uppercase();
    for (id, parent) in
        [("", ""), ("a b", "x"), (long.as_str(), zeros.as_str()), ("", &extended), ("", &upper)]
    {
        let mut headers = map(&[("x-request-id", id), ("traceparent", parent)]);
        let made = ids(&mut headers);
        assert_ne!(made.request_id, id);
        assert_eq!(ids(&mut headers), made, "what was made is well-formed");
    }
}
