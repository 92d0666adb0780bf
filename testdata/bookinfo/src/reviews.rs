//! `reviews`: what readers wrote, from version 2 on with the stars they gave.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::forwarded::Forwarded;
use crate::outbound::Outbound;
use crate::ratings::{Ratings, Stars};
use crate::service::{Service, Version};

/// What `GET /reviews/0` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reviews {
    pub(crate) id: String,
    /// The instance that answered, such as `reviews-v2`.
    pub(crate) podname: String,
    pub(crate) reviews: Vec<Review>,
}

/// What one reader wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Review {
    pub(crate) reviewer: String,
    pub(crate) text: String,
    /// Absent in version 1, which knows no stars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rating: Option<Rating>,
}

/// The stars that one reader gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Rating {
    /// One to five stars.
    Stars { stars: u8, color: Color },
    /// Why there are none.
    Error { error: String },
}

/// The colour of stars, by which one sees the version of `reviews`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Color {
    Black,
    Red,
}

#[derive(Debug)]
struct Instance {
    name: String,
    /// Nothing for the version without stars.
    color: Option<Color>,
    outbound: Outbound,
}

/// The service.
pub(crate) fn router(name: String, version: Version, outbound: Outbound) -> Router {
    let color = match version {
        Version::V1 => None,
        Version::V2 => Some(Color::Black),
        Version::V3 => Some(Color::Red),
    };
    Router::new().route("/reviews/0", get(show)).with_state(Arc::new(Instance { name, color, outbound }))
}

async fn show(State(instance): State<Arc<Instance>>, headers: HeaderMap) -> Json<Reviews> {
    let mut reviews = TEXTS
        .map(|(reviewer, text)| Review { reviewer: reviewer.into(), text: text.into(), rating: None })
        .to_vec();
    if let Some(color) = instance.color {
        let stars = instance.ratings(&Forwarded::of(&headers)).await;
        for review in &mut reviews {
            review.rating = Some(rating(stars.get(&review.reviewer), color));
        }
    }
    Json(Reviews { id: "0".into(), podname: instance.name.clone(), reviews })
}

impl Instance {
    /// The stars by reviewer; none when `ratings` fails, which the outbound call has logged.
    async fn ratings(&self, forwarded: &Forwarded) -> Stars {
        let answer = self.outbound.get::<Ratings>(Service::Ratings, "/ratings/0", forwarded).await;
        answer.map(|answer| answer.ratings).unwrap_or_default()
    }
}

fn rating(stars: Option<&u8>, color: Color) -> Rating {
    stars.map_or_else(
        || Rating::Error { error: RATINGS_UNAVAILABLE.into() },
        |&stars| Rating::Stars { stars, color },
    )
}

const TEXTS: [(&str, &str); 2] = [
    ("Reviewer1", "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by \
         Shakespeare.",
    ),
];

const RATINGS_UNAVAILABLE: &str = "Ratings service is currently unavailable";
