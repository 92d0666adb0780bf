//! What an archive says of itself: one JSON object, which its signature is over.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::content::{Content, Name, too_large};
use super::digest::Digest;
use crate::bundle::files::{FILE_COUNT_MAX, SIZE_MAX};

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
/// The largest manifest, in bytes: [`FILE_COUNT_MAX`] files with the longest names fit in.
pub const MANIFEST_SIZE_MAX: usize = 4 * 1024 * 1024;
/// The largest serial: what every JSON reader keeps exactly.
pub const SERIAL_MAX: u64 = (1 << 53) - 1;
/// The longest name of a bundle, in bytes.
pub const BUNDLE_NAME_LENGTH_MAX: usize = 100;

/// The list of a bundle's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// What people call the bundle.
    pub name: String,
    /// When it was built.
    pub created: Timestamp,
    /// Grows from build to build: policyd takes no archive that is older than one it had in force.
    pub serial: u64,
    /// Its files.
    pub files: BTreeMap<Name, Entry>,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes.
    pub sha256: Digest,
}

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is of a format that this version does not know.
    #[error("it is of format {0}, and this version of Tidegate reads format {FORMAT}")]
    Format(u32),
    /// It is no JSON, or lacks something.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It is out of a limit.
    #[error("{0}")]
    Limit(String),
    /// It means the same as another text, which is how Tidegate writes it.
    #[error("it is not written as Tidegate writes it")]
    Form,
}

/// How the files of one manifest differ from those of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that are new.
    pub added: Vec<Name>,
    /// Files whose bytes differ.
    pub changed: Vec<Name>,
    /// Files that are gone.
    pub removed: Vec<Name>,
}

impl Manifest {
    /// Lists `content`.
    ///
    /// # Errors
    /// When name or serial are out of range.
    pub fn new(
        name: String,
        created: Timestamp,
        serial: u64,
        content: &Content,
    ) -> Result<Self, ManifestError> {
        let entry = |bytes: &[u8]| Entry { size: bytes.len() as u64, sha256: Digest::of(bytes) };
        let files = content.iter().map(|(name, bytes)| (name.clone(), entry(bytes))).collect();
        let manifest = Self { format: FORMAT, name, created, serial, files };
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads a manifest, which has to be exactly as [`Manifest::to_json`] writes it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        // First, for a later format may have other fields.
        match serde_json::from_slice::<Version>(bytes)?.format {
            FORMAT => {}
            other => return Err(ManifestError::Format(other)),
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        if manifest.to_json().as_bytes() == bytes { Ok(manifest) } else { Err(ManifestError::Form) }
    }

    /// The manifest as text: JSON, two blanks at each level, a line feed at its end.
    pub fn to_json(&self) -> String {
        // Nothing in it can fail to be written: all keys are texts.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// What the bundle is called: the SHA-256 of the manifest, `tar -xOf ARCHIVE .tidegate/manifest.json | sha256sum`.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_json().as_bytes())
    }

    /// The bytes of all files together.
    pub fn size(&self) -> u64 {
        self.files.values().fold(0, |sum, entry| sum.saturating_add(entry.size))
    }

    /// How its files differ from those `before`.
    pub fn changes_since(&self, before: &Self) -> Changes {
        let missing_in = |one: &Self, name: &&Name| !one.files.contains_key(*name);
        let differs =
            |(name, entry): &(&Name, &Entry)| before.files.get(*name).is_some_and(|old| old != *entry);
        Changes {
            added: self.files.keys().filter(|name| missing_in(before, name)).cloned().collect(),
            changed: self.files.iter().filter(differs).map(|(name, _)| name.clone()).collect(),
            removed: before.files.keys().filter(|name| missing_in(self, name)).cloned().collect(),
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        let limit = |message: String| Err(ManifestError::Limit(message));
        let name = &self.name;
        if name.is_empty() || name.len() > BUNDLE_NAME_LENGTH_MAX || name.chars().any(char::is_control) {
            return limit(format!(
                "a bundle's name has 1 to {BUNDLE_NAME_LENGTH_MAX} bytes, and no control characters"
            ));
        }
        if self.serial > SERIAL_MAX {
            return limit(format!("a serial is at most {SERIAL_MAX}"));
        }
        if self.files.len() > FILE_COUNT_MAX {
            return limit(format!("the bundle has more than {FILE_COUNT_MAX} files"));
        }
        if self.size() > SIZE_MAX {
            return limit(too_large());
        }
        Ok(())
    }
}

impl fmt::Display for Changes {
    /// Such as `acl.cedar changed, new.cedar added`; the first [`SHOWN_MAX`] files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [(&self.changed, "changed"), (&self.added, "added"), (&self.removed, "removed")];
        let all = kinds.iter().flat_map(|(names, what)| names.iter().map(move |name| (name, what)));
        let count = all.clone().count();
        for (index, (name, what)) in all.take(SHOWN_MAX).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {what}")?;
        }
        match count.checked_sub(SHOWN_MAX) {
            _ if count == 0 => f.write_str("no file differs"),
            None | Some(0) => Ok(()),
            Some(more) => write!(f, ", and {more} more"),
        }
    }
}

/// How many files [`Changes`] names.
const SHOWN_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn content(files: &[(&str, &str)]) -> Content {
        let mut content = Content::default();
        for (name, text) in files {
            content.insert(Name::new(*name).unwrap(), text.as_bytes().to_vec());
        }
        content
    }

    fn manifest(files: &[(&str, &str)]) -> Manifest {
        Manifest::new("shop".to_owned(), Timestamp::UNIX_EPOCH, 7, &content(files)).unwrap()
    }

    #[test]
    fn it_has_one_form() {
        let manifest = manifest(&[("b", "2"), ("a/c", "")]);
        let text = manifest.to_json();
        expect_test::expect![[r#"
            {
              "format": 1,
              "name": "shop",
              "created": "1970-01-01T00:00:00Z",
              "serial": 7,
              "files": {
                "a/c": {
                  "size": 0,
                  "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
                },
                "b": {
                  "size": 1,
                  "sha256": "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
                }
              }
            }
        "#]]
        .assert_eq(&text);
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
        for (from, to, why) in [
            (
                "\"format\": 1",
                "\"format\": 2",
                "it is of format 2, and this version of Tidegate reads format 1",
            ),
            ("\"serial\": 7", "\"serial\":  7", "it is not written as Tidegate writes it"),
            ("\"serial\": 7", "\"serial\": 7, \"serial\": 7", "duplicate field `serial`"),
            ("\"serial\": 7", "\"serial\": 9007199254740992", "a serial is at most 9007199254740991"),
            ("\"serial\": 7", "\"serial\": -1", "invalid value"),
            ("\"name\"", "\"owner\"", "unknown field `owner`"),
            ("\"shop\"", "\"\"", "a bundle's name has 1 to 100 bytes"),
            ("\"b\"", "\"../b\"", "no part that is empty or starts with a dot"),
            ("\"b\"", "\"a/c\"", "it is not written as Tidegate writes it"),
            ("\"size\": 1", "\"size\": 67108865", "more than 64 MiB together"),
            ("\"size\": 1", "\"size\": 18446744073709551615", "more than 64 MiB together"),
            ("d4735e", "D4735E", "64 hexadecimal digits in lower case"),
            ("{\n", "", "invalid type"),
        ] {
            let error = Manifest::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    #[test]
    fn the_largest_manifest_fits_and_a_larger_one_is_told() {
        let mut files = manifest(&[]);
        let entry = Entry { size: 0, sha256: Digest::of(b"") };
        for number in 0..FILE_COUNT_MAX {
            files.files.insert(Name::new(format!("{number:0100}")).unwrap(), entry);
        }
        let text = files.to_json();
        assert!(text.len() < MANIFEST_SIZE_MAX);
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), files);
        files.files.insert(Name::new("one more").unwrap(), entry);
        let error = Manifest::parse(files.to_json().as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "the bundle has more than 10000 files");
    }

    #[test]
    fn changes_are_told_in_short() {
        let before = manifest(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let after = manifest(&[("b", "2"), ("c", "1"), ("d", "1")]);
        assert_eq!(after.changes_since(&before).to_string(), "b changed, d added, a removed");
        assert_eq!(after.changes_since(&after).to_string(), "no file differs");
        assert_eq!(after.changes_since(&manifest(&[])).to_string(), "b added, c added, d added");
        let four = manifest(&[("1", ""), ("2", ""), ("3", ""), ("4", "")]);
        assert_eq!(four.changes_since(&manifest(&[])).to_string(), "1 added, 2 added, 3 added, and 1 more");
        assert_ne!(before.digest(), after.digest());
    }
}
