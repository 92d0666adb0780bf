//! Attributes, decisions and revisions.

use std::time::Duration;

use jiff::Timestamp;
use model::{Action, Attributes, Decision, Revision, Shadow, Verdict};

use super::{ConvertError, converted, millis, parsed, required};
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
            cookies: attributes.cookies.clone(),
            claims: attributes.claims.clone(),
            operation: attributes.operation.clone(),
            sni: attributes.sni.clone(),
            destination_port: attributes.destination_port.into(),
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
            cookies: attributes.cookies,
            claims: attributes.claims,
            operation: attributes.operation,
            sni: attributes.sni,
            destination_port: u16::try_from(attributes.destination_port)
                .map_err(|error| ConvertError::invalid("destination_port", error))?,
        })
    }
}

impl From<Verdict> for wire::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Deny => Self::Deny,
        }
    }
}

impl TryFrom<wire::Verdict> for Verdict {
    type Error = ConvertError;
    fn try_from(verdict: wire::Verdict) -> Result<Self, Self::Error> {
        match verdict {
            wire::Verdict::Allow => Ok(Self::Allow),
            wire::Verdict::Deny => Ok(Self::Deny),
            wire::Verdict::Unspecified => Err(ConvertError::Missing("verdict")),
        }
    }
}

impl From<Shadow> for wire::Shadow {
    fn from(shadow: Shadow) -> Self {
        Self {
            name: shadow.name,
            verdict: wire::Verdict::from(shadow.verdict).into(),
            reasons: shadow.reasons,
            degraded: shadow.degraded,
        }
    }
}

impl TryFrom<wire::Shadow> for Shadow {
    type Error = ConvertError;
    fn try_from(shadow: wire::Shadow) -> Result<Self, Self::Error> {
        Ok(Self {
            verdict: shadow.verdict().try_into()?,
            name: shadow.name,
            reasons: shadow.reasons,
            degraded: shadow.degraded,
        })
    }
}

impl From<Decision> for wire::Decision {
    fn from(decision: Decision) -> Self {
        Self {
            verdict: wire::Verdict::from(decision.verdict).into(),
            reasons: decision.reasons,
            message: decision.message,
            limits: decision.limits,
            rules: decision.rules,
            valid_for_ms: millis(decision.valid_for),
            revision: Some(decision.revision.into()),
            degraded: decision.degraded,
            shadows: decision.shadows.into_iter().map(wire::Shadow::from).collect(),
        }
    }
}

impl TryFrom<wire::Decision> for Decision {
    type Error = ConvertError;
    fn try_from(decision: wire::Decision) -> Result<Self, Self::Error> {
        Ok(Self {
            verdict: decision.verdict().try_into()?,
            reasons: decision.reasons,
            message: decision.message,
            limits: decision.limits,
            rules: decision.rules,
            valid_for: Duration::from_millis(decision.valid_for_ms),
            revision: required(decision.revision, "revision")?.into(),
            degraded: decision.degraded,
            shadows: converted(decision.shadows)?,
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
            shadows: vec![Shadow {
                name: "candidate".into(),
                verdict: Verdict::Allow,
                reasons: vec!["acl.cedar#2".into()],
                degraded: true,
            }],
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
            cookies: [("c".to_owned(), "d".to_owned())].into(),
            claims: [("sub".to_owned(), "e".to_owned())].into(),
            operation: Some("getReview".into()),
            source_ip: "::1".parse().unwrap(),
            tls: true,
            sni: Some("db.example".into()),
            destination_port: 5432,
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
