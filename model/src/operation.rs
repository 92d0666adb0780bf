//! Operations: what a service can be asked to do, as methods and URI templates, and which one a request is for.
//!
//! policyd reads them from the bundle, and the proxy finds the operation of each request before it asks for a decision.
//! Both use [`Operations::find`], so that a test of a bundle sees what a request will.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest template, in bytes.
pub const TEMPLATE_LENGTH_MAX: usize = 1024;
/// The longest name of an operation or a group, in bytes.
pub const NAME_LENGTH_MAX: usize = 128;
/// The most routes of one service.
pub const ROUTES_MAX: usize = 2000;

/// A path with parameters, such as `/reviews/{id}` or `/files/{*path}`.
///
/// A parameter is a whole segment that is not empty; `{*path}` comes last, and takes in all that is left, if anything is.
/// The rest is the normalised form in which proxies compare paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template(String);

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Longer than [`TEMPLATE_LENGTH_MAX`].
    #[error("it is longer than {TEMPLATE_LENGTH_MAX} bytes")]
    TooLong,
    /// It does not start with `/`.
    #[error("it does not start with `/`")]
    NotAbsolute,
    /// A character that no normalised path holds.
    #[error("no path holds `{0}`: write it percent-encoded, and the query not at all")]
    Character(char),
    /// A `%` that stands for nothing, or for what proxies decode.
    #[error(
        "proxies never see `{0}`: they decode letters, digits, `-`, `.`, `_` and `~`, and write `%` with two digits or capitals"
    )]
    Percent(String),
    /// A segment `.` or `..`.
    #[error("proxies resolve `.` and `..` before they compare")]
    DotSegment,
    /// A brace that makes no parameter.
    #[error(
        "in `{0}` a parameter is not a whole segment: write it as `/{{name}}/`, or `/{{*name}}` at the end"
    )]
    Parameter(String),
}

/// One line of a service's operations: requests with this method and path are for this operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// The HTTP method, as sent.
    pub method: String,
    /// The path.
    pub template: Template,
    /// The operation's name.
    pub operation: String,
}

/// Two routes that some request would fit alike. By their numbers, the second of which can't be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("routes {first} and {second} can't be told apart")]
pub struct Conflict {
    /// The route that was there first.
    pub first: usize,
    /// The route that can't be added.
    pub second: usize,
}

/// The operations of one service, ready to be found.
#[derive(Clone, Default)]
pub struct Operations {
    routes: Vec<Route>,
    /// By method, of which there are few; a value is the number of a route.
    by_method: Vec<(String, matchit::Router<usize>)>,
}

impl Operations {
    /// Sorts `routes`. O(length of all templates).
    ///
    /// # Errors
    /// When two of them can't be told apart.
    pub fn new(routes: Vec<Route>) -> Result<Self, Conflict> {
        let mut by_method: Vec<(String, matchit::Router<usize>)> = Vec::new();
        for (second, route) in routes.iter().enumerate() {
            let inserted = match by_method.iter_mut().find(|(method, _)| *method == route.method) {
                Some((_, router)) => router.insert(route.template.as_str(), second),
                None => {
                    let mut router = matchit::Router::new();
                    let inserted = router.insert(route.template.as_str(), second);
                    by_method.push((route.method.clone(), router));
                    inserted
                }
            };
            if inserted.is_err() {
                let first = routes.iter().take(second).position(|earlier| earlier.excludes(route));
                return Err(Conflict { first: first.unwrap_or(second), second });
            }
        }
        Ok(Self { routes, by_method })
    }

    /// The routes, in the order they were given in.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The operation that a request with `method` and the normalised `path` is for.
    ///
    /// Where several templates fit, a literal segment goes before a parameter. A HEAD request is for the operation of
    /// the GET it stands for, unless HEAD has one of its own there. A path with nothing where its template has a parameter is for none. O(length of path); nothing is allocated
    /// for templates of up to four parameters.
    pub fn find(&self, method: &str, path: &str) -> Option<&str> {
        match self.route(method, path) {
            None if method == "HEAD" => self.route("GET", path),
            found => found,
        }
        .map(|route| route.operation.as_str())
    }

    fn route(&self, method: &str, path: &str) -> Option<&Route> {
        let (_, router) = self.by_method.iter().find(|(routed, _)| routed == method)?;
        let found = router.at(path).ok()?;
        // The router takes `/reviews//replies` for `/reviews/{id}/replies`, which no service does.
        let is_whole = found.params.iter().all(|(_, value)| !value.is_empty());
        self.routes.get(*found.value).filter(|_| is_whole)
    }
}

impl PartialEq for Operations {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

impl Eq for Operations {}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.routes).finish()
    }
}

impl Route {
    /// Whether no router can hold both.
    fn excludes(&self, other: &Self) -> bool {
        let mut both = matchit::Router::new();
        self.method == other.method
            && both.insert(self.template.as_str(), ()).is_ok()
            && both.insert(other.template.as_str(), ()).is_err()
    }
}

impl Template {
    /// The template as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A path that fits, with `value` for each parameter.
    pub fn filled(&self, value: &str) -> String {
        let segments =
            self.0.split('/').map(|segment| if segment.starts_with('{') { value } else { segment });
        segments.collect::<Vec<_>>().join("/")
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > TEMPLATE_LENGTH_MAX {
            return Err(TemplateError::TooLong);
        }
        let mut segments = text.strip_prefix('/').ok_or(TemplateError::NotAbsolute)?.split('/').peekable();
        while let Some(segment) = segments.next() {
            check_segment(segment, segments.peek().is_none())?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.0
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `name` can be the name of an operation or a group: it stands in policies, logs and metrics.
pub fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':');
    !name.is_empty() && name.len() <= NAME_LENGTH_MAX && name.bytes().all(allowed)
}

fn check_segment(segment: &str, is_last: bool) -> Result<(), TemplateError> {
    if segment.contains(['{', '}']) {
        return match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) if is_parameter(name, is_last) => Ok(()),
            _ => Err(TemplateError::Parameter(segment.to_owned())),
        };
    }
    if matches!(segment, "." | "..") {
        return Err(TemplateError::DotSegment);
    }
    if let Some(c) = segment.chars().find(|c| !matches!(c, '!'..='~') || matches!(c, '\\' | '?' | '#')) {
        return Err(TemplateError::Character(c));
    }
    let encoded = segment.match_indices('%').map(|(start, _)| segment.get(start..).unwrap_or_default());
    match encoded.map(|rest| rest.get(..3).unwrap_or(rest)).find(|encoded| !is_kept(encoded)) {
        Some(encoded) => Err(TemplateError::Percent(encoded.to_owned())),
        None => Ok(()),
    }
}

fn is_parameter(name: &str, is_last: bool) -> bool {
    let name = if is_last { name.strip_prefix('*').unwrap_or(name) } else { name };
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether a path keeps this percent-encoding: two digits in capitals, for nothing that a proxy decodes or refuses.
fn is_kept(encoded: &str) -> bool {
    let is_digit = |b: &u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
    let Some(digits) = encoded.strip_prefix('%').filter(|digits| digits.len() == 2) else { return false };
    let byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    digits.as_bytes().iter().all(is_digit)
        && !byte.is_ascii_alphanumeric()
        && !matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b'\\' | 0)
}

#[cfg(test)]
mod tests;
