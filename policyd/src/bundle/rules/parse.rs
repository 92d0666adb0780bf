//! From the text of `adapters.yaml` to handlers and rules that fit each other and the schema.

use std::collections::BTreeMap;
use std::path::Path;

use adapters::{FieldType, Kind};
use cedar_policy::pst::Expr;
use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings, did_you_mean};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Action, FILE, Handler, ID_PREFIX, InstanceInputs, Rule, Rules};
use crate::atoms::{Derived, meaning};
use crate::bundle::cedar_text::Place;
use crate::bundle::conditions::Conditions;
use crate::bundle::expression::{About, Input, check_input, condition, parse_input};
use crate::bundle::limits::is_token;
use crate::bundle::mesh::Mesh;
use crate::bundle::schema::Schemas;

/// Other systems: a rule says when which instances go to which handler.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "adapters.yaml")]
pub(crate) struct RawAdapters {
    /// Configured adapters.
    #[serde(default)]
    handlers: Vec<RawHandler>,
    /// Values made from a request.
    #[serde(default)]
    instances: Vec<RawInstance>,
    /// When which instances go to which handler.
    #[serde(default)]
    rules: Vec<RawRule>,
}

/// A configured adapter.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Handler")]
struct RawHandler {
    /// Unique among handlers.
    #[schemars(with = "String")]
    name: Spanned<String>,
    /// The adapter.
    #[schemars(schema_with = "adapter_names")]
    adapter: Spanned<String>,
    /// The adapter's own settings.
    #[serde(default)]
    config: serde_json::Value,
}

/// Values made from a request.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Instance")]
struct RawInstance {
    /// Unique among instances.
    #[schemars(with = "String")]
    name: Spanned<String>,
    /// Cedar expressions by the name of the field.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    fields: BTreeMap<String, Spanned<String>>,
}

/// When which instances go to which handler.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rule")]
struct RawRule {
    /// Unique among rules.
    #[schemars(with = "String")]
    name: Spanned<String>,
    /// Whose requests it is for; every service's by default.
    #[schemars(with = "Option<String>")]
    service: Option<Spanned<String>>,
    /// A Cedar condition: only for such requests.
    #[serde(rename = "match")]
    #[schemars(with = "Option<String>")]
    condition: Option<Spanned<String>>,
    /// Who gets what.
    actions: Vec<RawAction>,
}

/// A handler, and what it gets.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Action")]
struct RawAction {
    /// The handler's name.
    #[schemars(with = "String")]
    handler: Spanned<String>,
    /// The names of the instances that it gets. Without any, it is asked once, with nothing.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    instances: Vec<Spanned<String>>,
}

fn adapter_names(_generator: &mut SchemaGenerator) -> Schema {
    let names = adapters::registry::BUILT_IN.map(|adapter| adapter.name());
    json_schema!({ "type": "string", "enum": names })
}

/// `adapters.yaml`, read but not yet checked against the schema, which depends on what it reads.
pub(in crate::bundle) struct Parsed<'a> {
    source: &'a str,
    folder: &'a Path,
    raw: RawAdapters,
    /// Each instance's fields, as expressions.
    inputs: BTreeMap<(String, String), Expr>,
}

impl<'a> Parsed<'a> {
    /// Reads the file; the rules' conditions are added to `conditions`.
    pub(in crate::bundle) fn read(
        source: &'a str,
        folder: &'a Path,
        mesh: &Mesh,
        conditions: &mut Conditions<'a>,
        findings: &mut Findings,
    ) -> Self {
        findings.add_source(FILE, source);
        let raw: RawAdapters = config_file::parse(FILE, source).unwrap_or_else(|wrong| {
            findings.merge(wrong);
            RawAdapters::default()
        });
        let mut parsed = Self { source, folder, raw, inputs: BTreeMap::new() };
        parsed.unique_names(findings);
        for rule in &parsed.raw.rules {
            parsed.read_condition(rule, mesh, conditions, findings);
        }
        for instance in &parsed.raw.instances {
            for (field, text) in &instance.fields {
                if let Some(expr) = parse_input(&text.value, parsed.place(text), findings) {
                    parsed.inputs.insert((instance.name.value.clone(), field.clone()), expr);
                }
            }
        }
        parsed
    }

    /// Adds the atoms of every input: the schema has to declare the names they read.
    pub(in crate::bundle) fn derive(&self, derived: &mut Derived) {
        self.inputs.values().for_each(|expr| derived.expr(expr, &meaning));
    }

    /// Checks handlers, instances and rules against each other and the schema.
    pub(in crate::bundle) fn check(&self, schemas: &Schemas, findings: &mut Findings) -> Rules {
        let handlers: BTreeMap<String, Handler> = self
            .raw
            .handlers
            .iter()
            .filter_map(|raw| Some((raw.name.value.clone(), self.handler(raw, findings)?)))
            .collect();
        let mut rules = BTreeMap::new();
        for raw in &self.raw.rules {
            let actions =
                raw.actions.iter().filter_map(|action| self.action(action, &handlers, schemas, findings));
            let name = raw.name.value.clone();
            let service = raw.service.as_ref().map(|service| service.value.clone());
            rules.insert(name.clone(), Rule { name, service, actions: actions.collect() });
        }
        Rules { handlers, rules }
    }

    fn read_condition(
        &self,
        rule: &RawRule,
        mesh: &Mesh,
        conditions: &mut Conditions<'a>,
        findings: &mut Findings,
    ) {
        let service = rule.service.as_ref().and_then(|service| {
            let known = mesh.services.contains_key(&service.value);
            if !known {
                let names = mesh.services.keys().map(String::as_str);
                self.unknown(service, "service", names, findings);
            }
            known.then_some(service.value.as_str())
        });
        let id = format!("{ID_PREFIX}{}", rule.name.value);
        let about = service.and_then(|name| mesh.services.get(name));
        let about = about.map_or(About::Requests, |service| About::of(service.protocol));
        let text = rule.condition.as_ref().map_or("true", |text| text.value.as_str());
        let place = self.place(rule.condition.as_ref().unwrap_or(&rule.name));
        if let Some((policy, place)) = condition(&id, about, service, text, place, findings) {
            conditions.add(policy, place, findings);
        }
    }

    fn handler(&self, raw: &RawHandler, findings: &mut Findings) -> Option<Handler> {
        let adapter = match adapters::registry::find(&raw.adapter.value) {
            Ok(adapter) => adapter,
            Err(error) => {
                findings.push(self.at(&raw.adapter, error.to_string()).with_help(error.help));
                return None;
            }
        };
        let config = if raw.config.is_null() { serde_json::json!({}) } else { raw.config.clone() };
        match adapter.validate(&config, self.folder) {
            Ok(_validated) => Some(Handler { adapter, config }),
            Err(errors) => {
                for error in errors {
                    let place = if error.pointer.is_empty() {
                        String::new()
                    } else {
                        format!(" at `{}`", error.pointer)
                    };
                    let message = format!("the config of `{}`{place}: {}", raw.name.value, error.message);
                    let finding = self.at(&raw.name, message);
                    findings.push(match error.help {
                        Some(help) => finding.with_help(help),
                        None => finding,
                    });
                }
                None
            }
        }
    }

    fn action(
        &self,
        raw: &RawAction,
        handlers: &BTreeMap<String, Handler>,
        schemas: &Schemas,
        findings: &mut Findings,
    ) -> Option<Action> {
        let Some(handler) = handlers.get(&raw.handler.value) else {
            // A handler with a mistake of its own is known, and has its finding.
            if !self.raw.handlers.iter().any(|handler| handler.name.value == raw.handler.value) {
                let names = self.raw.handlers.iter().map(|handler| handler.name.value.as_str());
                self.unknown(&raw.handler, "handler", names, findings);
            }
            return None;
        };
        let kind = handler.adapter.kind();
        let instances =
            raw.instances.iter().filter_map(|name| self.instance(name, handler, schemas, findings));
        let mut instances: Vec<InstanceInputs> = instances.collect();
        if raw.instances.is_empty() {
            instances.push(InstanceInputs { name: String::new(), fields: Vec::new() });
        }
        Some(Action { handler: raw.handler.value.clone(), kind, instances })
    }

    fn instance(
        &self,
        name: &Spanned<String>,
        handler: &Handler,
        schemas: &Schemas,
        findings: &mut Findings,
    ) -> Option<InstanceInputs> {
        let Some(raw) = self.raw.instances.iter().find(|instance| instance.name.value == name.value) else {
            let names = self.raw.instances.iter().map(|instance| instance.name.value.as_str());
            self.unknown(name, "instance", names, findings);
            return None;
        };
        let kind = handler.adapter.kind();
        let mut fields = Vec::new();
        for (field, text) in &raw.fields {
            let expr = self.inputs.get(&(raw.name.value.clone(), field.clone()))?;
            fields.push((field.clone(), self.field(kind, text, expr, schemas, findings)?));
        }
        let types: Vec<(&str, FieldType)> =
            fields.iter().map(|(name, input)| (name.as_str(), input.field_type())).collect();
        let accepted = handler.adapter.validate(&handler.config, self.folder).ok()?.fields();
        for error in accepted.check(&types).err().unwrap_or_default() {
            let place = raw.fields.get(&error.field).unwrap_or(name);
            let finding = self.at(place, error.message);
            findings.push(match error.help {
                Some(help) => finding.with_help(help),
                None => finding,
            });
        }
        Some(InstanceInputs { name: raw.name.value.clone(), fields })
    }

    fn field(
        &self,
        kind: Kind,
        text: &Spanned<String>,
        expr: &Expr,
        schemas: &Schemas,
        findings: &mut Findings,
    ) -> Option<Input> {
        let place = self.place(text);
        let schema = if kind == Kind::Report { &schemas.report } else { &schemas.request };
        let input = check_input(&text.value, expr, schema, place, findings)?;
        match (&input, kind) {
            (Input::Expression { .. }, Kind::Report) => {
                let help = "reports are made in the proxy: use an attribute, such as `principal` or `context.response.code`, or a literal";
                findings.push(place.finding(format!("`{}` can't be reported", text.value)).with_help(help));
                None
            }
            (Input::Operand(model::Operand::Response(_)), Kind::Check) => {
                findings.push(place.finding("there is no response yet when a check is made"));
                None
            }
            _ => Some(input),
        }
    }

    fn unique_names(&self, findings: &mut Findings) {
        let handlers: Vec<&Spanned<String>> = self.raw.handlers.iter().map(|raw| &raw.name).collect();
        let instances: Vec<&Spanned<String>> = self.raw.instances.iter().map(|raw| &raw.name).collect();
        let rules: Vec<&Spanned<String>> = self.raw.rules.iter().map(|raw| &raw.name).collect();
        for (what, names) in [("handlers", handlers), ("instances", instances), ("rules", rules)] {
            let mut seen = std::collections::BTreeSet::new();
            for name in names {
                if !is_token(&name.value) {
                    let message = format!("`{}` can't be the name of one of the {what}", name.value);
                    findings.push(self.at(name, message).with_help("use a-z, A-Z, 0-9, `-`, `_` and `.`"));
                }
                if !seen.insert(&name.value) {
                    let message = format!("two {what} are called `{}`", name.value);
                    findings.push(self.at(name, message).with_help("give each a name of its own"));
                }
            }
        }
    }

    fn unknown<'n>(
        &self,
        name: &Spanned<String>,
        what: &str,
        known: impl IntoIterator<Item = &'n str>,
        findings: &mut Findings,
    ) {
        let finding = self.at(name, format!("there is no {what} `{}`", name.value));
        findings.push(match did_you_mean(&name.value, known) {
            Some(near) => finding.with_help(format!("did you mean `{near}`?")),
            None => finding,
        });
    }

    fn place(&self, text: &Spanned<String>) -> Place<'a> {
        Place::value(FILE, self.source, span_of(text, self.source), &text.value)
    }

    fn at<T>(&self, value: &Spanned<T>, message: String) -> Finding {
        Finding::at(FILE, self.source, span_of(value, self.source), message)
    }
}
