//! `ratings`: how many stars each reviewer gave, kept in memory.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::reply::Problem;

/// Stars by reviewer.
pub(crate) type Stars = BTreeMap<String, u8>;

/// What `GET /ratings/0` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ratings {
    pub(crate) id: u64,
    pub(crate) ratings: Stars,
}

/// Why ratings were not taken.
#[derive(Debug, Error)]
enum Invalid {
    #[error("please send a JSON object of reviewer and stars, such as {{\"Reviewer1\": 5}}: {0}")]
    Json(#[from] serde_json::Error),
    #[error("`{0}` stars are not between 1 and 5")]
    Stars(u8),
    #[error("{0} reviewers are more than {REVIEWERS_MAX}")]
    Reviewers(usize),
    #[error("a reviewer's name has between 1 and {NAME_BYTES_MAX} bytes")]
    Name,
}

type Shared = Arc<RwLock<Stars>>;

/// The service.
pub(crate) fn router() -> Router {
    let stars = Stars::from([("Reviewer1".to_owned(), 5), ("Reviewer2".to_owned(), 4)]);
    Router::new().route("/ratings/0", get(show).post(replace)).with_state(Arc::new(RwLock::new(stars)))
}

async fn show(State(stars): State<Shared>) -> Json<Ratings> {
    let ratings = stars.read().unwrap_or_else(PoisonError::into_inner).clone();
    Json(Ratings { id: 0, ratings })
}

async fn replace(
    State(stars): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Ratings>, Problem> {
    let body = body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let ratings =
        parse(&body).map_err(|invalid| Problem::new(StatusCode::BAD_REQUEST, invalid.to_string()))?;
    stars.write().unwrap_or_else(PoisonError::into_inner).clone_from(&ratings);
    Ok(Json(Ratings { id: 0, ratings }))
}

fn parse(body: &[u8]) -> Result<Stars, Invalid> {
    let stars: Stars = serde_json::from_slice(body)?;
    if stars.len() > REVIEWERS_MAX {
        return Err(Invalid::Reviewers(stars.len()));
    }
    if stars.keys().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        return Err(Invalid::Name);
    }
    if let Some(&bad) = stars.values().find(|stars| !STARS.contains(stars)) {
        return Err(Invalid::Stars(bad));
    }
    Ok(stars)
}

const STARS: RangeInclusive<u8> = 1..=5;
const REVIEWERS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn reviewers(count: usize) -> String {
        let all: Stars = (0..count).map(|number| (format!("Reviewer{number}"), 3)).collect();
        serde_json::to_string(&all).unwrap()
    }

    #[test]
    fn only_sensible_ratings_are_taken() {
        let long_name = |bytes| format!(r#"{{"{}": 1}}"#, "n".repeat(bytes));
        let table = [
            ("{}".to_owned(), None),
            (r#"{"Reviewer1": 1, "Reviewer2": 5}"#.to_owned(), None),
            (reviewers(REVIEWERS_MAX), None),
            (long_name(NAME_BYTES_MAX), None),
            (r#"{"Reviewer1": 0}"#.to_owned(), Some("`0` stars are not between 1 and 5")),
            (r#"{"Reviewer1": 6}"#.to_owned(), Some("`6` stars are not between 1 and 5")),
            (r#"{"Reviewer1": -1}"#.to_owned(), Some("please send a JSON object")),
            (r#"{"Reviewer1": 4.5}"#.to_owned(), Some("please send a JSON object")),
            ("[5, 4]".to_owned(), Some("please send a JSON object")),
            (String::new(), Some("please send a JSON object")),
            (reviewers(REVIEWERS_MAX + 1), Some("33 reviewers are more than 32")),
            (long_name(NAME_BYTES_MAX + 1), Some("a reviewer's name has between 1 and 64 bytes")),
            (long_name(0), Some("a reviewer's name has between 1 and 64 bytes")),
        ];
        for (body, expected) in table {
            let error = parse(body.as_bytes()).err().map(|invalid| invalid.to_string());
            let as_expected = match (&error, expected) {
                (Some(error), Some(expected)) => error.starts_with(expected),
                (None, None) => true,
                _ => false,
            };
            assert!(as_expected, "{body}: {error:?}, expected {expected:?}");
        }
    }
}
