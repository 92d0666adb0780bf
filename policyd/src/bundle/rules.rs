//! `adapters.yaml`: handlers, instances and rules, in Mixer's words.
//!
//! A rule says: when `match:` holds, hand these instances to that handler.

use std::collections::BTreeMap;
use std::path::Path;

use adapters::{Adapter, FieldType, Kind};
use api::config::{ReportAction, ReportHandler, ReportInstance, ReportRule};
use cedar_policy::pst::Expr;
use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings, did_you_mean};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::cedar_text::Place;
use super::expression::{Input, check_input, condition, parse_input};
use super::limits::is_token;
use super::mesh::Mesh;
use super::policies::Policies;
use super::schema::Schemas;
use crate::atoms::Derived;

/// The file's name within a bundle.
pub const FILE: &str = "adapters.yaml";

/// Before a rule's name in the id of its condition.
pub const ID_PREFIX: &str = "rule/";

/// The handlers and rules of a bundle.
#[derive(Debug, Default)]
pub struct Rules {
    /// The handlers by name.
    pub handlers: BTreeMap<String, Handler>,
    rules: BTreeMap<String, Rule>,
}

/// A configured adapter.
#[derive(Clone, Debug)]
pub struct Handler {
    /// The adapter.
    pub adapter: &'static dyn Adapter,
    /// Its configuration, validated.
    pub config: serde_json::Value,
}

/// What happens when a condition holds.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: String,
    actions: Vec<Action>,
}

/// One handler and what is handed to it.
#[derive(Debug)]
pub struct Action {
    /// The handler's name.
    pub handler: String,
    /// What the handler does.
    pub kind: Kind,
    /// What is handed to it.
    pub instances: Vec<InstanceInputs>,
}

/// An instance before it is filled from a request.
#[derive(Clone, Debug)]
pub struct InstanceInputs {
    /// Its name.
    pub name: String,
    /// Its fields, and where their values come from.
    pub fields: Vec<(String, Input)>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdapters {
    #[serde(default)]
    handlers: Vec<RawHandler>,
    #[serde(default)]
    instances: Vec<RawInstance>,
    #[serde(default)]
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHandler {
    name: Spanned<String>,
    adapter: Spanned<String>,
    #[serde(default)]
    config: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInstance {
    name: Spanned<String>,
    #[serde(default)]
    fields: BTreeMap<String, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Spanned<String>,
    service: Option<Spanned<String>>,
    #[serde(rename = "match")]
    condition: Option<Spanned<String>>,
    actions: Vec<RawAction>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAction {
    handler: Spanned<String>,
    #[serde(default)]
    instances: Vec<Spanned<String>>,
}

impl Rules {
    /// The rule called `name`.
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name)
    }

    /// Whether the rule called `name` reports anything, so that proxies have to know that it fires.
    pub fn reports(&self, name: &str) -> bool {
        self.get(name).is_some_and(|rule| rule.actions.iter().any(|action| action.kind == Kind::Report))
    }

    /// The report handlers, for proxies.
    pub fn report_handlers(&self) -> Vec<ReportHandler> {
        let reporting = self.handlers.iter().filter(|(_, handler)| handler.adapter.kind() == Kind::Report);
        let described = reporting.map(|(name, handler)| ReportHandler {
            name: name.clone(),
            adapter: handler.adapter.name().to_owned(),
            config: handler.config.clone(),
        });
        described.collect()
    }

    /// The report rules, for proxies.
    pub fn report_rules(&self) -> Vec<ReportRule> {
        let actions = |rule: &Rule| {
            let reporting = rule.actions.iter().filter(|action| action.kind == Kind::Report);
            reporting.map(report_action).collect()
        };
        let rules = self.rules.values().filter(|rule| self.reports(&rule.name));
        rules.map(|rule| ReportRule { name: rule.name.clone(), actions: actions(rule) }).collect()
    }

    /// Adds the atoms of everything that check adapters are asked with.
    pub fn derive(&self, derived: &mut Derived) {
        let inputs = self
            .rules
            .values()
            .flat_map(Rule::check_actions)
            .flat_map(|action| &action.instances)
            .flat_map(|instance| &instance.fields);
        for (_, input) in inputs {
            match input {
                Input::Operand(operand) => derived.operand(operand),
                Input::Expression { pst, .. } => derived.expr(pst),
            }
        }
    }
}

impl Rule {
    /// The actions that have a say in decisions.
    pub fn check_actions(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().filter(|action| action.kind == Kind::Check)
    }
}

fn report_action(action: &Action) -> ReportAction {
    let fields = |instance: &InstanceInputs| {
        let fields = instance.fields.iter().filter_map(|(name, input)| match input {
            Input::Operand(operand) => Some((name.clone(), operand.clone())),
            Input::Expression { .. } => None,
        });
        fields.collect()
    };
    let instances = action.instances.iter();
    let instances =
        instances.map(|instance| ReportInstance { name: instance.name.clone(), fields: fields(instance) });
    ReportAction { handler: action.handler.clone(), instances: instances.collect() }
}

/// `adapters.yaml`, read but not yet checked against the schema, which depends on what it reads.
pub(super) struct Parsed<'a> {
    source: &'a str,
    folder: &'a Path,
    raw: RawAdapters,
    /// Each instance's fields, as expressions.
    inputs: BTreeMap<(String, String), Expr>,
}

impl<'a> Parsed<'a> {
    /// Reads the file; the rules' conditions are added to `conditions`.
    pub(super) fn read(
        source: &'a str,
        folder: &'a Path,
        mesh: &Mesh,
        conditions: &mut Policies<'a>,
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
    pub(super) fn derive(&self, derived: &mut Derived) {
        self.inputs.values().for_each(|expr| derived.expr(expr));
    }

    /// Checks handlers, instances and rules against each other and the schema.
    pub(super) fn check(&self, schemas: &Schemas, findings: &mut Findings) -> Rules {
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
            rules.insert(name.clone(), Rule { name, actions: actions.collect() });
        }
        Rules { handlers, rules }
    }

    fn read_condition(
        &self,
        rule: &RawRule,
        mesh: &Mesh,
        conditions: &mut Policies<'a>,
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
        let text = rule.condition.as_ref().map_or("true", |text| text.value.as_str());
        let place = self.place(rule.condition.as_ref().unwrap_or(&rule.name));
        if let Some((policy, place)) = condition(&id, service, text, place, findings) {
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
