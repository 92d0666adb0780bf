//! One normal form of a request's path, which policies, the cache key, policyd and the service all see.
//!
//! Most authorization bypasses in proxies come from two parties reading one path differently. So the proxy
//! normalises once, decides on the result, and forwards the result: RFC 3986 sections 6.2.2.1 to 6.2.2.3
//! (case of percent-encodings, decoding of unreserved characters, dot segments). What has no single reading,
//! such as an encoded slash, is refused. Repeated slashes are kept: they mean different things to different
//! services, and both sides see them.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// Why a request target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// It is neither a path nor the `*` of OPTIONS.
    #[error("the path does not start with `/`")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    #[error("a `%` in the request target is not followed by two hexadecimal digits")]
    Percent,
    /// `%2F`, `%5C`, `%00`, `\`: services disagree on what these mean.
    #[error("the path holds a backslash, or an encoded slash, backslash or NUL")]
    Ambiguous,
    /// A byte outside ASCII, or a control character.
    #[error("the request target holds a character that must be percent-encoded")]
    Character,
    /// A query parameter that is not UTF-8 when decoded.
    #[error("a query parameter is not UTF-8")]
    QueryText,
}

/// The normal form of `path`. Idempotent; never longer than `path`.
pub(crate) fn normalise(path: &str) -> Result<String, PathError> {
    if path == "*" {
        return Ok(path.to_owned());
    }
    let decoded = decode_unreserved(path)?;
    let segments = decoded.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    Ok(remove_dot_segments(segments))
}

/// The parameters of `query`, decoded as forms are; the values of a repeated name are joined by `,`.
pub(crate) fn query_parameters(query: &str) -> Result<BTreeMap<String, String>, PathError> {
    check_percents(query)?;
    let mut parameters = BTreeMap::<String, String>::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (form_decode(name)?, form_decode(value)?);
        parameters
            .entry(name)
            .and_modify(|values| {
                values.push(',');
                values.push_str(&value);
            })
            .or_insert(value);
    }
    Ok(parameters)
}

fn decode_unreserved(path: &str) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => match char::from(percent_byte(&mut rest)?) {
                '/' | '\\' | '\0' => return Err(PathError::Ambiguous),
                c if is_unreserved(c) => decoded.push(c),
                c => decoded.push_str(&format!("%{:02X}", u32::from(c))),
            },
            b'\\' => return Err(PathError::Ambiguous),
            0x21..=0x7e => decoded.push(char::from(byte)),
            _ => return Err(PathError::Character),
        }
    }
    Ok(decoded)
}

/// RFC 3986 section 5.2.4, for the segments after the leading slash.
fn remove_dot_segments(segments: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in segments.split('/') {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    if ends_in_directory {
        // `/a/.` and `/a/b/..` name the directory `/a/`, with its slash.
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

fn check_percents(text: &str) -> Result<(), PathError> {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                percent_byte(&mut rest)?;
            }
            0x21..=0x7e => {}
            _ => return Err(PathError::Character),
        }
    }
    Ok(())
}

fn percent_byte(rest: &mut std::str::Bytes<'_>) -> Result<u8, PathError> {
    let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(PathError::Percent);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high * 16 + low).map_err(|_error| PathError::Percent)
}

fn form_decode(text: &str) -> Result<String, PathError> {
    let spaced = text.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(PathError::QueryText),
    }
}

const fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_have_one_form() {
        let table: &[(&str, Result<&str, PathError>)] = &[
            ("/", Ok("/")),
            ("*", Ok("*")),
            ("/a/b", Ok("/a/b")),
            ("/a//b/", Ok("/a//b/")),
            ("/a/./b/../c", Ok("/a/c")),
            ("/a/b/..", Ok("/a/")),
            ("/a/.", Ok("/a/")),
            ("/..", Ok("/")),
            ("/../../etc/passwd", Ok("/etc/passwd")),
            ("/%2e%2E/x", Ok("/x")),
            ("/a/%2e%2e/admin", Ok("/admin")),
            ("/%61dmin", Ok("/admin")),
            ("/%7euser", Ok("/~user")),
            ("/caf%c3%a9", Ok("/caf%C3%A9")),
            ("/a%20b", Ok("/a%20b")),
            ("/a%3Fb", Ok("/a%3Fb")),
            ("/a%25b", Ok("/a%25b")),
            ("/a%252e", Ok("/a%252e")),
            ("/a;b=c,d:e@f", Ok("/a;b=c,d:e@f")),
            ("/...", Ok("/...")),
            ("/a%2Fb", Err(PathError::Ambiguous)),
            ("/a%2fb", Err(PathError::Ambiguous)),
            ("/a%5Cb", Err(PathError::Ambiguous)),
            ("/a%00", Err(PathError::Ambiguous)),
            ("/a\\b", Err(PathError::Ambiguous)),
            ("/a%", Err(PathError::Percent)),
            ("/a%2", Err(PathError::Percent)),
            ("/a%zz", Err(PathError::Percent)),
            ("/a%+1", Err(PathError::Percent)),
            ("/café", Err(PathError::Character)),
            ("", Err(PathError::NotAbsolute)),
            ("a", Err(PathError::NotAbsolute)),
        ];
        for (path, expected) in table {
            assert_eq!(normalise(path).as_deref(), expected.as_ref().copied(), "{path}");
        }
    }

    #[test]
    fn queries_are_decoded_as_forms() {
        type Pairs = &'static [(&'static str, &'static str)];
        let table: &[(&str, Result<Pairs, PathError>)] = &[
            ("", Ok(&[])),
            ("&&", Ok(&[])),
            ("a=1&b=2", Ok(&[("a", "1"), ("b", "2")])),
            ("a=1&a=2", Ok(&[("a", "1,2")])),
            ("a", Ok(&[("a", "")])),
            ("a=b=c", Ok(&[("a", "b=c")])),
            ("%61=x+y%2B", Ok(&[("a", "x y+")])),
            ("a=%ff", Err(PathError::QueryText)),
            ("a=%f", Err(PathError::Percent)),
            ("a=é", Err(PathError::Character)),
        ];
        for (query, expected) in table {
            let expected = expected.map(|pairs| {
                pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
            });
            assert_eq!(query_parameters(query), expected, "{query}");
        }
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent_and_never_escapes_the_root(
            path in "/([a/.~]|%2[eE]|%4[1-9]|%c3|\\.\\.|/){0,20}"
        ) {
            let once = normalise(&path).unwrap();
            prop_assert_eq!(normalise(&once), Ok(once.clone()));
            prop_assert!(once.starts_with('/') && once.len() <= path.len());
            prop_assert!(!once.split('/').any(|segment| matches!(segment, "." | "..")), "{}", once);
        }

        #[test]
        fn no_text_makes_it_fail_otherwise_than_by_an_error(path in ".{0,40}", query in ".{0,40}") {
            if let Ok(once) = normalise(&path) {
                prop_assert_eq!(normalise(&once), Ok(once.clone()));
            }
            drop(query_parameters(&query));
        }
    }
}
