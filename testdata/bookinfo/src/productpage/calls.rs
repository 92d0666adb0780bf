//! The picture of which services were called for a page, and how that went.

use maud::{Markup, html};

use super::page::Product;
use crate::outbound::Failure;
use crate::reviews::{Rating, Reviews};

/// How a call went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Answered,
    /// In one or two words.
    Failed(String),
    NotMade,
}

/// The calls as a tree: each service below the one that called it.
pub(super) fn picture(product: &Product<'_>) -> Markup {
    let reviews = product.reviews.as_ref().map_or("reviews", |reviews| reviews.podname.as_str());
    html! {
        ul .calls {
            li {
                (node(product.instance, &Call::Answered))
                ul {
                    li { (node("details", &call(product.details))) }
                    li {
                        (node(reviews, &call(product.reviews)))
                        // Without an answer nobody knows whether ratings were asked for.
                        @if let Ok(reviews) = product.reviews {
                            ul { li { (node("ratings", &ratings_call(reviews))) } }
                        }
                    }
                }
            }
        }
        p .hint { a href=(super::PAGE) { "Reload" } " to see who answers next." }
    }
}

fn node(name: &str, call: &Call) -> Markup {
    let (class, words) = match call {
        Call::Answered => ("answered", "200"),
        Call::Failed(words) => ("failed", words.as_str()),
        Call::NotMade => ("not-made", "not called"),
    };
    html! {
        span .node { span { (name) } span class={ "badge " (class) } { (words) } }
    }
}

fn call<T>(answer: &Result<T, Failure>) -> Call {
    match answer {
        Ok(_) => Call::Answered,
        Err(Failure::Refused { status, .. }) => Call::Failed(status.as_str().to_owned()),
        Err(Failure::Unreachable(_)) => Call::Failed("no answer".into()),
        Err(Failure::Timeout) => Call::Failed("timeout".into()),
        Err(Failure::TooLarge | Failure::Unexpected(_)) => Call::Failed("bad answer".into()),
    }
}

/// How the call that `reviews` made to `ratings` went, as far as its answer shows.
fn ratings_call(answer: &Reviews) -> Call {
    let mut ratings = answer.reviews.iter().filter_map(|review| review.rating.as_ref()).peekable();
    if ratings.peek().is_none() {
        Call::NotMade
    } else if ratings.all(|rating| matches!(rating, Rating::Error { .. })) {
        Call::Failed("unavailable".into())
    } else {
        Call::Answered
    }
}
