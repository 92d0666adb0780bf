//! One normal form of a request's path, which policies, the cache key, policyd and the service all see.
//!
//! Most authorization bypasses in proxies come from two parties reading one path differently. So the proxy
//! normalises once, decides on the result, and forwards the result: RFC 3986 sections 6.2.2.1 to 6.2.2.3
//! (case of percent-encodings, decoding of unreserved characters, dot segments). What has no single reading,
//! such as an encoded slash, is refused. Repeated slashes mean different things to different services: they are kept,
//! and both sides see them, unless the bundle says that they are one to this service ([`Slashes`]).

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// Why a request target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
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

/// What becomes of repeated slashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slashes {
    /// They are kept: the segments between them are empty.
    #[default]
    Kept,
    /// They are one slash.
    Merged,
}

/// Whether a request target may have this path and this query: no fragment belongs into a request, and the other
/// characters no URI holds (RFC 3986, appendix A).
pub fn is_well_formed(path: &str, query: &str) -> bool {
    let no_uri = |byte: u8| matches!(byte, b'#' | b'<' | b'>');
    !path.bytes().any(|byte| no_uri(byte) || byte == b'`')
        && !query.bytes().any(|byte| no_uri(byte) || byte == b'"')
}

/// The normal form of `path`, without repeated slashes if they are to be merged: after dot segments are gone, as Envoy
/// does it. Idempotent; never longer than `path`.
pub fn normalise_with(path: &str, slashes: Slashes) -> Result<Cow<'_, str>, PathError> {
    let normal = normalise(path)?;
    if slashes == Slashes::Kept || !normal.contains("//") {
        return Ok(normal);
    }
    let mut merged = String::with_capacity(normal.len());
    merged.extend(
        normal
            .chars()
            .scan(' ', |before, c| Some((std::mem::replace(before, c), c)))
            .filter_map(|(before, c)| (before != '/' || c != '/').then_some(c)),
    );
    Ok(Cow::Owned(merged))
}

/// The normal form of `path`. Idempotent; never longer than `path`.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path == "*" || is_plainly_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    let segments = decoded.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    Ok(Cow::Owned(remove_dot_segments(segments)))
}

/// Whether a path needs no second look, as nearly all do not.
fn is_plainly_normal(path: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'%' | b'\\');
    path.starts_with('/') && path.bytes().all(is_plain) && !path.contains("/.")
}

/// The query of a request target, which was found to have one reading.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    sent: &'a str,
    /// Whether nothing in it is encoded.
    is_plain: bool,
}

impl<'a> Query<'a> {
    /// The query of a target without one.
    pub const EMPTY: Self = Self { sent: "", is_plain: true };

    /// A query as sent, without its `?`.
    pub fn new(query: &'a str) -> Result<Self, PathError> {
        check_percents(query)?;
        // What stands between names and values is ASCII, so the whole is UTF-8 if each of them is.
        if query.contains('%') {
            form_decode(query, |_| ())?;
        }
        Ok(Self { sent: query, is_plain: !query.contains(['%', '+']) })
    }

    /// The value of the parameter called `name`; the values of a repeated name are joined by `,`.
    ///
    /// Read in place where it can be, else put into `room`.
    pub fn parameter<'f>(&'f self, name: &str, room: &'f mut String) -> Option<&'f str> {
        let is_called = |(sent, _): &(&str, &str)| {
            if self.is_plain {
                return *sent == name;
            }
            let mut rest = Some(name);
            let _valid = form_decode(sent, |text| rest = rest.and_then(|rest| rest.strip_prefix(text)));
            rest == Some("")
        };
        // Most requests have other parameters, or none.
        if self.is_plain && !self.sent.contains(name) {
            return None;
        }
        let mut values = self.pairs().filter(is_called).map(|(_, value)| value);
        let (first, second) = (values.next()?, values.next());
        if second.is_none() && !first.contains(['%', '+']) {
            return Some(first);
        }
        room.clear();
        for (number, value) in [Some(first), second].into_iter().flatten().chain(values).enumerate() {
            if number > 0 {
                room.push(',');
            }
            let _valid = form_decode(value, |text| room.push_str(text));
        }
        Some(room)
    }

    /// All parameters, decoded as forms are; the values of a repeated name are joined by `,`.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let decoded = |text| {
            let mut decoded = String::new();
            let _valid = form_decode(text, |text| decoded.push_str(text));
            decoded
        };
        let mut parameters = BTreeMap::<String, String>::new();
        for (name, value) in self.pairs() {
            let value = decoded(value);
            parameters
                .entry(decoded(name))
                .and_modify(|values| {
                    values.push(',');
                    values.push_str(&value);
                })
                .or_insert(value);
        }
        parameters
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.sent.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
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

/// Decodes percent-encodings and `+`, piece by piece.
fn form_decode(text: &str, mut each: impl FnMut(&str)) -> Result<(), PathError> {
    // The bytes of a character so far.
    let (mut bytes, mut length) = ([0; 4], 0_usize);
    let mut pieces = text.split('+');
    while let Some(piece) = pieces.next() {
        if !piece.contains('%') {
            each(piece);
        } else {
            for byte in percent_decode_str(piece) {
                if let Some(next) = bytes.get_mut(length) {
                    *next = byte;
                }
                length = length.saturating_add(1);
                let character = bytes.get(..length).ok_or(PathError::QueryText)?;
                match std::str::from_utf8(character) {
                    Ok(character) => {
                        each(character);
                        length = 0;
                    }
                    // Only its end is missing.
                    Err(error) if error.error_len().is_none() => {}
                    Err(_) => return Err(PathError::QueryText),
                }
            }
        }
        if length != 0 {
            return Err(PathError::QueryText);
        }
        if pieces.clone().next().is_some() {
            each(" ");
        }
    }
    Ok(())
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
    fn repeated_slashes_are_one_where_the_service_says_so() {
        let table = [
            ("/a//b/", "/a/b/"),
            ("//", "/"),
            ("///admin", "/admin"),
            ("/a//../b", "/a/b"),
            ("/a/%2e%2e//x", "/x"),
            ("/a/b", "/a/b"),
            ("/", "/"),
            ("*", "*"),
        ];
        for (path, expected) in table {
            assert_eq!(normalise_with(path, Slashes::Merged).as_deref(), Ok(expected), "{path}");
            let kept = normalise_with(path, Slashes::Kept);
            assert_eq!(kept, normalise(path), "{path}");
        }
        assert_eq!(normalise_with("/a%2f/b", Slashes::Merged), Err(PathError::Ambiguous));
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
            ("a&a&b", Ok(&[("a", ","), ("b", "")])),
            ("%61=x+y%2B", Ok(&[("a", "x y+")])),
            ("a=+%c3%a9+&a=&b=%F0%9F%98%80+", Ok(&[("a", " é ,"), ("b", "😀 ")])),
            ("a=%c3+%a9", Err(PathError::QueryText)),
            ("a=%c3&b=%a9", Err(PathError::QueryText)),
            ("a=%ff", Err(PathError::QueryText)),
            ("a=%f", Err(PathError::Percent)),
            ("a=é", Err(PathError::Character)),
        ];
        for (query, expected) in table {
            let expected = expected.map(|pairs| {
                pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
            });
            let found = Query::new(query);
            assert_eq!(found.map(|query| query.parameters()), expected, "{query}");
            for (name, value) in expected.into_iter().flatten() {
                let query = Query::new(query).unwrap();
                assert_eq!(query.parameter(&name, &mut "left over".to_owned()), Some(value.as_str()));
                assert_eq!(query.parameter(&format!("{name}x"), &mut String::new()), None);
            }
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
            let merged = normalise_with(&path, Slashes::Merged).unwrap();
            prop_assert!(!merged.contains("//"));
            prop_assert_eq!(normalise_with(&merged, Slashes::Merged), Ok(merged.clone()));
            let named = |path: &str| path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(named(&merged), named(&once));
        }

        #[test]
        fn no_text_makes_it_fail_otherwise_than_by_an_error(path in ".{0,40}", query in ".{0,40}") {
            if let Ok(once) = normalise(&path) {
                prop_assert_eq!(normalise(&once), Ok(once.clone()));
            }
            if let Ok(query) = Query::new(&query) {
                for (name, value) in query.parameters() {
                    let mut room = String::new();
                    prop_assert_eq!(query.parameter(&name, &mut room), Some(value.as_str()));
                }
            }
        }
    }
}
