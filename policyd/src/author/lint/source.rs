//! The policies that lints look at, with their places, and the findings.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use cedar_policy::Policy;
use cedar_policy_core::ast::{self, Effect, Expr};
use cedar_policy_core::parser::Loc;
use daemon::finding::{Finding, Findings, Lines};

use super::name::{ALLOW, Lint, accepts};
use crate::bundle::cedar_text::Place;
use crate::bundle::{Bundle, Conditions, Files, limits, read_conditions, rules};

/// Everything with a condition in a bundle.
pub(super) struct Sources<'a> {
    /// The access policies, in the order of their files and places.
    pub(super) policies: Vec<Source<'a>>,
    /// The conditions of limits and rules.
    conditions: Vec<Source<'a>>,
}

/// A policy, or a condition of a limit or rule as a policy, and where it stands.
pub(super) struct Source<'a> {
    policy: Policy,
    place: Place<'a>,
    /// Where it starts, in its file.
    start: usize,
    /// Whether it permits or forbids; nothing for the condition of a limit or rule.
    pub(super) effect: Option<Effect>,
}

/// Collects findings.
#[derive(Default)]
pub(super) struct Report {
    found: Vec<Found>,
    /// What was found already: a template is looked at once for each of its links.
    seen: HashSet<(Lint, String, usize)>,
}

struct Found {
    file: String,
    span: Range<usize>,
    lint: Lint,
    message: String,
    help: String,
}

impl<'a> Sources<'a> {
    /// Reads the bundle's Cedar again, for syntax trees that know their places. The bundle has no mistakes.
    pub(super) fn read(bundle: &'a Bundle, files: &'a Files) -> Self {
        // What is told here was told when the bundle was loaded.
        let mut told = Findings::new();
        let mut conditions = Conditions::default();
        read_conditions(files, &bundle.mesh, &mut conditions, &mut told);
        let all = bundle.policies.policies().chain(bundle.policies.shadows());
        let policies = all.filter_map(|policy| {
            let cedar = policy.to_written()?;
            Some(Source::of(cedar, policy.written().place(), true))
        });
        let conditions = conditions.iter().map(|(policy, place)| Source::of(policy.clone(), place, false));
        Self { policies: sorted(policies.collect()), conditions: sorted(conditions.collect()) }
    }

    /// Policies and conditions.
    pub(super) fn all(&self) -> impl Iterator<Item = &Source<'a>> {
        self.policies.iter().chain(&self.conditions)
    }
}

fn sorted(mut sources: Vec<Source<'_>>) -> Vec<Source<'_>> {
    sources.sort_by_cached_key(|source| (source.place.file, source.start, source.policy.id().to_string()));
    sources
}

impl<'a> Source<'a> {
    fn of(policy: Policy, place: Place<'a>, is_access: bool) -> Self {
        let loc = AsRef::<ast::Policy>::as_ref(&policy).loc();
        Self {
            start: place.to_file(loc.map(|loc| loc.start()..loc.end())).start,
            effect: is_access.then(|| policy.as_ref().effect()),
            policy,
            place,
        }
    }
}

impl Source<'_> {
    /// What it is called in findings.
    pub(super) fn name(&self) -> String {
        let id = self.policy.id().to_string();
        if let Some(limit) = id.strip_prefix(limits::ID_PREFIX).filter(|_| self.effect.is_none()) {
            return format!("the condition of limit `{limit}`");
        }
        match id.strip_prefix(rules::ID_PREFIX).filter(|_| self.effect.is_none()) {
            Some(rule) => format!("the condition of rule `{rule}`"),
            None => format!("`{id}`"),
        }
    }

    /// Its id.
    pub(super) fn id(&self) -> String {
        self.policy.id().to_string()
    }

    /// The syntax tree, with places.
    pub(super) fn tree(&self) -> &ast::Policy {
        self.policy.as_ref()
    }

    /// Its conditions as one: each `when`, and not each `unless`. Nothing if there are none.
    pub(super) fn condition(&self) -> Option<&Expr> {
        self.tree().non_scope_constraints()
    }

    /// Its file.
    pub(super) const fn file(&self) -> &str {
        self.place.file
    }

    /// The text of an annotation, and where it stands.
    pub(super) fn annotation(&self, name: &str) -> Option<(&str, Range<usize>)> {
        let (_, annotation) = self.tree().annotations().find(|(key, _)| AsRef::<str>::as_ref(key) == name)?;
        Some((&annotation.val, self.span(annotation.loc.as_ref())))
    }

    /// Where it starts: from its first annotation or its effect to the end of that line.
    pub(super) fn head(&self) -> Range<usize> {
        self.start..self.place.start + self.place.length
    }

    /// Where in the file something of it stands; all of it, if that is not known.
    pub(super) fn span(&self, loc: Option<&Loc>) -> Range<usize> {
        match loc {
            Some(loc) => self.place.to_file(Some(loc.start()..loc.end())),
            None => self.head(),
        }
    }
}

impl Report {
    /// Adds what `lint` finds at `span` of the file of `source`, unless its author accepts it.
    pub(super) fn add(
        &mut self,
        source: &Source<'_>,
        lint: Lint,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if !accepts(source.policy.annotation(ALLOW), lint) {
            self.add_in_file(source.file(), lint, span, message, help);
        }
    }

    /// Adds what `lint` finds in a file.
    pub(super) fn add_in_file(
        &mut self,
        file: &str,
        lint: Lint,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (message, help) = (message.into(), help.into());
        if self.seen.insert((lint, message.clone(), span.start)) {
            self.found.push(Found { file: file.to_owned(), span, lint, message, help });
        }
    }

    /// Everything that was found.
    pub(super) fn findings(mut self, files: &Files) -> Findings {
        // In their order, so that each is put behind those before it.
        self.found.sort_by(|left, right| (&left.file, left.span.start).cmp(&(&right.file, right.span.start)));
        let lines: BTreeMap<&str, Lines<'_>> =
            files.texts.iter().map(|(file, text)| (file.as_str(), Lines::of(text))).collect();
        let none = Lines::of("");
        let mut findings = Findings::new();
        for Found { file, span, lint, message, help } in self.found {
            let lines = lines.get(file.as_str()).unwrap_or(&none);
            let finding = Finding::among(lines, file, span, message).with_help(help);
            findings.push(finding.as_warning().with_lint(lint.name()));
        }
        for (file, text) in &files.texts {
            findings.add_source(file.clone(), text.as_str());
        }
        findings
    }
}
