//! What names a request across services, and in all logs it passes.

use rand::RngExt;

/// A longer request id is replaced, for it goes into every log line.
pub(crate) const REQUEST_ID_MAX: usize = 128;

/// Whether a caller's `x-request-id` is kept.
pub(crate) fn is_request_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= REQUEST_ID_MAX && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The trace id in a `traceparent` of any version (W3C Trace Context 3.2).
pub(crate) fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_set = |text: &str| text.bytes().any(|byte| byte != b'0');
    let well_formed = is_hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && (is_hex(trace, 32) && is_set(trace))
        && (is_hex(parent, 16) && is_set(parent))
        && is_hex(flags, 2);
    well_formed.then_some(trace)
}

/// A new request id.
pub(crate) fn new_request_id() -> [u8; 32] {
    hex(rand::rng().random::<u128>().to_be_bytes())
}

/// A `traceparent` that begins a trace.
pub(crate) fn new_traceparent() -> [u8; 55] {
    let mut rng = rand::rng();
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    // All zeros would mean "no id" (W3C Trace Context 3.2.2.3).
    let trace: [u8; 32] = hex((rng.random::<u128>() | 1).to_be_bytes());
    let parent: [u8; 16] = hex((rng.random::<u64>() | 1).to_be_bytes());
    for (place, byte) in text.iter_mut().skip(3).zip(trace) {
        *place = byte;
    }
    for (place, byte) in text.iter_mut().skip(36).zip(parent) {
        *place = byte;
    }
    text
}

fn hex<const BYTES: usize, const DIGITS: usize>(bytes: [u8; BYTES]) -> [u8; DIGITS] {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + (value - 10) };
    let mut digits = [b'0'; DIGITS];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kept_when_well_formed() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        let zeros = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let (extended, newer) = (format!("{good}-x"), format!("01-{trace}-00f067aa0ba902b7-01-x"));
        let table = [
            (good.as_str(), Some(trace)),
            (newer.as_str(), Some(trace)),
            (zeros.as_str(), None),
            (extended.as_str(), None),
            (&good.to_uppercase(), None),
            ("", None),
            ("x", None),
        ];
        for (traceparent, expected) in table {
            assert_eq!(trace_id(traceparent), expected, "{traceparent}");
        }
        let long = "x".repeat(REQUEST_ID_MAX);
        for (id, expected) in
            [("abc", true), (&long, true), (&format!("{long}x"), false), ("", false), ("a b", false)]
        {
            assert_eq!(is_request_id(id), expected, "{id}");
        }
    }

    #[test]
    fn what_is_made_is_well_formed_and_never_the_same() {
        let (one, two) = (new_traceparent(), new_traceparent());
        assert_ne!(one, two);
        for made in [one, two] {
            assert!(trace_id(std::str::from_utf8(&made).unwrap()).is_some());
        }
        assert_ne!(new_request_id(), new_request_id());
        assert!(is_request_id(std::str::from_utf8(&new_request_id()).unwrap()));
        assert_eq!(hex::<2, 4>([0x0f, 0xa1]), *b"0fa1");
    }
}
