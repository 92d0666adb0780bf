//! OpenAPI 3.0 and 3.1: of a whole document only what says which operations there are.
//!
//! Read leniently, for the document describes much more than policies need: what is not read here may be anything.

use std::collections::BTreeMap;
use std::ops::Range;

use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings, did_you_mean};
use model::operation::is_name;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Declared, Written};
use crate::author::lint::Lint;
use crate::bundle::files::{self, Files};
use crate::bundle::mesh::Key;

/// The most base paths of one operation.
const SERVERS_MAX: usize = 16;

#[derive(Deserialize)]
struct Document {
    openapi: Option<Spanned<String>>,
    #[serde(default)]
    servers: Vec<Server>,
    #[serde(default)]
    paths: BTreeMap<Key, Item>,
}

#[derive(Deserialize)]
struct Server {
    url: Spanned<String>,
}

/// What stands below a path.
#[derive(Deserialize)]
struct Item {
    #[serde(rename = "$ref")]
    reference: Option<Spanned<String>>,
    servers: Option<Vec<Server>>,
    get: Option<Operation>,
    put: Option<Operation>,
    post: Option<Operation>,
    delete: Option<Operation>,
    options: Option<Operation>,
    head: Option<Operation>,
    patch: Option<Operation>,
    trace: Option<Operation>,
}

#[derive(Deserialize)]
struct Operation {
    #[serde(rename = "operationId")]
    id: Option<Spanned<String>>,
    #[serde(default)]
    tags: Vec<Spanned<String>>,
    servers: Option<Vec<Server>>,
}

/// Reads the document whose name in the bundle is `name`. What is wrong with it, or left out, is added to `findings`.
pub(super) fn read(name: &Written, files: &Files, findings: &mut Findings) -> Vec<Declared> {
    let Some(source) = files.text(&name.text) else {
        let finding = Finding::at(
            &name.file,
            files.text(&name.file).unwrap_or_default(),
            name.span.clone(),
            format!("the bundle has no file `{}`", name.text),
        );
        let documents = files.texts.keys().map(String::as_str).filter(|file| !files::is_known(file));
        findings.push(match did_you_mean(&name.text, documents) {
            Some(near) => finding.with_help(format!("did you mean `{near}`?")),
            None => finding
                .with_help("put the document into the bundle's folder; its name ends in `.yaml` or `.json`"),
        });
        return Vec::new();
    };
    findings.add_source(name.text.as_str(), source);
    let document: Document = match config_file::parse(&name.text, source) {
        Ok(document) => document,
        Err(wrong) => {
            findings.merge(wrong);
            return Vec::new();
        }
    };
    let mut reader = Reader { file: &name.text, source, findings };
    reader.document(&document)
}

struct Reader<'a> {
    file: &'a str,
    source: &'a str,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn document(&mut self, document: &Document) -> Vec<Declared> {
        match &document.openapi {
            Some(version) if version.value.starts_with("3.") => {}
            Some(version) => {
                let message = format!("this is OpenAPI {}", version.value);
                self.push(span_of(version, self.source), message, "write it as OpenAPI 3.0 or 3.1");
            }
            None => {
                let message =
                    format!("`{}` is no OpenAPI document: it does not begin with `openapi: 3.…`", self.file);
                self.findings
                    .push(Finding::in_file(self.file, message).with_help("write it as OpenAPI 3.0 or 3.1"));
            }
        }
        let of_all = self.bases(&document.servers);
        let mut declared = Vec::new();
        for (Key(path), item) in &document.paths {
            // `x-…` is whatever its author wants it to be.
            if path.value.starts_with("x-") {
                continue;
            }
            if let Some(reference) = &item.reference {
                let message = format!("`{}` refers to another place, which is not read", path.value);
                self.push(span_of(reference, self.source), message, "write its operations here");
            }
            for (method, operation) in item.operations() {
                let own =
                    operation.servers.as_ref().or(item.servers.as_ref()).map(|servers| self.bases(servers));
                let bases = own.unwrap_or_else(|| of_all.clone());
                declared.extend(self.operation(method, bases, path, operation));
            }
        }
        declared
    }

    fn operation(
        &mut self,
        method: &str,
        bases: Vec<String>,
        path: &Spanned<String>,
        operation: &Operation,
    ) -> Option<Declared> {
        let written = |text: String, place: &Spanned<String>| Written {
            text,
            file: self.file.to_owned(),
            span: span_of(place, self.source),
        };
        let Some(id) = &operation.id else {
            let message = format!("`{method} {}` has no name: no operation is made of it", path.value);
            let finding = Finding::at(self.file, self.source, span_of(path, self.source), message);
            let finding = finding.with_help("give it an `operationId`").as_warning();
            self.findings.push(finding.with_lint(Lint::UnnamedOperation.name()));
            return None;
        };
        let declared = Declared {
            operation: written(id.value.clone(), id),
            method: written(method.to_owned(), path),
            bases,
            path: written(path.value.clone(), path),
            groups: operation
                .tags
                .iter()
                .filter(|tag| is_name(&tag.value))
                .map(|tag| written(tag.value.clone(), tag))
                .collect(),
        };
        for tag in operation.tags.iter().filter(|tag| !is_name(&tag.value)) {
            let message = format!("the tag `{}` can't be the name of a group: it makes none", tag.value);
            let finding = Finding::at(self.file, self.source, span_of(tag, self.source), message);
            let help = "use a-z, A-Z, 0-9, `-`, `_`, `.`, `/` and `:`, if policies shall name it";
            self.findings.push(finding.with_help(help).as_warning().with_lint(Lint::UnusableTag.name()));
        }
        Some(declared)
    }

    /// The paths of servers, without the slash at the end, each once. Without servers there is one, and it is empty.
    fn bases(&mut self, servers: &[Server]) -> Vec<String> {
        let mut bases = Vec::new();
        if let Some(over) = servers.get(SERVERS_MAX) {
            let message = format!("there are more than {SERVERS_MAX} servers");
            self.push(span_of(&over.url, self.source), message, "leave out those that have the same path");
        }
        for server in servers.iter().take(SERVERS_MAX) {
            let url = &server.url.value;
            let path = match url.split_once("://") {
                Some((_, rest)) => rest.find('/').and_then(|start| rest.get(start..)).unwrap_or_default(),
                None => url.as_str(),
            };
            let base = path.trim_end_matches('/').to_owned();
            if base.contains('{') || !(base.is_empty() || base.starts_with('/')) {
                let message = format!("`{url}` does not say which path requests begin with");
                self.push(
                    span_of(&server.url, self.source),
                    message,
                    "write the path of the server, such as `/v1`",
                );
            } else if !bases.contains(&base) {
                bases.push(base);
            }
        }
        if servers.is_empty() {
            bases.push(String::new());
        }
        bases
    }

    fn push(&mut self, span: Range<usize>, message: String, help: &str) {
        self.findings.push(Finding::at(self.file, self.source, span, message).with_help(help));
    }
}

impl Item {
    fn operations(&self) -> impl Iterator<Item = (&'static str, &Operation)> {
        let all = [
            ("GET", &self.get),
            ("PUT", &self.put),
            ("POST", &self.post),
            ("DELETE", &self.delete),
            ("OPTIONS", &self.options),
            ("HEAD", &self.head),
            ("PATCH", &self.patch),
            ("TRACE", &self.trace),
        ];
        all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
    }
}
