//! The fields of instances, and their types.

use std::borrow::Cow;
use std::fmt;

use model::Value;

use crate::config::did_you_mean;

/// The type of a field, as of [`Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// A Cedar `Bool`.
    Bool,
    /// A Cedar `Long`.
    Long,
    /// A Cedar `String`.
    Text,
    /// A Cedar `ipaddr`.
    Ip,
    /// A Cedar `datetime`.
    Time,
}

/// One field that a handler reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: Cow<'static, str>,
    /// The types it may have.
    pub types: &'static [FieldType],
    /// Whether an instance without an expression for it is a mistake.
    pub required: bool,
    /// What it means, in one line.
    pub about: &'static str,
}

/// The fields that instances may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The fields with a meaning of their own.
    pub known: Vec<Field>,
    /// Whether there may be others, of any type.
    pub open: bool,
}

/// One mistake in an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Which field.
    pub field: String,
    /// What is wrong: lower case, without full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl FieldType {
    /// All types, for fields that take any.
    pub const ANY: &'static [Self] = &[Self::Bool, Self::Long, Self::Text, Self::Ip, Self::Time];

    /// The type of a value.
    pub const fn of(value: &Value) -> Self {
        match value {
            Value::Bool(_) => Self::Bool,
            Value::Long(_) => Self::Long,
            // The rest has no form of its own here: adapters get it as text.
            Value::Text(_) | Value::Range(_) | Value::Duration(_) | Value::Decimal(_) | Value::Texts(_) => {
                Self::Text
            }
            Value::Ip(_) => Self::Ip,
            Value::Time(_) => Self::Time,
        }
    }
}

impl Fields {
    /// Any fields at all.
    pub const fn open() -> Self {
        Self { known: Vec::new(), open: true }
    }

    /// Checks the names and types of an instance's fields.
    ///
    /// # Errors
    /// All mistakes at once: fields that are missing, unknown, or of a wrong type.
    pub fn check(&self, given: &[(&str, FieldType)]) -> Result<(), Vec<FieldError>> {
        let wrong = given.iter().filter_map(|(name, given)| self.check_one(name, *given));
        let missing = self.known.iter().filter(|field| field.required).filter_map(|field| {
            let is_given = given.iter().any(|(name, _)| *name == field.name);
            (!is_given).then(|| FieldError {
                field: field.name.to_string(),
                message: format!("the field `{}` is missing", field.name),
                help: Some(field.about.to_owned()),
            })
        });
        let errors: Vec<FieldError> = wrong.chain(missing).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn check_one(&self, name: &str, given: FieldType) -> Option<FieldError> {
        let error = |message, help| Some(FieldError { field: name.to_owned(), message, help });
        match self.known.iter().find(|field| field.name == name) {
            Some(field) if field.types.contains(&given) => None,
            Some(field) => {
                let types: Vec<String> = field.types.iter().map(ToString::to_string).collect();
                error(format!("the field `{name}` is {given}, not {}", types.join(" or ")), None)
            }
            None if self.open => None,
            None => {
                let candidate = did_you_mean(name, self.known.iter().map(|field| field.name.as_ref()));
                error(
                    format!("there is no field `{name}`"),
                    candidate.map(|c| format!("did you mean `{c}`?")),
                )
            }
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "a Bool",
            Self::Long => "a Long",
            Self::Text => "a String",
            Self::Ip => "an ipaddr",
            Self::Time => "a datetime",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_found_at_once() {
        let field =
            |name: &'static str, types, required| Field { name: name.into(), types, required, about: "x" };
        let fields = Fields {
            known: vec![
                field("value", &[FieldType::Text, FieldType::Ip], true),
                field("count", &[FieldType::Long], false),
                field("host", &[FieldType::Text], true),
            ],
            open: false,
        };
        assert_eq!(fields.check(&[("value", FieldType::Ip), ("host", FieldType::Text)]), Ok(()));
        let errors = fields.check(&[("valeu", FieldType::Ip), ("count", FieldType::Bool)]).unwrap_err();
        let said: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "there is no field `valeu`",
                "the field `count` is a Bool, not a Long",
                "the field `value` is missing",
                "the field `host` is missing"
            ]
        );
        assert_eq!(errors[0].help.as_deref(), Some("did you mean `value`?"));
        assert_eq!(Fields::open().check(&[("anything", FieldType::Time)]), Ok(()));
    }
}
