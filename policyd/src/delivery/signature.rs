//! Ed25519 signatures over manifests, and the keys for them, in the PEM files that openssl makes and reads too.
//!
//! What is signed is not the manifest's bytes alone but their pre-authentication encoding as DSSE defines it
//! (Dead Simple Signing Envelope 1.0.2, protocol.md), which names the type of document: so no signature of another kind
//! of document by the same key can be taken for one of these. Ed25519: RFC 8032; private keys: PKCS#8 (RFC 8410), public
//! ones: SubjectPublicKeyInfo (RFC 5280).

use std::fmt;
use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};

use super::digest::{Digest, from_hex, to_hex};

/// The type of document that is signed.
pub const PAYLOAD_TYPE: &str = "application/vnd.tidegate.bundle-manifest.v1+json";
/// The largest key file, in bytes.
pub const KEY_FILE_SIZE_MAX: u64 = 64 * 1024;
/// The most keys that may be trusted at a time.
pub const TRUSTED_KEYS_MAX: usize = 100;

/// What a key is called: the SHA-256 of its SubjectPublicKeyInfo. `openssl pkey -pubin -outform DER | sha256sum` says
/// the same.
pub type KeyId = Digest;

/// A private key.
#[derive(Debug)]
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: TrustedKey,
}

/// A public key.
#[derive(Clone, Debug)]
pub struct TrustedKey {
    id: KeyId,
    der: Vec<u8>,
    key: ParsedPublicKey,
}

/// The keys whose signatures count. With several, one can take the place of another without a break.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys(Vec<TrustedKey>);

/// Who signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The key that it is said to be by. Only the signature itself proves it.
    pub key: KeyId,
    bytes: [u8; 64],
}

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read.
    #[error("can't read the key `{0}`: {1}")]
    File(String, std::io::Error),
    /// The file is not PEM, or holds something else.
    #[error("`{file}` holds {found}, but {wanted} is needed")]
    Kind {
        /// Which file.
        file: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The library could not make or write a key.
    #[error("a key can't be made")]
    Library(#[from] aws_lc_rs::error::Unspecified),
    /// There are too many.
    #[error("at most {TRUSTED_KEYS_MAX} keys may be trusted")]
    TooMany,
}

/// Why a signature does not count.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is not written as [`Signature`] writes it.
    #[error("the signature is not written as `{ALGORITHM} <key id> <signature>`")]
    Form,
    /// It is by none of the keys.
    #[error("it is signed by key {signed_by}, trusted are {}", listed(trusted))]
    Untrusted {
        /// The key that it is said to be by.
        signed_by: KeyId,
        /// The keys that count.
        trusted: Vec<KeyId>,
    },
    /// It is not of this manifest.
    #[error("the signature is not that of the manifest: one of them was changed, or key {0} did not sign it")]
    Wrong(KeyId),
}

impl SigningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Self::of(Ed25519KeyPair::generate()?)
    }

    /// Reads a private key: PEM, PKCS#8, not encrypted.
    ///
    /// # Errors
    /// When the file can't be read or holds something else.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        const WANTED: &str = "an Ed25519 private key (PEM, PKCS#8, not encrypted)";
        let file = path.display().to_string();
        let block = read_pem(path, &file, "PRIVATE KEY", WANTED)?;
        let pair = Ed25519KeyPair::from_pkcs8(block.contents()).map_err(|_rejected| KeyError::Kind {
            file,
            found: "another kind of key".to_owned(),
            wanted: WANTED,
        })?;
        Self::of(pair)
    }

    /// The key as a PEM file, which is to be kept secret.
    ///
    /// # Errors
    /// When the library fails.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        // Version 1 is what openssl writes, and reads in every version.
        let der = self.pair.to_pkcs8v1()?;
        Ok(encoded("PRIVATE KEY", der.as_ref()))
    }

    /// The public half, which the signatures are verified with.
    pub const fn public(&self) -> &TrustedKey {
        &self.public
    }

    /// Signs a manifest: its [`pre_authentication_encoding`].
    pub fn sign(&self, manifest: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        let signature = self.pair.sign(&pre_authentication_encoding(manifest));
        bytes.iter_mut().zip(signature.as_ref()).for_each(|(to, from)| *to = *from);
        Signature { key: self.public.id, bytes }
    }

    fn of(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
        let public = TrustedKey::of(der.as_ref()).ok_or(aws_lc_rs::error::Unspecified)?;
        Ok(Self { pair, public })
    }
}

impl TrustedKey {
    /// Reads a public key: PEM, SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When the file can't be read or holds something else.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        const WANTED: &str = "an Ed25519 public key (PEM, SubjectPublicKeyInfo)";
        let file = path.display().to_string();
        let block = read_pem(path, &file, "PUBLIC KEY", WANTED)?;
        Self::of(block.contents()).ok_or_else(|| KeyError::Kind {
            file,
            found: "another kind of key".to_owned(),
            wanted: WANTED,
        })
    }

    /// What it is called.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The key as a PEM file.
    pub fn to_pem(&self) -> String {
        encoded("PUBLIC KEY", &self.der)
    }

    /// None unless `der` is the SubjectPublicKeyInfo of an Ed25519 key.
    fn of(der: &[u8]) -> Option<Self> {
        // The library would take the bare 32 bytes of a key too.
        let key = der.strip_prefix(SPKI_PREFIX)?;
        let key = ParsedPublicKey::new(&ED25519, key).ok()?;
        Some(Self { id: Digest::of(der), der: der.to_vec(), key })
    }
}

impl TrustedKeys {
    /// These keys.
    ///
    /// # Errors
    /// When there are more than [`TRUSTED_KEYS_MAX`].
    pub fn new(keys: Vec<TrustedKey>) -> Result<Self, KeyError> {
        if keys.len() > TRUSTED_KEYS_MAX { Err(KeyError::TooMany) } else { Ok(Self(keys)) }
    }

    /// Reads each of the files.
    ///
    /// # Errors
    /// When one can't be read or holds something else, or there are more than [`TRUSTED_KEYS_MAX`].
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Self, KeyError> {
        Self::new(paths.iter().map(|path| TrustedKey::load(path.as_ref())).collect::<Result<_, _>>()?)
    }

    /// Whether one of them signed `manifest`.
    ///
    /// # Errors
    /// When none did.
    pub fn verify(&self, manifest: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let signed_by = signature.key;
        let Some(trusted) = self.0.iter().find(|trusted| trusted.id == signed_by) else {
            let trusted = self.0.iter().map(TrustedKey::id).collect();
            return Err(SignatureError::Untrusted { signed_by, trusted });
        };
        let signed = pre_authentication_encoding(manifest);
        let verified = trusted.key.verify_sig(&signed, &signature.bytes);
        verified.map_err(|_unspecified| SignatureError::Wrong(signed_by))
    }
}

impl Signature {
    /// Reads what [`Signature`] is displayed as, with a line feed.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &[u8]) -> Result<Self, SignatureError> {
        let text = std::str::from_utf8(text).ok().and_then(|text| text.strip_suffix('\n'));
        let parts: Vec<&str> = text.into_iter().flat_map(|text| text.split(' ')).collect();
        match parts.as_slice() {
            [ALGORITHM, key, bytes] => key.parse().ok().zip(from_hex(bytes)),
            _ => None,
        }
        .map(|(key, bytes)| Self { key, bytes })
        .ok_or(SignatureError::Form)
    }

    /// The signature itself, as RFC 8032 has it.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM} {} {}", self.key, to_hex(&self.bytes))
    }
}

/// What is signed of a manifest: `PAE(PAYLOAD_TYPE, manifest)` of DSSE.
pub fn pre_authentication_encoding(manifest: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), manifest.len());
    [head.as_bytes(), manifest].concat()
}

const ALGORITHM: &str = "ed25519";

/// How the SubjectPublicKeyInfo of each Ed25519 key starts (RFC 8410, section 4); the key's 32 bytes follow.
const SPKI_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn read_pem(path: &Path, file: &str, tag: &str, wanted: &'static str) -> Result<pem::Pem, KeyError> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|opened| opened.take(KEY_FILE_SIZE_MAX).read_to_end(&mut text))
        .map_err(|error| KeyError::File(file.to_owned(), error))?;
    let other = |found: String| KeyError::Kind { file: file.to_owned(), found, wanted };
    let block = pem::parse(&text).map_err(|error| other(format!("no PEM ({error})")))?;
    if block.tag() == tag { Ok(block) } else { Err(other(format!("a block `{}`", block.tag()))) }
}

fn encoded(tag: &str, der: &[u8]) -> String {
    let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), unix)
}

fn listed(ids: &[KeyId]) -> String {
    match ids {
        [] => "none".to_owned(),
        _ => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests;
