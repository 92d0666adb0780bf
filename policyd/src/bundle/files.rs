//! The files of a bundle, read once, so that everything after works on one consistent set of texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use daemon::finding::{Finding, Findings};

/// The largest file of a bundle, in bytes.
pub const FILE_SIZE_MAX: u64 = 64 * 1024 * 1024;
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
    /// Reads every `.cedar`, `.cedarschema`, `.yaml` and `.json` file that lies directly in `folder`.
    ///
    /// # Errors
    /// When the folder or a file can't be read, is too large, or is not UTF-8.
    pub fn read(folder: &Path) -> Result<Self, Findings> {
        let wrong = |file: &str, message: String, help: &str| {
            Findings::from(Finding::in_file(file, message).with_help(help))
        };
        let shown = folder.display().to_string();
        let entries = std::fs::read_dir(folder).map_err(|error| {
            wrong(
                &shown,
                format!("the bundle can't be read: {error}"),
                "give the folder that holds `mesh.yaml`",
            )
        })?;
        let mut texts = BTreeMap::new();
        for entry in entries {
            let entry = entry
                .map_err(|error| wrong(&shown, format!("the bundle can't be read: {error}"), "try again"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_bundle_file(&name) || !entry.path().is_file() {
                continue;
            }
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            if size > FILE_SIZE_MAX {
                let message = format!("the file has {size} bytes; {FILE_SIZE_MAX} is the most");
                return Err(wrong(&name, message, "split it"));
            }
            let text = std::fs::read_to_string(entry.path()).map_err(|error| {
                wrong(&name, format!("the file can't be read: {error}"), "it has to be UTF-8 text")
            })?;
            texts.insert(name, text);
            if texts.len() > FILE_COUNT_MAX {
                return Err(wrong(
                    &shown,
                    format!("the bundle has more than {FILE_COUNT_MAX} files"),
                    "merge some",
                ));
            }
        }
        Ok(Self { folder: folder.to_owned(), texts })
    }

    /// The text of the file called `name`, if the bundle has it.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }
}

/// Whether a change to the file called `name` can change what the bundle means.
///
/// Editors' temporary files (`.acl.cedar.swp`, `acl.cedar~`) are not part of a bundle.
fn is_bundle_file(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("cedar" | "cedarschema" | "yaml" | "json"))
}
