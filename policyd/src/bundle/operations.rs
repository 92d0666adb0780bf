//! The operations of services: `operations:` of a service in `mesh.yaml`, and the OpenAPI document it names.
//!
//! Each operation is a Cedar action, `Action::"getReview"`, in `Action::"http"` and in its groups.

mod openapi;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use daemon::config_file::span_of;
use daemon::finding::{Finding, Findings};
use model::operation::{Conflict, NAME_LENGTH_MAX, ROUTES_MAX, TemplateError, is_name};
use model::{Action, Operations, Route, Template};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::files::Files;
use super::mesh::{self, Key};

/// The longest HTTP method, in bytes.
const METHOD_LENGTH_MAX: usize = 32;

/// What a service can be asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOperations {
    /// Finds a request's operation.
    pub operations: Operations,
    /// The groups of each operation, by its name.
    pub groups: Actions,
}

/// The names of operations, and the groups that each of them is in.
pub type Actions = BTreeMap<String, BTreeSet<String>>;

/// Something that a service can be asked to do: a method and a path.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Operation")]
pub(super) struct RawOperation {
    /// The HTTP method, in capitals.
    #[schemars(with = "String", example = &"GET")]
    method: Spanned<String>,
    /// The path as proxies see it; `{name}` is a segment, `{*name}` at the end all that is left.
    #[schemars(with = "String", example = &"/reviews/{id}")]
    path: Spanned<String>,
    /// The groups that it is in, which policies may name as actions, too.
    #[serde(default)]
    #[schemars(with = "Vec<String>", example = ["reviews.read"])]
    groups: Vec<Spanned<String>>,
}

/// A text, and where its author wrote it.
#[derive(Clone, Debug)]
struct Written {
    text: String,
    file: String,
    span: Range<usize>,
}

/// An operation as its author wrote it.
#[derive(Clone, Debug)]
struct Declared {
    operation: Written,
    method: Written,
    /// What may stand before the path: the base paths of an OpenAPI document's servers.
    bases: Vec<String>,
    path: Written,
    groups: Vec<Written>,
}

/// Reads the operations of one service, which stand in `mesh.yaml`, `source`, and in the document called `document`.
pub(super) fn read(
    raw: &BTreeMap<Key, RawOperation>,
    document: Option<&Spanned<String>>,
    source: &str,
    files: &Files,
    findings: &mut Findings,
) -> ServiceOperations {
    let written = |text: &Spanned<String>| Written {
        text: text.value.clone(),
        file: mesh::FILE.to_owned(),
        span: span_of(text, source),
    };
    let mut declared: Vec<Declared> = raw
        .iter()
        .map(|(Key(name), raw)| Declared {
            operation: written(name),
            method: written(&raw.method),
            bases: vec![String::new()],
            path: written(&raw.path),
            groups: raw.groups.iter().map(written).collect(),
        })
        .collect();
    if let Some(document) = document {
        declared.extend(openapi::read(&written(document), files, findings));
    }
    Reader { files, source, findings }.service(&declared)
}

/// The operations of all services. Those of one name are one action, whichever service they are of.
pub(super) fn of_all<'s>(services: impl Iterator<Item = &'s ServiceOperations>) -> Actions {
    let mut actions = Actions::new();
    for (operation, groups) in services.flat_map(|service| &service.groups) {
        actions.entry(operation.clone()).or_default().extend(groups.iter().cloned());
    }
    actions
}

/// Checks what was declared, and collects what is wrong with it.
struct Reader<'a> {
    files: &'a Files,
    source: &'a str,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn service(mut self, declared: &[Declared]) -> ServiceOperations {
        if let Some(over) = declared.get(ROUTES_MAX) {
            let message = format!("a service has at most {ROUTES_MAX} operations");
            self.wrong(&over.operation, message, "split the service, or leave out what no policy asks for");
            return ServiceOperations::default();
        }
        let mut groups = Actions::new();
        let mut routes = Vec::new();
        let mut places = Vec::new();
        for declared in declared {
            let is_named = self.is_named(declared);
            let is_method = self.is_method(&declared.method);
            for base in &declared.bases {
                let template = self.template(base, &declared.path).filter(|_| is_named && is_method);
                if let Some(template) = template {
                    let (method, operation) = (declared.method.text.clone(), declared.operation.text.clone());
                    routes.push(Route { method, template, operation });
                    places.push(declared);
                }
            }
            if is_named {
                let known = groups.entry(declared.operation.text.clone()).or_default();
                known.extend(declared.groups.iter().map(|group| group.text.clone()));
            }
        }
        ServiceOperations { operations: self.sorted(routes, places), groups }
    }

    /// Whether the names can stand in policies.
    fn is_named(&mut self, declared: &Declared) -> bool {
        let mut good = true;
        for name in std::iter::once(&declared.operation).chain(&declared.groups) {
            if Action::from_id(&name.text).is_some() {
                let message = format!("`{}` is the action of all such requests", name.text);
                self.wrong(name, message, "choose another name");
                good = false;
            } else if !is_name(&name.text) {
                let message = format!("`{}` can't be the name of an operation or a group", name.text);
                let help =
                    format!("use a-z, A-Z, 0-9, `-`, `_`, `.`, `/` and `:`, up to {NAME_LENGTH_MAX} of them");
                self.wrong(name, message, &help);
                good = false;
            }
        }
        good
    }

    fn is_method(&mut self, method: &Written) -> bool {
        let allowed = |b: u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'_');
        let good = (1..=METHOD_LENGTH_MAX).contains(&method.text.len()) && method.text.bytes().all(allowed);
        if !good {
            let message = format!("`{}` is not an HTTP method", method.text);
            self.wrong(
                method,
                message,
                "write it in capitals, such as `GET`: methods are told apart by case",
            );
        }
        good
    }

    fn template(&mut self, base: &str, path: &Written) -> Option<Template> {
        match format!("{base}{}", path.text).parse::<Template>() {
            Ok(template) => Some(template),
            Err(error) => {
                let message = format!("`{base}{}` is not a path: {error}", path.text);
                let help = match error {
                    TemplateError::Character('?' | '#') => {
                        "leave the query out: a policy reads it as `context.query`"
                    }
                    _ => "write a path as proxies see it, such as `/reviews/{id}` or `/files/{*path}`",
                };
                self.wrong(path, message, help);
                None
            }
        }
    }

    /// The routes, ready to be found; each that can't be told apart from one before is told, and left out.
    fn sorted(&mut self, mut routes: Vec<Route>, mut places: Vec<&Declared>) -> Operations {
        loop {
            let Conflict { first, second } = match Operations::new(routes.clone()) {
                Ok(operations) => return operations,
                Err(conflict) => conflict,
            };
            if let (Some(earlier), Some(later)) = (places.get(first), places.get(second)) {
                let message = format!(
                    "`{}` can't be told apart from `{}`, which has `{} {}` in {}",
                    later.operation.text,
                    earlier.operation.text,
                    earlier.method.text,
                    earlier.path.text,
                    self.place(&earlier.path),
                );
                self.wrong(&later.path, message, "give each operation of a method a path of its own");
            }
            routes.remove(second);
            places.remove(second);
        }
    }

    fn place(&self, written: &Written) -> String {
        let Finding { file, line, .. } =
            Finding::at(&written.file, self.text(written), written.span.clone(), "");
        format!("{file}:{line}")
    }

    fn wrong(&mut self, written: &Written, message: String, help: &str) {
        let finding = Finding::at(&written.file, self.text(written), written.span.clone(), message);
        self.findings.push(finding.with_help(help));
    }

    fn text(&self, written: &Written) -> &str {
        if written.file == mesh::FILE {
            self.source
        } else {
            self.files.text(&written.file).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests;
