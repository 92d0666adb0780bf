//! `x-forwarded-client-cert` as Envoy writes it with `SANITIZE_SET`: one element, of the caller's own certificate.

use crate::refusal::Refusal;
use model::TrustDomain;

/// The URI of the caller's certificate in `line`, which Envoy wrote.
///
/// # Errors
/// If it has more than one element, for then others than this Envoy have written in it; or not exactly one URI.
pub(crate) fn uri<'l>(line: &'l str, ours: &TrustDomain) -> Result<&'l str, Refusal> {
    let unknown = || Refusal::Caller(ours.clone());
    let elements = split(line, ',').ok_or_else(unknown)?;
    let [element] = elements.as_slice() else { return Err(unknown()) };
    let pairs = split(element, ';').ok_or_else(unknown)?;
    let mut uris = pairs
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| key.trim().eq_ignore_ascii_case("uri"));
    match (uris.next(), uris.next()) {
        (Some((_, uri)), None) if !uri.contains('"') => Ok(uri.trim()),
        _ => Err(unknown()),
    }
}

/// The pieces of `text` between those of its `separator`s that stand outside of quotes; none if a quote stays open.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let pieces = text.split(|c| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            c => return c == separator && !is_quoted,
        }
        false
    });
    let pieces = pieces.collect();
    (!is_quoted).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_element_with_one_uri_names_the_caller() {
        let table = [
            ("By=spiffe://a/me;Hash=ab;URI=spiffe://a/you", Some("spiffe://a/you")),
            ("uri=spiffe://a/you", Some("spiffe://a/you")),
            ("Hash=ab;Subject=\"CN=x,O=\\\"y;URI=z\\\"\";URI=spiffe://a/you", Some("spiffe://a/you")),
            ("URI=spiffe://a/you,URI=spiffe://a/me", None),
            ("URI=spiffe://a/you;URI=spiffe://a/me", None),
            ("Subject=\"CN=x;URI=spiffe://a/you", None),
            ("Subject=\"URI=spiffe://a/you\"", None),
            ("Hash=ab", None),
            ("", None),
        ];
        let ours = "a".parse().unwrap();
        for (line, expected) in table {
            assert_eq!(uri(line, &ours).ok(), expected, "{line}");
        }
    }
}
