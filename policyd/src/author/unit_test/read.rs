//! `tests/*.yaml`, and requests in files of their own: from YAML to values that fit the bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings, Lines};
use model::{Action, Attributes, Verdict};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::request_text::{Mistake, Part, RequestText, near};
use super::{Expected, UnitTest};
use crate::author::yaml_schema::one_of;
use crate::bundle::{Bundle, limits, rules};

/// The folder of tests within a bundle.
const FOLDER: &str = "tests";

/// Requests, and what the policies are expected to say of them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "tests/*.yaml")]
pub(crate) struct RawFile {
    /// The tests.
    tests: Vec<RawTest>,
}

/// A test.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Test")]
struct RawTest {
    /// Unique in its file.
    #[schemars(with = "String")]
    name: Spanned<String>,
    /// The request.
    request: RawRequest,
    /// What the policies are expected to say of it.
    expect: RawExpected,
}

/// A request.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Request")]
struct RawRequest {
    /// Who calls: a SPIFFE ID, or `unauthenticated`, which is the default.
    #[schemars(with = "Option<String>")]
    principal: Option<Spanned<String>>,
    /// What kind of exchange it is; `http` by default.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<Action>")]
    action: Option<Spanned<String>>,
    /// The service called, by its name in mesh.yaml.
    #[schemars(with = "String")]
    service: Spanned<String>,
    /// The HTTP method; `GET` by default.
    method: Option<String>,
    /// The path, without the query; `/` by default.
    #[schemars(with = "Option<String>", regex(pattern = "^/[^?#]*$"))]
    path: Option<Spanned<String>>,
    /// The host asked for, in lower case and without the port; the service's name by default.
    #[schemars(with = "Option<String>")]
    host: Option<Spanned<String>>,
    /// Headers by name in lower case.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    headers: BTreeMap<String, Spanned<String>>,
    /// Query parameters by name, decoded.
    #[serde(default)]
    query: BTreeMap<String, String>,
    /// Cookies by name.
    #[serde(default)]
    cookies: BTreeMap<String, String>,
    /// Claims of the caller's verified token, by name.
    #[serde(default)]
    claims: BTreeMap<String, String>,
    /// Where the connection comes from; 127.0.0.1 by default.
    #[schemars(with = "Option<String>")]
    source_ip: Option<Spanned<String>>,
    /// Whether the connection is mutual TLS; by default true if the caller has a SPIFFE ID.
    tls: Option<bool>,
    /// The server name that the caller of a raw connection (`tcp`) asked for, in lower case.
    sni: Option<String>,
    /// The application's port that a raw connection (`tcp`) is for; 0 by default.
    destination_port: Option<u16>,
    /// When the request arrives, as RFC 3339 has it; 2026-01-01T12:00:00Z by default.
    #[schemars(with = "Option<String>")]
    time: Option<Spanned<String>>,
}

/// What is expected of a request. What is left out may be anything.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Expected")]
struct RawExpected {
    /// Allow or deny.
    #[schemars(schema_with = "one_of::<Verdict>")]
    decision: Verdict,
    /// The policies that determine the decision: all satisfied `forbid`s or, without one, all satisfied `permit`s.
    #[schemars(with = "Option<Vec<String>>")]
    policies: Option<Vec<Spanned<String>>>,
    /// The limits that are charged; none for a denied request.
    #[schemars(with = "Option<Vec<String>>")]
    limits: Option<Vec<Spanned<String>>>,
    /// The rules whose `match` holds.
    #[schemars(with = "Option<Vec<String>>")]
    rules: Option<Vec<Spanned<String>>>,
}

/// Reads all tests of a bundle, by file and place.
///
/// # Errors
/// Every mistake in every file; that there is no test is one, for it would pass unseen.
pub fn load(bundle: &Bundle) -> Result<Vec<UnitTest>, Findings> {
    let texts = texts(&bundle.folder)?;
    parse(&texts, bundle)
}

/// Reads a request that stands in a file of its own.
///
/// # Errors
/// Every mistake in the file.
pub fn request(file: &str, source: &str, bundle: &Bundle) -> Result<Attributes, Findings> {
    let raw: RawRequest = config_file::parse(file, source)?;
    let mut reader = Reader { file, source, lines: Lines::of(source), bundle, findings: Findings::new() };
    reader.findings.add_source(file, source);
    reader.request(&raw).ok_or(reader.findings)
}

/// Reads tests from the texts of their files.
pub(crate) fn parse(texts: &BTreeMap<String, String>, bundle: &Bundle) -> Result<Vec<UnitTest>, Findings> {
    let mut findings = Findings::new();
    let mut tests = Vec::new();
    for (file, source) in texts {
        match config_file::parse::<RawFile>(file, source) {
            Ok(raw) => {
                let mut reader =
                    Reader { file, source, lines: Lines::of(source), bundle, findings: Findings::new() };
                reader.findings.add_source(file.as_str(), source.as_str());
                tests.extend(reader.tests(&raw));
                findings.merge(reader.findings);
            }
            Err(wrong) => findings.merge(wrong),
        }
    }
    if tests.is_empty() && findings.is_empty() {
        let finding = Finding::in_file(format!("{FOLDER}/"), "the bundle has no tests");
        findings.push(finding.with_help("write them into `tests/*.yaml`; see policies/bookinfo/tests"));
    }
    if findings.is_empty() { Ok(tests) } else { Err(findings) }
}

/// The files of tests by name, relative to the bundle.
fn texts(bundle: &Path) -> Result<BTreeMap<String, String>, Findings> {
    let folder = bundle.join(FOLDER);
    let unreadable = |error: std::io::Error| {
        Finding::in_file(format!("{FOLDER}/"), format!("the folder can't be read: {error}"))
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unreadable(error).into()),
    };
    let mut texts = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let shown = format!("{FOLDER}/{name}");
        if name.starts_with('.') {
            continue;
        }
        if name.ends_with(".yml") {
            let finding = Finding::in_file(shown, "this file is not read: files of tests end in `.yaml`");
            return Err(finding.with_help("rename it").into());
        }
        if name.ends_with(".yaml") {
            let text = config_file::read(&path, &shown)?;
            texts.insert(shown, text);
        }
    }
    Ok(texts)
}

/// Checks what stands in one file, and collects what is wrong with it.
struct Reader<'a> {
    file: &'a str,
    source: &'a str,
    lines: Lines<'a>,
    bundle: &'a Bundle,
    findings: Findings,
}

impl Reader<'_> {
    fn tests(&mut self, raw: &RawFile) -> Vec<UnitTest> {
        let mut names = BTreeSet::new();
        let mut tests = Vec::new();
        for raw in &raw.tests {
            if !names.insert(raw.name.value.as_str()) {
                let message = format!("two tests are called `{}`", raw.name.value);
                self.wrong(&raw.name, message, "the name tells which one failed");
            }
            let attributes = self.request(&raw.request);
            let expected = self.expected(&raw.expect);
            let (line, _) = self.lines.place(span_of(&raw.name, self.source).start);
            tests.extend(attributes.map(|attributes| UnitTest {
                name: raw.name.value.clone(),
                file: self.file.to_owned(),
                line,
                attributes,
                expected,
            }));
        }
        tests
    }

    fn request(&mut self, raw: &RawRequest) -> Option<Attributes> {
        let value = |text: &Option<Spanned<String>>| text.as_ref().map(|text| text.value.clone());
        let text = RequestText {
            principal: value(&raw.principal),
            action: value(&raw.action),
            service: raw.service.value.clone(),
            method: raw.method.clone(),
            path: value(&raw.path),
            host: value(&raw.host),
            headers: raw.headers.iter().map(|(name, text)| (name.clone(), text.value.clone())).collect(),
            query: raw.query.clone(),
            cookies: raw.cookies.clone(),
            claims: raw.claims.clone(),
            source_ip: value(&raw.source_ip),
            tls: raw.tls,
            sni: raw.sni.clone(),
            destination_port: raw.destination_port,
            time: value(&raw.time),
        };
        match text.attributes(&self.bundle.mesh) {
            Ok(attributes) => Some(attributes),
            Err(mistakes) => {
                for Mistake { part, message, help } in mistakes {
                    self.wrong(place(raw, &part), message, &help);
                }
                None
            }
        }
    }

    fn expected(&mut self, raw: &RawExpected) -> Expected {
        let bundle = self.bundle;
        let policies = bundle.policies.policies().map(|policy| policy.id().to_string()).collect();
        let limits = bundle.limits.iter().map(|limit| limit.limit.name.clone()).collect();
        let conditions = bundle.conditions.policies().map(|policy| policy.id().to_string());
        let rules = conditions.filter_map(|id| Some(id.strip_prefix(rules::ID_PREFIX)?.to_owned())).collect();
        Expected {
            decision: raw.decision,
            policies: self.known(raw.policies.as_deref(), &policies, "policy", "the bundle's `*.cedar`"),
            limits: self.known(raw.limits.as_deref(), &limits, "limit", limits::FILE),
            rules: self.known(raw.rules.as_deref(), &rules, "rule", rules::FILE),
        }
    }

    /// The names of a list, each of which has to be known.
    fn known(
        &mut self,
        names: Option<&[Spanned<String>]>,
        known: &BTreeSet<String>,
        kind: &str,
        file: &str,
    ) -> Option<BTreeSet<String>> {
        let names = names?;
        for name in names.iter().filter(|name| !known.contains(&name.value)) {
            let otherwise = format!("name a {kind} of {file}");
            let help = near(&name.value, known.iter().map(String::as_str), &otherwise);
            self.wrong(name, format!("there is no {kind} `{}`", name.value), &help);
        }
        Some(names.iter().map(|name| name.value.clone()).collect())
    }

    fn wrong(&mut self, place: &Spanned<String>, message: String, help: &str) {
        let span = span_of(place, self.source);
        self.findings.push(Finding::among(&self.lines, self.file, span, message).with_help(help));
    }
}

/// Where a part stands. A part that is not written is right, so the service, which has to be, is never shown for it.
fn place<'r>(raw: &'r RawRequest, part: &Part) -> &'r Spanned<String> {
    let written = match part {
        Part::Principal => raw.principal.as_ref(),
        Part::Action => raw.action.as_ref(),
        Part::Path => raw.path.as_ref(),
        Part::Host => raw.host.as_ref(),
        Part::Header(name) => raw.headers.get(name),
        Part::SourceIp => raw.source_ip.as_ref(),
        Part::Time => raw.time.as_ref(),
        Part::Service => None,
    };
    written.unwrap_or(&raw.service)
}
