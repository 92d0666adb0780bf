//! Tokens of end users: whose claims policies see, and which requests are refused for theirs.

use std::net::SocketAddr;

use api::config::{self, Enforcement, KeySource, TokenIssuer, TokenPlace};
use jiff::Timestamp;
use model::{Atom, AtomSet, Name, Test, Value};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::setting::*;
use crate::app::Bound;
use crate::jwt::test_tokens::*;

/// A proxy of `shop`, which takes the tokens of these issuers, and whose policies read the claim `sub`.
async fn shop(issuers: Vec<TokenIssuer>) -> (Setting, Bound, Application) {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let is_ann = Test::Equals(Value::Text("ann".into()));
    let atoms =
        AtomSet::new(vec![Atom { name: Name::Claim("sub".into()), steps: Vec::new(), test: is_ann }], true);
    let change = |config: &mut Told| {
        config.enforced[0].issuers = issuers;
        config.enforced[0].atoms = atoms;
    };
    assert_eq!(setting.policyd.change(change).await.error, "");
    setting.policyd.decide(|request, revision| match request.claims.get("sub").map(String::as_str) {
        Some("ann") => allow(revision),
        _ => deny(revision),
    });
    (setting, proxy, application)
}

fn given(keys: &[serde_json::Value]) -> TokenIssuer {
    issuer(KeySource::Text(key_set(keys)))
}

fn now() -> Timestamp {
    daemon::Clock::system().now()
}

async fn ask(proxy: &Bound, path: &str, lines: &str) -> Raw {
    send(proxy.addresses.ingress.unwrap(), format!("GET {path} HTTP/1.1\r\nHost: shop\r\n{lines}\r\n")).await
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[tokio::test]
async fn policies_see_who_the_end_user_is() {
    let (setting, proxy, application) = shop(vec![given(&[EC.jwk("a")])]).await;
    let (ann, bob) =
        (EC.sign("a", &claims(now())), EC.sign("a", &claims_with(now(), &json!({"sub": "bob"}))));
    for _ in 0..2 {
        assert_eq!(ask(&proxy, "/", &bearer(&ann)).await.status, 200);
        assert_eq!(ask(&proxy, "/", &bearer(&bob)).await.error(), "denied");
        assert_eq!(ask(&proxy, "/", "").await.error(), "denied");
    }
    // Another token of the same user is verified, but nothing new for policies.
    assert_eq!(
        ask(&proxy, "/", &bearer(&EC.sign("a", &claims_with(now(), &json!({"jti": "2"}))))).await.status,
        200
    );
    // The application gets the token, too.
    assert!(application.last().headers["authorization"].to_str().unwrap().starts_with("Bearer "));
    let checks = setting.policyd.checks.lock().unwrap();
    // Whoever is not Ann is one of those whom policies do not tell apart.
    let users: Vec<_> = checks.iter().map(|request| request.claims.get("sub").map(String::as_str)).collect();
    assert_eq!(users, [Some("ann"), Some("bob"), None]);
    assert_eq!(checks[0].claims["groups"], "a,b");
    let metrics = proxy.metrics.render();
    for line in [
        r#"tidegate_jwt_total{result="valid"} 3"#,
        r#"tidegate_jwt_total{result="cached"} 2"#,
        r#"tidegate_jwt_total{result="none"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_request_with_a_bad_token_is_refused_and_told_why() {
    let (setting, proxy, application) = shop(vec![given(&[EC.jwk("a")])]).await;
    let good = EC.sign("a", &claims(now()));
    let at = now().as_second();
    for (lines, status, error, description) in [
        (bearer("nonsense"), 401, "invalid_token", "this is no JWT that can be read"),
        (
            bearer(&EC.sign("a", &claims_with(now(), &json!({"exp": at - 100})))),
            401,
            "invalid_token",
            "the token has expired",
        ),
        (bearer(&OTHER_EC.sign("a", &claims(now()))), 401, "invalid_token", "the signature is not valid"),
        (bearer(&good) + &bearer(&good), 400, "invalid_request", "the request has more than one token"),
    ] {
        let response = ask(&proxy, "/", &lines).await;
        assert_eq!((response.status, response.error().as_str()), (status, error), "{lines}");
        let challenge = format!("Bearer error=\"{error}\", error_description=\"{description}\"");
        assert_eq!(response.header("www-authenticate"), Some(challenge.as_str()));
        assert!(
            response.body.contains(description) && response.body.contains("request_id"),
            "{}",
            response.body
        );
    }
    assert_eq!(application.count(), 0);
    assert_eq!(setting.policyd.checks.lock().unwrap().len(), 0, "policies are not asked");
    // A service that only observes lets it pass, as nobody's; one that is off does not look.
    setting.policyd.decide(|_, revision| allow(revision));
    for enforcement in [Enforcement::Observe, Enforcement::Off] {
        setting.policyd.change(|config| config.enforced[0].enforcement = enforcement).await;
        let response = ask(&proxy, "/", &bearer("nonsense")).await;
        assert_eq!((response.status, response.header("www-authenticate")), (200, None));
    }
    let checks = setting.policyd.checks.lock().unwrap();
    assert_eq!(checks.iter().map(|request| request.claims.len()).collect::<Vec<_>>(), [0]);
}

#[tokio::test]
async fn keys_are_replaced_with_the_bundle_and_tokens_with_them() {
    let (setting, proxy, _application) = shop(vec![given(&[EC.jwk("a")])]).await;
    let (old, new) = (EC.sign("a", &claims(now())), OTHER_EC.sign("b", &claims(now())));
    let ask = async |token: &str| ask(&proxy, "/", &bearer(token)).await.status;
    assert_eq!((ask(&old).await, ask(&new).await), (200, 401));
    for (keys, expected) in [
        (vec![EC.jwk("a"), OTHER_EC.jwk("b")], (200, 200)),
        (vec![OTHER_EC.jwk("b")], (401, 200)),
        (vec![EC.jwk("a")], (200, 401)),
        // Nothing that a token could be verified with.
        (vec![json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})], (503, 503)),
    ] {
        setting.policyd.change(|config| config.enforced[0].issuers = vec![given(&keys)]).await;
        assert_eq!((ask(&old).await, ask(&new).await), expected, "{keys:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_for_the_application_does_not_reach_it() {
    let at = |place: TokenPlace| TokenIssuer { place, forward: false, ..given(&[EC.jwk("a")]) };
    let token = EC.sign("a", &claims(now()));
    let table = [
        (TokenPlace::Header("authorization".into()), "/?a=1".to_owned(), bearer(&token)),
        (TokenPlace::Header("x-token".into()), "/?a=1".to_owned(), format!("X-Token: {token}\r\n")),
        (TokenPlace::Cookie("s".into()), "/?a=1".to_owned(), format!("Cookie: s={token}; t=1\r\n")),
        (TokenPlace::Query("token".into()), format!("/?token={token}&a=1"), String::new()),
    ];
    for (place, path, lines) in table {
        let (setting, proxy, application) = shop(vec![at(place.clone())]).await;
        assert_eq!(ask(&proxy, &path, &lines).await.status, 200, "{place:?}");
        let seen = application.last();
        assert_eq!(seen.line, "GET /?a=1", "{place:?}");
        let shown = format!("{:?}", seen.headers);
        assert!(!shown.contains(&token), "{place:?}: {shown}");
        assert_eq!(
            seen.headers.get("cookie").map(|value| value.to_str().unwrap()),
            lines.contains("t=1").then_some("t=1")
        );
        // Policies see what the application gets.
        let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
        assert_eq!(checked.query, [("a".to_owned(), "1".to_owned())].into(), "{place:?}");
        assert!(!format!("{checked:?}").contains(&token), "{place:?}");
    }
}

#[tokio::test]
async fn several_issuers_are_told_apart() {
    let second = TokenIssuer {
        name: "partners".into(),
        issuer: "https://partners.example".into(),
        place: TokenPlace::Header("x-partner".into()),
        ..given(&[OTHER_EC.jwk("a")])
    };
    let third = TokenIssuer { place: TokenPlace::Header("authorization".into()), ..second.clone() };
    let third = TokenIssuer { name: "third".into(), issuer: "https://third.example".into(), ..third };
    let (_setting, proxy, _application) = shop(vec![given(&[EC.jwk("a")]), second, third]).await;
    let of = |signer: &Signer, issuer: &str| signer.sign("a", &claims_with(now(), &json!({"iss": issuer})));
    let partner = of(&OTHER_EC, "https://partners.example");
    let in_header = |token: &str| format!("X-Partner: {token}\r\n");
    for (lines, status) in [
        (bearer(&EC.sign("a", &claims(now()))), 200),
        (in_header(&partner), 200),
        (bearer(&of(&OTHER_EC, "https://third.example")), 200),
        // In another's place, by another's key, of nobody that is known, and two at once.
        (bearer(&partner), 401),
        (bearer(&of(&OTHER_EC, ISSUER)), 401),
        (bearer(&of(&EC, "https://third.example")), 401),
        (bearer(&of(&EC, "https://fourth.example")), 401),
        (bearer("a.b.c"), 401),
        (bearer(&EC.sign("a", &claims(now()))) + &in_header(&partner), 400),
    ] {
        assert_eq!(ask(&proxy, "/", &lines).await.status, status, "{lines}");
    }
}

/// A server of one key set, on this host.
async fn serve(keys: String) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let mut head = [0; 4096];
            let _read = stream.read(&mut head).await.unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n",
                keys.len()
            );
            stream.write_all((head + &keys).as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn keys_are_fetched_from_where_the_bundle_says() {
    let address = serve(key_set(&[RSA.jwk("a")])).await;
    let (setting, proxy, _application) =
        shop(vec![issuer(KeySource::Url(format!("http://{address}/jwks")))]).await;
    assert_eq!(ask(&proxy, "/", &bearer(&RSA.sign("a", &claims(now())))).await.status, 200);
    // A port where nobody listens: no keys, no verdict on the token, no way in.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", socket.local_addr().unwrap());
    drop(socket);
    setting.policyd.change(|config| config.enforced[0].issuers = vec![issuer(KeySource::Url(url))]).await;
    let response = ask(&proxy, "/", &bearer(&RSA.sign("a", &claims(now())))).await;
    assert_eq!((response.status, response.error().as_str()), (503, "token_keys_unavailable"));
    assert_eq!(response.header("www-authenticate"), None);
    assert_eq!(ask(&proxy, "/", "").await.error(), "denied", "who has no token is nobody, as ever");
    let metrics = proxy.metrics.render();
    assert!(metrics.contains(r#"tidegate_jwt_total{result="no_keys"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_token_that_the_application_sends_goes_to_whom_it_calls() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    let cart = setting.proxy("cart", "127.0.0.1:1".parse().unwrap()).await;
    let kept = TokenIssuer { forward: false, ..given(&[EC.jwk("a")]) };
    let change = |config: &mut Told| {
        config.services = vec![service("shop", &[("shop-v1", shop.addresses.inbound)])];
        config.enforced.push(config::Enforced { issuers: vec![kept], ..enforced("cart") });
    };
    setting.policyd.change(change).await;
    cart.current().when(|applied| !applied.jwt.takes_none()).await;
    let call = format!("GET / HTTP/1.1\r\nHost: shop\r\n{}\r\n", bearer("anything"));
    assert_eq!(send(cart.addresses.outbound, call).await.status, 200);
    assert_eq!(application.last().headers["authorization"], "Bearer anything");
}
