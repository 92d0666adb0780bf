//! All services together.

mod app;

use expect_test::expect_file;
use http::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{Method, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use app::{Answer, App, HttpClient, LOOPBACK, Route, read};

fn stars(page: &str) -> Vec<&str> {
    page.split("aria-label=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn each_version_of_reviews_shows_its_stars() {
    let table: [(_, &str, &[&str]); 3] = [
        (Version::V1, "reviews-v1", &[]),
        (Version::V2, "reviews-v2", &["5 out of 5 black stars", "4 out of 5 black stars"]),
        (Version::V3, "reviews-v3", &["5 out of 5 red stars", "4 out of 5 red stars"]),
    ];
    for (version, instance, expected) in table {
        let app = App::start(version).await;
        let page = app.get("/productpage").await;
        assert_eq!(page.status, StatusCode::OK);
        assert_eq!(page.headers[CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(page.body.contains("<h1 id=\"title\">The Comedy of Errors</h1>"));
        assert!(page.body.contains(&format!("Reviews served by: <strong>{instance}</strong>")));
        assert!(page.body.contains("<td>William Shakespeare</td>"));
        assert_eq!(stars(&page.body), expected);
        assert_eq!(page.body.contains("not called"), version == Version::V1);
        app.stop().await;
    }
}

#[tokio::test]
async fn signing_in_shows_the_name_and_signing_out_removes_it() {
    let app = App::start(Version::V2).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for (body, cookie, shown) in [
        ("username=jason&passwd=", "user=jason", "Signed in as <strong>jason</strong>"),
        (
            "username=%3Cscript%3Ealert(1)%3C%2Fscript%3E",
            "user=%3Cscript%3Ealert%281%29%3C%2Fscript%3E",
            "Signed in as <strong>&lt;script&gt;alert(1)&lt;/script&gt;</strong>",
        ),
    ] {
        let signed_in = app.ask(Method::POST, "/login", &form, body).await;
        assert_eq!(
            (signed_in.status, &signed_in.headers[LOCATION]),
            (StatusCode::SEE_OTHER, &"/productpage".parse().unwrap())
        );
        let set_cookie = signed_in.headers[SET_COOKIE].to_str().unwrap();
        assert_eq!(set_cookie, format!("{cookie}; Path=/; HttpOnly; SameSite=Lax"));
        let page = app.ask(Method::GET, "/productpage", &[("cookie", cookie)], "").await.body;
        assert!(page.contains(shown), "{page}");
        assert!(!page.contains("<script>"));
    }
    let signed_out = app.ask(Method::POST, "/logout", &[("cookie", "user=jason")], "").await;
    assert_eq!(signed_out.status, StatusCode::SEE_OTHER);
    assert_eq!(signed_out.headers[SET_COOKIE], "user=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    assert!(!app.get("/productpage").await.body.contains("Signed in as"));
    app.stop().await;
}

#[tokio::test]
async fn a_name_that_cannot_be_is_refused_on_a_page() {
    let app = App::start(Version::V1).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let long = format!("username={}", "n".repeat(65));
    let huge = format!("username={}", "n".repeat(BODY_BYTES_MAX));
    for (headers, body, status) in [
        (&form[..], "username=+", StatusCode::BAD_REQUEST),
        (&form[..], &long, StatusCode::BAD_REQUEST),
        (&form[..], "name=jason", StatusCode::UNPROCESSABLE_ENTITY),
        (&form[..], &huge, StatusCode::PAYLOAD_TOO_LARGE),
        (&[], "username=jason", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let answer = app.ask(Method::POST, "/login", headers, body).await;
        assert_eq!(answer.status, status, "{body}");
        assert!(answer.body.contains("You are not signed in"));
        assert!(!answer.headers.contains_key(SET_COOKIE));
    }
    app.stop().await;
}

#[tokio::test]
async fn trace_headers_go_on_to_the_last_service_and_cookies_do_not() {
    let app = App::start(Version::V3).await;
    let forwarded = [
        ("x-request-id", "r-1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "a=1"),
        ("b3", "1-2-1"),
        ("x-b3-traceid", "1"),
        ("x-b3-sampled", "1"),
        ("user-agent", "probe"),
    ];
    let others = [("cookie", "user=jason"), ("end-user", "somebody-else"), ("authorization", "Bearer x")];
    app.ask(Method::GET, "/productpage", &[&forwarded[..], &others].concat(), "").await;
    for service in [Service::Details, Service::Reviews, Service::Ratings] {
        let seen = app.mesh.last_headers(service);
        for (name, value) in forwarded {
            assert_eq!(seen[name], value, "{name} at {service}");
        }
        assert_eq!(seen["end-user"], "jason", "{service}");
        assert!(!seen.contains_key(COOKIE) && !seen.contains_key("authorization"), "{service}");
    }
    // Without a cookie nobody is signed in, whatever the request claims.
    app.ask(Method::GET, "/productpage", &[("end-user", "jason")], "").await;
    assert!(!app.mesh.last_headers(Service::Ratings).contains_key("end-user"));
    app.stop().await;
}

#[tokio::test]
async fn failures_render_kindly() {
    let app = App::start(Version::V2).await;
    let denied = r#"{"error":"denied","message":"no policy permits <b>this</b>"}"#;
    let (ratings, reviews, details) = (Service::Ratings, Service::Reviews, Service::Details);
    let cases = [
        (ratings, StatusCode::FORBIDDEN, denied, "Ratings service is currently unavailable"),
        (
            reviews,
            StatusCode::FORBIDDEN,
            denied,
            "Sorry, product reviews are currently unavailable for this book.",
        ),
        (
            reviews,
            StatusCode::FORBIDDEN,
            denied,
            "reviews answered 403 Forbidden: no policy permits &lt;b&gt;this&lt;/b&gt;",
        ),
        (reviews, StatusCode::TOO_MANY_REQUESTS, "{}", "reviews answered 429 Too Many Requests"),
        (reviews, StatusCode::SERVICE_UNAVAILABLE, "", "reviews answered 503 Service Unavailable"),
        (reviews, StatusCode::OK, "<html>", "reviews answered with something unexpected"),
        (
            details,
            StatusCode::FORBIDDEN,
            denied,
            "Sorry, product details are currently unavailable for this book.",
        ),
    ];
    for (service, status, body, expected) in cases {
        let route = app.mesh.route(service);
        app.mesh.set(service, Route::Answer(status, body));
        let page = app.get("/productpage").await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.body.contains(expected), "{service} {status}: {}", page.body);
        app.mesh.set(service, route);
    }
    let page = app.get("/productpage").await.body;
    assert!(!page.contains("unavailable") && !page.contains("role=\"status\""));
    app.stop().await;
}

#[tokio::test]
async fn without_a_sidecar_the_other_services_are_unavailable() {
    let listen = LOOPBACK.parse().unwrap();
    let service = Service::Productpage;
    let bound = bind(Config { service, version: Version::V1, listen, outbound: None }).await.unwrap();
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://{}/productpage", bound.address()).parse().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(bound.serve(async move { drop(stopped.await) }));
    let page = read(client.get(uri).await.unwrap()).await;
    assert_eq!(page.status, StatusCode::OK);
    for expected in ["details could not be reached", "reviews could not be reached", "no answer"] {
        assert!(page.body.contains(expected), "{expected}");
    }
    drop(stop);
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_does_not_hold_up_the_shutdown() {
    let listen = LOOPBACK.parse().unwrap();
    let config = Config { service: Service::Ratings, version: Version::V1, listen, outbound: None };
    let bound = bind(config).await.unwrap();
    let mut connection = TcpStream::connect(bound.address()).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(bound.serve(async move { drop(stopped.await) }));
    let head =
        b"POST /ratings/0 HTTP/1.1\r\nhost: ratings\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    connection.write_all(head).await.unwrap();
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100", "the service waits for the body");
    let stopped_at = Instant::now();
    drop(stop);
    server.await.unwrap().unwrap();
    assert!(stopped_at.elapsed() >= DRAIN, "the request had its time");
}

#[tokio::test]
async fn posted_ratings_are_shown() {
    let app = App::start(Version::V2).await;
    let post = |body| app.ask_service(Service::Ratings, Method::POST, "/ratings/0", body);
    assert_eq!(post(r#"{"Reviewer1": 1}"#).await.body, r#"{"id":0,"ratings":{"Reviewer1":1}}"#);
    assert_eq!(post(r#"{"Reviewer1": 9}"#).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(&" ".repeat(BODY_BYTES_MAX + 1)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let page = app.get("/productpage").await.body;
    assert_eq!(stars(&page), ["1 out of 5 black stars"]);
    assert!(page.contains("Ratings service is currently unavailable"), "of Reviewer2");
    app.stop().await;
}

#[tokio::test]
async fn json_bodies_are_as_recorded() {
    let mut recorded = String::new();
    let mut record = |request: &str, answer: Answer| {
        assert_eq!(answer.headers[CONTENT_TYPE], "application/json", "{request}");
        recorded += &format!("{request}\n{} {}\n\n", answer.status.as_u16(), answer.body);
    };
    for version in Version::ALL {
        let app = App::start(version).await;
        if version == Version::V1 {
            for (service, method, path, body) in ALIKE_IN_ALL_VERSIONS {
                let answer = app.ask_service(service, method.clone(), path, body).await;
                record(format!("{service}: {method} {path} {body}").trim_end(), answer);
            }
        }
        let reviews = || app.ask_service(Service::Reviews, Method::GET, "/reviews/0", "");
        record(&format!("reviews-{version}: GET /reviews/0"), reviews().await);
        if version == Version::V3 {
            let denied = r#"{"error":"denied","message":"no policy permits it"}"#;
            app.mesh.set(Service::Ratings, Route::Answer(StatusCode::FORBIDDEN, denied));
            record("reviews-v3, denied by ratings: GET /reviews/0", reviews().await);
            let path = "/api/v1/products/0/ratings";
            record(&format!("productpage, denied by ratings: GET {path}"), app.get(path).await);
        }
        app.stop().await;
    }
    expect_file!["./tests/bodies.txt"].assert_eq(&recorded);
}

const ALIKE_IN_ALL_VERSIONS: [(Service, Method, &str, &str); 14] = [
    (Service::Productpage, Method::GET, "/api/v1/products", ""),
    (Service::Productpage, Method::GET, "/api/v1/products/0", ""),
    (Service::Productpage, Method::GET, "/api/v1/products/0/reviews", ""),
    (Service::Productpage, Method::GET, "/api/v1/products/0/ratings", ""),
    (Service::Productpage, Method::GET, "/api/v1/products/1", ""),
    (Service::Productpage, Method::GET, "/health", ""),
    (Service::Details, Method::GET, "/details/0", ""),
    (Service::Details, Method::GET, "/details/1", ""),
    (Service::Details, Method::GET, "/health", ""),
    (Service::Details, Method::POST, "/details/0", ""),
    (Service::Reviews, Method::GET, "/health", ""),
    (Service::Ratings, Method::GET, "/health", ""),
    (Service::Ratings, Method::GET, "/ratings/0", ""),
    (Service::Ratings, Method::POST, "/ratings/0", r#"{"Reviewer1":0}"#),
];
