//! `details`: facts about the book.

use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

/// What `GET /details/0` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Details {
    pub(crate) id: u64,
    pub(crate) author: String,
    pub(crate) year: u16,
    #[serde(rename = "type")]
    pub(crate) binding: String,
    pub(crate) pages: u16,
    pub(crate) publisher: String,
    pub(crate) language: String,
    #[serde(rename = "ISBN-10")]
    pub(crate) isbn_10: String,
    #[serde(rename = "ISBN-13")]
    pub(crate) isbn_13: String,
}

/// The service.
pub(crate) fn router() -> Router {
    Router::new().route("/details/0", get(async || Json(the_comedy_of_errors())))
}

fn the_comedy_of_errors() -> Details {
    Details {
        id: 0,
        author: "William Shakespeare".into(),
        year: 1595,
        binding: "paperback".into(),
        pages: 200,
        publisher: "PublisherA".into(),
        language: "English".into(),
        isbn_10: "1234567890".into(),
        isbn_13: "123-1234567890".into(),
    }
}
