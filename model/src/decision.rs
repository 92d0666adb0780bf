//! The answer to one request, and how answers combine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::revision::Revision;

/// What a caller is told of a denial who is not told the policy.
pub const UNEXPLAINED: &str = "the request is not allowed";

/// Allow or deny. Deny is a value; a failure to decide is an error, and [`FailMode`] says what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The request may pass.
    Allow,
    /// The request may not pass.
    Deny,
}

/// Where a decision came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A proxy's cache.
    Hit,
    /// policyd.
    Miss,
    /// The fail mode: no decision could be had.
    Degraded,
}

/// What happens to a request for which no decision can be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// It is refused.
    #[default]
    Closed,
    /// It passes.
    Open,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Allow or deny.
    pub verdict: Verdict,
    /// The ids of the policies, or `adapter/<rule>`, that determined the verdict. Empty: no policy permits it.
    pub reasons: Vec<String>,
    /// For the log and the caller: why, in words. Empty when the reasons say it all.
    pub message: String,
    /// The names of the limits that this request is charged to.
    pub limits: Vec<String>,
    /// The names of the report rules that fire.
    pub rules: Vec<String>,
    /// How long this answer may be reused. Zero: never.
    pub valid_for: Duration,
    /// The policy state it was computed from.
    pub revision: Revision,
    /// Something failed on the way (an evaluation error, an adapter): denied to be safe, and never cached.
    pub degraded: bool,
    /// What other policies than those in force would have said. Told, never enforced.
    pub shadows: Vec<Shadow>,
}

/// What the verdict would have been under other policies: with the bundle's `@shadow` policies enforced, or under a
/// candidate bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// Whose verdict it is: `shadow` for the bundle's own shadow policies, else the candidate's name.
    pub name: String,
    /// What the verdict would have been.
    pub verdict: Verdict,
    /// The ids of the policies that would have determined it.
    pub reasons: Vec<String>,
    /// Something failed on the way: it would have been a denial, for that.
    pub degraded: bool,
}

impl Verdict {
    /// The verdict's name in logs, metrics and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Decision {
    /// Why it denies, in words for a caller who may know.
    pub fn denial(&self) -> &str {
        match (self.message.as_str(), self.reasons.as_slice()) {
            ("", []) => "no policy permits this request",
            ("", _) => "a policy forbids this request",
            (message, _) => message,
        }
    }

    /// What determined it, as a header names it.
    pub fn determined_by(&self) -> String {
        if self.reasons.is_empty() { "none".to_owned() } else { self.reasons.join(", ") }
    }
}

impl Source {
    /// The source's name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Degraded => "degraded",
        }
    }
}

/// One part's say in a decision: the policies', or one check adapter's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Allow or deny.
    pub verdict: Verdict,
    /// Who determined it.
    pub reasons: Vec<String>,
    /// Why, in words.
    pub message: String,
    /// How long it holds.
    pub valid_for: Duration,
    /// Something failed on the way.
    pub degraded: bool,
}

impl Opinion {
    /// The opinion that changes nothing when combined: allow, for ever, for no reason.
    pub const fn indifferent() -> Self {
        Self {
            verdict: Verdict::Allow,
            reasons: Vec::new(),
            message: String::new(),
            valid_for: Duration::MAX,
            degraded: false,
        }
    }

    /// Both opinions as one: deny wins, the shortest validity holds, one degraded part degrades the whole.
    ///
    /// The reasons are those of the opinions that determined the verdict.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let valid_for = self.valid_for.min(other.valid_for);
        let degraded = self.degraded || other.degraded;
        let mut winner = match (self.verdict, other.verdict) {
            (Verdict::Deny, Verdict::Allow) => self,
            (Verdict::Allow, Verdict::Deny) => other,
            _ => {
                let mut reasons = self.reasons;
                reasons.extend(other.reasons);
                let message = match (self.message.is_empty(), other.message.is_empty()) {
                    (false, false) => format!("{}; {}", self.message, other.message),
                    (true, _) => other.message,
                    (false, true) => self.message,
                };
                Self { verdict: self.verdict, reasons, message, ..Self::indifferent() }
            }
        };
        winner.valid_for = valid_for;
        winner.degraded = degraded;
        winner
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opinion() -> impl Strategy<Value = Opinion> {
        (any::<bool>(), prop::collection::vec("[a-c]", 0..3), 0u64..5, any::<bool>()).prop_map(
            |(allow, reasons, seconds, degraded)| Opinion {
                verdict: if allow { Verdict::Allow } else { Verdict::Deny },
                reasons,
                message: String::new(),
                valid_for: Duration::from_secs(seconds),
                degraded,
            },
        )
    }

    fn sorted(mut opinion: Opinion) -> Opinion {
        opinion.reasons.sort();
        opinion
    }

    proptest! {
        #[test]
        fn combining_is_commutative_associative_and_has_an_identity(a in opinion(), b in opinion(), c in opinion()) {
            prop_assert_eq!(sorted(a.clone().and(b.clone())), sorted(b.clone().and(a.clone())));
            prop_assert_eq!(
                a.clone().and(b.clone()).and(c.clone()),
                a.clone().and(b.and(c))
            );
            prop_assert_eq!(a.clone().and(Opinion::indifferent()), a.clone());
            prop_assert_eq!(Opinion::indifferent().and(a.clone()), a);
        }

        #[test]
        fn deny_wins_and_the_shortest_validity_holds(a in opinion(), b in opinion()) {
            let both = a.clone().and(b.clone());
            prop_assert_eq!(both.verdict == Verdict::Deny, a.verdict == Verdict::Deny || b.verdict == Verdict::Deny);
            prop_assert_eq!(both.valid_for, a.valid_for.min(b.valid_for));
            prop_assert_eq!(both.degraded, a.degraded || b.degraded);
        }
    }
}
