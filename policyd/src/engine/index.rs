//! Finds the few policies that may concern a request among any number of them, and asks Cedar about those.
//!
//! `cedar_policy::Authorizer` evaluates every policy of a set. But a policy begins with its scope: who, what
//! and on what. A scope that does not fit makes the policy false before anything else is looked at, and a
//! scope can't fail. So policies are sorted by their scopes, and those whose scope can't fit are left out:
//! each of them would have been false, without an error. This is Cedar's own theorem of sound policy slicing
//! (`Cedar/Thm/Authorization/PolicySlice.lean` in cedar-spec). What is left is evaluated by Cedar's evaluator.
//!
//! A scope names an entity or none, for each of principal, action and resource. A request is concerned by the
//! policies that name it, or an ancestor of it, or nothing: that is one look-up for each combination, however
//! many policies there are.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{Entities, PolicySet, Request};
use cedar_policy_core::ast::{
    self, ActionConstraint, Effect, EntityReference, EntityUID, EntityUIDEntry, Expr, Literal,
    PrincipalOrResourceConstraint, SlotEnv, SlotId, Value, ValueKind, Var,
};
use cedar_policy_core::entities::Dereference;
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;

/// Policies, sorted by scope.
#[derive(Debug, Default)]
pub struct Index {
    principals: Named,
    actions: Named,
    resources: Named,
    /// By the numbers of principal, action and resource: which policies have this scope.
    by_scope: HashMap<[u32; 3], Bucket>,
    /// Places in `policies`, those of a bucket one after the other.
    postings: Vec<u32>,
    policies: Vec<Compiled>,
}

/// What the policies of an index say of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The ids of the `forbid`s that are satisfied, sorted.
    pub forbids: Vec<String>,
    /// The ids of the `permit`s that are satisfied, sorted.
    pub permits: Vec<String>,
    /// What failed: the policy's id, and why. In the order of evaluation.
    pub errors: Vec<(String, String)>,
}

/// How much is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What a decision needs: the first satisfied `forbid` ends it, for nothing can change a denial then.
    Serve,
    /// Everything.
    Explain,
}

/// A policy for an index.
#[derive(Clone, Debug)]
pub struct Entry<'p> {
    /// Its id.
    pub id: Arc<str>,
    /// What it says, or what its template says.
    pub template: &'p ast::Template,
    /// The [`condition`] of `template`. All links of a template share one.
    pub condition: Option<Arc<Expr>>,
    /// What the template's slots stand for.
    pub slots: Slots<'p>,
}

/// What the slots of a template stand for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slots<'p> {
    /// `?principal`
    pub principal: Option<&'p Arc<EntityUID>>,
    /// `?resource`
    pub resource: Option<&'p Arc<EntityUID>>,
}

/// The entities that scopes name in one of their three parts, and the numbers they go by.
#[derive(Debug, Default)]
struct Named {
    numbers: HashMap<Arc<EntityUID>, Numbers>,
    count: u32,
}

/// The numbers of one entity; 0 where no scope names it so.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    /// As what `==` names.
    equal: u32,
    /// As what `in` names.
    within: u32,
}

/// Policies of one scope: `postings` from `start` to `permits` are `forbid`s, and from there to `end` `permit`s.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    start: u32,
    permits: u32,
    end: u32,
}

/// A policy ready for evaluation.
#[derive(Debug)]
struct Compiled {
    id: Arc<str>,
    /// None is always true.
    condition: Option<Arc<Expr>>,
    /// Only where the condition reads them, which Cedar's parser does not allow.
    slots: Option<Box<SlotEnv>>,
}

/// The number that stands for no entity.
const ANY: u32 = 0;

/// What is left to evaluate of a policy whose scope is known to name the request, or an ancestor of it, where it
/// names anything: the types that its scope asks for, and its conditions. Nothing if that is always true.
pub fn condition(template: &ast::Template) -> Option<Arc<Expr>> {
    use PrincipalOrResourceConstraint::{Any, Eq, In, Is, IsIn};
    let kind = |constraint: &PrincipalOrResourceConstraint| match constraint {
        Is(kind) | IsIn(kind, _) => Some(kind.as_ref().clone()),
        Any | Eq(_) | In(_) => None,
    };
    let principal = kind(template.principal_constraint().as_inner())
        .map(|kind| Expr::is_entity_type(Expr::var(Var::Principal), kind));
    let resource = kind(template.resource_constraint().as_inner())
        .map(|kind| Expr::is_entity_type(Expr::var(Var::Resource), kind));
    let types = match (principal, resource) {
        (Some(principal), Some(resource)) => Some(Expr::and(principal, resource)),
        (one, other) => one.or(other),
    };
    match (types, template.non_scope_constraints_arc()) {
        (None, conditions) => conditions.cloned(),
        (Some(types), None) => Some(Arc::new(types)),
        (Some(types), Some(conditions)) => Some(Arc::new(Expr::and(types, conditions.as_ref().clone()))),
    }
}

impl Index {
    /// Sorts the policies of `set`, template links included. O(policies × log policies).
    pub fn new(set: &PolicySet) -> Self {
        let set: &ast::PolicySet = set.as_ref();
        let conditions: HashMap<_, _> =
            set.all_templates().map(|template| (template.id(), condition(template))).collect();
        let slots: Vec<_> = set.policies().map(|policy| owned(policy.env())).collect();
        Self::of(set.policies().zip(&slots).map(|(policy, [principal, resource])| Entry {
            id: policy.id().to_string().into(),
            template: policy.template(),
            condition: conditions.get(policy.template().id()).cloned().flatten(),
            slots: Slots { principal: principal.as_ref(), resource: resource.as_ref() },
        }))
    }

    /// Sorts policies. O(policies × log policies).
    pub fn of<'p>(entries: impl IntoIterator<Item = Entry<'p>>) -> Self {
        let mut index = Self::default();
        let mut postings = Vec::new();
        // In the order of their ids: which `forbid` comes first must not depend on policies that concern others.
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        for entry in entries {
            let place = small(index.policies.len());
            let is_permit = entry.template.effect() == Effect::Permit;
            let scopes = index.scopes(&entry);
            postings.extend(scopes.into_iter().map(|scope| (scope, is_permit, place)));
            index.policies.push(Compiled::of(entry));
        }
        // In the order of ids within a bucket: the first `forbid` is then the same one for equal requests.
        postings.sort_unstable();
        for (posting, (scope, is_permit, _)) in (0u32..).zip(&postings) {
            let new = Bucket { start: posting, permits: posting, end: posting };
            let bucket = index.by_scope.entry(*scope).or_insert(new);
            bucket.end += 1;
            bucket.permits += u32::from(!is_permit);
        }
        index.postings = postings.into_iter().map(|(_, _, place)| place).collect();
        index.policies.shrink_to_fit();
        index.by_scope.shrink_to_fit();
        index
    }

    /// How many policies there are.
    pub const fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// All that is evaluated.
    pub fn conditions(&self) -> impl Iterator<Item = &Expr> {
        self.policies.iter().filter_map(|policy| policy.condition.as_deref())
    }

    /// What the policies say of `request`, evaluated on `entities`.
    ///
    /// Of [`Depth::Explain`], `forbids`, `permits` and `errors` are those of all policies of the set, as
    /// `Authorizer::is_authorized` would find them. Of [`Depth::Serve`] too, unless a `forbid` is satisfied:
    /// then it holds that one, and the errors met before it.
    ///
    /// O(ancestors of the principal × ancestors of the resource + candidates), whatever the number of policies.
    pub fn answer(&self, request: &Request, entities: &Entities, depth: Depth) -> Answer {
        let buckets = self.buckets(request, entities);
        let evaluator =
            Evaluator::new(request.as_ref().clone(), entities.as_ref(), Extensions::all_available());
        let mut answer = Answer::default();
        let none = SlotEnv::new();
        for place in self.in_order(&buckets, |bucket| bucket.start..bucket.permits) {
            if let Some(id) = self.satisfied(place, &evaluator, &none, &mut answer.errors) {
                answer.forbids.push(id);
                if depth == Depth::Serve {
                    return answer;
                }
            }
        }
        for place in self.in_order(&buckets, |bucket| bucket.permits..bucket.end) {
            if let Some(id) = self.satisfied(place, &evaluator, &none, &mut answer.errors) {
                answer.permits.push(id);
            }
        }
        answer.forbids.sort();
        answer.permits.sort();
        answer
    }

    /// How many policies would be evaluated for `request`.
    pub fn candidates(&self, request: &Request, entities: &Entities) -> usize {
        self.buckets(request, entities).iter().map(|bucket| (bucket.end - bucket.start) as usize).sum()
    }

    /// The scopes that a policy is to be found under: one for each action that it names.
    fn scopes(&mut self, entry: &Entry<'_>) -> Vec<[u32; 3]> {
        let template = entry.template;
        let principal =
            self.principals.of_scope(template.principal_constraint().as_inner(), entry.slots.principal);
        let resource =
            self.resources.of_scope(template.resource_constraint().as_inner(), entry.slots.resource);
        // A slot that nothing fills has no value, so Cedar could evaluate nothing either.
        let (Some(principal), Some(resource)) = (principal, resource) else { return Vec::new() };
        let mut actions: Vec<u32> = match template.action_constraint() {
            ActionConstraint::Any => vec![ANY],
            ActionConstraint::Eq(uid) => vec![self.actions.equal(uid)],
            ActionConstraint::In(uids) => uids.iter().map(|uid| self.actions.within(uid)).collect(),
        };
        // An action named twice must not make the policy a candidate twice.
        actions.sort_unstable();
        actions.dedup();
        actions.into_iter().map(|action| [principal, action, resource]).collect()
    }

    /// The policies whose scope fits, but for the types that it asks for.
    fn buckets(&self, request: &Request, entities: &Entities) -> Vec<Bucket> {
        let request: &ast::Request = request.as_ref();
        let principals = self.principals.of_request(request.principal(), entities);
        let actions = self.actions.of_request(request.action(), entities);
        let resources = self.resources.of_request(request.resource(), entities);
        let mut found = Vec::new();
        for principal in &principals {
            for action in &actions {
                for resource in &resources {
                    found.extend(self.by_scope.get(&[*principal, *action, *resource]));
                }
            }
        }
        found
    }

    /// Places in `policies`, in the order of the set. A policy that names two actions, one in the other, is met in
    /// two buckets.
    fn in_order(&self, buckets: &[Bucket], part: fn(&Bucket) -> std::ops::Range<u32>) -> Vec<u32> {
        let postings = |bucket: &Bucket| {
            let part = part(bucket);
            self.postings.get(part.start as usize..part.end as usize).unwrap_or_default()
        };
        let mut places: Vec<u32> = buckets.iter().flat_map(postings).copied().collect();
        if buckets.len() > 1 {
            places.sort_unstable();
            places.dedup();
        }
        places
    }

    /// The policy's id, if it is satisfied.
    fn satisfied(
        &self,
        place: u32,
        evaluator: &Evaluator<'_>,
        none: &SlotEnv,
        errors: &mut Vec<(String, String)>,
    ) -> Option<String> {
        let policy = self.policies.get(place as usize)?;
        let id = || policy.id.as_ref().to_owned();
        let Some(condition) = &policy.condition else { return Some(id()) };
        let why = match evaluator.interpret(condition, policy.slots.as_deref().unwrap_or(none)) {
            Ok(Value { value: ValueKind::Lit(Literal::Bool(satisfied)), .. }) => return satisfied.then(id),
            // Strict validation leaves no such policy.
            Ok(other) => format!("its condition is `{other}`, which is no Bool"),
            Err(error) => error.to_string(),
        };
        errors.push((id(), why));
        None
    }
}

impl Named {
    /// The number of the scope's part; nothing where its slot is not filled.
    fn of_scope(
        &mut self,
        constraint: &PrincipalOrResourceConstraint,
        slot: Option<&Arc<EntityUID>>,
    ) -> Option<u32> {
        use PrincipalOrResourceConstraint::{Any, Eq, In, Is, IsIn};
        let (named, is_equal) = match constraint {
            Any | Is(_) => return Some(ANY),
            Eq(named) => (named, true),
            In(named) | IsIn(_, named) => (named, false),
        };
        let uid = match named {
            EntityReference::EUID(uid) => uid,
            EntityReference::Slot(_) => slot?,
        };
        Some(if is_equal { self.equal(uid) } else { self.within(uid) })
    }

    fn equal(&mut self, uid: &Arc<EntityUID>) -> u32 {
        self.number(uid, |numbers| &mut numbers.equal)
    }

    fn within(&mut self, uid: &Arc<EntityUID>) -> u32 {
        self.number(uid, |numbers| &mut numbers.within)
    }

    fn number(&mut self, uid: &Arc<EntityUID>, pick: fn(&mut Numbers) -> &mut u32) -> u32 {
        let numbers = match self.numbers.get_mut(uid) {
            Some(numbers) => numbers,
            None => self.numbers.entry(uid.clone()).or_default(),
        };
        let number = pick(numbers);
        if *number == 0 {
            self.count += 1;
            *number = self.count;
        }
        *number
    }

    /// The numbers of all scopes that fit: those of no entity, of `==` it, of `in` it, of `in` each of its ancestors.
    fn of_request(&self, entry: &EntityUIDEntry, entities: &Entities) -> Vec<u32> {
        let mut found = vec![ANY];
        let Some(uid) = entry.uid() else { return found };
        if self.numbers.is_empty() {
            return found;
        }
        let mut add = |number: u32| {
            if number != 0 {
                found.push(number);
            }
        };
        let own = self.numbers.get(uid).copied().unwrap_or_default();
        add(own.equal);
        add(own.within);
        if let Dereference::Data(entity) = entities.as_ref().entity(uid) {
            // In a hierarchy with a cycle an entity would be its own ancestor.
            for ancestor in entity.ancestors().filter(|ancestor| *ancestor != uid) {
                add(self.numbers.get(ancestor).map_or(0, |numbers| numbers.within));
            }
        }
        found
    }
}

impl Compiled {
    fn of(entry: Entry<'_>) -> Self {
        let reads_slots = |condition: &Arc<Expr>| condition.slots().next().is_some();
        let slots = entry.condition.as_ref().filter(|condition| reads_slots(condition)).map(|_| {
            let slot = |id: SlotId, uid: Option<&Arc<EntityUID>>| Some((id, uid?.as_ref().clone()));
            let slots = [
                slot(SlotId::principal(), entry.slots.principal),
                slot(SlotId::resource(), entry.slots.resource),
            ];
            Box::new(slots.into_iter().flatten().collect())
        });
        Self { id: entry.id, condition: entry.condition, slots }
    }
}

/// The values of `?principal` and `?resource`.
fn owned(slots: &SlotEnv) -> [Option<Arc<EntityUID>>; 2] {
    [SlotId::principal(), SlotId::resource()].map(|slot| slots.get(&slot).cloned().map(Arc::new))
}

/// No bundle is large enough for as many policies as 32 bits can count.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
