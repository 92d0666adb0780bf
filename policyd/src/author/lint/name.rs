//! The names of lints, and `@allow("…")`, by which a policy's author accepts what they find in it. `allow: […]` of a service
//! in `mesh.yaml` does the same for what is found in that service.

use daemon::finding::did_you_mean;

use super::source::{Report, Source};

/// The annotation that accepts findings: names of lints, with commas between them.
pub const ALLOW: &str = "allow";

/// A lint. Its name stands in findings and in `@allow`, and stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lint {
    /// Something is named that the bundle doesn't have.
    UnknownEntity,
    /// A scope asks for members of what has none.
    EmptyGroup,
    /// A scope for which the schema has no action.
    InapplicableScope,
    /// An action that the service can't be asked for.
    UnmetAction,
    /// A condition that no request meets.
    ImpossibleCondition,
    /// A condition that every request meets.
    AlwaysTrue,
    /// A `permit` whose requests a `forbid` denies, all of them.
    CoveredByForbid,
    /// A policy that says again what a wider one says.
    RedundantPolicy,
    /// A policy that says what another one says.
    DuplicatePolicy,
    /// Text that looks like other text.
    ConfusableText,
    /// Two names that are one but for `-` and `_`.
    SimilarNames,
    /// A `*` within a path matches more than one segment.
    WildcardCrossesSlash,
    /// A path pattern that matches what only starts or ends alike.
    UnanchoredPattern,
    /// A path or host that no request has.
    UnmatchableText,
    /// A path with `//`, which is not merged.
    DoubledSlash,
    /// A `like` without a wildcard.
    LikeWithoutWildcard,
    /// A service that lets every request pass.
    UnprotectedService,
    /// A service that takes callers without a certificate.
    PlaintextService,
    /// An operation of an OpenAPI document that has no name.
    UnnamedOperation,
    /// A tag of an OpenAPI document that can't be the name of a group.
    UnusableTag,
    /// A service that takes tokens that are meant for anybody.
    AnyAudience,
    /// `@allow` or `allow:` with a name that no lint has.
    UnknownLint,
}

impl Lint {
    /// Every lint and its name.
    pub const ALL: [(Self, &'static str); 22] = [
        (Self::UnknownEntity, "unknown-entity"),
        (Self::EmptyGroup, "empty-group"),
        (Self::InapplicableScope, "inapplicable-scope"),
        (Self::UnmetAction, "unmet-action"),
        (Self::ImpossibleCondition, "impossible-condition"),
        (Self::AlwaysTrue, "always-true"),
        (Self::CoveredByForbid, "covered-by-forbid"),
        (Self::RedundantPolicy, "redundant-policy"),
        (Self::DuplicatePolicy, "duplicate-policy"),
        (Self::ConfusableText, "confusable-text"),
        (Self::SimilarNames, "similar-names"),
        (Self::WildcardCrossesSlash, "wildcard-crosses-slash"),
        (Self::UnanchoredPattern, "unanchored-pattern"),
        (Self::UnmatchableText, "unmatchable-text"),
        (Self::DoubledSlash, "doubled-slash"),
        (Self::LikeWithoutWildcard, "like-without-wildcard"),
        (Self::UnprotectedService, "unprotected-service"),
        (Self::PlaintextService, "plaintext-service"),
        (Self::UnnamedOperation, "unnamed-operation"),
        (Self::UnusableTag, "unusable-tag"),
        (Self::AnyAudience, "any-audience"),
        (Self::UnknownLint, "unknown-lint"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(lint, _)| *lint == self).map_or("", |(_, name)| name)
    }
}

/// Whether `allowed`, the text of a policy's `@allow`, accepts what `lint` finds in it.
pub fn accepts(allowed: Option<&str>, lint: Lint) -> bool {
    allowed.is_some_and(|text| named(text).any(|name| name == lint.name()))
}

/// Tells each name in an `@allow` that no lint has.
pub(super) fn check(policies: &[Source<'_>], report: &mut Report) {
    for policy in policies {
        let Some((text, span)) = policy.annotation(ALLOW) else { continue };
        for (message, help) in named(text).filter_map(unknown) {
            report.add(policy, Lint::UnknownLint, span.clone(), message, help);
        }
    }
}

/// What is wrong with `name` if no lint has it, and what to do about it.
pub(crate) fn unknown(name: &str) -> Option<(String, String)> {
    let known = || Lint::ALL.into_iter().map(|(_, name)| name);
    if known().any(|known| known == name) {
        return None;
    }
    let help = match did_you_mean(name, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "the name of a lint stands in brackets in its finding".to_owned(),
    };
    Some((format!("there is no lint `{name}`"), help))
}

fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}
