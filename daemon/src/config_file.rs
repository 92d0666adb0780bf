//! YAML files, whose mistakes become [`Findings`] with file, line, column and caret.
//!
//! Types for such files derive `Deserialize` with `deny_unknown_fields`. A value that is checked further after
//! parsing is a `serde_saphyr::Spanned<T>`: [`span_of`] tells where it stood.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::{Budget, Error, Location, MessageFormatter, Options, Spanned, UserMessageFormatter};

use crate::finding::{Finding, Findings, did_you_mean};

/// The largest file accepted, in bytes.
pub const FILE_SIZE_MAX: usize = 4 * 1024 * 1024;
/// The deepest nesting of lists and mappings accepted.
pub const DEPTH_MAX: usize = 32;
/// The most values one file may hold.
pub const VALUES_MAX: usize = 500_000;
/// The most aliases (`*name`) one file may hold; each repeats what its anchor stands for.
pub const ALIASES_MAX: usize = 1000;

/// Reads and parses the YAML file at `path`.
///
/// # Errors
/// When the file can't be read, is larger than [`FILE_SIZE_MAX`], or is not a `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Findings> {
    let name = path.display().to_string();
    parse(&name, &read(path, &name)?)
}

/// Reads the file at `path`, which its author calls `file_name`.
///
/// # Errors
/// When the file can't be read, is larger than [`FILE_SIZE_MAX`], or is not UTF-8.
pub fn read(path: &Path, file_name: &str) -> Result<String, Findings> {
    let fail = |message: String| Findings::from(Finding::in_file(file_name, message));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_SIZE_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| fail(format!("the file can't be read: {error}")))?;
    if bytes.len() > FILE_SIZE_MAX {
        return Err(fail(too_large(FILE_SIZE_MAX)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count();
        fail(format!("the file is not UTF-8 text: line {} holds other bytes", line + 1))
    })
}

/// Parses YAML that was read from the file called `file_name`.
///
/// # Errors
/// When `source` is larger than [`FILE_SIZE_MAX`], or is not a `T`.
pub fn parse<T: DeserializeOwned>(file_name: &str, source: &str) -> Result<T, Findings> {
    parse_up_to(file_name, source, FILE_SIZE_MAX, VALUES_MAX)
}

/// The same, for a file that may be large: up to `size_max` bytes and `values_max` values.
///
/// # Errors
/// When `source` is larger, or is not a `T`.
pub fn parse_up_to<T: DeserializeOwned>(
    file_name: &str,
    source: &str,
    size_max: usize,
    values_max: usize,
) -> Result<T, Findings> {
    if source.len() > size_max {
        return Err(Finding::in_file(file_name, too_large(size_max)).into());
    }
    serde_saphyr::from_str_with_options(source, options(values_max))
        .map_err(|error| Findings::one(finding(file_name, source, error.without_snippet()), source))
}

/// Which bytes of `source`, the file it was parsed from, `value` stands at: the place to report it at.
///
/// A value that comes from an alias stands where the alias does.
pub fn span_of<T>(value: &Spanned<T>, source: &str) -> Range<usize> {
    let place = if value.referenced == Location::UNKNOWN { value.defined } else { value.referenced };
    byte_span(place, source)
}

fn finding(file_name: &str, source: &str, error: &Error) -> Finding {
    let span = error.location().map_or(0..0, |place| byte_span(place, source));
    let message = match error {
        Error::InvalidScalar { ty, .. } => {
            format!("`{}` is not {}", source.get(span.clone()).unwrap_or_default(), in_words(ty))
        }
        Error::InvalidBooleanStrict { .. } => "a boolean is written `true` or `false`".to_owned(),
        Error::MultipleDocuments { .. } => "a second document starts here, but a file holds one".to_owned(),
        Error::SerdeUnknownField { field, .. } => format!("unknown field `{field}`"),
        Error::SerdeUnknownVariant { variant, .. } => format!("unknown value `{variant}`"),
        Error::SerdeMissingField { field, .. } => format!("the field `{field}` is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` is written twice"),
        Error::Eof { .. } => "the file is empty, or ends too early".to_owned(),
        Error::Budget { breach, .. } => format!("the file is too complex: {breach:?}"),
        other => UserMessageFormatter.format_message(other).into_owned(),
    };
    let finding = Finding::at(file_name, source, span, message);
    match help(error) {
        Some(help) => finding.with_help(help),
        None => finding,
    }
}

fn help(error: &Error) -> Option<String> {
    let (given, expected) = match error {
        Error::SerdeUnknownField { field, expected, .. } => (field, expected),
        Error::SerdeUnknownVariant { variant, expected, .. } => (variant, expected),
        _ => return None,
    };
    if let Some(candidate) = did_you_mean(given, expected.iter().copied()) {
        return Some(format!("did you mean `{candidate}`?"));
    }
    let quoted: Vec<String> = expected.iter().map(|name| format!("`{name}`")).collect();
    (!quoted.is_empty()).then(|| format!("it is one of {}", quoted.join(", ")))
}

/// The Rust type that serde_saphyr names in an error, for authors of YAML.
fn in_words(ty: &str) -> String {
    let max = match ty {
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        "u64" | "usize" => u64::MAX,
        "i8" | "i16" | "i32" | "i64" | "isize" => return "a whole number in range".to_owned(),
        "f32" | "f64" => return "a number".to_owned(),
        other => return format!("a valid {other}"),
    };
    format!("a whole number from 0 to {max}")
}

fn byte_span(place: Location, source: &str) -> Range<usize> {
    let span = place.span();
    let bytes = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok()).unwrap_or_default();
    let start = bytes(span.byte_offset());
    let end = start.saturating_add(bytes(span.byte_len()));
    // A plain value's span may reach to the next line; its author means the text.
    source.get(start..end).map_or(start..start, |text| start..start + text.trim_end().len())
}

fn options(values_max: usize) -> Options {
    let mut budget = Budget::default();
    budget.max_depth = DEPTH_MAX;
    budget.flow_nesting_limit = DEPTH_MAX;
    budget.max_nodes = values_max;
    budget.max_events = 2 * values_max;
    budget.max_aliases = ALIASES_MAX;
    budget.max_anchors = ALIASES_MAX;
    // The parser itself refuses the second one, with its place.
    budget.max_documents = 2;
    let mut options = Options::default();
    options.budget = Some(budget);
    // `no` is a country and `on` a key of some files: only `true` and `false` are booleans.
    options.strict_booleans = true;
    options.with_snippet = false;
    options
}

fn too_large(size_max: usize) -> String {
    format!("the file is larger than {} MiB", size_max / 1024 / 1024)
}

#[cfg(test)]
mod tests;
