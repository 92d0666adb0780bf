//! Where a chunked body ends, and which of its bytes are what (RFC 9112 section 7.1).
//!
//! Strict in line ends and lengths: whatever passes here is read in one way only. Extensions of chunks are read over.

/// The most bytes of one chunk-size line or trailer line, and of all trailers together.
const LINE_MAX: usize = 8 * 1024;

/// How far a chunked body has been read.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    at: At,
}

#[derive(Debug)]
enum At {
    /// In the line with a chunk's size.
    Size { size: u64, digits: u8, in_extension: bool, after_return: bool, length: usize },
    /// In a chunk's bytes.
    Data { left: u64 },
    /// At the CRLF after a chunk's bytes.
    DataEnd { after_return: bool },
    /// In a trailer line; `empty` at its start.
    Trailer { empty: bool, after_return: bool, length: usize },
    /// After the body.
    End,
}

/// What bytes of a chunked body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What stands around the data.
    Frame,
    /// What the body holds.
    Data,
    /// The fields after the last chunk, and the empty line that ends them.
    Trailers,
}

/// The chunks are not well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenChunks;

impl Default for At {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0, in_extension: false, after_return: false, length: 0 }
    }
}

impl Chunks {
    /// Reads on; answers how many of `bytes`, which are not empty, are of the first kind to come, and which it is.
    /// None once the body has ended.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<(usize, Kind), BrokenChunks> {
        let kind = self.kind();
        if let At::Data { left } = self.at {
            let here = left.min(bytes.len() as u64);
            let left = left - here;
            self.at = if left == 0 { At::DataEnd { after_return: false } } else { At::Data { left } };
            return usize::try_from(here).map(|here| (here, kind)).map_err(|_error| BrokenChunks);
        }
        let mut read = 0_usize;
        for &byte in bytes {
            if self.kind() != kind || self.is_end() {
                break;
            }
            self.at = self.at.after(byte)?;
            read = read.saturating_add(1);
        }
        Ok((read, kind))
    }

    /// Whether the body has ended.
    pub(crate) const fn is_end(&self) -> bool {
        matches!(self.at, At::End)
    }

    const fn kind(&self) -> Kind {
        match self.at {
            At::Size { .. } | At::DataEnd { .. } => Kind::Frame,
            At::Data { .. } => Kind::Data,
            At::Trailer { .. } | At::End => Kind::Trailers,
        }
    }
}

impl At {
    fn after(&self, byte: u8) -> Result<Self, BrokenChunks> {
        match *self {
            Self::Size { size, digits, in_extension, after_return, length } => {
                size_line(byte, size, digits, in_extension, after_return, length)
            }
            Self::DataEnd { after_return: false } if byte == b'\r' => {
                Ok(Self::DataEnd { after_return: true })
            }
            Self::DataEnd { after_return: true } if byte == b'\n' => Ok(Self::default()),
            Self::Trailer { empty, after_return, length } => trailer_line(byte, empty, after_return, length),
            _ => Err(BrokenChunks),
        }
    }
}

fn size_line(
    byte: u8,
    size: u64,
    digits: u8,
    in_extension: bool,
    after_return: bool,
    length: usize,
) -> Result<At, BrokenChunks> {
    let length = length + 1;
    let next = |size, digits, in_extension, after_return| {
        Ok(At::Size { size, digits, in_extension, after_return, length })
    };
    match byte {
        _ if length > LINE_MAX => Err(BrokenChunks),
        b'\n' if after_return && size == 0 => Ok(At::Trailer { empty: true, after_return: false, length: 0 }),
        b'\n' if after_return => Ok(At::Data { left: size }),
        _ if after_return => Err(BrokenChunks),
        b'\n' => Err(BrokenChunks),
        b'\r' if digits > 0 => next(size, digits, in_extension, true),
        b';' if digits > 0 => next(size, digits, true, false),
        _ if in_extension => next(size, digits, true, false),
        // Fifteen digits stay clear of every integer's end.
        _ if digits < 15 => match char::from(byte).to_digit(16) {
            Some(digit) => next(size * 16 + u64::from(digit), digits + 1, false, false),
            None => Err(BrokenChunks),
        },
        _ => Err(BrokenChunks),
    }
}

const fn trailer_line(byte: u8, empty: bool, after_return: bool, length: usize) -> Result<At, BrokenChunks> {
    let length = length + 1;
    match byte {
        _ if length > LINE_MAX => Err(BrokenChunks),
        b'\n' if after_return && empty => Ok(At::End),
        b'\n' if after_return => Ok(At::Trailer { empty: true, after_return: false, length }),
        b'\n' => Err(BrokenChunks),
        _ if after_return => Err(BrokenChunks),
        b'\r' => Ok(At::Trailer { empty, after_return: true, length }),
        _ => Ok(At::Trailer { empty: false, after_return: false, length }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads on to the end of the body, or of `bytes`; answers how many belong to the body, and adds its data.
    fn read_on(chunks: &mut Chunks, bytes: &[u8], data: &mut Vec<u8>) -> Result<usize, BrokenChunks> {
        let mut rest = bytes;
        while !chunks.is_end() && !rest.is_empty() {
            let (length, kind) = chunks.next(rest)?;
            if kind == Kind::Data {
                data.extend_from_slice(&rest[..length]);
            }
            rest = &rest[length..];
        }
        Ok(bytes.len() - rest.len())
    }

    /// How many bytes belong to the body, and whether it ended.
    fn read(bytes: &[u8]) -> Result<(usize, bool), BrokenChunks> {
        let mut chunks = Chunks::default();
        let read = read_on(&mut chunks, bytes, &mut Vec::new())?;
        Ok((read, chunks.is_end()))
    }

    #[test]
    fn data_and_frame_are_told_apart() {
        let mut data = Vec::new();
        read_on(&mut Chunks::default(), b"3;x\r\nabc\r\n2\r\n\r\n\r\n0\r\nt: v\r\n\r\n", &mut data).unwrap();
        assert_eq!(data, b"abc\r\n");
    }

    #[test]
    fn the_end_is_found() {
        let table = [
            ("0\r\n\r\nGET /", Ok((5, true))),
            ("3\r\nabc\r\n0\r\n\r\nx", Ok((13, true))),
            ("A;x=y\r\n0123456789\r\n0\r\nt: v\r\n\r\n", Ok((30, true))),
            ("00\r\n\r\n", Ok((6, true))),
            ("3\r\nab", Ok((5, false))),
            ("", Ok((0, false))),
            ("3\nabc\r\n", Err(BrokenChunks)),
            ("3\r\nabcd\r\n", Err(BrokenChunks)),
            ("3\r\nabc\n", Err(BrokenChunks)),
            ("\r\n", Err(BrokenChunks)),
            ("-1\r\n", Err(BrokenChunks)),
            ("0x1\r\n", Err(BrokenChunks)),
            (" 1\r\n", Err(BrokenChunks)),
            ("1 \r\n", Err(BrokenChunks)),
            ("1;\n", Err(BrokenChunks)),
            ("1\rx", Err(BrokenChunks)),
            ("0\r\nt: v\n", Err(BrokenChunks)),
            ("1000000000000000\r\n", Err(BrokenChunks)),
        ];
        for (text, expected) in table {
            assert_eq!(read(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(read(format!("1;{}", "x".repeat(LINE_MAX)).as_bytes()), Err(BrokenChunks));
        assert_eq!(read(format!("0\r\n{}", "x:y\r\n".repeat(LINE_MAX / 4)).as_bytes()), Err(BrokenChunks));
    }

    proptest! {
        #[test]
        fn parts_and_whole_agree(text in "[0-3a;\r\n]{0,5}([0-2]\r\n)?[a\r\n0]{0,12}", cut in 0usize..20) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let mut chunks = Chunks::default();
            let (mut in_parts, mut at_once) = (Vec::new(), Vec::new());
            let parts = read_on(&mut chunks, &bytes[..cut], &mut in_parts).and_then(|first| {
                let second =
                    if first < cut { 0 } else { read_on(&mut chunks, &bytes[cut..], &mut in_parts)? };
                Ok((first + second, chunks.is_end()))
            });
            prop_assert_eq!(parts, read(bytes));
            if parts.is_ok() {
                read_on(&mut Chunks::default(), bytes, &mut at_once).unwrap();
                prop_assert_eq!(in_parts, at_once);
            }
        }
    }
}
