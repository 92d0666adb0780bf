//! What holds for every request to two bundles, in Cedar.
//!
//! To a solver, entities may be anything that the schema allows: a service that the mesh has not, a workload in any group.
//! So each thing that is known of all requests is a `forbid (…) unless { … }` which is added to the policies of both
//! bundles: then no request on which it does not hold tells them apart. What is left out costs only that the solver may
//! find what is no request; nothing may be said that does not hold.

use std::collections::BTreeSet;

use cedar_policy::{Policy, PolicyId, RequestEnv, Schema};
use cedar_policy_symcc::CompiledPolicy;
use model::{Action, Operations, Template};

use super::common::Common;
use super::{addresses, entities};
use crate::bundle::Bundle;

/// What holds for every request.
#[derive(Debug)]
pub(super) struct World<'b> {
    /// What is known of entities, whatever the action.
    entities: Vec<String>,
    /// What is known of the address that a request comes from.
    addresses: Vec<String>,
    /// The services that both bundles have, each with its operations in both.
    services: Vec<(&'b str, [&'b Operations; 2])>,
}

impl<'b> World<'b> {
    /// What holds for both bundles, which have `common` in common.
    pub(super) fn of(old: &'b Bundle, new: &'b Bundle, common: &Common) -> Self {
        let of = |bundle: &'b Bundle, name: &str| {
            bundle
                .mesh
                .services
                .get_key_value(name)
                .map(|(name, service)| (name, &service.operations.operations))
        };
        let services = common.services.iter().filter_map(|name| {
            let ((name, before), (_, after)) = (of(old, name)?, of(new, name)?);
            Some((name.as_str(), [before, after]))
        });
        Self {
            entities: entities::facts([old, new], common),
            addresses: addresses::facts([old, new]),
            services: services.collect(),
        }
    }

    /// What holds in an environment, as policies that forbid what does not. What does not fit it is left out.
    pub(super) fn policies(&self, environment: &RequestEnv, schema: &Schema) -> Vec<Policy> {
        let of_requests = self.of_requests(environment.action().id().as_ref());
        let facts = self.entities.iter().chain(&self.addresses).cloned().chain(of_requests);
        let policy = |(number, fact): (usize, String)| {
            let text = format!("forbid (principal, action, resource) unless {{ {fact} }};");
            let policy = Policy::parse(Some(PolicyId::new(format!("\u{0}{number}"))), text).ok()?;
            CompiledPolicy::compile(&policy, environment, schema).ok().map(|_fits| policy)
        };
        facts.enumerate().filter_map(policy).collect()
    }

    /// What is known of all requests with an action.
    fn of_requests(&self, action: &str) -> Vec<String> {
        let mut facts = vec![
            "context.time >= datetime(\"1970-01-01\") && context.time < datetime(\"9999-01-01\")".to_owned(),
        ];
        if action == Action::Tcp.as_str() {
            facts.push("context.destination_port >= 0 && context.destination_port <= 65535".to_owned());
            return facts;
        }
        facts.extend(
            [
                "context.method != \"\"",
                "context.path like \"/*\"",
                "!(context.path like \"*?*\")",
                "!(context.path like \"*#*\")",
            ]
            .map(str::to_owned),
        );
        if Action::from_id(action).is_some() {
            facts.push("!(context has operation)".to_owned());
            if action == Action::Http.as_str() {
                facts.extend(self.services.iter().flat_map(|(name, both)| without_operation(name, both)));
            }
        } else {
            facts.push(format!("context has operation && context.operation == {action:?}"));
            let routes = self.services.iter().flat_map(|(name, both)| with_operation(name, both, action));
            let routes: Vec<String> = routes.collect();
            facts.extend((!routes.is_empty()).then(|| routes.join(" || ")));
        }
        facts
    }
}

/// The requests that are for an operation of a service in both bundles; perhaps some more.
fn with_operation(service: &str, both: &[&Operations; 2], operation: &str) -> Vec<String> {
    let [old, new] = both;
    let routes =
        old.routes().iter().filter(|route| route.operation == operation && new.routes().contains(route));
    let condition = |route: &model::Route| {
        let head = if route.method == "GET" { " || context.method == \"HEAD\"" } else { "" };
        let (path, _) = path_fits(&route.template);
        format!("({} && (context.method == {:?}{head}) && {path})", is(service), route.method)
    };
    routes.map(condition).collect()
}

/// That a request is for no operation of a service: those that certainly are.
fn without_operation(service: &str, both: &[&Operations; 2]) -> Vec<String> {
    let routes = both.iter().flat_map(|operations| operations.routes());
    let condition = |route: &model::Route| {
        let (path, exact) = path_fits(&route.template);
        exact.then(|| format!("!({} && context.method == {:?} && {path})", is(service), route.method))
    };
    routes.filter_map(condition).collect::<BTreeSet<_>>().into_iter().collect()
}

fn is(service: &str) -> String {
    format!("resource == Service::{service:?}")
}

/// That a path fits a template; and whether it fits whenever that holds. Otherwise it may hold for other paths, too.
pub(super) fn path_fits(template: &Template) -> (String, bool) {
    let segments: Vec<&str> = template.as_str().split('/').skip(1).collect();
    let is_parameter = |segment: &&&str| segment.starts_with('{');
    let takes_rest = segments.last().is_some_and(|last| last.starts_with("{*"));
    if !segments.iter().any(|segment| is_parameter(&segment)) {
        return (format!("context.path == {:?}", template.as_str()), true);
    }
    let spelled =
        |segment: &&str| if segment.starts_with('{') { "*".to_owned() } else { in_pattern(segment) };
    let pattern = segments.iter().map(|segment| format!("/{}", spelled(segment))).collect::<String>();
    let fits = format!("context.path like \"{pattern}\"");
    if takes_rest {
        let alone = segments.iter().filter(is_parameter).count() == 1;
        let start = pattern.strip_suffix('*').unwrap_or(&pattern);
        // With another parameter before it, that would exclude too much.
        let rest = if alone { format!(" && !(context.path like \"{start}\")") } else { String::new() };
        return (format!("({fits}{rest})"), alone);
    }
    // With as many slashes as it has, each `*` is one segment; which may not be empty.
    let deeper = "/*".repeat(segments.len() + 1);
    let whole = segments.iter().all(|segment| !segment.is_empty());
    let mut parts = vec![fits, format!("!(context.path like \"{deeper}\")")];
    if whole {
        parts.extend(["*//*", "*/"].map(|empty| format!("!(context.path like \"{empty}\")")));
    }
    (format!("({})", parts.join(" && ")), whole)
}

/// A text within the pattern of a `like`.
fn in_pattern(text: &str) -> String {
    text.escape_debug().to_string().replace('*', "\\*")
}
