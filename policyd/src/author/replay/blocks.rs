//! Logs as blocks of whole lines, read one after the other, to be worked on in parallel.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;

use super::tally::Place;

/// The longest line, in bytes, and how much is read at once. No proxy writes a line that is half as long.
pub(super) const LINE_LENGTH_MAX: usize = 1024 * 1024;

/// A decision log, plain or compressed by gzip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// A log can't be read.
#[derive(Debug, thiserror::Error)]
#[error("`{log}` can't be read")]
pub struct ReadError {
    log: String,
    source: io::Error,
}

/// Lines that stand together.
pub(super) struct Block {
    /// The lines; the last one may lack its line break.
    pub text: Vec<u8>,
    /// It is the beginning of one line, which is too long.
    pub is_too_long: bool,
    first: Place,
}

/// Reads blocks.
pub(super) struct Blocks<'a> {
    logs: &'a [Log],
    progress: &'a (dyn Fn(u64) + Sync),
    open: Option<Box<dyn Read + Send + 'a>>,
    /// Where the next block begins.
    next: Place,
    /// The beginning of a line whose end has not been read yet.
    rest: Vec<u8>,
}

impl Log {
    /// What it is called.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    fn open<'a>(&self, progress: &'a (dyn Fn(u64) + Sync)) -> io::Result<Box<dyn Read + Send + 'a>> {
        match self {
            Self::File(path) => unpacked(Told { reader: File::open(path)?, progress }),
            Self::Stdin => unpacked(Told { reader: io::stdin(), progress }),
        }
    }
}

impl Block {
    /// The place of the line that is `offset` lines after the first.
    pub(super) const fn place(&self, offset: u64) -> Place {
        Place { log: self.first.log, line: self.first.line + offset }
    }
}

impl<'a> Blocks<'a> {
    /// The blocks of `logs`; `progress` is told of each so many bytes read, as they lie on the disk.
    pub(super) fn new(logs: &'a [Log], progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self { logs, progress, open: None, next: FIRST, rest: Vec::new() }
    }

    /// The next block of a log; nothing at its end.
    fn read(&mut self, log: &Log) -> io::Result<Option<Block>> {
        let reader = match &mut self.open {
            Some(reader) => reader,
            None => self.open.insert(log.open(self.progress)?),
        };
        let mut text = std::mem::take(&mut self.rest);
        let room = LINE_LENGTH_MAX.saturating_sub(text.len());
        let at_end = reader.by_ref().take(room as u64).read_to_end(&mut text)? < room;
        if text.is_empty() {
            return Ok(None);
        }
        let mut lines = text.iter().filter(|byte| **byte == b'\n').count();
        let is_too_long = lines == 0 && !at_end;
        if is_too_long {
            self.rest = after_line(reader)?;
            lines = 1;
        } else if !at_end {
            let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
            self.rest = text.split_off(end);
        }
        let first = self.next;
        self.next.line += lines as u64;
        Ok(Some(Block { text, is_too_long, first }))
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<Block, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let logs = self.logs;
        loop {
            let log = logs.get(self.next.log)?;
            match self.read(log) {
                Ok(Some(block)) => return Some(Ok(block)),
                Ok(None) => {
                    self.next = Place { log: self.next.log + 1, ..FIRST };
                    self.open = None;
                }
                Err(source) => {
                    self.next.log = logs.len();
                    return Some(Err(ReadError { log: log.name(), source }));
                }
            }
        }
    }
}

const FIRST: Place = Place { log: 0, line: 1 };
/// How a gzip file begins (RFC 1952 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads to the end of a line; returns what was read after it.
fn after_line(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    loop {
        let mut text = Vec::new();
        if reader.by_ref().take(LINE_LENGTH_MAX as u64).read_to_end(&mut text)? == 0 {
            return Ok(text);
        }
        if let Some(newline) = text.iter().position(|byte| *byte == b'\n') {
            return Ok(text.split_off(newline + 1));
        }
    }
}

fn unpacked<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut head = Vec::new();
    reader.by_ref().take(GZIP.len() as u64).read_to_end(&mut head)?;
    let is_packed = head == GZIP;
    let whole = Cursor::new(head).chain(reader);
    Ok(if is_packed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

/// Tells of what is read through it.
struct Told<'a, R> {
    reader: R,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        (self.progress)(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// The lines that are read from files with these contents, with their places; `None` for one that is too long.
    fn lines(contents: &[&[u8]]) -> Vec<(usize, u64, Option<String>)> {
        let folder = tempfile::tempdir().unwrap();
        let write = |(number, content): (usize, &&[u8])| {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, content).unwrap();
            Log::File(path)
        };
        let logs: Vec<Log> = contents.iter().enumerate().map(write).collect();
        let told = AtomicU64::new(0);
        let progress = |bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
        };
        let mut lines = Vec::new();
        for block in Blocks::new(&logs, &progress) {
            let block = block.unwrap();
            if block.is_too_long {
                lines.push((block.place(0).log, block.place(0).line, None));
                continue;
            }
            for (line, offset) in block.text.split(|byte| *byte == b'\n').zip(0..) {
                let place = block.place(offset);
                if !line.is_empty() {
                    lines.push((place.log, place.line, Some(String::from_utf8(line.to_vec()).unwrap())));
                }
            }
        }
        let size: usize = contents.iter().map(|content| content.len()).sum();
        assert_eq!(told.load(Ordering::Relaxed), size as u64);
        lines
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_are_read_whole_with_their_places() {
        let text = |log, line, text: &str| (log, line, Some(text.to_owned()));
        let two_members = [packed(b"d\ne\n"), packed(b"f")].concat();
        assert_eq!(
            lines(&[b"a\n\nb\nc", b"", &two_members, b"g\n"]),
            [
                text(0, 1, "a"),
                text(0, 3, "b"),
                text(0, 4, "c"),
                text(2, 1, "d"),
                text(2, 2, "e"),
                text(2, 3, "f"),
                text(3, 1, "g")
            ]
        );
    }

    #[test]
    fn no_line_is_torn_at_the_end_of_a_block() {
        let line = "x".repeat(LINE_LENGTH_MAX / 3);
        let content: String = (0..10).map(|number| format!("{number}{line}\n")).collect();
        let read = lines(&[content.as_bytes()]);
        assert_eq!(read.len(), 10);
        for ((number, (_, at, text)), content) in (1..).zip(read).zip(content.lines()) {
            assert_eq!((at, text.as_deref()), (number, Some(content)));
        }
    }

    #[test]
    fn a_line_without_an_end_is_told_and_the_next_one_is_read() {
        let long = "x".repeat(3 * LINE_LENGTH_MAX + 7);
        let content = format!("a\n{long}\nb\n{long}");
        let expected =
            [(0, 1, Some("a".to_owned())), (0, 2, None), (0, 3, Some("b".to_owned())), (0, 4, None)];
        assert_eq!(lines(&[content.as_bytes()]), expected);
        let longest = "x".repeat(LINE_LENGTH_MAX - 1);
        assert_eq!(lines(&[format!("{longest}\n").as_bytes()]), [(0, 1, Some(longest))]);
    }

    #[test]
    fn a_log_that_can_not_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken.gz");
        let whole = packed("a\n".repeat(1000).as_bytes());
        std::fs::write(&broken, &whole[..whole.len() - 9]).unwrap();
        for path in [folder.path().join("none"), folder.path().to_owned(), broken] {
            let logs = [Log::File(path.clone()), Log::File("never-reached".into())];
            let error = Blocks::new(&logs, &|_| ()).find_map(Result::err).unwrap();
            assert_eq!(error.to_string(), format!("`{}` can't be read", path.display()));
        }
    }
}
