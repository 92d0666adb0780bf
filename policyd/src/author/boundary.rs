//! Requests at the boundaries of a bundle's conditions: enough of them to see what its policies tell apart.
//!
//! The conditions that concern a service are made of atoms. For each fact that atoms test, one value is taken for each
//! way in which all its atoms together can come out; requests are the combinations of such values, of the callers that
//! policies may know, and of actions. No policy tells a request apart from the one here that has the same outcomes. So
//! what holds for all requests of an exhaustive list holds for all requests of these callers.
//!
//! Pure, and the same for the same bundles.

mod principals;
mod sample;
mod stepped;
mod texts;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cedar_policy::{ActionConstraint, EntityUid, Policy, ResourceConstraint, pst};
use jiff::Timestamp;
use model::{Action, Atom, Attributes, Name, Principal, Route, Test, Value};

use crate::atoms::{self, Derived};
use crate::bundle::{Bundle, Mesh};
use crate::engine::request::{Kind, uid};
pub(crate) use principals::STRANGER;
use principals::principals;
use texts::Element;
use values::Values;

/// What bundles tell apart. Made once, and asked for each service.
#[derive(Debug)]
pub struct Boundaries<'b> {
    bundles: Vec<&'b Bundle>,
    conditions: Vec<Condition>,
    principals: Vec<Principal>,
}

/// The conditions of one policy, limit or rule.
#[derive(Debug)]
struct Condition {
    /// Which of the bundles it is of.
    bundle: usize,
    /// The entity that its scope names as resource, if any.
    resource: Option<EntityUid>,
    /// The actions that its scope may concern, if it is a policy's.
    actions: Vec<Action>,
    derived: Derived,
}

/// What requests to one service are made of.
#[derive(Debug)]
pub struct Boundary<'b> {
    service: String,
    /// Of the first bundle that has the service.
    mesh: Option<&'b Mesh>,
    /// Who may call, as far as policies can tell: the workloads of the mesh, those of `entities.json`, those that
    /// policies name, strangers in each namespace, and a caller without identity.
    pub principals: Vec<Principal>,
    /// What kinds of exchange policies are about.
    pub actions: Vec<Action>,
    facts: Vec<Values>,
    /// The facts that are read together by one condition.
    groups: Vec<Vec<Name>>,
    reads_everything: bool,
}

/// Requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Requests {
    /// The requests, without repetition.
    pub requests: Vec<Attributes>,
    /// Whether they show every outcome of all atoms together, for each of the principals and actions. Otherwise they
    /// are a sample: each value of each fact, each pair of them, the combinations of the facts that one policy reads,
    /// and some at random.
    pub exhaustive: bool,
}

impl<'b> Boundaries<'b> {
    /// What `bundles` tell apart, taken together. O(policies).
    pub fn new(bundles: &[&'b Bundle]) -> Self {
        let mut conditions = Vec::new();
        for (number, bundle) in bundles.iter().enumerate() {
            let policies = bundle.policies.policies().filter_map(crate::bundle::Policy::to_cedar);
            let policies = policies.map(|policy| (actions(&policy), policy));
            let others = bundle.conditions.policies().map(|policy| (Vec::new(), policy.clone()));
            conditions.extend(policies.chain(others).map(|(actions, policy)| Condition {
                bundle: number,
                resource: resource(&policy),
                actions,
                derived: derived(&policy, bundle),
            }));
        }
        Self { conditions, principals: principals(bundles), bundles: bundles.to_vec() }
    }

    /// The services of all bundles.
    pub fn services(&self) -> BTreeSet<&'b str> {
        self.bundles.iter().flat_map(|bundle| bundle.mesh.services.keys().map(String::as_str)).collect()
    }

    /// What requests to `service` are made of.
    pub fn of(&self, service: &str) -> Boundary<'b> {
        let scopes: Vec<HashSet<EntityUid>> =
            self.bundles.iter().map(|bundle| scopes(service, bundle)).collect();
        let concerns = |condition: &&Condition| match &condition.resource {
            None => true,
            Some(named) => scopes.get(condition.bundle).is_some_and(|scopes| scopes.contains(named)),
        };
        let mut tests: BTreeMap<&Name, BTreeSet<&Test>> = BTreeMap::new();
        let mut stepped: BTreeMap<&Name, BTreeSet<&Atom>> = BTreeMap::new();
        let mut actions = BTreeSet::from([Action::Http]);
        let mut groups = BTreeSet::new();
        let mut reads_everything = false;
        let routes = self.routes(service);
        let found_by: &[&Name] = if routes.is_empty() { &[] } else { &[&Name::Method, &Name::Path] };
        for condition in self.conditions.iter().filter(concerns) {
            actions.extend(&condition.actions);
            reads_everything |= condition.derived.reads_everything;
            for atom in &condition.derived.atoms {
                let tests = tests.entry(&atom.name).or_default();
                if atom.steps.is_empty() {
                    tests.insert(&atom.test);
                } else {
                    stepped.entry(&atom.name).or_default().insert(atom);
                }
            }
            let mut read: BTreeSet<&Name> = condition.derived.atoms.iter().map(|atom| &atom.name).collect();
            read.extend(found_by.iter().copied());
            groups.insert(read.into_iter().cloned().collect::<Vec<Name>>());
        }
        // It is not free: method and path say it.
        tests.remove(&Name::Operation);
        for name in found_by {
            tests.entry(name).or_default();
        }
        let noon = ordinary_time().as_millisecond();
        let day = noon - noon.rem_euclid(DAY_MS);
        let facts = tests.iter().map(|(name, tests)| {
            let tests: Vec<&Test> = tests.iter().copied().collect();
            let mut seeds = seeds(name, service);
            if tests.contains(&&Test::Value) {
                seeds.extend(self.words());
            }
            let mut values = values::of((*name).clone(), &tests, &patterns(name, &routes), &seeds);
            for atom in stepped.get(name).into_iter().flatten() {
                values.add(stepped::values(atom, day));
            }
            values
        });
        Boundary {
            service: service.to_owned(),
            mesh: self
                .bundles
                .iter()
                .map(|bundle| &bundle.mesh)
                .find(|mesh| mesh.services.contains_key(service)),
            principals: self.principals.clone(),
            actions: actions.into_iter().collect(),
            facts: facts.collect(),
            groups: groups.into_iter().collect(),
            reads_everything,
        }
    }

    /// The operations of `service` in all bundles.
    fn routes(&self, service: &str) -> Vec<&Route> {
        let services = self.bundles.iter().filter_map(|bundle| bundle.mesh.services.get(service));
        services.flat_map(|service| service.operations.operations.routes()).collect()
    }

    /// What a policy may compare a fact with that it reads by value.
    fn words(&self) -> BTreeSet<String> {
        let services = self.bundles.iter().flat_map(|bundle| bundle.mesh.services.iter());
        let words = services.flat_map(|(name, service)| [name.clone(), service.namespace.clone()]);
        words.take(WORDS_MAX).collect()
    }
}

impl Boundary<'_> {
    /// The requests of all principals.
    pub fn requests(&self) -> Requests {
        self.requests_from(&self.principals)
    }

    /// The requests of some principals, which need not be among its own.
    pub fn requests_from(&self, principals: &[Principal]) -> Requests {
        let (tcp, others): (Vec<Action>, Vec<Action>) =
            self.actions.iter().partition(|action| **action == Action::Tcp);
        let of = |action| self.facts.iter().filter(|fact| fact.name.is_of(action)).collect::<Vec<_>>();
        let mut requests = Vec::new();
        let mut exhaustive = !self.reads_everything && self.facts.iter().all(|fact| fact.complete);
        for (actions, facts) in [(others, of(Action::Http)), (tcp, of(Action::Tcp))] {
            exhaustive &= self.combine(principals, &actions, &facts, &mut requests);
        }
        Requests { requests, exhaustive }
    }

    /// Requests that are `request` but for the values of `facts`, and for who calls and the kind of exchange if that may
    /// differ: up to `max` of the combinations, `request` first. And whether they show every outcome of all atoms.
    pub fn variants(
        &self,
        request: &Attributes,
        facts: &BTreeSet<Name>,
        principal: bool,
        action: bool,
        max: usize,
    ) -> (Vec<Attributes>, bool) {
        let mut variants = vec![request.clone()];
        let mut vary = |change: &dyn Fn(&Attributes) -> Vec<Attributes>| {
            let added: Vec<Attributes> = variants.iter().flat_map(change).take(max).collect();
            variants.extend(added);
            variants.truncate(max);
        };
        for values in self.facts.iter().filter(|values| facts.contains(&values.name)) {
            vary(&|variant| {
                let with = |value: &Option<Value>| {
                    let mut variant = variant.clone();
                    values::set(&mut variant, &values.name, value.as_ref());
                    variant
                };
                values.values.iter().map(with).collect()
            });
        }
        if principal {
            let with = |variant: &Attributes, principal: &Principal| Attributes {
                principal: principal.clone(),
                // A caller with an identity has shown it by mutual TLS.
                tls: if facts.contains(&Name::Tls) {
                    variant.tls
                } else {
                    *principal != Principal::Unauthenticated
                },
                ..variant.clone()
            };
            vary(&|variant| self.principals.iter().map(|principal| with(variant, principal)).collect());
        }
        if action {
            vary(&|variant| {
                self.actions.iter().map(|action| Attributes { action: *action, ..variant.clone() }).collect()
            });
        }
        let known = |name: &Name| self.facts.iter().any(|values| values.name == *name && values.complete);
        let all = variants.len() < max && !self.reads_everything && facts.iter().all(known);
        (variants, all)
    }

    /// Adds the combinations of principals, actions and values. Whether these are all.
    fn combine(
        &self,
        principals: &[Principal],
        actions: &[Action],
        facts: &[&Values],
        requests: &mut Vec<Attributes>,
    ) -> bool {
        if principals.is_empty() || actions.is_empty() {
            return true;
        }
        let sizes =
            [principals.len(), actions.len()].into_iter().chain(facts.iter().map(|fact| fact.values.len()));
        let groups = self.groups.iter().map(|names| {
            let read = facts.iter().zip(2..).filter(|(fact, _)| names.contains(&fact.name));
            [0, 1].into_iter().chain(read.map(|(_, dimension)| dimension)).collect()
        });
        let combinations = sample::combinations(&sizes.collect::<Vec<_>>(), &groups.collect::<Vec<_>>());
        for row in combinations.rows {
            let mut choices = row.into_iter();
            let (Some(principal), Some(action)) = (
                choices.next().and_then(|choice| principals.get(choice)),
                choices.next().and_then(|choice| actions.get(choice)),
            ) else {
                continue;
            };
            let mut request = self.ordinary(principal, *action);
            for (fact, choice) in facts.iter().zip(choices) {
                let value = fact.values.get(choice).and_then(Option::as_ref);
                values::set(&mut request, &fact.name, value);
            }
            request.operation = self.mesh.and_then(|mesh| mesh.operation(&request)).map(str::to_owned);
            requests.push(request);
        }
        combinations.whole
    }

    /// A request with nothing special about it.
    fn ordinary(&self, principal: &Principal, action: Action) -> Attributes {
        Attributes {
            principal: principal.clone(),
            action,
            resource: self.service.clone(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: self.service.clone(),
            source_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            tls: *principal != Principal::Unauthenticated,
            time: ordinary_time(),
            ..Attributes::default()
        }
    }
}

/// The most words of a mesh that a fact takes which is read by value.
const WORDS_MAX: usize = 16;

/// Ordinary texts of a fact.
fn seeds(name: &Name, service: &str) -> Vec<String> {
    let texts: &[&str] = match name {
        Name::Method => &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        Name::Path => &["/"],
        Name::Host | Name::Sni => &[service],
        _ => &["x", ""],
    };
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// What tells operations apart, of the fact called `name`.
fn patterns(name: &Name, routes: &[&Route]) -> Vec<Vec<Element>> {
    match name {
        Name::Path => routes.iter().map(|route| texts::elements_of(&route.template)).collect(),
        Name::Method => {
            routes.iter().map(|route| route.method.chars().map(Element::Char).collect()).collect()
        }
        _ => Vec::new(),
    }
}

/// A day, in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// When requests arrive unless a condition reads the time: as in tests.
fn ordinary_time() -> Timestamp {
    crate::author::unit_test::request_text::DEFAULT_TIME.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The entities that a scope may name to concern `service`: itself and its ancestors.
fn scopes(service: &str, bundle: &Bundle) -> HashSet<EntityUid> {
    let Ok(service) = uid(Kind::Service, service) else { return HashSet::new() };
    let ancestors = bundle.entities.ancestors(&service).into_iter().flatten().cloned();
    ancestors.chain([service.clone()]).collect()
}

fn resource(policy: &Policy) -> Option<EntityUid> {
    match policy.resource_constraint() {
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
            Some(uid)
        }
    }
}

/// The actions that a policy's scope may concern.
fn actions(policy: &Policy) -> Vec<Action> {
    let named = match policy.action_constraint() {
        ActionConstraint::Any => return Action::ALL.to_vec(),
        ActionConstraint::Eq(uid) => vec![uid],
        ActionConstraint::In(uids) => uids,
    };
    named.iter().filter_map(|uid| Action::from_id(uid.id().unescaped())).collect()
}

fn derived(policy: &Policy, bundle: &Bundle) -> Derived {
    let mut derived = Derived::default();
    match pst::Template::try_from(policy.as_ref().template().clone()) {
        Ok(policy) => derived.policy(&policy, &atoms::meaning),
        Err(_) => derived.reads_everything = true,
    }
    derived.typed(|name| bundle.schemas.types.of(name))
}

#[cfg(test)]
mod tests;
