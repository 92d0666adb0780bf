//! Paths and queries.

use percent_encoding::percent_decode_str;

use crate::framing;
use model::path::{Query, Slashes, normalise, normalise_with};

/// A path and a query, of which policies see what is forwarded and others read the same.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if let Ok(normal) = normalise(path) {
        assert_eq!(normalise(&normal).as_deref(), Ok(normal.as_ref()), "a normal form is its own");
        assert!(normal.len() <= path.len(), "it never grows");
        let merged = normalise_with(path, Slashes::Merged).unwrap_or_default();
        assert!(!merged.is_empty() && !merged.contains("//"), "{merged:?} has an empty segment");
        assert_eq!(normalise_with(&merged, Slashes::Merged).as_deref(), Ok(merged.as_ref()));
        if path != "*" && framing::target("GET", path).is_ok() {
            is_one_reading(path, &normal);
        }
    }
    if let Ok(query) = Query::new(query) {
        for (name, value) in query.parameters() {
            let mut room = "left over".to_owned();
            assert_eq!(query.parameter(&name, &mut room), Some(value.as_str()), "{name:?} in {text:?}");
        }
    }
}

/// Whether whoever decodes before he removes dot segments, and whoever does it after, gets where we do.
fn is_one_reading(path: &str, normal: &str) {
    assert!(normal.starts_with('/'));
    let target = format!("http://host{normal}");
    let read = target.parse::<http::Uri>();
    assert!(read.is_ok_and(|uri| uri.path() == normal), "another reads {normal:?} otherwise");
    let decoded = |segment: &str| percent_decode_str(segment).collect::<Vec<u8>>();
    let segments = |path: &str| path.split('/').skip(1).map(decoded).collect::<Vec<_>>();
    for segment in segments(normal) {
        assert!(segment != b"." && segment != b"..", "a dot segment is left in {normal:?}");
        let separates = |byte: &u8| matches!(byte, b'/' | b'\\' | 0);
        assert!(!segment.iter().any(separates), "a separator is hidden in {normal:?}");
    }
    assert_eq!(segments(normal), without_dots(segments(path)), "{path:?} leads elsewhere");
}

/// RFC 3986 5.2.4 on segments that are decoded already.
fn without_dots(segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let last = segments.len().saturating_sub(1);
    for (number, segment) in segments.into_iter().enumerate() {
        let is_dots = segment == b"." || segment == b"..";
        if segment == b".." {
            kept.pop();
        }
        if !is_dots {
            kept.push(segment);
        } else if number == last {
            kept.push(Vec::new());
        }
    }
    kept
}
