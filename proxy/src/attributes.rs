//! From an HTTP request and its connection to Attributes: what policies see.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cookie::Cookie;
use http::{HeaderMap, Method, header};
use jiff::Timestamp;
use model::{Action, Attributes, Principal};

use crate::path::{self, PathError};

/// What is known of a request besides its headers.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub principal: Principal,
    pub service: &'a str,
    pub method: &'a Method,
    /// In normal form.
    pub path: &'a str,
    /// As sent.
    pub query: &'a str,
    /// In lower case, without port.
    pub host: &'a str,
    pub source_ip: IpAddr,
    pub tls: bool,
    pub time: Timestamp,
}

/// The attributes of a request with `headers`, which are those the application will get.
pub(crate) fn of(facts: Facts<'_>, headers: &HeaderMap) -> Result<Attributes, PathError> {
    Ok(Attributes {
        principal: facts.principal,
        action: Action::Http,
        resource: facts.service.to_owned(),
        method: facts.method.to_string(),
        path: facts.path.to_owned(),
        host: facts.host.to_owned(),
        headers: headers.keys().map(|name| (name.to_string(), joined(headers, name))).collect(),
        query: path::query_parameters(facts.query)?,
        cookies: cookies(headers),
        claims: BTreeMap::new(),
        operation: None,
        source_ip: facts.source_ip.to_canonical(),
        tls: facts.tls,
        time: facts.time,
    })
}

/// Cookies by name (RFC 6265 4.2.1), as sent; several values of one name are joined by `; `.
///
/// A piece that is no cookie is left out, as servers do.
fn cookies(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut cookies = BTreeMap::<String, String>::new();
    let sent =
        headers.get_all(header::COOKIE).into_iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    for line in sent {
        for cookie in Cookie::split_parse(line.as_ref()).flatten() {
            let value = cookie.value();
            cookies
                .entry(cookie.name().to_owned())
                .and_modify(|values| {
                    values.push_str("; ");
                    values.push_str(value);
                })
                .or_insert_with(|| value.to_owned());
        }
    }
    cookies
}

fn joined(headers: &HeaderMap, name: &http::HeaderName) -> String {
    // Heads with other bytes were refused: see `framing`.
    let values = headers.get_all(name).into_iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    values.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_headers_parameters_and_cookies_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append("X-User", "jason".parse().unwrap());
        headers.append("x-user", http::HeaderValue::from_bytes("zoë".as_bytes()).unwrap());
        headers.append("cookie", "a=1; b=\"2\"; c=; neither".parse().unwrap());
        headers.append("cookie", "a=3".parse().unwrap());
        let facts = |query| Facts {
            principal: Principal::Unauthenticated,
            service: "reviews",
            method: &Method::GET,
            path: "/a",
            query,
            host: "reviews",
            source_ip: "::ffff:10.0.0.1".parse().unwrap(),
            tls: true,
            time: Timestamp::UNIX_EPOCH,
        };
        let attributes = of(facts("a=1&b=%20&a=2"), &headers).unwrap();
        assert_eq!(attributes.headers.get("x-user").unwrap(), "jason, zoë");
        assert_eq!(attributes.query.get("a").unwrap(), "1,2");
        assert_eq!(attributes.query.get("b").unwrap(), " ");
        let cookies = [("a", "1; 3"), ("b", "\"2\""), ("c", "")];
        assert_eq!(
            attributes.cookies,
            cookies.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        );
        assert_eq!(attributes.source_ip.to_string(), "10.0.0.1", "one address has one form");
        assert_eq!(of(facts("a=%zz"), &headers), Err(PathError::Percent));
    }
}
