//! `links.yaml`: policies made of templates, by saying what their slots stand for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, PolicyId, ValidationResult};
use cedar_policy_core::ast::{EntityUID, PolicyID, PolicySet, SlotId};
use cedar_policy_core::validator::{ValidationMode, Validator};
use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings, Lines, did_you_mean};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::cedar_file::{Source, Spot};
use super::cedar_text::Place;
use super::files::SIZE_MAX;
use super::policies::{Link, Policies, Policy, check_id};
use super::statement::Statement;

/// The file's name within a bundle.
pub const FILE: &str = "links.yaml";

/// The most values the file may hold: four and a few for each link.
const VALUES_MAX: usize = 10_000_000;

/// Policies made of templates.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "links.yaml")]
pub(crate) struct RawLinks {
    /// The links.
    #[serde(default)]
    links: Vec<RawLink>,
}

/// A policy made of a template.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Link")]
struct RawLink {
    /// The template, by its `@id`.
    #[schemars(with = "String")]
    template: Spanned<String>,
    /// What the policy is called: unique among policies.
    #[schemars(with = "String")]
    id: Spanned<String>,
    /// The entity that `?principal` stands for.
    #[schemars(with = "Option<String>", example = "Group::\"back-office\"")]
    principal: Option<Spanned<String>>,
    /// The entity that `?resource` stands for.
    #[schemars(with = "Option<String>", example = "Service::\"orders\"")]
    resource: Option<Spanned<String>>,
}

/// The links of the last load, for the next one.
#[derive(Debug, Default)]
pub(super) struct Links {
    text: Arc<str>,
    templates: HashMap<Arc<str>, Arc<Statement>>,
    policies: Vec<Policy>,
    /// The number of the schema under which all of `policies` are valid; 0 for none.
    clean_under: u64,
}

/// The file while it is read.
struct Reader<'a> {
    source: Arc<Source>,
    lines: Lines<'a>,
    templates: &'a BTreeMap<&'a str, Arc<Policy>>,
    /// The entities that were named so far: many links name the same.
    entities: HashMap<String, Option<Arc<EntityUID>>>,
    findings: &'a mut Findings,
}

impl Links {
    /// The policies that `text` makes of `templates`. Those of the last time, if nothing has changed.
    pub(super) fn read(
        &mut self,
        text: &str,
        templates: std::slice::Iter<'_, Policy>,
        findings: &mut Findings,
    ) -> Vec<Policy> {
        let templates: BTreeMap<&str, Arc<Policy>> =
            templates.map(|template| (template.id(), Arc::new(template.clone()))).collect();
        findings.add_source(FILE, self.text.clone());
        let is_known = |(id, template): (&&str, &Arc<Policy>)| {
            self.templates.get(*id).is_some_and(|known| Arc::ptr_eq(known, template.statement()))
        };
        let is_same =
            *self.text == *text && self.templates.len() == templates.len() && templates.iter().all(is_known);
        if is_same && (!self.policies.is_empty() || text.is_empty() && templates.is_empty()) {
            return self.policies.clone();
        }
        *self = Self { text: text.into(), ..Self::default() };
        findings.add_source(FILE, self.text.clone());
        let mut wrong = Findings::new();
        let policies = self.read_anew(&templates, &mut wrong);
        if wrong.is_empty() {
            self.templates = templates
                .iter()
                .map(|(id, template)| (Arc::from(*id), template.statement().clone()))
                .collect();
            self.policies.clone_from(&policies);
        }
        findings.merge(wrong);
        policies
    }

    fn read_anew(&self, templates: &BTreeMap<&str, Arc<Policy>>, findings: &mut Findings) -> Vec<Policy> {
        let size = usize::try_from(SIZE_MAX).unwrap_or(usize::MAX);
        let raw = if self.text.is_empty() {
            RawLinks::default()
        } else {
            match config_file::parse_up_to(FILE, &self.text, size, VALUES_MAX) {
                Ok(raw) => raw,
                Err(wrong) => {
                    findings.merge(wrong);
                    return Vec::new();
                }
            }
        };
        let source = Arc::new(Source { file: FILE.to_owned(), text: self.text.clone() });
        let lines = Lines::of(&self.text);
        let mut reader = Reader { source, lines, templates, entities: HashMap::new(), findings };
        let policies = raw.links.iter().filter_map(|link| reader.link(link)).collect();
        let linked: HashSet<&str> = raw.links.iter().map(|link| link.template.value.as_str()).collect();
        for (id, template) in templates.iter().filter(|(id, _)| !linked.contains(**id)) {
            let finding = template.spot().finding(format!("nothing links the template `{id}`")).as_warning();
            reader.findings.push(finding.with_help(format!("link it in {FILE}, or remove it")));
        }
        policies
    }

    /// Checks every link strictly against a schema. The templates are not checked here.
    pub(super) fn validate(
        &mut self,
        policies: &Policies,
        validator: &Validator,
        schema: u64,
        findings: &mut Findings,
    ) {
        if self.clean_under == schema {
            return;
        }
        // Of what fills a slot, the validator looks at the type alone.
        let mut valid = HashSet::new();
        let mut wrong = Vec::new();
        for policy in policies.policies().chain(policies.shadows()) {
            let Some(link) = policy.slots() else { continue };
            let kind = |uid: &Option<Arc<EntityUID>>| uid.as_ref().map(|uid| uid.entity_type().clone());
            let kinds = (Arc::as_ptr(policy.statement()), kind(&link.principal), kind(&link.resource));
            if valid.contains(&kinds) {
                continue;
            }
            match validate(policy, link, validator) {
                told if told.is_empty() => _ = valid.insert(kinds),
                told => wrong.extend(told),
            }
        }
        if wrong.is_empty() && !self.policies.is_empty() {
            self.clean_under = schema;
        }
        findings.extend(wrong);
    }
}

impl Reader<'_> {
    fn link(&mut self, raw: &RawLink) -> Option<Policy> {
        let spot = self.spot(raw);
        check_id(&raw.id.value, &spot, self.findings);
        let Some(template) = self.templates.get(raw.template.value.as_str()).cloned() else {
            let message = format!("there is no template `{}`", raw.template.value);
            let help = match did_you_mean(&raw.template.value, self.templates.keys().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name a policy with `?principal` or `?resource` in its scope by its `@id`".to_owned(),
            };
            self.wrong(&raw.template, message, help);
            return None;
        };
        let principal = self.slot(raw, &template, SlotId::principal(), raw.principal.as_ref());
        let resource = self.slot(raw, &template, SlotId::resource(), raw.resource.as_ref());
        let link = Link { template, principal: principal?, resource: resource? };
        Some(Policy::link(raw.id.value.as_str().into(), spot, Arc::new(link)))
    }

    /// What fills a slot; nothing if that is wrong.
    #[expect(clippy::option_option, reason = "the inner one says that the template has no such slot")]
    fn slot(
        &mut self,
        raw: &RawLink,
        template: &Policy,
        slot: SlotId,
        value: Option<&Spanned<String>>,
    ) -> Option<Option<Arc<EntityUID>>> {
        let is_open = template.statement().template().slots().any(|open| open.id == slot);
        let name = slot.to_string();
        match (is_open, value) {
            (false, None) => Some(None),
            (true, Some(value)) => match self.entity(&value.value) {
                Some(uid) => Some(Some(uid)),
                None => {
                    let message = format!("`{}` names no entity", value.value);
                    self.wrong(value, message, "write it as in Cedar: `Workload::\"spiffe://…\"`".to_owned());
                    None
                }
            },
            (true, None) => {
                let message =
                    format!("the template `{}` has a slot `{name}`, which nothing fills", template.id());
                let help = format!("add `{}: Type::\"id\"`", name.trim_start_matches('?'));
                self.wrong(&raw.template, message, help);
                None
            }
            (false, Some(value)) => {
                let message = format!("the template `{}` has no slot `{name}`", template.id());
                self.wrong(value, message, "leave it out".to_owned());
                None
            }
        }
    }

    fn entity(&mut self, text: &str) -> Option<Arc<EntityUID>> {
        if let Some(known) = self.entities.get(text) {
            return known.clone();
        }
        let uid = simple(text).or_else(|| text.parse().ok()).map(|uid| Arc::new(EntityUID::from(uid)));
        self.entities.insert(text.to_owned(), uid.clone());
        uid
    }

    /// From the first value of a link to its last.
    fn spot(&self, raw: &RawLink) -> Spot {
        let values = [Some(&raw.template), Some(&raw.id), raw.principal.as_ref(), raw.resource.as_ref()];
        let places = values.into_iter().flatten().map(|value| (value, span_of(value, &self.source.text)));
        let (mut first, mut whole) = (&raw.template, span_of(&raw.template, &self.source.text));
        for (value, span) in places {
            if span.start < whole.start {
                first = value;
            }
            whole = whole.start.min(span.start)..whole.end.max(span.end);
        }
        let number = |number: u64| usize::try_from(number).unwrap_or(1).max(1);
        Spot::new(&self.source, &whole, number(first.referenced.line()), number(first.referenced.column()))
    }

    fn wrong(&mut self, value: &Spanned<String>, message: String, help: String) {
        let span = span_of(value, &self.source.text);
        self.findings.push(Finding::among(&self.lines, FILE, span, message).with_help(help));
    }
}

/// An entity whose id needs no unescaping. Cedar's own parser takes many times longer.
fn simple(text: &str) -> Option<EntityUid> {
    let (kind, rest) = text.split_once("::\"")?;
    let id = rest.strip_suffix('"').filter(|id| !id.contains(['"', '\\']))?;
    let is_plain =
        kind.bytes().all(|byte| byte.is_ascii_alphanumeric()) && kind.starts_with(char::is_alphabetic);
    let kind: EntityTypeName = is_plain.then(|| kind.parse().ok()).flatten()?;
    Some(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

/// What the validator says of a link and not of its template.
fn validate(policy: &Policy, link: &Link, validator: &Validator) -> Vec<Finding> {
    let template = PolicyID::from_string(link.template.id());
    let id = PolicyID::from_string(policy.id());
    let slot = |slot, uid: &Option<Arc<EntityUID>>| Some((slot, uid.as_ref()?.as_ref().clone()));
    let slots = [slot(SlotId::principal(), &link.principal), slot(SlotId::resource(), &link.resource)];
    let mut set = PolicySet::new();
    let linked = set.add_template(policy.statement().template().new_id(template.clone())).is_ok()
        && set.link(template, id, slots.into_iter().flatten().collect()).is_ok();
    if !linked {
        return vec![policy.spot().finding("this link can't be made")];
    }
    let result = ValidationResult::from(validator.validate(&set, ValidationMode::Strict));
    let (id, template) = (PolicyId::new(policy.id()), PolicyId::new(link.template.id()));
    let mut findings = Findings::new();
    let place = Place::file("", policy.spot().text());
    for error in result.validation_errors().filter(|error| *error.policy_id() == id) {
        place.diagnose(error, &mut findings);
    }
    let is_of = |id: &PolicyId| result.validation_warnings().any(|warning| warning.policy_id() == id);
    if findings.is_empty() && is_of(&id) && !is_of(&template) {
        let message = format!(
            "the link `{}` can never apply: no request has such a principal and resource",
            policy.id()
        );
        findings.push(place.finding(message).with_help(format!(
            "the scope of `{}` is `{}, {}, {}`",
            link.template.id(),
            policy.statement().template().principal_constraint(),
            policy.statement().template().action_constraint(),
            policy.statement().template().resource_constraint()
        )));
    }
    findings.iter().map(|finding| policy.spot().placed(narrowed(finding, policy.spot(), link))).collect()
}

/// The finding at the value of the slot whose type it names, if it names one.
fn narrowed(finding: &Finding, spot: &Spot, link: &Link) -> Finding {
    let named = [&link.principal, &link.resource].into_iter().flatten().find_map(|uid| {
        let is_named = finding.message.contains(&format!("`{}`", uid.entity_type()));
        is_named.then(|| place_of(uid, spot)).flatten()
    });
    match named {
        None => finding.clone(),
        Some(span) => Finding {
            help: finding.help.clone(),
            ..Finding::at("", spot.text(), span, finding.message.clone())
        },
    }
}

fn place_of(uid: &EntityUID, spot: &Spot) -> Option<Range<usize>> {
    let text = uid.to_string();
    spot.text().find(&text).map(|start| start..start + text.len())
}
