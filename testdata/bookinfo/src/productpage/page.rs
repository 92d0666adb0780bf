//! The page itself.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::calls;
use super::user::User;
use crate::details::Details;
use crate::outbound::Failure;
use crate::reviews::{Color, Rating, Review, Reviews};
use crate::service::Service;

/// What the page about a book is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    pub(super) instance: &'a str,
    pub(super) title: &'a str,
    pub(super) details: &'a Result<Details, Failure>,
    pub(super) reviews: &'a Result<Reviews, Failure>,
}

/// The page about a book. What could not be had says so in its place.
pub(super) fn product(user: Option<&User>, product: &Product<'_>) -> Markup {
    let content = html! {
        section .book aria-labelledby="title" {
            (cover(product.title))
            div {
                h1 #title { (product.title) }
                p .summary { (SUMMARY) }
                p { a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors" rel="noreferrer" { "More on Wikipedia" } }
            }
        }
        div .columns {
            section .card aria-labelledby="reviews" {
                h2 #reviews { "Reviews" }
                @match product.reviews {
                    Ok(reviews) => (self::reviews(reviews)),
                    Err(failure) => (unavailable(Service::Reviews, failure)),
                }
            }
            div {
                section .card aria-labelledby="calls" {
                    h2 #calls { "How this page was made" }
                    (calls::picture(product))
                }
                section .card aria-labelledby="details" {
                    h2 #details { "Details" }
                    @match product.details {
                        Ok(details) => (self::details(details)),
                        Err(failure) => (unavailable(Service::Details, failure)),
                    }
                }
            }
        }
    };
    document(product.title, user, &content)
}

/// The page that says why someone could not sign in.
pub(super) fn sign_in_problem(problem: &str) -> Markup {
    let content = html! {
        section .card aria-labelledby="title" {
            h1 #title { "You are not signed in" }
            (notice("That name can't be used.", problem))
            p { a href=(super::PAGE) { "Back to the book" } }
        }
    };
    document("You are not signed in", None, &content)
}

fn document(title: &str, user: Option<&User>, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Bookinfo" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                a .skip href="#content" { "Skip to the book" }
                header {
                    div .bar {
                        a .brand href=(super::PAGE) { "Bookinfo" }
                        (session(user))
                    }
                }
                main #content { (content) }
                footer { div .bar { "Bookinfo, the sample application of Tidegate" } }
            }
        }
    }
}

fn session(user: Option<&User>) -> Markup {
    html! {
        @if let Some(user) = user {
            form method="post" action="/logout" {
                span .user { "Signed in as " strong { (user.name()) } }
                button { "Sign out" }
            }
        } @else {
            form method="post" action="/login" {
                label for="username" { "Name" }
                input #username name="username" required maxlength="64" autocomplete="username" placeholder="jason"
                    autocapitalize="none" spellcheck="false";
                button { "Sign in" }
            }
        }
    }
}

fn cover(title: &str) -> Markup {
    html! {
        div .cover aria-hidden="true" {
            span .cover-title { (title) }
            span .cover-author { "William Shakespeare" }
        }
    }
}

fn details(details: &Details) -> Markup {
    let rows = [
        ("Author", details.author.clone()),
        ("Year", details.year.to_string()),
        ("Type", details.binding.clone()),
        ("Pages", details.pages.to_string()),
        ("Publisher", details.publisher.clone()),
        ("Language", details.language.clone()),
        ("ISBN-10", details.isbn_10.clone()),
        ("ISBN-13", details.isbn_13.clone()),
    ];
    html! {
        table {
            tbody {
                @for (name, value) in &rows {
                    tr { th scope="row" { (name) } td { (value) } }
                }
            }
        }
    }
}

fn reviews(reviews: &Reviews) -> Markup {
    html! {
        @for review in &reviews.reviews {
            (self::review(review))
        }
        p .served { "Reviews served by: " strong { (reviews.podname) } }
    }
}

fn review(review: &Review) -> Markup {
    html! {
        figure {
            @match &review.rating {
                None => {}
                Some(Rating::Stars { stars, color }) => (self::stars(*stars, *color)),
                Some(Rating::Error { error }) => p .no-stars { (error) },
            }
            blockquote { p { (review.text) } }
            figcaption { (review.reviewer) }
        }
    }
}

fn stars(given: u8, color: Color) -> Markup {
    let color = match color {
        Color::Black => "black",
        Color::Red => "red",
    };
    html! {
        div class={ "stars " (color) } role="img" aria-label=(format!("{given} out of {STARS_MAX} {color} stars")) {
            @for number in 1..=STARS_MAX {
                svg viewBox="0 0 24 24" class=(if number <= given { "given" } else { "missing" }) { path d=(STAR); }
            }
        }
    }
}

fn unavailable(service: Service, failure: &Failure) -> Markup {
    notice(
        &format!("Sorry, product {service} are currently unavailable for this book."),
        &format!("{service} {failure}"),
    )
}

fn notice(what: &str, why: &str) -> Markup {
    html! {
        div .notice role="status" {
            p { (what) }
            p .why { (why) }
        }
    }
}

const SUMMARY: &str = "The Comedy of Errors is one of William Shakespeare's early plays. It is his shortest and \
    one of his most farcical comedies, with a major part of the humour coming from slapstick and mistaken \
    identity, in addition to puns and word play.";

const STARS_MAX: u8 = 5;

/// A five-pointed star, as an SVG path.
const STAR: &str = "M12 1.8l3.1 6.5 7.1 1-5.2 4.9 1.3 7.1L12 17.9l-6.3 3.4 1.3-7.1L1.8 9.3l7.1-1z";

/// An open book, within the page: a browser asks for no other.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E\
    %3Crect width='32' height='32' rx='7' fill='%230b5563'/%3E%3Cpath fill='%23fff' d='M15 10c-2-2-6-2-9-2v15\
    c3 0 7 0 9 2zM17 10c2-2 6-2 9-2v15c-3 0-7 0-9 2z'/%3E%3C/svg%3E";
