//! Limits and operands.

use std::num::NonZeroU64;
use std::time::Duration;

use model::limit::{Cost, Period, Refusal};
use model::operand::ResponseName;
use model::{Allowance, FailMode, Limit, Mode, OnStoreFailure, Operand, Rate};

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
        let overrides = limit.overrides.iter();
        Self {
            name: limit.name.clone(),
            mode: wire::Mode::from(limit.mode).into(),
            allowance: Some((&limit.allowance).into()),
            key: limit.key.iter().map(wire::Operand::from).collect(),
            overrides: overrides.map(|(key, allowance)| (key.clone(), allowance.into())).collect(),
            cost: Some((&limit.cost).into()),
            on_store_failure: wire::OnStoreFailure::from(limit.on_store_failure).into(),
            shadow: limit.shadow,
            refusal: Some((&limit.refusal).into()),
        }
    }
}

impl TryFrom<wire::Limit> for Limit {
    type Error = ConvertError;
    fn try_from(limit: wire::Limit) -> Result<Self, Self::Error> {
        let other = |(key, allowance): (String, wire::Allowance)| Ok((key, allowance.try_into()?));
        Ok(Self {
            mode: mode(limit.mode)?,
            allowance: required(limit.allowance, "limit.allowance")?.try_into()?,
            key: converted(limit.key)?,
            overrides: limit.overrides.into_iter().map(other).collect::<Result<_, ConvertError>>()?,
            cost: limit.cost.map(Cost::try_from).transpose()?.unwrap_or_default(),
            on_store_failure: on_store_failure(limit.on_store_failure)?,
            shadow: limit.shadow,
            refusal: limit.refusal.map(Refusal::try_from).transpose()?.unwrap_or_default(),
            name: limit.name,
        })
    }
}

impl From<Mode> for wire::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Local => Self::Local,
            Mode::Leased => Self::Leased,
            Mode::Exact => Self::Exact,
        }
    }
}

fn mode(number: i32) -> Result<Mode, ConvertError> {
    match wire::Mode::try_from(number) {
        Ok(wire::Mode::Local) => Ok(Mode::Local),
        Ok(wire::Mode::Leased) => Ok(Mode::Leased),
        Ok(wire::Mode::Exact) => Ok(Mode::Exact),
        Err(error) => Err(ConvertError::invalid("limit.mode", error)),
    }
}

impl From<OnStoreFailure> for wire::OnStoreFailure {
    fn from(mode: OnStoreFailure) -> Self {
        match mode {
            OnStoreFailure::Closed => Self::Closed,
            OnStoreFailure::Open => Self::Open,
            OnStoreFailure::SafeShare => Self::SafeShare,
        }
    }
}

fn on_store_failure(number: i32) -> Result<OnStoreFailure, ConvertError> {
    match wire::OnStoreFailure::try_from(number) {
        Ok(wire::OnStoreFailure::Closed) => Ok(OnStoreFailure::Closed),
        Ok(wire::OnStoreFailure::Open) => Ok(OnStoreFailure::Open),
        Ok(wire::OnStoreFailure::SafeShare) => Ok(OnStoreFailure::SafeShare),
        Err(error) => Err(ConvertError::invalid("limit.on_store_failure", error)),
    }
}

impl From<&Allowance> for wire::Allowance {
    fn from(allowance: &Allowance) -> Self {
        use wire::allowance::Allowance as Wire;
        let allowance = match allowance {
            Allowance::Rate { rate, burst } => Wire::Rate(wire::Rate {
                count: rate.count.get(),
                window_ms: millis(rate.window),
                burst: burst.get(),
            }),
            Allowance::Rolling(rate) => {
                Wire::Rolling(wire::Rolling { count: rate.count.get(), window_ms: millis(rate.window) })
            }
            Allowance::Calendar { count, period, zone } => Wire::Calendar(wire::Calendar {
                count: count.get(),
                period: period.as_str().to_owned(),
                zone: zone.clone(),
            }),
            Allowance::Concurrency(count) => Wire::Concurrency(count.get()),
        };
        Self { allowance: Some(allowance) }
    }
}

impl TryFrom<wire::Allowance> for Allowance {
    type Error = ConvertError;
    fn try_from(allowance: wire::Allowance) -> Result<Self, Self::Error> {
        use wire::allowance::Allowance as Wire;
        Ok(match required(allowance.allowance, "allowance")? {
            Wire::Rate(wire::Rate { count, window_ms, burst }) => Self::Rate {
                rate: rate(count, window_ms)?,
                burst: required(NonZeroU64::new(burst), "rate.burst")?,
            },
            Wire::Rolling(wire::Rolling { count, window_ms }) => Self::Rolling(rate(count, window_ms)?),
            Wire::Calendar(wire::Calendar { count, period, zone }) => {
                let known = Period::ALL.into_iter().find(|known| known.as_str() == period);
                let unknown = || ConvertError::invalid("calendar.period", format!("no `{period}`"));
                let count = required(NonZeroU64::new(count), "calendar.count")?;
                Self::Calendar { count, period: known.ok_or_else(unknown)?, zone }
            }
            Wire::Concurrency(count) => {
                Self::Concurrency(required(NonZeroU64::new(count), "allowance.concurrency")?)
            }
        })
    }
}

fn rate(count: u64, window_ms: u64) -> Result<Rate, ConvertError> {
    let count = required(NonZeroU64::new(count), "rate.count")?;
    let window = required(NonZeroU64::new(window_ms), "rate.window_ms")?;
    Ok(Rate { count, window: Duration::from_millis(window.get()) })
}

impl From<&Cost> for wire::Cost {
    fn from(cost: &Cost) -> Self {
        use wire::cost::Cost as Wire;
        let cost = match cost {
            Cost::Fixed(amount) => Wire::Fixed(*amount),
            Cost::Attribute(operand) => Wire::Attribute(operand.into()),
            Cost::RequestBytes => Wire::RequestBytes(wire::Empty {}),
            Cost::ResponseBytes => Wire::ResponseBytes(wire::Empty {}),
            Cost::Bytes => Wire::Bytes(wire::Empty {}),
        };
        Self { cost: Some(cost) }
    }
}

impl TryFrom<wire::Cost> for Cost {
    type Error = ConvertError;
    fn try_from(cost: wire::Cost) -> Result<Self, Self::Error> {
        use wire::cost::Cost as Wire;
        Ok(match required(cost.cost, "cost")? {
            Wire::Fixed(amount) => Self::Fixed(amount),
            Wire::Attribute(operand) => Self::Attribute(operand.try_into()?),
            Wire::RequestBytes(_) => Self::RequestBytes,
            Wire::ResponseBytes(_) => Self::ResponseBytes,
            Wire::Bytes(_) => Self::Bytes,
        })
    }
}

impl From<&Refusal> for wire::Refusal {
    fn from(refusal: &Refusal) -> Self {
        let header =
            |(name, value): &(String, String)| wire::Header { name: name.clone(), value: value.clone() };
        Self {
            status: refusal.status.map_or(0, u32::from),
            headers: refusal.headers.iter().map(header).collect(),
            body: refusal.body.clone(),
        }
    }
}

impl TryFrom<wire::Refusal> for Refusal {
    type Error = ConvertError;
    fn try_from(refusal: wire::Refusal) -> Result<Self, Self::Error> {
        let status = u16::try_from(refusal.status)
            .ok()
            .filter(|status| *status == 0 || (400..600).contains(status))
            .ok_or_else(|| ConvertError::invalid("refusal.status", refusal.status.to_string()))?;
        Ok(Self {
            status: (status != 0).then_some(status),
            headers: refusal.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            body: refusal.body,
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
        let count = |count| NonZeroU64::new(count).unwrap();
        let limit = Limit {
            name: "l".into(),
            allowance: Allowance::Rate { rate: "5 per 10s".parse().unwrap(), burst: count(7) },
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
            overrides: [
                ("s1:a".to_owned(), Allowance::Rolling("3/s".parse().unwrap())),
                (
                    "s1:b".to_owned(),
                    Allowance::Calendar { count: count(9), period: Period::Week, zone: "Asia/Tokyo".into() },
                ),
                ("s1:c".to_owned(), Allowance::Concurrency(count(4))),
            ]
            .into(),
            cost: Cost::Attribute(Operand::Context(Name::Header("x-cost".into()))),
            mode: Mode::Leased,
            on_store_failure: OnStoreFailure::SafeShare,
            shadow: true,
            refusal: Refusal {
                status: Some(503),
                headers: vec![("x".into(), "y".into())],
                body: Some("slow down".into()),
            },
        };
        assert_eq!(Limit::try_from(wire::Limit::from(&limit)), Ok(limit.clone()));
        for cost in [Cost::Fixed(3), Cost::RequestBytes, Cost::ResponseBytes, Cost::Bytes] {
            let limit = Limit { cost, ..limit.clone() };
            assert_eq!(Limit::try_from(wire::Limit::from(&limit)), Ok(limit.clone()));
        }
        let none = wire::Limit { allowance: None, ..wire::Limit::from(&limit) };
        assert_eq!(Limit::try_from(none), Err(ConvertError::Missing("limit.allowance")));
        let unknown_mode = wire::Limit { mode: 9, ..wire::Limit::from(&limit) };
        assert!(Limit::try_from(unknown_mode).is_err());
        let zero = wire::allowance::Allowance::Concurrency(0);
        let zero = wire::Allowance { allowance: Some(zero) };
        let zero = wire::Limit { allowance: Some(zero), ..wire::Limit::from(&limit) };
        assert_eq!(Limit::try_from(zero), Err(ConvertError::Missing("allowance.concurrency")));
        let success = wire::Refusal { status: 200, ..wire::Refusal::default() };
        assert!(Refusal::try_from(success).is_err());
    }
}
