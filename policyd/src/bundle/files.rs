//! The files of a bundle, read once, so that everything after works on one consistent set of texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use daemon::finding::{Finding, Findings, did_you_mean};

use super::{entities, limits, links, mesh, rules, schema};

/// The most bytes of all files of a bundle together.
pub const SIZE_MAX: u64 = 64 * 1024 * 1024;
/// The most files of a bundle.
pub const FILE_COUNT_MAX: usize = 10_000;

/// The texts of a bundle by file name, relative to its folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The bundle's folder: what relative paths inside the bundle start from.
    pub folder: PathBuf,
    /// File name to text.
    pub texts: BTreeMap<String, String>,
}

impl Files {
    /// Reads every file that lies directly in `folder` and whose name ends as those of a bundle do.
    ///
    /// # Errors
    /// When the folder or a file can't be read, is too large, or is not UTF-8.
    pub fn read(folder: &Path) -> Result<Self, Findings> {
        let shown = folder.display().to_string();
        let unreadable = |error: std::io::Error| {
            Finding::in_file(&shown, format!("the bundle can't be read: {error}"))
                .with_help("give the folder that holds `mesh.yaml`")
        };
        let mut texts = BTreeMap::new();
        let mut room = SIZE_MAX;
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if !is_bundle_file(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let name = entry.file_name().into_string().map_err(|name| {
                Finding::in_file(name.to_string_lossy(), "the file's name is not UTF-8")
                    .with_help("rename it")
            })?;
            let text = read_file(&entry.path(), &name, room)?;
            room = room.saturating_sub(text.len() as u64);
            texts.insert(name, text);
            if texts.len() > FILE_COUNT_MAX {
                let message = format!("the bundle has more than {FILE_COUNT_MAX} files");
                return Err(Finding::in_file(&shown, message).with_help("merge some").into());
            }
        }
        Ok(Self { folder: folder.to_owned(), texts })
    }

    /// Those of `named`, the files directly in a bundle, whose names end as those of a bundle do. What relative paths
    /// lead to is in `folder`.
    ///
    /// # Errors
    /// When one is not UTF-8.
    pub fn of<'a>(folder: &Path, named: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Findings> {
        let mut texts = BTreeMap::new();
        for (name, bytes) in named.filter(|(name, _)| is_bundle_file(name)) {
            let text = std::str::from_utf8(bytes).map_err(|error| {
                Finding::in_file(name, format!("the file can't be read: {error}"))
                    .with_help("it has to be a file of UTF-8 text")
            })?;
            texts.insert(name.to_owned(), text.to_owned());
        }
        Ok(Self { folder: folder.to_owned(), texts })
    }

    /// Adds what is wrong with the files' names: a file that is not read is a rule that is not kept. `named` are those
    /// that another file names; if nobody knows which ones these are, a name may be anything but nearly right.
    pub(super) fn check_names(&self, named: Option<&BTreeSet<&str>>, findings: &mut Findings) {
        let is_named = |name: &str| named.is_some_and(|named| named.contains(name));
        for name in self.texts.keys().filter(|name| !is_known(name) && !is_named(name)) {
            let finding = Finding::in_file(name, "this file is not read: no file of a bundle has this name");
            findings.push(match did_you_mean(name, KNOWN) {
                Some(near) => finding.with_help(format!("did you mean `{near}`?")),
                None if named.is_none() => continue,
                None => finding.as_warning().with_help("keep it out of the bundle's folder"),
            });
        }
    }

    /// The text of the file called `name`, if the bundle has it.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }
}

/// Whether files of this name have a meaning of their own.
pub(super) fn is_known(name: &str) -> bool {
    name.ends_with(".cedar") || KNOWN.contains(&name)
}

/// The files of a bundle besides `*.cedar`.
const KNOWN: [&str; 6] = [mesh::FILE, schema::FILE, entities::FILE, limits::FILE, rules::FILE, links::FILE];

/// Links are followed. One that leads nowhere is an error: a policy that is not read forbids nothing.
fn read_file(path: &Path, name: &str, room: u64) -> Result<String, Findings> {
    let wrong = |message: String, help| Findings::from(Finding::in_file(name, message).with_help(help));
    let unreadable = |error: std::io::Error| {
        wrong(format!("the file can't be read: {error}"), "it has to be a file of UTF-8 text")
    };
    // Opening a named pipe would wait for its writer, perhaps for ever.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(wrong("this is no regular file".to_owned(), "rename it, or put a file in its place"));
    }
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(room + 1).read_to_string(&mut text)).map_err(unreadable)?;
    if text.len() as u64 > room {
        let message = format!("the bundle's files have more than {} MiB together", SIZE_MAX / 1024 / 1024);
        return Err(wrong(message, "split the bundle"));
    }
    Ok(text)
}

/// Whether a change to the file called `name` can change what the bundle means.
///
/// Editors' temporary files (`.acl.cedar.swp`, `acl.cedar~`) are not part of a bundle.
fn is_bundle_file(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.')
        && extension
            .is_some_and(|extension| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

/// `.yml` and capitals are read to be told of: see [`Files::check_names`].
const EXTENSIONS: [&str; 6] = ["cedar", "cedarschema", "yaml", "yml", "json", "pem"];
