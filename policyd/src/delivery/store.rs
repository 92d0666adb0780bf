//! The bundles that were in force, kept in the state folder: each in a folder of its own, named by its digest.
//!
//! A kept bundle is whole or not there: it is written under another name and renamed once it is on disk. It holds its
//! manifest and, if it came signed, its signature; both are looked at again each time it is read, so a damaged one, or
//! one whose key is trusted no more, is not used.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use daemon::finding::{Finding, Findings};
use daemon::state_dir;

use super::Delivered;
use super::archive::{MANIFEST_MEMBER, SIGNATURE_MEMBER};
use super::content::Content;
use super::digest::Digest;
use super::manifest::Manifest;
use super::signature::{Signature, TrustedKeys};

/// The kept bundles of one state folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in a state folder. Makes its folder, and removes what a crash left half-written.
    ///
    /// # Errors
    /// When the folder can't be made or cleaned.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let store = Self::at(state_dir);
        state_dir::make(&store.folder)?;
        for name in names(&store.folder)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            fs::remove_dir_all(store.folder.join(name))?;
        }
        Ok(store)
    }

    /// The store in a state folder, to be looked at.
    pub fn at(state_dir: &Path) -> Self {
        Self { folder: state_dir.join(FOLDER) }
    }

    /// Where the bundle called `digest` is, if it is kept.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// Whether the bundle called `digest` is kept.
    pub fn has(&self, digest: Digest) -> bool {
        self.path(digest).is_dir()
    }

    /// Keeps a bundle, unless it is kept already. Returns once it is on disk.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn put(
        &self,
        manifest: &Manifest,
        signature: Option<&Signature>,
        content: &Content,
    ) -> io::Result<PathBuf> {
        let digest = manifest.digest();
        let path = self.path(digest);
        if path.is_dir() {
            return Ok(path);
        }
        let unfinished = self.folder.join(format!("{UNFINISHED}{digest}"));
        // Of a try that failed: for want of room, say.
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        state_dir::make(&unfinished)?;
        content.write(&unfinished)?;
        let member = unfinished.join(MANIFEST_MEMBER);
        member.parent().map_or(Ok(()), state_dir::make)?;
        state_dir::write_whole(&member, manifest.to_json().as_bytes())?;
        if let Some(signature) = signature {
            state_dir::write_whole(&unfinished.join(SIGNATURE_MEMBER), format!("{signature}\n").as_bytes())?;
        }
        state_dir::sync(&unfinished)?;
        fs::rename(&unfinished, &path)?;
        state_dir::sync(&self.folder)?;
        Ok(path)
    }

    /// Reads a kept bundle. With `trusted` it has to be signed by one of these keys.
    ///
    /// # Errors
    /// When it is not kept, is damaged, or not trusted.
    pub fn get(&self, digest: Digest, trusted: Option<&TrustedKeys>) -> Result<Delivered, Findings> {
        let path = self.path(digest);
        let wrong = |why: String| {
            Finding::in_file(path.display().to_string(), format!("the kept bundle can't be used: {why}"))
        };
        let manifest = fs::read(path.join(MANIFEST_MEMBER)).map_err(|error| wrong(error.to_string()))?;
        let signature = match fs::read(path.join(SIGNATURE_MEMBER)) {
            Ok(text) => Some(Signature::parse(&text).map_err(|error| wrong(error.to_string()))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(wrong(error.to_string()).into()),
        };
        match (trusted, &signature) {
            (Some(trusted), Some(signature)) => {
                trusted.verify(&manifest, signature).map_err(|error| wrong(error.to_string()))?;
            }
            (Some(_), None) => return Err(wrong("it is not signed".to_owned()).into()),
            (None, _) => {}
        }
        let manifest = Manifest::parse(&manifest).map_err(|error| wrong(error.to_string()))?;
        if manifest.digest() != digest {
            return Err(wrong("its manifest was changed".to_owned()).into());
        }
        let mut content = Content::default();
        for (name, entry) in &manifest.files {
            let mut bytes = Vec::new();
            File::open(path.join(name.as_str()))
                .and_then(|file| file.take(entry.size + 1).read_to_end(&mut bytes))
                .map_err(|error| wrong(format!("`{name}`: {error}")))?;
            if bytes.len() as u64 != entry.size || Digest::of(&bytes) != entry.sha256 {
                return Err(wrong(format!("`{name}` was changed")).into());
            }
            content.insert(name.clone(), bytes);
        }
        Delivered::labelled(&path, manifest, signature, &content)
    }

    /// Reads the manifest of a kept bundle, to be shown: it is not verified. None if there is none that can be read.
    pub fn manifest(&self, digest: Digest) -> Option<Manifest> {
        Manifest::parse(&fs::read(self.path(digest).join(MANIFEST_MEMBER)).ok()?).ok()
    }

    /// Removes all bundles but these.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn retain(&self, these: &BTreeSet<Digest>) -> io::Result<()> {
        for name in names(&self.folder)? {
            if name.parse().is_ok_and(|digest: Digest| !these.contains(&digest)) {
                // Under another name first: half of a bundle is none.
                let unfinished = self.folder.join(format!("{UNFINISHED}{name}"));
                fs::rename(self.folder.join(&name), &unfinished)?;
                fs::remove_dir_all(&unfinished)?;
            }
        }
        Ok(())
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

const FOLDER: &str = "bundles";
/// How names of bundles start that are being written or removed.
const UNFINISHED: &str = ".unfinished-";

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::content::Name;
    use super::super::signature::SigningKey;
    use super::*;

    fn bundle(acl: &str) -> (Manifest, Content) {
        let mut content = Content::default();
        for (name, text) in [("acl.cedar", acl), ("lists/blocked.txt", "someone")] {
            content.insert(Name::new(name).unwrap(), text.as_bytes().to_vec());
        }
        (Manifest::new("shop".to_owned(), Timestamp::UNIX_EPOCH, 1, &content).unwrap(), content)
    }

    #[test]
    fn a_kept_bundle_is_read_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (manifest, content) = bundle("permit (principal, action, resource);");
        let path = store.put(&manifest, None, &content).unwrap();
        assert_eq!(store.put(&manifest, None, &content).unwrap(), path);
        let kept = store.get(manifest.digest(), None).unwrap();
        assert_eq!(*kept.files, content.files(&path).unwrap());
        assert_eq!(fs::read_to_string(path.join("lists/blocked.txt")).unwrap(), "someone");
        assert!(store.has(manifest.digest()));
        assert_eq!(store.manifest(manifest.digest()), Some(manifest));
        let told = store.get(Digest::of(b"other"), None).unwrap_err().to_string();
        assert!(told.contains("the kept bundle can't be used: No such file"), "{told}");
    }

    #[test]
    fn a_kept_bundle_that_was_changed_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (manifest, content) = bundle("");
        let (other, _) = bundle("forbid (principal, action, resource);");
        let path = store.put(&manifest, None, &content).unwrap();
        let refused = |file: &str, text: &str| {
            let file = path.join(file);
            let before = fs::read(&file).unwrap();
            fs::write(&file, text).unwrap();
            let told = store.get(manifest.digest(), None).unwrap_err().to_string();
            fs::write(&file, before).unwrap();
            told
        };
        assert!(refused("acl.cedar", "x").contains("`acl.cedar` was changed"));
        assert!(refused("lists/blocked.txt", "").contains("`lists/blocked.txt` was changed"));
        assert!(refused(MANIFEST_MEMBER, &other.to_json()).contains("its manifest was changed"));
        assert!(refused(MANIFEST_MEMBER, "{").contains("can't be used"));
        store.get(manifest.digest(), None).unwrap();
    }

    #[test]
    fn trust_is_asked_again_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (manifest, content) = bundle("");
        let keys = [SigningKey::generate().unwrap(), SigningKey::generate().unwrap()];
        let [ours, other] = [0, 1].map(|index| TrustedKeys::new(vec![keys[index].public().clone()]).unwrap());
        store.put(&manifest, Some(&keys[0].sign(manifest.to_json().as_bytes())), &content).unwrap();
        let kept = store.get(manifest.digest(), Some(&ours)).unwrap();
        assert_eq!(kept.label.unwrap().signature.as_ref().unwrap().key, keys[0].public().id());
        let told = store.get(manifest.digest(), Some(&other)).unwrap_err().to_string();
        assert!(told.contains("it is signed by key"), "{told}");
        let (unsigned, content) = bundle("unsigned");
        store.put(&unsigned, None, &content).unwrap();
        let told = store.get(unsigned.digest(), Some(&ours)).unwrap_err().to_string();
        assert!(told.contains("it is not signed"), "{told}");
    }

    #[test]
    fn what_a_crash_left_is_cleaned_away_and_what_is_not_needed_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let [one, two] = ["1", "2"].map(bundle);
        for (manifest, content) in [&one, &two] {
            store.put(manifest, None, content).unwrap();
        }
        store.retain(&BTreeSet::from([two.0.digest()])).unwrap();
        assert!(!store.has(one.0.digest()) && store.has(two.0.digest()));
        let unfinished = store.folder.join(format!("{UNFINISHED}{}", one.0.digest()));
        fs::create_dir(&unfinished).unwrap();
        fs::write(unfinished.join("acl.cedar"), "").unwrap();
        store.put(&one.0, None, &one.1).unwrap();
        fs::create_dir(&unfinished).unwrap();
        Store::open(folder.path()).unwrap();
        assert_eq!(names(&store.folder).unwrap().len(), 2);
    }
}
