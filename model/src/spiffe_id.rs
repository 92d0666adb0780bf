//! SPIFFE IDs, valid by construction.
//!
//! Follows SPIFFE-ID.md sections 2.1 to 2.4: one error variant per rule.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest SPIFFE ID accepted, in bytes (SPIFFE-ID 2.3).
pub const ID_LENGTH_MAX: usize = 2048;
/// The longest trust domain accepted, in bytes (SPIFFE-ID 2.3).
pub const TRUST_DOMAIN_LENGTH_MAX: usize = 255;

const SCHEME: &str = "spiffe://";

/// The authority under which identities are issued, such as `bookinfo.example`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

/// The identity of a workload, such as `spiffe://bookinfo.example/ns/bookinfo/sa/reviews`,
/// or, without a path, of a trust domain's own authority.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// Shared, so that clones, of which there is one a request, allocate nothing.
    text: Arc<str>,
    /// Where the path starts in `text`; equal to its length when there is none.
    path_start: usize,
}

/// Why a text is not a SPIFFE ID. Each variant is one rule of the standard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Longer than [`ID_LENGTH_MAX`] or [`TRUST_DOMAIN_LENGTH_MAX`].
    #[error("it is longer than {max} bytes")]
    TooLong {
        /// The limit that was passed.
        max: usize,
    },
    /// The scheme is not `spiffe`.
    #[error("it does not start with `spiffe://`")]
    WrongScheme,
    /// There is no trust domain.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// The trust domain holds a character outside `[a-z0-9.-_]`.
    #[error("the trust domain may hold only a-z, 0-9, `.`, `-` and `_`, not `{0}`")]
    TrustDomainCharacter(char),
    /// A path segment is empty, or the path ends in `/`.
    #[error("a path segment is empty, or the path ends in `/`")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("a path segment is `.` or `..`")]
    DotSegment,
    /// A path segment holds a character outside `[a-zA-Z0-9.-_]`.
    #[error("a path segment may hold only a-z, A-Z, 0-9, `.`, `-` and `_`, not `{0}`")]
    SegmentCharacter(char),
}

impl TrustDomain {
    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, which signing certificates carry (X509-SVID 3.2).
    pub fn id(&self) -> SpiffeId {
        let text = format!("{SCHEME}{}", self.0);
        SpiffeId { path_start: text.len(), text: text.into() }
    }

    /// The ID of a service account, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// When a part is not a valid path segment.
    pub fn workload(&self, namespace: &str, service_account: &str) -> Result<SpiffeId, SpiffeIdError> {
        format!("{SCHEME}{}/ns/{namespace}/sa/{service_account}", self.0).parse()
    }
}

impl SpiffeId {
    /// The whole ID as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain as text, without scheme.
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_start).unwrap_or_default()
    }

    /// The path, starting with `/`, or empty for the ID of a trust domain.
    pub fn path(&self) -> &str {
        self.text.get(self.path_start..).unwrap_or_default()
    }

    /// The namespace of an ID of the form `/ns/<namespace>/sa/<service account>`.
    pub fn namespace(&self) -> Option<&str> {
        self.workload_parts().map(|(namespace, _)| namespace)
    }

    /// The service account of an ID of the form `/ns/<namespace>/sa/<service account>`.
    pub fn service_account(&self) -> Option<&str> {
        self.workload_parts().map(|(_, account)| account)
    }

    fn workload_parts(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SpiffeIdError::EmptyTrustDomain);
        }
        if text.len() > TRUST_DOMAIN_LENGTH_MAX {
            return Err(SpiffeIdError::TooLong { max: TRUST_DOMAIN_LENGTH_MAX });
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        match text.chars().find(|&c| !allowed(c)) {
            Some(c) => Err(SpiffeIdError::TrustDomainCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    /// Scheme and trust domain are compared without regard to case, and kept in lower case (SPIFFE-ID 2.4).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > ID_LENGTH_MAX {
            return Err(SpiffeIdError::TooLong { max: ID_LENGTH_MAX });
        }
        let rest = match text.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(SpiffeIdError::WrongScheme),
        };
        let (domain, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let domain: TrustDomain = domain.to_ascii_lowercase().parse()?;
        if let Some(segments) = path.strip_prefix('/') {
            segments.split('/').try_for_each(check_segment)?;
        }
        let text = format!("{SCHEME}{}{path}", domain.0);
        Ok(Self { path_start: SCHEME.len() + domain.0.len(), text: text.into() })
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match segment {
        "" => Err(SpiffeIdError::EmptySegment),
        "." | ".." => Err(SpiffeIdError::DotSegment),
        _ => {
            segment.chars().find(|&c| !allowed(c)).map_or(Ok(()), |c| Err(SpiffeIdError::SegmentCharacter(c)))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_rule_of_the_standard_has_its_error() {
        let long = format!("spiffe://a/{}", "x".repeat(ID_LENGTH_MAX));
        let long_domain = format!("spiffe://{}/x", "a".repeat(TRUST_DOMAIN_LENGTH_MAX + 1));
        let table: &[(&str, SpiffeIdError)] = &[
            ("", SpiffeIdError::WrongScheme),
            ("https://a/b", SpiffeIdError::WrongScheme),
            ("spiffe:/a/b", SpiffeIdError::WrongScheme),
            ("spiffe://", SpiffeIdError::EmptyTrustDomain),
            ("spiffe:///x", SpiffeIdError::EmptyTrustDomain),
            ("spiffe://user@a/x", SpiffeIdError::TrustDomainCharacter('@')),
            ("spiffe://a:80/x", SpiffeIdError::TrustDomainCharacter(':')),
            ("spiffe://a%41/x", SpiffeIdError::TrustDomainCharacter('%')),
            ("spiffe://a?x", SpiffeIdError::TrustDomainCharacter('?')),
            ("spiffe://a/x?y", SpiffeIdError::SegmentCharacter('?')),
            ("spiffe://a/x#y", SpiffeIdError::SegmentCharacter('#')),
            ("spiffe://a/%41", SpiffeIdError::SegmentCharacter('%')),
            ("spiffe://a/", SpiffeIdError::EmptySegment),
            ("spiffe://a/x/", SpiffeIdError::EmptySegment),
            ("spiffe://a//x", SpiffeIdError::EmptySegment),
            ("spiffe://a/./x", SpiffeIdError::DotSegment),
            ("spiffe://a/x/..", SpiffeIdError::DotSegment),
            (&long, SpiffeIdError::TooLong { max: ID_LENGTH_MAX }),
            (&long_domain, SpiffeIdError::TooLong { max: TRUST_DOMAIN_LENGTH_MAX }),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<SpiffeId>().as_ref(), Err(error), "{text}");
        }
    }

    #[test]
    fn parts_are_read_and_case_is_folded_outside_the_path() {
        let id: SpiffeId = "SPIFFE://Bookinfo.Example/ns/Default/sa/reviews".parse().unwrap();
        assert_eq!(id.as_str(), "spiffe://bookinfo.example/ns/Default/sa/reviews");
        assert_eq!(id.trust_domain(), "bookinfo.example");
        assert_eq!((id.namespace(), id.service_account()), (Some("Default"), Some("reviews")));
        let other: SpiffeId = "spiffe://a/ns/x/sa/y/z".parse().unwrap();
        assert_eq!((other.namespace(), other.service_account()), (None, None));
        let domain: TrustDomain = "a.b".parse().unwrap();
        assert_eq!((domain.id().path(), domain.id().trust_domain().to_owned()), ("", "a.b".to_owned()));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_printing_round_trips(text in ".{0,60}", tail in "[a-z./%A-Z?:@-]{0,40}") {
            for candidate in [text, format!("spiffe://{tail}")] {
                if let Ok(id) = candidate.parse::<SpiffeId>() {
                    prop_assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id.clone());
                    prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), id.as_str());
                }
            }
        }
    }
}
