//! Between wire and model types.
//!
//! To the wire is `From`; from the wire is `TryFrom`, since a peer may send anything.

mod atoms;
mod config;
mod decision;
mod ext_authz;
mod limits;
mod tokens;

/// Why a message from the wire was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field that the contract demands is not there.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A field's value is not one the contract allows.
    #[error("the field `{field}` is not valid: {why}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// What is wrong with its value.
        why: String,
    },
}

impl ConvertError {
    fn invalid(field: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Invalid { field, why: why.to_string() }
    }
}

fn required<T>(value: Option<T>, field: &'static str) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing(field))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
    field: &'static str,
) -> Result<T, ConvertError> {
    text.parse().map_err(|error: T::Err| ConvertError::invalid(field, error))
}

fn converted<T: TryFrom<U, Error = ConvertError>, U>(values: Vec<U>) -> Result<Vec<T>, ConvertError> {
    values.into_iter().map(T::try_from).collect()
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
