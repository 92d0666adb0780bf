//! The answers that all services share.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

/// That a service is well.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Health {
    status: String,
}

/// A refusal, or a failure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Health {
    /// That `instance` is well.
    pub(crate) fn of(instance: &str) -> Self {
        Self { status: format!("{instance} is healthy") }
    }
}

impl Problem {
    /// An answer of `status` whose body says what is wrong.
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), message: None }
    }

    /// The same, and why.
    pub(crate) fn because(self, message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

/// The answer where no other is.
pub(crate) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such page or book")
}

/// The answer to a method that a path doesn't have.
pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
}
