//! Attributes, decisions and revisions.

use std::time::Duration;

use jiff::Timestamp;
use model::{Action, Attributes, Decision, Revision, Verdict};

use super::{ConvertError, millis, parsed, required};
use crate::policy as wire;

impl From<Revision> for wire::Revision {
    fn from(revision: Revision) -> Self {
        Self { epoch: revision.epoch, number: revision.number }
    }
}

impl From<wire::Revision> for Revision {
    fn from(revision: wire::Revision) -> Self {
        Self { epoch: revision.epoch, number: revision.number }
    }
}

impl From<&Attributes> for wire::Attributes {
    fn from(attributes: &Attributes) -> Self {
        Self {
            principal: attributes.principal.to_string(),
            action: attributes.action.as_str().to_owned(),
            resource: attributes.resource.clone(),
            method: attributes.method.clone(),
            path: attributes.path.clone(),
            host: attributes.host.clone(),
            headers: attributes.headers.clone(),
            query: attributes.query.clone(),
            source_ip: attributes.source_ip.to_string(),
            tls: attributes.tls,
            time_ms: attributes.time.as_millisecond(),
        }
    }
}

impl TryFrom<wire::Attributes> for Attributes {
    type Error = ConvertError;
    fn try_from(attributes: wire::Attributes) -> Result<Self, Self::Error> {
        Ok(Self {
            principal: parsed(&attributes.principal, "principal")?,
            action: Action::from_id(&attributes.action)
                .ok_or_else(|| ConvertError::invalid("action", "it is not `http`, `grpc` or `tcp`"))?,
            resource: attributes.resource,
            method: attributes.method,
            path: attributes.path,
            host: attributes.host,
            headers: attributes.headers,
            query: attributes.query,
            source_ip: parsed(&attributes.source_ip, "source_ip")?,
            tls: attributes.tls,
            time: Timestamp::from_millisecond(attributes.time_ms)
                .map_err(|error| ConvertError::invalid("time_ms", error))?,
        })
    }
}

impl From<Decision> for wire::Decision {
    fn from(decision: Decision) -> Self {
        let verdict = match decision.verdict {
            Verdict::Allow => wire::Verdict::Allow,
            Verdict::Deny => wire::Verdict::Deny,
        };
        Self {
            verdict: verdict.into(),
            reasons: decision.reasons,
            message: decision.message,
            limits: decision.limits,
            rules: decision.rules,
            valid_for_ms: millis(decision.valid_for),
            revision: Some(decision.revision.into()),
            degraded: decision.degraded,
        }
    }
}

impl TryFrom<wire::Decision> for Decision {
    type Error = ConvertError;
    fn try_from(decision: wire::Decision) -> Result<Self, Self::Error> {
        let verdict = match decision.verdict() {
            wire::Verdict::Allow => Verdict::Allow,
            wire::Verdict::Deny => Verdict::Deny,
            wire::Verdict::Unspecified => return Err(ConvertError::Missing("verdict")),
        };
        Ok(Self {
            verdict,
            reasons: decision.reasons,
            message: decision.message,
            limits: decision.limits,
            rules: decision.rules,
            valid_for: Duration::from_millis(decision.valid_for_ms),
            revision: required(decision.revision, "revision")?.into(),
            degraded: decision.degraded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision() -> Decision {
        Decision {
            verdict: Verdict::Deny,
            reasons: vec!["acl.cedar#1".into()],
            message: "why".into(),
            limits: vec!["l".into()],
            rules: vec!["r".into()],
            valid_for: Duration::from_secs(60),
            revision: Revision { epoch: 7, number: 9 },
            degraded: false,
        }
    }

    #[test]
    fn decisions_and_attributes_survive_the_wire() {
        assert_eq!(Decision::try_from(wire::Decision::from(decision())), Ok(decision()));
        let attributes = Attributes {
            principal: "spiffe://a/ns/b/sa/c".parse().unwrap(),
            action: Action::Grpc,
            resource: "s".into(),
            method: "POST".into(),
            path: "/".into(),
            host: "s".into(),
            headers: [("a".to_owned(), "b".to_owned())].into(),
            query: [("q".to_owned(), String::new())].into(),
            source_ip: "::1".parse().unwrap(),
            tls: true,
            time: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
        };
        assert_eq!(Attributes::try_from(wire::Attributes::from(&attributes)), Ok(attributes));
    }

    #[test]
    fn a_message_that_says_nothing_is_never_an_allow() {
        assert_eq!(Decision::try_from(wire::Decision::default()), Err(ConvertError::Missing("verdict")));
        let unknown = wire::Decision { verdict: 17, ..decision().into() };
        assert_eq!(Decision::try_from(unknown), Err(ConvertError::Missing("verdict")));
        let without_revision = wire::Decision { revision: None, ..decision().into() };
        assert_eq!(Decision::try_from(without_revision), Err(ConvertError::Missing("revision")));
        assert!(Attributes::try_from(wire::Attributes::default()).is_err());
    }
}
