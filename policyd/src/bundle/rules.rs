//! `adapters.yaml`: handlers, instances and rules, in Mixer's words.
//!
//! A rule says: when `match:` holds, hand these instances to that handler.

mod parse;

use std::collections::{BTreeMap, HashMap};

use adapters::{Adapter, Kind};
use api::config::{ReportAction, ReportHandler, ReportInstance, ReportRule};
use cedar_policy_core::ast::Expr;

use super::expression::Input;
use crate::atoms::{Derived, meaning};
use crate::bundle::schema::Types;

pub(super) use parse::Parsed;
pub(crate) use parse::RawAdapters;

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
    /// The one service whose requests it is for, or any.
    pub service: Option<String>,
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

impl Rules {
    /// The rule called `name`.
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name)
    }

    /// All rules, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// Whether the rule called `name` reports anything, so that proxies have to know that it fires.
    pub fn reports(&self, name: &str) -> bool {
        self.get(name).is_some_and(Rule::reports)
    }

    /// The atoms of what rules hand to check adapters, by the service of the rules; none stands for all.
    pub fn derived(&self, types: &Types) -> HashMap<Option<&str>, Derived> {
        let mut by_service: HashMap<Option<&str>, Derived> = HashMap::new();
        for rule in self.iter() {
            let derived = rule.derived(types);
            let all = by_service.entry(rule.service.as_deref()).or_default();
            all.atoms.extend(derived.atoms);
            all.reads_everything |= derived.reads_everything;
        }
        by_service
    }

    /// The expressions that check adapters are asked with.
    pub fn expressions(&self) -> impl Iterator<Item = &Expr> {
        self.iter().flat_map(Rule::inputs).filter_map(|input| match input {
            Input::Operand(_) => None,
            Input::Expression { expression, .. } => Some(expression.as_ref().as_ref()),
        })
    }

    /// The handler called `name`, as proxies are told of it, if it reports.
    pub fn report_handler(&self, name: &str) -> Option<ReportHandler> {
        let handler = self.handlers.get(name).filter(|handler| handler.adapter.kind() == Kind::Report)?;
        Some(ReportHandler {
            name: name.to_owned(),
            adapter: handler.adapter.name().to_owned(),
            config: handler.config.clone(),
        })
    }
}

impl Rule {
    /// Whether it reports anything.
    pub fn reports(&self) -> bool {
        self.actions.iter().any(|action| action.kind == Kind::Report)
    }

    /// What it reports, as proxies are told of it.
    pub fn report(&self) -> ReportRule {
        let reporting = self.actions.iter().filter(|action| action.kind == Kind::Report);
        ReportRule { name: self.name.clone(), actions: reporting.map(report_action).collect() }
    }

    fn inputs(&self) -> impl Iterator<Item = &Input> {
        let instances = self.check_actions().flat_map(|action| &action.instances);
        instances.flat_map(|instance| &instance.fields).map(|(_, input)| input)
    }

    /// The atoms of everything that its check adapters are asked with. Attributes by themselves are read as they were
    /// sent, whatever `types` the author's schema has for them.
    fn derived(&self, types: &Types) -> Derived {
        let (mut derived, mut as_sent) = (Derived::default(), Derived::default());
        for input in self.inputs() {
            match input {
                Input::Operand(operand) => as_sent.operand(operand),
                Input::Expression { pst, .. } => derived.expr(pst, &meaning),
            }
        }
        let mut derived = derived.typed(|name| types.of(name));
        derived.atoms.extend(as_sent.atoms);
        derived
    }

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
