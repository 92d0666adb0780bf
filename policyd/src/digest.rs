//! Content as 32 bytes: equal digests, equal content.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

/// The SHA-256 of what a value's [`Hash`] is made of. It means something within one process only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `content`. O(its size).
    pub fn of(content: &(impl Hash + ?Sized)) -> Self {
        let mut written = Written::default();
        content.hash(&mut written);
        Self(Sha256::digest(&written.0).into())
    }

    /// The digest of `contents` in whatever order: that of equal collections is equal.
    pub fn of_all(mut contents: Vec<Self>) -> Self {
        contents.sort_unstable();
        Self::of(&contents)
    }
}

/// Keeps all that a [`Hash`] writes. Values write lengths and ends too, so different values write different bytes.
#[derive(Default)]
struct Written(Vec<u8>);

impl Hasher for Written {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Nobody asks: the digest is made of all that was written.
    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_has_equal_digests_and_only_that() {
        assert_eq!(Digest::of(&("a", 1)), Digest::of(&("a", 1)));
        assert_ne!(Digest::of(&("a", "b")), Digest::of(&("ab", "")));
        assert_ne!(Digest::of(&vec![vec![1], vec![]]), Digest::of(&vec![vec![], vec![1]]));
        let (one, two) = (Digest::of(&1), Digest::of(&2));
        assert_eq!(Digest::of_all(vec![one, two]), Digest::of_all(vec![two, one]));
        assert_ne!(Digest::of_all(vec![one, one]), Digest::of_all(vec![one]));
    }
}
