//! A file of lines that is put aside when it has grown, as `log.1`, `log.2` and so on; the oldest goes.
//!
//! Files change names only, so a crash at any moment loses no line: at worst a number is left out, which the next
//! rotation takes as it comes.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};

/// When a file is put aside, and how many of them are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// In bytes: a line that would make the file longer begins a new one.
    pub size_max: u64,
    /// How many files are kept besides the one that is written.
    pub keep: u32,
}

/// A file that is appended to, line by line.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    rotation: Option<Rotation>,
    file: File,
    size: u64,
    /// The last line has no end: a write failed, or the process before this one was killed in the middle of it.
    unfinished: bool,
    /// The last rotation failed: said once.
    stuck: bool,
}

impl RotatingFile {
    /// Opens the file at `path` to append to it; makes it if there is none.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = append(path).await?;
        let size = file.metadata().await?.len();
        let unfinished = size > 0 && !ends_a_line(path).await;
        Ok(Self { path: path.to_owned(), rotation, file, size, unfinished, stuck: false })
    }

    /// Writes lines, their line breaks included; says how many were lost, and why.
    pub async fn write(&mut self, lines: &[Vec<u8>]) -> (usize, io::Result<()>) {
        let (mut lost, mut result) = (0, Ok(()));
        let mut rest = lines;
        while !rest.is_empty() {
            let fitting = fitting(rest, self.room());
            if fitting == 0 && self.size > 0 && self.rotate().await {
                continue;
            }
            // A line that is longer than a file may be has a file of its own.
            let (now, later) = rest.split_at(fitting.max(1).min(rest.len()));
            if let Err(error) = self.append(now.concat()).await {
                lost += now.len();
                result = Err(error);
            }
            rest = later;
        }
        (lost, result)
    }

    fn room(&self) -> u64 {
        let written = self.size + u64::from(self.unfinished);
        self.rotation.map_or(u64::MAX, |rotation| rotation.size_max.saturating_sub(written))
    }

    async fn append(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        if self.unfinished {
            bytes.insert(0, b'\n');
        }
        let written = async {
            self.file.write_all(&bytes).await?;
            self.file.flush().await
        };
        let written = written.await;
        self.unfinished = written.is_err();
        match written {
            Ok(()) => self.size += bytes.len() as u64,
            // How much of it was written is not said.
            Err(_) => self.size = self.file.metadata().await.map_or(self.size, |metadata| metadata.len()),
        }
        written
    }

    /// Begins a new file; false if that can't be done: then the old one grows on, for a line is worth more than a
    /// limit.
    async fn rotate(&mut self) -> bool {
        let Some(rotation) = self.rotation else { return false };
        match self.put_aside(rotation.keep).await {
            Ok(()) => {
                (self.size, self.unfinished, self.stuck) = (0, false, false);
                true
            }
            Err(error) => {
                if !self.stuck {
                    tracing::warn!(file = %self.path.display(), %error, "the file can't be rotated, and grows on");
                }
                self.stuck = true;
                false
            }
        }
    }

    async fn put_aside(&mut self, keep: u32) -> io::Result<()> {
        // From the oldest on, so that each name is free when it is taken. The rename onto the last one removes it.
        for number in (1..keep).rev() {
            move_if_there(&self.numbered(number), &self.numbered(number + 1)).await?;
        }
        if keep == 0 {
            fs::remove_file(&self.path).await?;
        } else {
            move_if_there(&self.path, &self.numbered(1)).await?;
        }
        self.file = append(&self.path).await?;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

async fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path).await
}

/// How many of `lines`, from the first, have room in so many bytes.
fn fitting(lines: &[Vec<u8>], room: u64) -> usize {
    let ends = lines.iter().scan(0u64, |end, line| {
        *end += line.len() as u64;
        Some(*end)
    });
    ends.take_while(|end| *end <= room).count()
}

async fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What can't be read, such as a pipe or a file of others, is taken as it is.
async fn ends_a_line(path: &Path) -> bool {
    let last = async {
        let mut file = File::open(path).await?;
        file.seek(SeekFrom::End(-1)).await?;
        file.read_u8().await
    };
    last.await.map_or(true, |byte| byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn log(&self) -> PathBuf {
            self.0.path().join("log")
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join(name), text).unwrap();
        }

        /// The files and what they hold, by name.
        fn files(&self) -> Vec<(String, String)> {
            let mut files: Vec<_> = std::fs::read_dir(self.0.path())
                .unwrap()
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.file_type().unwrap().is_file())
                .map(|entry| {
                    let text = std::fs::read_to_string(entry.path()).unwrap();
                    (entry.file_name().into_string().unwrap(), text)
                })
                .collect();
            files.sort();
            files
        }
    }

    fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| format!("{text}\n").into_bytes()).collect()
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    const ROTATION: Option<Rotation> = Some(Rotation { size_max: 6, keep: 2 });

    #[tokio::test]
    async fn a_file_that_has_grown_is_put_aside_and_the_oldest_goes() {
        let folder = Folder::new();
        let mut file = RotatingFile::open(&folder.log(), ROTATION).await.unwrap();
        let (lost, result) = file.write(&lines(&["a1", "a2", "b1", "b2", "c1"])).await;
        assert!(lost == 0 && result.is_ok());
        let expected = [("log", "c1\n"), ("log.1", "b1\nb2\n"), ("log.2", "a1\na2\n")];
        assert_eq!(folder.files(), named(&expected));
        assert!(file.write(&lines(&["a line longer than a file", "d1"])).await.1.is_ok());
        let expected = [("log", "d1\n"), ("log.1", "a line longer than a file\n"), ("log.2", "c1\n")];
        assert_eq!(folder.files(), named(&expected));
    }

    #[tokio::test]
    async fn without_rotation_a_file_grows_and_with_none_kept_it_begins_anew() {
        let folder = Folder::new();
        let mut file = RotatingFile::open(&folder.log(), None).await.unwrap();
        assert!(file.write(&lines(&["a1", "a2", "a3"])).await.1.is_ok());
        assert_eq!(folder.files(), named(&[("log", "a1\na2\na3\n")]));
        let none_kept = Some(Rotation { size_max: 6, keep: 0 });
        let mut file = RotatingFile::open(&folder.log(), none_kept).await.unwrap();
        assert!(file.write(&lines(&["b1"])).await.1.is_ok());
        assert_eq!(folder.files(), named(&[("log", "b1\n")]));
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_taken_up() {
        // Killed in the middle of a line, and in the middle of a rotation: `log.1` had its new name already.
        let folder = Folder::new();
        folder.write("log", "half");
        folder.write("log.2", "old\n");
        let mut file = RotatingFile::open(&folder.log(), ROTATION).await.unwrap();
        assert!(file.write(&lines(&["a"])).await.1.is_ok());
        let expected = [("log", "a\n"), ("log.1", "half"), ("log.2", "old\n")];
        assert_eq!(folder.files(), named(&expected));

        let folder = Folder::new();
        folder.write("log", "hal");
        let mut file = RotatingFile::open(&folder.log(), None).await.unwrap();
        assert!(file.write(&lines(&["a", "b"])).await.1.is_ok());
        assert_eq!(folder.files(), named(&[("log", "hal\na\nb\n")]));
        let mut file = RotatingFile::open(&folder.log(), None).await.unwrap();
        assert!(file.write(&lines(&["c"])).await.1.is_ok());
        assert_eq!(folder.files(), named(&[("log", "hal\na\nb\nc\n")]));
    }

    #[tokio::test]
    async fn a_file_that_can_not_be_put_aside_grows_and_loses_nothing() {
        let folder = Folder::new();
        let obstacle = folder.0.path().join("log.1");
        std::fs::create_dir(&obstacle).unwrap();
        std::fs::write(obstacle.join("in-the-way"), "").unwrap();
        let rotation = Some(Rotation { size_max: 6, keep: 1 });
        let mut file = RotatingFile::open(&folder.log(), rotation).await.unwrap();
        let (lost, result) = file.write(&lines(&["a1", "a2", "b1", "b2"])).await;
        assert!(lost == 0 && result.is_ok());
        assert_eq!(folder.files(), named(&[("log", "a1\na2\nb1\nb2\n")]));
        // Once it can, it is.
        std::fs::remove_dir_all(&obstacle).unwrap();
        assert!(file.write(&lines(&["c1"])).await.1.is_ok());
        assert_eq!(folder.files(), named(&[("log", "c1\n"), ("log.1", "a1\na2\nb1\nb2\n")]));
    }

    #[tokio::test]
    async fn a_file_that_can_not_be_opened_is_an_error() {
        let folder = Folder::new();
        assert!(RotatingFile::open(&folder.0.path().join("no/such/folder"), None).await.is_err());
    }

    #[tokio::test]
    async fn a_full_disk_loses_lines_and_says_how_many() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let mut file = RotatingFile::open(full, None).await.unwrap();
        let (lost, result) = file.write(&lines(&["a", "b"])).await;
        assert_eq!((lost, result.unwrap_err().kind()), (2, io::ErrorKind::StorageFull));
    }
}
