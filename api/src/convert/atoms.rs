//! Atoms, names and values.

use model::{Atom, AtomSet, Kind, Name, Step, Test, Value};

use super::{ConvertError, converted, parsed, required};
use crate::policy as wire;

impl From<&AtomSet> for wire::AtomSet {
    fn from(set: &AtomSet) -> Self {
        Self { atoms: set.atoms().iter().map(wire::Atom::from).collect(), cacheable: set.is_cacheable() }
    }
}

impl TryFrom<wire::AtomSet> for AtomSet {
    type Error = ConvertError;
    fn try_from(set: wire::AtomSet) -> Result<Self, Self::Error> {
        Ok(Self::new(converted(set.atoms)?, set.cacheable))
    }
}

impl From<&Atom> for wire::Atom {
    fn from(atom: &Atom) -> Self {
        use wire::atom::Test as Wire;
        let test = match &atom.test {
            Test::Value => Wire::Value(wire::Empty {}),
            Test::Present => Wire::Present(wire::Empty {}),
            Test::Equals(value) => Wire::Equals(value.into()),
            Test::OneOf(values) => {
                Wire::OneOf(wire::Values { values: values.iter().map(wire::Value::from).collect() })
            }
            Test::Less(value) => Wire::Less(value.into()),
            Test::LessOrEqual(value) => Wire::LessOrEqual(value.into()),
            Test::Like(pattern) => Wire::Like(wire::Pattern { pieces: pattern.clone().into() }),
            Test::InRange(range) => Wire::InRange(range.to_string()),
            Test::Contains(value) => Wire::Contains(value.into()),
        };
        let steps = atom.steps.iter().map(|step| wire::Step::from(*step)).collect();
        Self { name: Some((&atom.name).into()), test: Some(test), steps }
    }
}

impl TryFrom<wire::Atom> for Atom {
    type Error = ConvertError;
    fn try_from(atom: wire::Atom) -> Result<Self, Self::Error> {
        use wire::atom::Test as Wire;
        let test = match required(atom.test, "atom.test")? {
            Wire::Value(_) => Test::Value,
            Wire::Present(_) => Test::Present,
            Wire::Equals(value) => Test::Equals(value.try_into()?),
            Wire::OneOf(values) => Test::OneOf(converted(values.values)?),
            Wire::Less(value) => Test::Less(value.try_into()?),
            Wire::LessOrEqual(value) => Test::LessOrEqual(value.try_into()?),
            Wire::Like(pattern) => Test::Like(
                pattern.pieces.try_into().map_err(|error| ConvertError::invalid("atom.like", error))?,
            ),
            Wire::InRange(range) => Test::InRange(parsed(&range, "atom.in_range")?),
            Wire::Contains(value) => Test::Contains(value.try_into()?),
        };
        let name = required(atom.name, "atom.name")?.try_into()?;
        Ok(Self { name, steps: converted(atom.steps)?, test })
    }
}

impl From<Step> for wire::Step {
    fn from(step: Step) -> Self {
        use wire::step::Step as Wire;
        let empty = wire::Empty {};
        let step = match step {
            Step::Read(kind) => Wire::Read(wire::Kind::from(kind).into()),
            Step::ToDate => Wire::ToDate(empty),
            Step::ToTime => Wire::ToTime(empty),
            Step::Offset(ms) => Wire::OffsetMs(ms),
            Step::Since(ms) => Wire::SinceMs(ms),
            Step::Until(ms) => Wire::UntilMs(ms),
            Step::ToMilliseconds => Wire::ToMilliseconds(empty),
            Step::ToSeconds => Wire::ToSeconds(empty),
            Step::ToMinutes => Wire::ToMinutes(empty),
            Step::ToHours => Wire::ToHours(empty),
            Step::ToDays => Wire::ToDays(empty),
        };
        Self { step: Some(step) }
    }
}

impl TryFrom<wire::Step> for Step {
    type Error = ConvertError;
    fn try_from(step: wire::Step) -> Result<Self, Self::Error> {
        use wire::step::Step as Wire;
        Ok(match required(step.step, "step")? {
            // A kind that did not exist when this was written is none.
            Wire::Read(kind) => Self::Read(wire::Kind::try_from(kind).unwrap_or_default().try_into()?),
            Wire::ToDate(_) => Self::ToDate,
            Wire::ToTime(_) => Self::ToTime,
            Wire::OffsetMs(ms) => Self::Offset(ms),
            Wire::SinceMs(ms) => Self::Since(ms),
            Wire::UntilMs(ms) => Self::Until(ms),
            Wire::ToMilliseconds(_) => Self::ToMilliseconds,
            Wire::ToSeconds(_) => Self::ToSeconds,
            Wire::ToMinutes(_) => Self::ToMinutes,
            Wire::ToHours(_) => Self::ToHours,
            Wire::ToDays(_) => Self::ToDays,
        })
    }
}

impl From<Kind> for wire::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text,
            Kind::Bool => Self::Bool,
            Kind::Long => Self::Long,
            Kind::Decimal => Self::Decimal,
            Kind::Time => Self::Time,
            Kind::Duration => Self::Duration,
            Kind::Ip => Self::Ip,
            Kind::Texts => Self::Texts,
        }
    }
}

impl TryFrom<wire::Kind> for Kind {
    type Error = ConvertError;
    fn try_from(kind: wire::Kind) -> Result<Self, Self::Error> {
        Ok(match kind {
            wire::Kind::Unspecified => return Err(ConvertError::Missing("step.read")),
            wire::Kind::Text => Self::Text,
            wire::Kind::Bool => Self::Bool,
            wire::Kind::Long => Self::Long,
            wire::Kind::Decimal => Self::Decimal,
            wire::Kind::Time => Self::Time,
            wire::Kind::Duration => Self::Duration,
            wire::Kind::Ip => Self::Ip,
            wire::Kind::Texts => Self::Texts,
        })
    }
}

impl From<&Name> for wire::Name {
    fn from(name: &Name) -> Self {
        use wire::name::Name as Wire;
        let name = match name {
            Name::Method => Wire::Method(wire::Empty {}),
            Name::Path => Wire::Path(wire::Empty {}),
            Name::Host => Wire::Host(wire::Empty {}),
            Name::Header(header) => Wire::Header(header.clone()),
            Name::Query(parameter) => Wire::Query(parameter.clone()),
            Name::Cookie(cookie) => Wire::Cookie(cookie.clone()),
            Name::Claim(claim) => Wire::Claim(claim.clone()),
            Name::Operation => Wire::Operation(wire::Empty {}),
            Name::SourceIp => Wire::SourceIp(wire::Empty {}),
            Name::Tls => Wire::Tls(wire::Empty {}),
            Name::Sni => Wire::Sni(wire::Empty {}),
            Name::DestinationPort => Wire::DestinationPort(wire::Empty {}),
            Name::Time => Wire::Time(wire::Empty {}),
        };
        Self { name: Some(name) }
    }
}

impl TryFrom<wire::Name> for Name {
    type Error = ConvertError;
    fn try_from(name: wire::Name) -> Result<Self, Self::Error> {
        use wire::name::Name as Wire;
        Ok(match required(name.name, "name")? {
            Wire::Method(_) => Self::Method,
            Wire::Path(_) => Self::Path,
            Wire::Host(_) => Self::Host,
            Wire::Header(header) => Self::Header(header),
            Wire::Query(parameter) => Self::Query(parameter),
            Wire::Cookie(cookie) => Self::Cookie(cookie),
            Wire::Claim(claim) => Self::Claim(claim),
            Wire::Operation(_) => Self::Operation,
            Wire::SourceIp(_) => Self::SourceIp,
            Wire::Tls(_) => Self::Tls,
            Wire::Sni(_) => Self::Sni,
            Wire::DestinationPort(_) => Self::DestinationPort,
            Wire::Time(_) => Self::Time,
        })
    }
}

impl From<&Value> for wire::Value {
    fn from(value: &Value) -> Self {
        use wire::value::Value as Wire;
        let value = match value {
            Value::Bool(value) => Wire::Bool(*value),
            Value::Long(value) => Wire::Long(*value),
            Value::Text(value) => Wire::Text(value.clone()),
            Value::Ip(value) => Wire::Ip(value.to_string()),
            Value::Range(value) => Wire::Range(value.to_string()),
            Value::Time(value) => Wire::TimeMs(*value),
            Value::Duration(value) => Wire::DurationMs(*value),
            Value::Decimal(value) => Wire::Decimal(*value),
            Value::Texts(value) => Wire::Texts(wire::Texts { texts: value.iter().cloned().collect() }),
        };
        Self { value: Some(value) }
    }
}

impl TryFrom<wire::Value> for Value {
    type Error = ConvertError;
    fn try_from(value: wire::Value) -> Result<Self, Self::Error> {
        use wire::value::Value as Wire;
        Ok(match required(value.value, "value")? {
            Wire::Bool(value) => Self::Bool(value),
            Wire::Long(value) => Self::Long(value),
            Wire::Text(value) => Self::Text(value),
            Wire::Ip(value) => Self::Ip(parsed(&value, "value.ip")?),
            Wire::Range(value) => Self::Range(parsed(&value, "value.range")?),
            Wire::TimeMs(value) => Self::Time(value),
            Wire::DurationMs(value) => Self::Duration(value),
            Wire::Decimal(value) => Self::Decimal(value),
            Wire::Texts(value) => Self::Texts(value.texts.into_iter().collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_survives_the_wire() {
        let tests = [
            Test::Value,
            Test::Present,
            Test::Equals(Value::Text("a".into())),
            Test::OneOf(vec![Value::Long(1), Value::Bool(true)]),
            Test::Less(Value::Time(7)),
            Test::LessOrEqual(Value::Long(-1)),
            Test::Like(vec!["/a/".to_owned(), String::new()].try_into().unwrap()),
            Test::InRange("10.0.0.0/8".parse().unwrap()),
            Test::Equals(Value::Ip("::1".parse().unwrap())),
            Test::Equals(Value::Range("10.0.0.1/8".parse().unwrap())),
            Test::Less(Value::Duration(-7)),
            Test::LessOrEqual(Value::Decimal(i64::MIN)),
            Test::Equals(Value::Texts(["a".to_owned(), String::new()].into())),
            Test::Contains(Value::Text("a".into())),
        ];
        let names = [
            Name::Method,
            Name::Path,
            Name::Host,
            Name::Header("x".into()),
            Name::Query("q".into()),
            Name::Cookie("c".into()),
            Name::Claim("sub".into()),
            Name::Operation,
            Name::SourceIp,
            Name::Tls,
            Name::Sni,
            Name::DestinationPort,
            Name::Time,
        ];
        for test in tests {
            for name in names.clone() {
                let set = AtomSet::new(vec![Atom::new(name, test.clone())], true);
                assert_eq!(AtomSet::try_from(wire::AtomSet::from(&set)), Ok(set));
            }
        }
    }

    #[test]
    fn every_step_survives_the_wire() {
        let steps = [
            Step::ToDate,
            Step::ToTime,
            Step::Offset(-1),
            Step::Since(2),
            Step::Until(i64::MAX),
            Step::ToMilliseconds,
            Step::ToSeconds,
            Step::ToMinutes,
            Step::ToHours,
            Step::ToDays,
        ];
        for step in steps.into_iter().chain(Kind::ALL.map(Step::Read)) {
            assert_eq!(Step::try_from(wire::Step::from(step)), Ok(step));
        }
        let unknown = wire::Step { step: Some(wire::step::Step::Read(99)) };
        assert_eq!(Step::try_from(unknown), Err(ConvertError::Missing("step.read")));
    }

    #[test]
    fn a_broken_atom_is_refused() {
        let name = Some(wire::Name::from(&Name::Path));
        let like = wire::Atom {
            name: name.clone(),
            test: Some(wire::atom::Test::Like(wire::Pattern { pieces: vec![] })),
            steps: vec![],
        };
        let test = Some(wire::atom::Test::InRange("x".into()));
        let range = wire::Atom { name: name.clone(), test, steps: vec![] };
        assert!(matches!(Atom::try_from(like), Err(ConvertError::Invalid { field: "atom.like", .. })));
        assert!(matches!(Atom::try_from(range), Err(ConvertError::Invalid { field: "atom.in_range", .. })));
        let nothing = wire::Atom { name, test: None, steps: vec![] };
        assert_eq!(Atom::try_from(nothing), Err(ConvertError::Missing("atom.test")));
    }
}
