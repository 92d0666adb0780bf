//! Where a request has a token, and how the token is kept back from whom it is not for.

use std::borrow::Cow;
use std::collections::BTreeSet;

use api::config::{TokenIssuer, TokenPlace};
use cookie::Cookie;

use crate::fields::{Field, Fields};
use model::path::Query;

/// What stands before a token in `Authorization` (RFC 6750 2.1), in whatever case.
const SCHEME: &str = "bearer";
const AUTHORIZATION: &str = "authorization";
const COOKIE: &str = "cookie";

/// Where tokens are that are not for the next hop.
#[derive(Debug, Default)]
pub(crate) struct KeptBack(BTreeSet<TokenPlace>);

/// The tokens at `place` in a request with these `fields` and this `query`. More than one is for nobody to choose from.
pub(super) fn tokens<'r>(place: &TokenPlace, fields: Fields<'r>, query: &str) -> Vec<Cow<'r, str>> {
    match place {
        TokenPlace::Header(name) => {
            let token = |value: &'r str| match bearer(value) {
                Some(token) => Some(token),
                None if name == AUTHORIZATION => None,
                None => Some(value),
            };
            fields.named(name).filter_map(token).map(Cow::Borrowed).collect()
        }
        TokenPlace::Cookie(name) => {
            let cookies = fields.named(COOKIE).flat_map(cookies);
            let named = cookies.filter(|(sent, _)| sent == name).map(|(_, value)| value);
            named.map(Cow::Borrowed).collect()
        }
        TokenPlace::Query(name) => {
            let mut room = String::new();
            let query = Query::new(query).ok();
            // Several values are joined by a comma, which no token holds.
            let value = query.as_ref().and_then(|query| query.parameter(name, &mut room));
            value.map(|value| Cow::Owned(value.to_owned())).into_iter().collect()
        }
    }
}

impl KeptBack {
    /// Nothing is kept back.
    pub(crate) const fn nothing() -> Self {
        Self(BTreeSet::new())
    }

    /// The tokens of those `issuers` whose tokens are not for the application.
    pub(super) fn of(issuers: &[TokenIssuer]) -> Self {
        let kept = issuers.iter().filter(|issuer| !issuer.forward);
        Self(kept.map(|issuer| issuer.place.clone()).collect())
    }

    /// What is left of a field; nothing if it is all token.
    pub(crate) fn field<'f>(&self, field: &Field<'f>) -> Option<Cow<'f, [u8]>> {
        let mut left = Cow::Borrowed(field.value);
        for place in &self.0 {
            match place {
                TokenPlace::Header(name) if field.is_called(name) && is_token(name, field) => return None,
                TokenPlace::Cookie(name) if field.is_called(COOKIE) => {
                    let line = String::from_utf8_lossy(&left).into_owned();
                    left = Cow::Owned(without_cookie(name, &line)?.into_bytes());
                }
                _ => {}
            }
        }
        Some(left)
    }

    /// What is left of a query; nothing if it is all token.
    pub(crate) fn query<'q>(&self, query: &'q str) -> Option<Cow<'q, str>> {
        let mut left = Cow::Borrowed(query);
        for place in &self.0 {
            let TokenPlace::Query(name) = place else { continue };
            let is_token = |pair: &&str| {
                let mut room = String::new();
                Query::new(pair).is_ok_and(|pair| pair.parameter(name, &mut room).is_some())
            };
            if left.split('&').any(|pair| is_token(&pair)) {
                let others: Vec<&str> = left.split('&').filter(|pair| !is_token(pair)).collect();
                left = Cow::Owned(others.join("&"));
                if left.is_empty() {
                    return None;
                }
            }
        }
        Some(left)
    }
}

/// Whether what the header called `name` holds is a token. Other schemes say other things, which are the application's.
fn is_token(name: &str, field: &Field<'_>) -> bool {
    name != AUTHORIZATION || field.text().and_then(bearer).is_some()
}

/// A line of cookies without those called `name`; nothing if there is no other. Untouched if there is none of them.
fn without_cookie(name: &str, line: &str) -> Option<String> {
    if !cookies(line).any(|(sent, _)| sent == name) {
        return Some(line.to_owned());
    }
    let others = cookies(line).filter(|(sent, _)| *sent != name);
    let others: Vec<String> = others.map(|(sent, value)| format!("{sent}={value}")).collect();
    (!others.is_empty()).then(|| others.join("; "))
}

/// Cookies (RFC 6265 4.2.1), as sent. A piece that is no cookie is left out, as servers do.
fn cookies(line: &str) -> impl Iterator<Item = (&str, &str)> {
    Cookie::split_parse(line).flatten().filter_map(|cookie| Some((cookie.name_raw()?, cookie.value_raw()?)))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Head;

    #[test]
    fn a_token_is_found_and_kept_back_where_it_is_expected() {
        let header = |name: &str| TokenPlace::Header(name.to_owned());
        let (authorization, own) = (header("authorization"), header("x-token"));
        let cookie = TokenPlace::Cookie("session".to_owned());
        let query = TokenPlace::Query("access_token".to_owned());
        // The request, what is found, and what is left.
        type Lines = &'static [(&'static str, &'static str)];
        type Row<'t> = (
            &'t TokenPlace,
            Lines,
            &'static str,
            &'static [&'static str],
            &'static [&'static str],
            Option<&'static str>,
        );
        let table: [Row<'_>; 12] = [
            (&authorization, &[("Authorization", "Bearer a.b.c")], "", &["a.b.c"], &[], Some("")),
            (&authorization, &[("authorization", "bEARER  a")], "", &["a"], &[], Some("")),
            (
                &authorization,
                &[("authorization", "Basic a"), ("x", "1")],
                "",
                &[],
                &["Basic a", "1"],
                Some(""),
            ),
            (&authorization, &[("authorization", "a.b.c")], "", &[], &["a.b.c"], Some("")),
            (
                &authorization,
                &[("authorization", "Bearer a"), ("Authorization", "Bearer b")],
                "",
                &["a", "b"],
                &[],
                Some(""),
            ),
            (&own, &[("X-Token", "a"), ("y", "1")], "a=1", &["a"], &["1"], Some("a=1")),
            (&own, &[("x-token", "Bearer a")], "", &["a"], &[], Some("")),
            (
                &cookie,
                &[("Cookie", "a=1; session=t; b=2"), ("cookie", "session=u")],
                "",
                &["t", "u"],
                &["a=1; b=2"],
                Some(""),
            ),
            (&cookie, &[("cookie", "sessions=t;x")], "", &[], &["sessions=t;x"], Some("")),
            (&query, &[], "a=1&access%5Ftoken=t&b", &["t"], &[], Some("a=1&b")),
            (&query, &[], "access_token=t&access_token=u", &["t,u"], &[], None),
            (&query, &[], "a=1", &[], &[], Some("a=1")),
        ];
        for (place, lines, query, found, left, left_query) in table {
            let head = Head::of(lines);
            assert_eq!(tokens(place, head.fields(), query), found, "{lines:?} {query}");
            let kept = KeptBack([place.clone()].into());
            let lines: Vec<_> = head.fields().iter().filter_map(|field| kept.field(&field)).collect();
            let lines: Vec<&str> = lines.iter().map(|line| std::str::from_utf8(line).unwrap()).collect();
            assert_eq!((lines.as_slice(), kept.query(query).as_deref()), (left, left_query));
        }
    }
}
