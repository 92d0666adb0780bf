//! A bundle in one file, signed.
//!
//! An archive is a tar of the POSIX form (ustar), not compressed: first the manifest, then its signature, then the files
//! in the order of the manifest. Any `tar` unpacks one, into a folder that is a bundle, for the first two are hidden.
//! Not compressed, because so nothing but two headers is looked at before the signature is verified, and nothing can
//! grow when it is unpacked; what carries archives can compress them.
//!
//! Building is reproducible: owners, times and rights are the same for all, so the same files, name, time, serial and key
//! give the same bytes. And reading is strict: an archive of which one byte is not as it would be built is refused, so no
//! byte can be changed without notice, whether the signature covers it or not.

use std::io::{self, Read};
use std::path::Path;

use tar::{EntryType, Header};

use super::content::{Content, Name, NameError};
use super::digest::Digest;
use super::manifest::{MANIFEST_SIZE_MAX, Manifest, ManifestError};
use super::signature::{Signature, SignatureError, SigningKey, TrustedKeys};
use crate::bundle::files::{FILE_COUNT_MAX, SIZE_MAX};

/// The member that holds the manifest.
pub const MANIFEST_MEMBER: &str = ".tidegate/manifest.json";
/// The member that holds the signature.
pub const SIGNATURE_MEMBER: &str = ".tidegate/signature";
/// The largest archive, in bytes: the largest manifest and content, and for each member a header and a filling.
pub const ARCHIVE_SIZE_MAX: u64 =
    SIZE_MAX + MANIFEST_SIZE_MAX as u64 + (FILE_COUNT_MAX as u64 + 4) * 2 * BLOCK;

/// What a trusted key signed, or, by [`Archive::look`], says it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The list of the files.
    pub manifest: Manifest,
    /// By whom.
    pub signature: Signature,
    /// The files.
    pub content: Content,
}

/// Why a file is no archive that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file can't be read.
    #[error("the archive can't be read: {0}")]
    Read(io::Error),
    /// The file is larger than [`ARCHIVE_SIZE_MAX`].
    #[error("the archive is larger than {} MiB", ARCHIVE_SIZE_MAX / 1024 / 1024)]
    Large,
    /// The file starts as gzip's do.
    #[error("the archive is compressed; archives are not, so unpack it with `gunzip` first")]
    Compressed,
    /// The file does not start with manifest and signature.
    #[error("this is no signed bundle archive: {0}; `tidegate bundle build` makes one")]
    Unsigned(&'static str),
    /// The signature does not count.
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// The manifest is none.
    #[error("the manifest can't be used: {0}")]
    Manifest(#[from] ManifestError),
    /// A member of the archive has a bad name.
    #[error("the archive's member `{0}` can't be used: {1}")]
    Name(String, NameError),
    /// A member of the archive is a link, a folder or a device.
    #[error("the archive's member `{0}` is no regular file, and an archive holds nothing else")]
    Kind(String),
    /// The members are not those of the manifest, or not in its order.
    #[error("the archive has `{found}` where its manifest has `{expected}`")]
    Order {
        /// The member, or `its end`.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// A file is not that of the manifest.
    #[error("the archive's `{0}` was changed: its manifest has another size or SHA-256 for it")]
    Changed(Name),
    /// There is more, or something else, between the members.
    #[error(
        "the archive is not as `tidegate bundle build` writes it: it was changed, or has bytes at its end"
    )]
    Form,
}

/// Packs and signs.
///
/// # Errors
/// When the library that writes tar fails, which no valid manifest makes it do.
pub fn build(manifest: &Manifest, content: &Content, key: &SigningKey) -> io::Result<Vec<u8>> {
    let text = manifest.to_json();
    pack(text.as_bytes(), &key.sign(text.as_bytes()), content)
}

/// Reads the file at `path`; what it holds is to be opened then.
///
/// # Errors
/// When it can't be read, or is larger than [`ARCHIVE_SIZE_MAX`].
pub fn read(path: &Path) -> Result<Vec<u8>, ArchiveError> {
    // Opening a named pipe would wait for its writer, perhaps for ever.
    let metadata = std::fs::metadata(path).map_err(ArchiveError::Read)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "it is a folder" } else { "it is no regular file" };
        return Err(ArchiveError::Unsigned(what));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(ArchiveError::Read)?;
    file.take(ARCHIVE_SIZE_MAX + 1).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
    if bytes.len() as u64 > ARCHIVE_SIZE_MAX { Err(ArchiveError::Large) } else { Ok(bytes) }
}

impl Archive {
    /// Opens an archive that one of `trusted` signed. Its signature is verified before anything else is looked at.
    ///
    /// # Errors
    /// Why it can't be trusted.
    pub fn open(bytes: &[u8], trusted: &TrustedKeys) -> Result<Self, ArchiveError> {
        let sealed = Sealed::read(bytes)?;
        trusted.verify(&sealed.manifest, &sealed.signature)?;
        sealed.open(bytes)
    }

    /// Opens an archive without asking who signed it: to look at, not to use.
    ///
    /// # Errors
    /// When it is none, or not whole.
    pub fn look(bytes: &[u8]) -> Result<Self, ArchiveError> {
        Sealed::read(bytes)?.open(bytes)
    }

    /// What the bundle is called.
    pub fn digest(&self) -> Digest {
        self.manifest.digest()
    }
}

/// An archive of which only the first two members were read.
struct Sealed {
    manifest: Vec<u8>,
    signature: Signature,
}

impl Sealed {
    fn read(bytes: &[u8]) -> Result<Self, ArchiveError> {
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Err(ArchiveError::Compressed);
        }
        let mut archive = tar::Archive::new(bytes);
        let members = archive.entries().map_err(ArchiveError::Read)?.raw(true);
        let mut first = members.map(|member| Member::read(member, MANIFEST_SIZE_MAX as u64));
        let mut next = |name: &str| match first.next() {
            Some(Ok(member)) if member.name == name && member.is_file => Some(member.bytes),
            _ => None,
        };
        let manifest =
            next(MANIFEST_MEMBER).ok_or(ArchiveError::Unsigned("it does not start with a manifest"))?;
        let signature = next(SIGNATURE_MEMBER).ok_or(ArchiveError::Unsigned("it has no signature"))?;
        Ok(Self { manifest, signature: Signature::parse(&signature)? })
    }

    fn open(self, bytes: &[u8]) -> Result<Archive, ArchiveError> {
        let manifest = Manifest::parse(&self.manifest)?;
        let mut archive = tar::Archive::new(bytes);
        let members = archive.entries().map_err(ArchiveError::Read)?.raw(true).skip(2);
        let mut members = members.map(|member| Member::read(member, SIZE_MAX));
        let mut content = Content::default();
        for (name, entry) in &manifest.files {
            let member = members.next().transpose()?;
            let found = member.as_ref().map_or("its end", |member| &member.name);
            let member = match &member {
                Some(member) if !member.is_file => return Err(ArchiveError::Kind(member.name.clone())),
                Some(member) if member.name == name.as_str() => member,
                Some(member) => {
                    Name::new(member.name.as_str())
                        .map_err(|error| ArchiveError::Name(member.name.clone(), error))?;
                    return Err(out_of_order(found, name.as_str()));
                }
                None => return Err(out_of_order(found, name.as_str())),
            };
            if member.bytes.len() as u64 != entry.size || Digest::of(&member.bytes) != entry.sha256 {
                return Err(ArchiveError::Changed(name.clone()));
            }
            content.insert(name.clone(), member.bytes.clone());
        }
        if let Some(member) = members.next().transpose()? {
            return Err(out_of_order(&member.name, "its end"));
        }
        let again = pack(&self.manifest, &self.signature, &content).map_err(ArchiveError::Read)?;
        if again != bytes {
            return Err(ArchiveError::Form);
        }
        Ok(Archive { manifest, signature: self.signature, content })
    }
}

fn out_of_order(found: &str, expected: &str) -> ArchiveError {
    ArchiveError::Order { found: found.to_owned(), expected: expected.to_owned() }
}

/// One member of a tar.
struct Member {
    name: String,
    is_file: bool,
    bytes: Vec<u8>,
}

impl Member {
    /// Reads a member; of its bytes no more than `size_max`, and one more to show that there are.
    fn read(member: io::Result<tar::Entry<'_, &[u8]>>, size_max: u64) -> Result<Self, ArchiveError> {
        let member = member.map_err(ArchiveError::Read)?;
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let is_file = member.header().entry_type() == EntryType::Regular;
        let mut bytes = Vec::new();
        // What a member says of its size is not believed: there is no more than there is.
        member.take(size_max + 1).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        Ok(Self { name, is_file, bytes })
    }
}

fn pack(manifest: &[u8], signature: &Signature, content: &Content) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| tar.append(&header(name, bytes.len() as u64)?, bytes);
    add(MANIFEST_MEMBER, manifest)?;
    add(SIGNATURE_MEMBER, format!("{signature}\n").as_bytes())?;
    content.iter().try_for_each(|(name, bytes)| add(name.as_str(), bytes))?;
    tar.into_inner()
}

fn header(name: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// Members of a tar start at multiples of this many bytes.
const BLOCK: u64 = 512;

#[cfg(test)]
mod tests;
