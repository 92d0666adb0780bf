//! `productpage`: the page that a browser shows, its JSON API, and signing in.

mod calls;
mod page;
mod user;

use std::sync::Arc;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use maud::Markup;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::details::Details;
use crate::forwarded::Forwarded;
use crate::outbound::{Failure, Outbound};
use crate::ratings::Ratings;
use crate::reply::Problem;
use crate::reviews::Reviews;
use crate::service::Service;
use user::User;

/// A book, as the API lists it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Product {
    id: u64,
    title: &'static str,
    #[serde(rename = "descriptionHtml")]
    description_html: &'static str,
}

#[derive(Debug, Deserialize)]
struct SignIn {
    username: String,
}

#[derive(Debug)]
struct Instance {
    name: String,
    outbound: Outbound,
}

type Shared = State<Arc<Instance>>;

/// The service.
pub(crate) fn router(name: String, outbound: Outbound) -> Router {
    Router::new()
        .route("/", get(async || Redirect::to(PAGE)))
        .route(PAGE, get(show))
        .route("/login", post(sign_in))
        .route("/logout", post(sign_out))
        .route("/api/v1/products", get(async || Json([THE_COMEDY_OF_ERRORS])))
        .route("/api/v1/products/0", get(details))
        .route("/api/v1/products/0/reviews", get(reviews))
        .route("/api/v1/products/0/ratings", get(ratings))
        .with_state(Arc::new(Instance { name, outbound }))
}

async fn show(State(instance): Shared, headers: HeaderMap) -> Response {
    let user = User::signed_in(&headers);
    let forwarded = forwarded(&headers);
    let (details, reviews) = tokio::join!(
        instance.outbound.get::<Details>(Service::Details, DETAILS, &forwarded),
        instance.outbound.get::<Reviews>(Service::Reviews, REVIEWS, &forwarded),
    );
    let product = page::Product {
        instance: &instance.name,
        title: THE_COMEDY_OF_ERRORS.title,
        details: &details,
        reviews: &reviews,
    };
    html(StatusCode::OK, &page::product(user.as_ref(), &product))
}

async fn sign_in(form: Result<Form<SignIn>, FormRejection>) -> Response {
    let problem = match form.map(|Form(form)| User::new(&form.username)) {
        Ok(Ok(user)) => return to_page_with_cookie(&user.cookie()),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, error.to_string()),
        Err(rejection) => (rejection.status(), rejection.body_text()),
    };
    html(problem.0, &page::sign_in_problem(&problem.1))
}

async fn sign_out() -> Response {
    to_page_with_cookie(user::NO_COOKIE)
}

async fn details(State(instance): Shared, headers: HeaderMap) -> Result<Json<Details>, Problem> {
    instance.relay(Service::Details, DETAILS, &headers).await
}

async fn reviews(State(instance): Shared, headers: HeaderMap) -> Result<Json<Reviews>, Problem> {
    instance.relay(Service::Reviews, REVIEWS, &headers).await
}

async fn ratings(State(instance): Shared, headers: HeaderMap) -> Result<Json<Ratings>, Problem> {
    instance.relay(Service::Ratings, RATINGS, &headers).await
}

impl Instance {
    /// What another service answers, as an answer of this one.
    async fn relay<T: DeserializeOwned>(
        &self,
        service: Service,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Json<T>, Problem> {
        let answer = self.outbound.get(service, path, &forwarded(headers)).await;
        answer.map(Json).map_err(|failure: Failure| {
            let error = format!("Sorry, product {service} are currently unavailable for this book.");
            Problem::new(failure.status(), error).because(format!("{service} {failure}"))
        })
    }
}

/// The headers to send along: the cookie alone says who is signed in.
fn forwarded(headers: &HeaderMap) -> Forwarded {
    Forwarded::of(headers).on_behalf_of(User::signed_in(headers).and_then(|user| user.header()))
}

fn to_page_with_cookie(cookie: &str) -> Response {
    ([(SET_COOKIE, cookie)], Redirect::to(PAGE)).into_response()
}

fn html(status: StatusCode, markup: &Markup) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        // Another user, or another version of reviews, makes another page.
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, markup.0.clone()).into_response()
}

const PAGE: &str = "/productpage";
const DETAILS: &str = "/details/0";
const REVIEWS: &str = "/reviews/0";
const RATINGS: &str = "/ratings/0";

/// The page loads nothing from anywhere: its style and its icon are part of it.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const THE_COMEDY_OF_ERRORS: Product = Product {
    id: 0,
    title: "The Comedy of Errors",
    description_html: "<a href=\"https://en.wikipedia.org/wiki/The_Comedy_of_Errors\">Wikipedia Summary</a>: \
        The Comedy of Errors is one of <b>William Shakespeare's</b> early plays. It is his shortest and one of \
        his most farcical comedies, with a major part of the humour coming from slapstick and mistaken \
        identity, in addition to puns and word play.",
};
