//! Limits and operands.

use std::num::NonZeroU32;
use std::time::Duration;

use model::operand::ResponseName;
use model::{FailMode, Limit, Operand, Rate, Scope};

use super::{ConvertError, converted, millis, required};
use crate::policy as wire;

impl From<FailMode> for wire::FailMode {
    fn from(mode: FailMode) -> Self {
        match mode {
            FailMode::Closed => Self::Closed,
            FailMode::Open => Self::Open,
        }
    }
}

/// An unknown mode is an error of its own: neither open nor closed was meant.
pub(super) fn fail_mode(number: i32) -> Result<FailMode, ConvertError> {
    match wire::FailMode::try_from(number) {
        Ok(wire::FailMode::Closed) => Ok(FailMode::Closed),
        Ok(wire::FailMode::Open) => Ok(FailMode::Open),
        Err(error) => Err(ConvertError::invalid("fail_mode", error)),
    }
}

impl From<&Limit> for wire::Limit {
    fn from(limit: &Limit) -> Self {
        Self {
            name: limit.name.clone(),
            mesh: limit.scope == Scope::Mesh,
            count: limit.rate.count.get(),
            window_ms: millis(limit.rate.window),
            burst: limit.burst.get(),
            key: limit.key.iter().map(wire::Operand::from).collect(),
            fail_mode: wire::FailMode::from(limit.fail_mode).into(),
        }
    }
}

impl TryFrom<wire::Limit> for Limit {
    type Error = ConvertError;
    fn try_from(limit: wire::Limit) -> Result<Self, Self::Error> {
        let count = required(NonZeroU32::new(limit.count), "limit.count")?;
        let burst = required(NonZeroU32::new(limit.burst), "limit.burst")?;
        if limit.window_ms == 0 {
            return Err(ConvertError::Missing("limit.window_ms"));
        }
        Ok(Self {
            name: limit.name,
            scope: if limit.mesh { Scope::Mesh } else { Scope::Local },
            rate: Rate { count, window: Duration::from_millis(limit.window_ms) },
            burst,
            key: converted(limit.key)?,
            fail_mode: fail_mode(limit.fail_mode)?,
        })
    }
}

impl From<&Operand> for wire::Operand {
    fn from(operand: &Operand) -> Self {
        use wire::operand::Operand as Wire;
        let operand = match operand {
            Operand::Principal => Wire::Principal(wire::Empty {}),
            Operand::PrincipalNamespace => Wire::PrincipalNamespace(wire::Empty {}),
            Operand::PrincipalServiceAccount => Wire::PrincipalServiceAccount(wire::Empty {}),
            Operand::Action => Wire::Action(wire::Empty {}),
            Operand::Resource => Wire::Resource(wire::Empty {}),
            Operand::Context(name) => Wire::Context(name.into()),
            Operand::Response(name) => Wire::Response(
                ResponseName::ALL
                    .iter()
                    .find(|(_, n)| n == name)
                    .map(|(text, _)| (*text).to_owned())
                    .unwrap_or_default(),
            ),
            Operand::Literal(value) => Wire::Literal(value.into()),
        };
        Self { operand: Some(operand) }
    }
}

impl TryFrom<wire::Operand> for Operand {
    type Error = ConvertError;
    fn try_from(operand: wire::Operand) -> Result<Self, Self::Error> {
        use wire::operand::Operand as Wire;
        Ok(match required(operand.operand, "operand")? {
            Wire::Principal(_) => Self::Principal,
            Wire::PrincipalNamespace(_) => Self::PrincipalNamespace,
            Wire::PrincipalServiceAccount(_) => Self::PrincipalServiceAccount,
            Wire::Action(_) => Self::Action,
            Wire::Resource(_) => Self::Resource,
            Wire::Context(name) => Self::Context(name.try_into()?),
            Wire::Response(text) => Self::Response(
                ResponseName::ALL
                    .iter()
                    .find(|(name, _)| *name == text)
                    .map(|(_, name)| *name)
                    .ok_or_else(|| ConvertError::invalid("operand.response", format!("no `{text}`")))?,
            ),
            Wire::Literal(value) => Self::Literal(value.try_into()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use model::{Name, Value};

    use super::*;

    #[test]
    fn limits_survive_the_wire_and_empty_ones_are_refused() {
        let limit = Limit {
            name: "l".into(),
            scope: Scope::Mesh,
            rate: "5 per 10s".parse().unwrap(),
            burst: NonZeroU32::MIN,
            key: vec![
                Operand::Principal,
                Operand::PrincipalNamespace,
                Operand::PrincipalServiceAccount,
                Operand::Action,
                Operand::Resource,
                Operand::Context(Name::Header("x".into())),
                Operand::Response(ResponseName::Code),
                Operand::Literal(Value::Long(1)),
            ],
            fail_mode: FailMode::Open,
        };
        assert_eq!(Limit::try_from(wire::Limit::from(&limit)), Ok(limit.clone()));
        let none = wire::Limit { count: 0, ..wire::Limit::from(&limit) };
        assert_eq!(Limit::try_from(none), Err(ConvertError::Missing("limit.count")));
        let unknown_mode = wire::Limit { fail_mode: 9, ..wire::Limit::from(&limit) };
        assert!(Limit::try_from(unknown_mode).is_err());
    }
}
