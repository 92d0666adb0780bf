//! Chunked bodies.

use crate::chunks::{BrokenChunks, Chunks, Kind};

/// The longest lines that both readers take.
const SHORT: usize = 1024;

/// A chunked body, which is read in parts as at once, and as another reader reads it. The first byte says in which parts
/// it comes.
pub fn chunks(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let at_once = read(body, body.len().max(1));
    let in_parts = read(body, usize::from(*first).max(1));
    assert_eq!(in_parts, at_once, "where it is cut makes a difference");
    // Beyond that our limits count, which the other one does not have.
    if body.len() > SHORT {
        return;
    }
    match (at_once, reference(body)) {
        (Ok((data, length, true)), Some(Ok((other, rest)))) => {
            assert_eq!(data, other, "other data");
            assert_eq!(length, body.len().saturating_sub(rest), "another end");
        }
        (Ok((.., false)), None) | (Err(_), Some(Err(()))) => {}
        // We say at the first wrong byte what the other one says at the end of a line.
        (Err(_), None) => {}
        (ours, other) => assert!(false_of(&ours), "we say {ours:?}, another {other:?}"),
    }
}

/// Never true; so that a failure shows both.
const fn false_of<T>(_shown: &T) -> bool {
    false
}

/// The data, how many bytes belong to the body, and whether it has ended.
fn read(mut rest: &[u8], part: usize) -> Result<(Vec<u8>, usize, bool), BrokenChunks> {
    let (mut chunks, mut data, whole) = (Chunks::default(), Vec::new(), rest.len());
    while !rest.is_empty() && !chunks.is_end() {
        let mut here = rest.get(..part).unwrap_or(rest);
        while !here.is_empty() && !chunks.is_end() {
            let (length, kind) = chunks.next(here)?;
            assert!(length > 0 && length <= here.len(), "it neither stands still nor reads too far");
            let (read, left) = here.split_at(length);
            if kind == Kind::Data {
                data.extend_from_slice(read);
            }
            here = left;
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    Ok((data, whole.saturating_sub(rest.len()), chunks.is_end()))
}

/// RFC 9112 7.1 by lines: the data, and how many bytes follow. None if the body has not ended.
fn reference(mut rest: &[u8]) -> Option<Result<(Vec<u8>, usize), ()>> {
    let mut data = Vec::new();
    loop {
        let Ok(line) = line(&mut rest)? else { return Some(Err(())) };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        if !(1..=15).contains(&digits.len()) || !matches!(extension, [] | [b';', ..]) {
            return Some(Err(()));
        }
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        let Ok(size) = usize::from_str_radix(digits, 16) else { return Some(Err(())) };
        if size == 0 {
            break;
        }
        data.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?;
        match rest {
            [b'\r', b'\n', after @ ..] => rest = after,
            [] | [b'\r'] => return None,
            _ => return Some(Err(())),
        }
    }
    loop {
        match line(&mut rest)? {
            Err(()) => return Some(Err(())),
            Ok([]) => return Some(Ok((data, rest.len()))),
            Ok(_) => {}
        }
    }
}

/// The next line, without its CRLF; wrong if either stands alone.
fn line<'a>(rest: &mut &'a [u8]) -> Option<Result<&'a [u8], ()>> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (line, after) = rest.split_at_checked(end.saturating_add(1))?;
    *rest = after;
    let whole = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r'));
    Some(whole.ok_or(()))
}
